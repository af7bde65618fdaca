package statefulset

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// Plan is what one sync does: at most one step where the set is ordered, all at once where it is parallel.
type Plan struct {
	// Create are the ordinals that need a pod, with whether it gets the update revision.
	Create []creation
	// Delete are pods to replace or to do without, in this order.
	Delete []deletion
	// InOrder says that of Delete none goes before those ahead of it have: the first that cannot ends them.
	InOrder bool
}

type creation struct {
	ordinal int
	updated bool
}

// deletion is a pod that goes; why is the reason of an event about it, "" where its end says enough.
type deletion struct {
	pod *corev1.Pod
	why string
}

// ordinal returns the number in the name of set's pod, and -1 where it has none.
func ordinal(set *appsv1.StatefulSet, pod *corev1.Pod) int {
	tail, ok := strings.CutPrefix(pod.Name, set.Name+"-")
	n, err := strconv.Atoi(tail)
	if !ok || err != nil || n < 0 {
		return -1
	}
	return n
}

// span returns the first and one past the last ordinal that set wants.
func span(set *appsv1.StatefulSet) (first, end int) {
	if set.Spec.Ordinals != nil {
		first = int(set.Spec.Ordinals.Start)
	}
	replicas := 1
	if set.Spec.Replicas != nil {
		replicas = int(*set.Spec.Replicas)
	}
	return first, first + replicas
}

func partition(set *appsv1.StatefulSet) int {
	if r := set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		return int(*r.Partition)
	}
	return 0
}

// Decide compares set with its pods. update is the revision of the present template.
func Decide(set *appsv1.StatefulSet, pods []*corev1.Pod, update string, now time.Time) Plan {
	var plan Plan
	if set.DeletionTimestamp != nil {
		return plan
	}
	l := lineup(set, pods, update, now)
	plan.InOrder = !l.parallel
	settled := true // all before are there and available
	for n := l.first; n < l.end && (settled || l.parallel); n++ {
		pod := l.pods[n]
		switch {
		case pod == nil:
			updated := n-l.first >= partition(set) || set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType
			plan.Create = append(plan.Create, creation{n, updated})
		case pod.DeletionTimestamp != nil:
		case pod.Status.Phase == corev1.PodFailed:
			plan.Delete = append(plan.Delete, deletion{pod, "RecreatingFailedPod"})
		case pod.Status.Phase == corev1.PodSucceeded:
			plan.Delete = append(plan.Delete, deletion{pod, "RecreatingTerminatedPod"})
		case l.available(pod):
			continue
		}
		settled = false
	}
	if !settled && !l.parallel {
		// A pod that never starts must not stop its own repair by a new template.
		if pod := l.highestOutdated(); pod != nil && len(plan.Delete) == 0 && pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodPending {
			plan.Delete = append(plan.Delete, deletion{pod: pod})
		}
		return plan
	}
	if len(l.excess) > 0 {
		if plan.Delete = append(plan.Delete, l.shrink()...); !l.parallel {
			return plan
		}
	}
	if set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType && len(plan.Delete) == 0 {
		plan.Delete, plan.InOrder = append(plan.Delete, l.roll()...), true
	}
	return plan
}

// line is set's pods in their places.
type line struct {
	set        *appsv1.StatefulSet
	update     string
	now        time.Time
	first, end int
	parallel   bool
	pods       map[int]*corev1.Pod
	// excess are pods beyond the wanted numbers, the highest first.
	excess []*corev1.Pod
}

func lineup(set *appsv1.StatefulSet, pods []*corev1.Pod, update string, now time.Time) line {
	l := line{set: set, update: update, now: now, parallel: set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement, pods: map[int]*corev1.Pod{}}
	l.first, l.end = span(set)
	for _, pod := range pods {
		if n := ordinal(set, pod); n >= l.first && n < l.end {
			l.pods[n] = pod
		} else if n >= 0 {
			l.excess = append(l.excess, pod)
		}
	}
	slices.SortFunc(l.excess, func(a, b *corev1.Pod) int { return ordinal(set, b) - ordinal(set, a) })
	return l
}

