package kubelet

import (
	"context"
	"maps"
	"os"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/kubelet/criconfig"
	"github.com/orlop-io/orlop/kubelet/lifecycle"
	"github.com/orlop-io/orlop/kubelet/manifests"
)

func (k *Kubelet) worker(uid types.UID) *worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.workers[uid]
}

// all lists the workers in no order.
func (k *Kubelet) all() []*worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.workers))
}

func fullName(p *v1.Pod) string { return p.Namespace + "/" + p.Name }

// isStatic says whether a pod of the runtime was made from a manifest, by its annotations.
func isStatic(annotations map[string]string) bool {
	return annotations[manifests.AnnConfigSource] == "file"
}

// setStatic makes the static pods those of the directory.
func (k *Kubelet) setStatic(pods []*v1.Pod) {
	wanted := map[types.UID]bool{}
	for _, p := range pods {
		wanted[p.UID] = true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.queued)
	for uid, w := range k.workers {
		if w.static && !wanted[uid] {
			w.leaving = true
			w.post(lifecycle.RemovedBySource{})
		}
	}
	k.staticRead = true
	for _, p := range pods { // those that run already are taken over before the rest are orphans
		if k.found[p.UID] != nil {
			k.addStaticLocked(p)
		}
	}
	k.endOrphansLocked()
	for _, p := range pods {
		k.addStaticLocked(p)
	}
	k.reports.SetStatic(pods)
}

// addStaticLocked starts a static pod, or queues it behind one of the same name: their ports and
// files are the same.
func (k *Kubelet) addStaticLocked(p *v1.Pod) {
	// A manifest that comes back while its pod is ending is a pod of its own: it waits like any other.
	if w, ok := k.workers[p.UID]; ok && !w.leaving {
		return
	}
	for _, w := range k.workers {
		if w.static && fullName(w.shown.Load().state.Pod) == fullName(p) {
			k.queued[fullName(p)] = p
			return
		}
	}
	if k.ending[fullName(p)] > 0 {
		k.queued[fullName(p)] = p
		return
	}
	k.startLocked(p, true)
}

// dequeueLocked starts the static pod that waited for a name.
func (k *Kubelet) dequeueLocked(name string) {
	if p, ok := k.queued[name]; ok {
		delete(k.queued, name)
		k.addStaticLocked(p)
	}
}

// countRestartLocked counts a static pod that is gone if the one that waits for its name is the same.
func (k *Kubelet) countRestartLocked(pod *v1.Pod) {
	if next := k.queued[fullName(pod)]; next != nil && next.UID == pod.UID {
		k.metrics.restarted.WithLabelValues("true").Inc()
	}
}

// setAPI brings the newest object of a pod of the API server.
func (k *Kubelet) setAPI(pod *v1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w, ok := k.workers[pod.UID]; ok {
		w.watched(pod, time.Now())
		w.post(lifecycle.SpecChanged{Pod: pod})
		return
	}
	k.startLocked(pod, false)
}

// removeAPI says that a pod's object is gone.
func (k *Kubelet) removeAPI(uid types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w, ok := k.workers[uid]; ok {
		if w.shown.Load().state.Stage == lifecycle.Gone {
			delete(k.workers, uid)
			return
		}
		w.post(lifecycle.RemovedBySource{})
	}
}

// startLocked gives a pod its worker, with what the runtime has of it already.
func (k *Kubelet) startLocked(pod *v1.Pod, static bool) {
	if k.ctx.Err() != nil {
		return
	}
	state := lifecycle.New(pod, time.Now())
	var behind []*worker
	r, restored := k.found[pod.UID]
	if restored {
		state = lifecycle.Restore(pod, r.sandboxes, r.containers, time.Now())
		noted, err := k.notedAllocation(pod.UID)
		if err != nil {
			k.log.Warn("read what is allocated", "pod", fullName(pod), "uid", pod.UID, "err", err) // the containers know most of it
		}
		state = lifecycle.Reallocate(state, noted)
		delete(k.found, pod.UID)
	} else if state.Stage == lifecycle.Active && static {
		behind = k.admitStatic(pod)
	} else if state.Stage == lifecycle.Active {
		var rejected *lifecycle.Rejected
		if behind, rejected = k.admit(pod); rejected != nil {
			state, _ = lifecycle.Step(state, *rejected, time.Now())
			k.events.Pod(pod, "", true, rejected.Reason, rejected.Message)
			k.metrics.rejected(rejected.Reason)
		}
	}
	state.CrashMax = k.cfg.CrashMax
	w := k.newWorker(pod, static, state)
	w.behind = behind
	if !restored {
		w.start.seen = time.Now()
	}
	k.workers[pod.UID] = w
	k.group.Go(func() { w.run(k.ctx) })
}

// gone ends a worker whose pod has nothing left here: the API may forget it.
func (k *Kubelet) gone(w *worker) {
	pod := w.state.Pod
	k.probes.Remove(w.uid)
	k.counts.Forget(pod.Namespace, pod.Name, pod.UID)
	removed := k.letGo(w)
	k.reports.Forget(pod, w.static, !removed)
	k.group.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(k.ctx), time.Minute)
		defer cancel()
		k.purge(ctx, w.uid, criconfig.LogDir(k.cfg.PodLogsDir, pod.Namespace, pod.Name, pod.UID))
		k.mu.Lock()
		defer k.mu.Unlock()
		k.countRestartLocked(pod)
		k.dequeueLocked(fullName(pod))
	})
}

// letGo takes a pod that has ended out of what is known here, and says whether its object is gone. While that is there it
// stays, lest it be taken for a new pod.
func (k *Kubelet) letGo(w *worker) (removed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// The object may have gone since the last step: nobody would say so again.
	removed = w.state.Removed || slices.ContainsFunc(w.take(), func(ev lifecycle.Event) bool {
		_, gone := ev.(lifecycle.RemovedBySource)
		return gone
	})
	if w.static || removed {
		delete(k.workers, w.uid)
	}
	maps.DeleteFunc(k.owners, func(_ string, uid types.UID) bool { return uid == w.uid })
	return removed
}

// purge removes what the runtime still has of a pod, and its logs.
func (k *Kubelet) purge(ctx context.Context, uid types.UID, logDir string) {
	list, err := k.rt.SandboxesWith(ctx, map[string]string{criconfig.LabelPodUID: string(uid)})
	if err != nil {
		k.log.Warn("clean up after pod", "uid", uid, "err", err) // the sweep will see them as orphans
		return
	}
	for _, sb := range list {
		if err := k.rt.RemoveSandbox(ctx, sb.Id); err != nil {
			k.log.Warn("clean up after pod", "uid", uid, "err", err)
		}
	}
	if err := os.RemoveAll(logDir); err != nil {
		k.log.Warn("clean up after pod", "uid", uid, "err", err)
	}
	k.pruneLogLinks()
}
