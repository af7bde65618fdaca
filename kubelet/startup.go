package kubelet

import (
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// startup measures how long a pod takes to start.
type startup struct {
	// seen is when the kubelet saw the pod first; zero for one that a kubelet before it had begun, which is not measured.
	// It does not change once the worker runs.
	seen time.Time

	mu      sync.Mutex
	told    bool          // the API server has shown all containers started
	pulls   time.Duration // during which at least one image was being pulled
	pullEnd time.Time     // of the last pull
}

// pulled notes a pull that has ended. What overlaps with one before counts once.
func (s *startup) pulled(from, to time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if from.Before(s.pullEnd) {
		from = s.pullEnd
	}
	if to.After(from) {
		s.pulls += to.Sub(from)
		s.pullEnd = to
	}
}

// phaseChanged measures the time until the pod runs.
func (w *worker) phaseChanged(before, after v1.PodPhase) {
	if (before == "" || before == v1.PodPending) && after == v1.PodRunning && !w.start.seen.IsZero() {
		w.k.metrics.startTook.Observe(time.Since(w.start.seen).Seconds())
	}
}

// watched measures, once, the time until the API server shows all of a pod's containers started.
func (w *worker) watched(pod *v1.Pod, now time.Time) {
	s := &w.start
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told || s.seen.IsZero() || !allStarted(pod) {
		return
	}
	s.told = true
	took := now.Sub(pod.CreationTimestamp.Time)
	w.k.metrics.startTotal.Observe(took.Seconds())
	if stateless(pod) {
		sli := took - s.pulls - initTime(&w.shown.Load().state)
		w.k.metrics.startSLI.Observe(max(sli, 0).Seconds())
	}
}

// allStarted says whether a pod's status shows all its containers running.
func allStarted(pod *v1.Pod) bool {
	for i := range pod.Status.ContainerStatuses {
		if r := pod.Status.ContainerStatuses[i].State.Running; r == nil || r.StartedAt.IsZero() {
			return false
		}
	}
	return len(pod.Status.ContainerStatuses) > 0
}

// stateless says whether a pod is one that the start-up objective is given for: one whose volumes the kubelet makes itself.
func stateless(pod *v1.Pod) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.EmptyDir == nil && v.ConfigMap == nil && v.Secret == nil && v.DownwardAPI == nil && v.Projected == nil {
			return false
		}
	}
	return true
}

// initTime is how long the pod's init containers ran, by the newest instance of each.
func initTime(s *lifecycle.State) time.Duration {
	var sum time.Duration
	for i := range s.Containers {
		if f := &s.Containers[i].Facts; s.Containers[i].Kind == lifecycle.Init && f.FinishedAt.After(f.StartedAt) && !f.StartedAt.IsZero() {
			sum += f.FinishedAt.Sub(f.StartedAt)
		}
	}
	return sum
}

// containerType is upstream's label for the part that a container plays in its pod.
func containerType(s *lifecycle.State, name string) string {
	if c := s.Container(name); c != nil {
		switch c.Kind {
		case lifecycle.Init, lifecycle.Sidecar:
			return "init_container"
		case lifecycle.Ephemeral:
			return "ephemeral_container"
		}
	}
	return "container"
}