func (l line) available(pod *corev1.Pod) bool {
	ok, _ := podset.Available(pod, time.Duration(l.set.Spec.MinReadySeconds)*time.Second, l.now)
	return ok && podset.Active(pod)
}

// shrink takes the excess away, the highest first. An ordered set takes one at a time, and waits for a pod that is not
// well, unless no lower one is unwell too. One that ended will not be well again: nobody waits for that.
func (l line) shrink() []deletion {
	var lowestSick *corev1.Pod
	for _, pod := range l.excess {
		if !l.available(pod) && !ended(pod) {
			lowestSick = pod
		}
	}
	var gone []deletion
	for _, pod := range l.excess {
		switch {
		case l.parallel:
			if pod.DeletionTimestamp == nil {
				gone = append(gone, deletion{pod: pod})
			}
		case pod.DeletionTimestamp != nil || !l.available(pod) && !ended(pod) && pod != lowestSick:
			return nil
		default:
			return []deletion{{pod: pod}}
		}
	}
	return gone
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

// roll replaces pods with an old revision, the highest first, as many as may be unavailable. Those that are unavailable
// already cost nothing.
func (l line) roll() []deletion {
	room := maxUnavailable(l.set)
	for n := l.first; n < l.end; n++ {
		if pod := l.pods[n]; pod == nil || !l.available(pod) {
			room--
		}
	}
	var gone []deletion
	for n := l.end - 1; n >= l.first+partition(l.set); n-- {
		pod := l.pods[n]
		if pod == nil || revisionOf(pod) == l.update || pod.DeletionTimestamp != nil {
			continue
		}
		if l.available(pod) {
			if room <= 0 {
				break
			}
			room--
		}
		gone = append(gone, deletion{pod: pod})
	}
	return gone
}

func maxUnavailable(set *appsv1.StatefulSet) int {
	r := set.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.MaxUnavailable == nil {
		return 1
	}
	first, end := span(set)
	n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, end-first, true)
	if err != nil {
		return 1
	}
	return max(n, 1)
}

// highestOutdated is the pod that is to be replaced next, nil where none is.
func (l line) highestOutdated() *corev1.Pod {
	if l.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return nil
	}
	for n := l.end - 1; n >= l.first+partition(l.set); n-- {
		if pod := l.pods[n]; pod != nil && revisionOf(pod) != l.update {
			return pod
		}
	}
	return nil
}

func revisionOf(pod *corev1.Pod) string { return pod.Labels[appsv1.ControllerRevisionHashLabelKey] }

// claimName is the name of the claim that a pod's template makes.
func claimName(template, pod string) string { return fmt.Sprintf("%s-%s", template, pod) }

// Observe returns the status that pods give set, and when to look again (0 is never).
func Observe(set *appsv1.StatefulSet, pods []*corev1.Pod, current, update string, now time.Time) (appsv1.StatefulSetStatus, time.Duration) {
	s := appsv1.StatefulSetStatus{
		ObservedGeneration: set.Generation, CurrentRevision: current, UpdateRevision: update,
		CollisionCount: set.Status.CollisionCount, Conditions: set.Status.Conditions,
	}
	var soonest time.Duration
	first, end := span(set)
	updated := int32(0)
	for _, pod := range pods {
		if ended(pod) {
			continue
		}
		s.Replicas++
		live := pod.DeletionTimestamp == nil
		if live && revisionOf(pod) == current {
			s.CurrentReplicas++
		}
		if live && revisionOf(pod) == update {
			s.UpdatedReplicas++
		}
		if !live || !podset.Ready(pod) {
			continue
		}
		s.ReadyReplicas++
		ok, wait := podset.Available(pod, time.Duration(set.Spec.MinReadySeconds)*time.Second, now)
		if ok {
			s.AvailableReplicas++
			if n := ordinal(set, pod); n >= first && n < end && revisionOf(pod) == update {
				updated++
			}
		} else if wait > 0 && (soonest == 0 || wait < soonest) {
			soonest = wait
		}
	}
	rolling := set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType
	if rolling && int(updated) == end-first && s.Replicas == updated {
		s.CurrentRevision, s.CurrentReplicas = update, updated // the rollout is over
	}
	return s, soonest
}
