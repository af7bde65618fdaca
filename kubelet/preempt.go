package kubelet

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/orlop-io/orlop/kubelet/eviction"
	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// candidate is a pod that another may need the room of.
type candidate struct {
	pod    *v1.Pod
	static bool
	at     int // its index where the caller keeps it
}

// preempts says whether a critical pod may end another: one that is not, or that matters less. Static pods would only come back.
func preempts(pod *v1.Pod, static bool, other candidate) bool {
	if !(eviction.Pod{Pod: pod, Static: static}).Critical() || other.static {
		return false
	}
	if !(eviction.Pod{Pod: other.pod}).Critical() {
		return true
	}
	return pod.Spec.Priority != nil && other.pod.Spec.Priority != nil && *pod.Spec.Priority > *other.pod.Spec.Priority
}

// victims chooses those whose end leaves room for what is short: as few guaranteed pods as can be, then as few burstable
// ones, and of equals the one that comes nearest to what is needed. There are none if all together are not enough.
func victims(short []shortage, among []candidate) []candidate {
	need := map[v1.ResourceName]int64{}
	for _, s := range short {
		need[s.name] = s.missing()
	}
	classes := map[v1.PodQOSClass][]candidate{}
	for _, c := range among {
		class := qos.GetPodQOS(c.pod)
		classes[class] = append(classes[class], c)
	}
	if unmet(without(need, among)) > 0 {
		return nil
	}
	guaranteed, burstable, rest := classes[v1.PodQOSGuaranteed], classes[v1.PodQOSBurstable], classes[v1.PodQOSBestEffort]
	out := nearest(without(without(need, burstable), rest), guaranteed)
	out = append(out, nearest(without(without(need, rest), out), burstable)...)
	return append(out, nearest(without(need, out), rest)...)
}

// nearest takes one pod after the other, each time the one that leaves least to be found, until nothing is.
func nearest(need map[v1.ResourceName]int64, among []candidate) (out []candidate) {
	left := append([]candidate(nil), among...)
	for unmet(need) > 0 && len(left) > 0 {
		best, least, most := 0, math.Inf(1), math.Inf(1)
		for i, c := range left {
			after := without(need, []candidate{c})
			if d, b := distance(need, after), beyond(after); d < least || d == least && b < most {
				best, least, most = i, d, b
			}
		}
		need = without(need, left[best:best+1])
		out = append(out, left[best])
		left = append(left[:best], left[best+1:]...)
	}
	return out
}

// without is what is needed still, below 0 what is beyond that, once these pods are gone.
func without(need map[v1.ResourceName]int64, pods []candidate) map[v1.ResourceName]int64 {
	out := map[v1.ResourceName]int64{}
	for name, n := range need {
		for _, c := range pods {
			n -= holds(c.pod, name)
		}
		out[name] = n
	}
	return out
}

// holds is how much a pod counts for of one resource.
func holds(pod *v1.Pod, name v1.ResourceName) int64 {
	if name == v1.ResourcePods {
		return 1
	}
	return amount(name, resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})[name])
}

func unmet(need map[v1.ResourceName]int64) (sum float64) {
	for _, n := range need {
		sum += float64(max(n, 0))
	}
	return sum
}

// distance is how far the rest is from nothing, each resource in parts of what was needed of it.
func distance(need, after map[v1.ResourceName]int64) (sum float64) {
	for name, n := range after {
		if was := need[name]; was > 0 && n > 0 {
			part := float64(n) / float64(was)
			sum += part * part
		}
	}
	return sum
}

// beyond is how much more than needed goes.
func beyond(after map[v1.ResourceName]int64) (sum float64) {
	for _, n := range after {
		sum += float64(max(-n, 0))
	}
	return sum
}

// makeRoomLocked begins to end pods for a critical one that lacks something, and returns those that it has to wait for,
// among them such as have to go already for another. The error says that there are not enough.
func (k *Kubelet) makeRoomLocked(pod *v1.Pod, static bool) ([]*worker, error) {
	var among []candidate
	var workers, out []*worker
	var stay []*v1.Pod
	for _, w := range k.workers {
		v := w.shown.Load()
		if w.uid == pod.UID || v.state.Stage >= lifecycle.Finished || v.state.Rejected() {
			continue
		}
		if w.going {
			out = append(out, w)
			continue
		}
		stay = append(stay, w.allocatedLocked())
		c := candidate{pod: v.state.Pod, static: w.static, at: len(workers)}
		if v.state.Stage == lifecycle.Active && !v.state.Deleted() && preempts(pod, static, c) {
			among, workers = append(among, c), append(workers, w)
		}
	}
	short := shortages(pod, stay, k.allocatable)
	if len(short) == 0 {
		return out, nil
	}
	chosen := victims(short, among)
	if len(chosen) == 0 {
		var words strings.Builder
		for _, s := range short {
			fmt.Fprintf(&words, "(res: %s, q: %d), ", s.name, s.missing())
		}
		return nil, fmt.Errorf("preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [%s]", words.String())
	}
	for _, c := range chosen {
		w := workers[c.at]
		w.going = true
		w.log.Warn("end pod for a critical one", "for", fullName(pod), "lacking", short[0].name)
		k.events.Pod(c.pod, "", true, "Preempting", preempted)
		k.metrics.preemptions.WithLabelValues(string(short[0].name)).Inc()
		w.post(lifecycle.Evicted{Reason: "Preempting", Message: preempted, Condition: "Pod was preempted by Kubelet to accommodate a critical pod"})
		out = append(out, w)
	}
	return out, nil
}

// preempted is what a pod is told that had to go.
const preempted = "Preempted in order to admit critical pod"

// patienceWith is how much longer than its grace a critical pod waits for one that has to go.
const patienceWith = 10 * time.Second

// awaitRoom waits until the pods are gone that this one was given the room of, or should long be.
func (w *worker) awaitRoom(ctx context.Context) {
	for _, v := range w.behind {
		grace := int64(30)
		if g := v.shown.Load().state.Pod.Spec.TerminationGracePeriodSeconds; g != nil {
			grace = *g
		}
		v.awaitEnd(ctx, time.Duration(grace)*time.Second+patienceWith)
	}
}
