package kubelet

import (
	"sync"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// oomKilled is the runtime's reason of a container that the kernel has killed for want of memory.
const oomKilled = "OOMKilled"

// kills is what is known of the processes of one pod that the kernel has killed for want of memory. A runtime hears of them beside the end of the container, by a
// watch on its cgroup: on cgroup v2 a busy one says Error of it, because the end came first and the cgroup went with it. The pod's cgroup stays, and counts.
type kills struct {
	mu    sync.Mutex
	known bool
	count int64
	last  string // the id of the container that was found to have ended so
}

// begin takes the count that a pod begins with, unless one is known.
func (k *kills) begin(count int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.known {
		k.known, k.count = true, count
	}
}

// reason is why a container has ended that the runtime says this of, with the count after its end. One that the kubelet was about to kill has not ended for what
// the kernel did elsewhere in the pod.
func (k *kills) reason(f lifecycle.Facts, count int64, ours bool) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	more := k.known && count > k.count
	k.known, k.count = true, max(count, k.count)
	if ours || f.ExitCode != 137 || f.Reason != "Error" || !more && k.last != f.ID {
		return f.Reason
	}
	k.last = f.ID
	return oomKilled
}

// countKills takes the count of a pod whose cgroup has just been made.
func (w *worker) countKills(pod *v1.Pod) {
	if n, known, err := w.k.groups.Killed(pod); known && err == nil {
		w.kills.begin(n)
	}
}

// factsOf is what the runtime says of a container of the pod, and of one that was killed whether that was for want of memory.
func (w *worker) factsOf(st *runtimeapi.ContainerStatus) lifecycle.Facts {
	f := w.k.factsOf(st)
	s := &w.shown.Load().state
	pod := s.Pod
	if !f.Exited || pod == nil {
		return f
	}
	n, known, err := w.k.groups.Killed(pod)
	if err != nil {
		w.warn("count what was killed for want of memory", err)
	}
	if known {
		c := s.Container(f.Name)
		f.Reason = w.kills.reason(f, n, c != nil && c.Killing)
	}
	return f
}
