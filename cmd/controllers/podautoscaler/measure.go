package podautoscaler

import (
	"errors"
	"fmt"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Settings are the flags of upstream's controller.
type Settings struct {
	// Tolerance is how far from 1 the ratio of use to target may be before anything is done; 0.1.
	Tolerance float64
	// Downscale is the stabilization window of behaviors that name none; 5 minutes.
	Downscale time.Duration
	// CPUInitialization is for how long after its start the CPU use of a pod that was unready tells nothing; 5 minutes.
	CPUInitialization time.Duration
	// InitialReadiness is within what time of its start a pod's unreadiness counts as its first; 30 s.
	InitialReadiness time.Duration
	// Sync is how often each autoscaler looks; 15 s.
	Sync time.Duration
}

// metric is what a pod uses of one resource, in thousandths.
type metric struct {
	value  int64
	at     time.Time
	window time.Duration
}

// want is a target: a percentage of what pods request, or an average per pod in thousandths.
type want struct {
	resource    corev1.ResourceName
	container   string // empty: the whole pod
	utilization *int32
	average     int64
}

// failed says which metric could not be had.
func (w want) failed(err error) error {
	switch {
	case w.container != "":
		return fmt.Errorf("failed to get %s container metric value: %w", w.container, err)
	case w.resource != "":
		return fmt.Errorf("failed to get %s resource metric value: %w", w.resource, err)
	}
	return err
}

// found is what measuring a target brought.
type found struct {
	replicas int32
	// utilization is a percentage of what is requested, if the target is one; average is per pod in thousandths.
	utilization int32
	average     int64
	at          time.Time
}

var errNoPods = errors.New("no pods returned by selector while calculating replica count")

// sorted are pods by what is known of them.
type sortedPods struct {
	ready            []*corev1.Pod
	unready, missing []*corev1.Pod
}

// sortPods leaves out pods that are on their way out, and sets aside those whose use says nothing yet.
func sortPods(pods []*corev1.Pod, metrics map[string]metric, resource corev1.ResourceName, s Settings, now time.Time) sortedPods {
	var out sortedPods
	for _, p := range pods {
		if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed {
			continue
		}
		m, known := metrics[p.Name]
		switch {
		case p.Status.Phase == corev1.PodPending:
			out.unready = append(out.unready, p)
		case !known:
			out.missing = append(out.missing, p)
		case resource == corev1.ResourceCPU && !meaningful(p, m, s, now):
			out.unready = append(out.unready, p)
		default:
			out.ready = append(out.ready, p)
		}
	}
	return out
}

// meaningful says whether a pod's CPU use is that of its work, and not of its start.
func meaningful(p *corev1.Pod, m metric, s Settings, now time.Time) bool {
	var ready *corev1.PodCondition
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.PodReady {
			ready = &p.Status.Conditions[i]
		}
	}
	if ready == nil || p.Status.StartTime == nil {
		return false
	}
	start := p.Status.StartTime.Time
	if start.Add(s.CPUInitialization).After(now) {
		// Only a window that begins after it became ready counts.
		return ready.Status == corev1.ConditionTrue && !m.at.Before(ready.LastTransitionTime.Add(m.window))
	}
	return ready.Status == corev1.ConditionTrue || start.Add(s.InitialReadiness).Before(ready.LastTransitionTime.Time)
}

// measure says how many replicas meet a target, as the API's documentation lays it down: in proportion of use to target,
// with pods of which nothing is known taken for as idle (when that would add replicas) or as busy (when it would remove
// some) as can be.
func measure(current int32, pods []*corev1.Pod, metrics map[string]metric, w want, s Settings, tolerance tolerances, now time.Time) (found, error) {
	if len(pods) == 0 {
		return found{}, errNoPods
	}
	sorted := sortPods(pods, metrics, w.resource, s, now)
	if len(sorted.ready) == 0 {
		return found{}, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	use := map[*corev1.Pod]int64{}
	var f found
	for _, p := range sorted.ready {
		use[p] = metrics[p.Name].value
		if at := metrics[p.Name].at; f.at.IsZero() || at.Before(f.at) {
			f.at = at
		}
	}
	requests, err := requestsOf(pods, w)
	if err != nil {
		return found{}, err
	}
	ratio, err := w.ratio(use, requests, &f)
	if err != nil {
		return found{}, err
	}
	if len(sorted.missing) == 0 && (len(sorted.unready) == 0 || ratio <= 1) {
		f.replicas = current
		if !tolerance.within(ratio) {
			f.replicas = ceil(ratio * float64(len(sorted.ready)))
		}
		return f, nil
	}
	first := ratio
	for _, p := range sorted.missing {
		switch {
		case ratio < 1 && w.utilization != nil:
			use[p] = requests[p] * int64(max(100, *w.utilization)) / 100
		case ratio < 1:
			use[p] = w.average
		case ratio > 1:
			use[p] = 0
		}
	}
	if ratio > 1 {
		for _, p := range sorted.unready {
			use[p] = 0
		}
	}
	shown := f
	if ratio, err = w.ratio(use, requests, &shown); err != nil {
		return found{}, err
	}
	f.replicas = current
	if tolerance.within(ratio) || first < 1 && ratio > 1 || first > 1 && ratio < 1 {
		return f, nil
	}
	replicas := ceil(ratio * float64(len(use)))
	if ratio < 1 && replicas > current || ratio > 1 && replicas < current {
		return f, nil
	}
	f.replicas = replicas
	return f, nil
}

// ratio is use by target, which it also writes down.
func (w want) ratio(use map[*corev1.Pod]int64, requests map[*corev1.Pod]int64, f *found) (float64, error) {
	var used, requested int64
	for p, v := range use {
		used += v
		requested += requests[p]
	}
	f.average = used / int64(len(use))
	if w.utilization == nil {
		return float64(used) / float64(len(use)) / float64(w.average), nil
	}
	if requested == 0 {
		return 0, errors.New("no metrics returned matched known pods")
	}
	f.utilization = int32(used * 100 / requested)
	return float64(f.utilization) / float64(*w.utilization), nil
}

// requestsOf is what each pod requests of the resource, in thousandths. A percentage of nothing is no target.
func requestsOf(pods []*corev1.Pod, w want) (map[*corev1.Pod]int64, error) {
	out := map[*corev1.Pod]int64{}
	if w.utilization == nil {
		return out, nil
	}
	for _, p := range pods {
		if whole, ok := podLevel(p, w); ok {
			out[p] = whole
			continue
		}
		for _, c := range containersOf(p) {
			if w.container != "" && c.Name != w.container {
				continue
			}
			q, ok := c.Resources.Requests[w.resource]
			if !ok {
				return nil, fmt.Errorf("missing request for %s in container %s of Pod %s", w.resource, c.Name, p.Name)
			}
			out[p] += q.MilliValue()
		}
	}
	return out, nil
}

func podLevel(p *corev1.Pod, w want) (int64, bool) {
	if w.container != "" || !resourcehelper.IsPodLevelRequestsSet(p) {
		return 0, false
	}
	q, ok := p.Spec.Resources.Requests[w.resource]
	return q.MilliValue(), ok
}

// containersOf are those that run as long as the pod.
func containersOf(p *corev1.Pod) []corev1.Container {
	out := p.Spec.Containers
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = append(out[:len(out):len(out)], c)
		}
	}
	return out
}

// tolerances are by how much the ratio may be below and above 1.
type tolerances struct{ down, up float64 }

func (t tolerances) within(ratio float64) bool { return 1-t.down <= ratio && ratio <= 1+t.up }

func ceil(f float64) int32 { return int32(min(math.Ceil(f), math.MaxInt32)) }
