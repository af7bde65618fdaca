package kubelet

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/cri"
	"github.com/orlop-io/orlop/kubelet/criconfig"
	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// sweepEvery is how often the runtime is listed although its events flow.
const sweepEvery = time.Minute

// remains are what the runtime has of a pod that no source has named.
type remains struct {
	namespace, name string
	static          bool
	sandboxes       []lifecycle.SandboxSeen
	containers      []lifecycle.Facts
}

// own notes whose a sandbox or container is, so that its events find the pod.
func (k *Kubelet) own(id string, uid types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.owners[id] = uid
}

// factsOf reads the runtime's status of a container of ours.
func (k *Kubelet) factsOf(st *runtimeapi.ContainerStatus) lifecycle.Facts {
	found, _ := criconfig.Find(st.Labels, st.Annotations)
	f := lifecycle.Facts{
		Name: found.Container, ID: st.Id, Attempt: found.Attempt, SpecImage: found.SpecImage, Image: st.GetImage().GetImage(), ImageID: st.ImageRef,
		Resources: found.Resources, Mounts: found.MountStatuses,
		Running:   st.State == runtimeapi.ContainerState_CONTAINER_RUNNING,
		Exited:    st.State == runtimeapi.ContainerState_CONTAINER_EXITED,
		StartedAt: stamp(st.StartedAt), FinishedAt: stamp(st.FinishedAt), ExitCode: st.ExitCode, Reason: st.Reason, Message: st.Message, LogPath: st.LogPath,
	}
	if found.SpecImage != "" {
		f.Image = found.SpecImage
	}
	if f.Exited {
		path := ""
		if found.MessagePath != "" {
			path = messagePath(filepath.Join(k.cfg.RootDir, "pods", string(found.UID)), found.Container, found.Attempt)
		}
		if words := lastWords(path, string(found.MessagePolicy), st.LogPath, st.ExitCode); words != "" {
			f.Message = words
		}
	}
	return f
}

func stamp(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

// watchRuntime follows the runtime's events, and lists everything whenever it may have missed some.
func (k *Kubelet) watchRuntime(ctx context.Context) error {
	k.group.Go(func() { k.sweeps(ctx) })
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		begun := time.Now()
		err := k.rt.Watch(ctx, func(ev cri.Event) { k.runtimeEvent(ctx, ev) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if connected := time.Since(begun) > time.Second; connected {
			k.log.Warn("runtime events ended, connecting again", "err", err)
		}
		if time.Since(begun) > 10*time.Second {
			wait = 50 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (k *Kubelet) runtimeEvent(ctx context.Context, ev cri.Event) {
	if ev.Kind == cri.Connected {
		k.group.Go(func() { // once the stream surely is open, and again in case it was not quite
			for range 2 {
				select {
				case <-ctx.Done():
					return
				case <-time.After(100 * time.Millisecond):
				}
				if err := k.sweep(ctx); err != nil && ctx.Err() == nil {
					k.log.Warn("list runtime", "err", err)
				}
			}
		})
		return
	}
	k.mu.Lock()
	w := k.workers[k.owners[ev.ID]]
	k.mu.Unlock()
	if w == nil || ev.Kind == cri.OutOfMemory {
		return
	}
	k.group.Go(func() { k.lookAt(ctx, w, ev.ID) })
}

// lookAt brings a worker's knowledge of a sandbox or container up to date after an event.
func (k *Kubelet) lookAt(ctx context.Context, w *worker, id string) {
	if w.shown.Load().state.Sandbox.ID != id {
		w.lookUntilExited(ctx, id)
		return
	}
	for wait := 2 * time.Millisecond; wait < 2*time.Second; wait *= 2 {
		st, err := k.rt.Sandbox(ctx, id)
		if errors.Is(err, cri.ErrNotFound) || err == nil && st.State != runtimeapi.PodSandboxState_SANDBOX_READY {
			w.post(lifecycle.SandboxSeen{ID: id})
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// sweeps lists the runtime at the start, as soon as it answers, and then rarely.
func (k *Kubelet) sweeps(ctx context.Context) {
	first := true
	for {
		wait := sweepEvery
		err := k.sweep(ctx)
		switch {
		case err != nil && first:
			wait = 100 * time.Millisecond
		case err != nil:
			wait = time.Second
		case first:
			close(k.restored)
			first = false
		}
		if err != nil && ctx.Err() == nil {
			k.log.Debug("list runtime", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// sweep compares all of the runtime with what is known: it finds what no event told, pods to take
// over after a restart, and orphans.
func (k *Kubelet) sweep(ctx context.Context) error {
	sandboxes, err := k.rt.Sandboxes(ctx)
	if err != nil {
		return err
	}
	containers, err := k.rt.Containers(ctx)
	if err != nil {
		return err
	}
	strangers := map[types.UID]*remains{}
	for _, sb := range sandboxes {
		k.sweepSandbox(ctx, sb, strangers)
	}
	present := map[string]bool{}
	for _, c := range containers {
		present[c.Id] = true
		k.sweepContainer(ctx, c, strangers)
	}
	for _, w := range k.all() {
		v := w.shown.Load()
		for i := range v.state.Containers {
			c := &v.state.Containers[i]
			if c.Phase == lifecycle.Running && !present[c.Facts.ID] {
				w.look(ctx, c.Facts.ID) // it may have been made since the list
			}
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.found = strangers
	k.pruneOwnersLocked()
	k.endOrphansLocked()
	return nil
}

// pruneOwnersLocked forgets whose the sandboxes and containers of pods are that are nowhere any more: the runtime may have listed
// them while their pod was ending.
func (k *Kubelet) pruneOwnersLocked() {
	maps.DeleteFunc(k.owners, func(_ string, uid types.UID) bool { return k.workers[uid] == nil && k.found[uid] == nil })
}

// disown forgets whose a sandbox or container was that has been removed. Without that, those of a pod that is restarted
// for days would all be remembered.
func (k *Kubelet) disown(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.owners, id)
}

func (k *Kubelet) sweepSandbox(ctx context.Context, sb *runtimeapi.PodSandbox, strangers map[types.UID]*remains) {
	f, ok := criconfig.Find(sb.Labels, sb.Annotations)
	if !ok {
		return
	}
	ready := sb.State == runtimeapi.PodSandboxState_SANDBOX_READY
	if w := k.worker(f.UID); w != nil {
		if s := w.shown.Load().state.Sandbox; s.ID == sb.Id && s.Phase == lifecycle.Ready && !ready {
			w.post(lifecycle.SandboxSeen{ID: sb.Id})
		}
		return
	}
	r := strangers[f.UID]
	if r == nil {
		r = &remains{namespace: f.Namespace, name: f.Name, static: isStatic(sb.Annotations)}
		strangers[f.UID] = r
	}
	seen := lifecycle.SandboxSeen{ID: sb.Id, Attempt: int(sb.GetMetadata().GetAttempt()), Ready: ready}
	if st, err := k.rt.Sandbox(ctx, sb.Id); err == nil {
		seen.IPs = sandboxIPs(st)
	}
	r.sandboxes = append(r.sandboxes, seen)
	k.own(sb.Id, f.UID)
}

func (k *Kubelet) sweepContainer(ctx context.Context, c *runtimeapi.Container, strangers map[types.UID]*remains) {
	f, ok := criconfig.Find(c.Labels, c.Annotations)
	if !ok {
		return
	}
	if w := k.worker(f.UID); w != nil {
		s := &w.shown.Load().state
		if known := s.Container(f.Container); known != nil && known.Facts.ID == c.Id && known.Phase == lifecycle.Running && c.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			w.look(ctx, c.Id)
		}
		return
	}
	r := strangers[f.UID]
	if r == nil {
		return // made, or gone, since the sandboxes were listed
	}
	st, err := k.rt.Container(ctx, c.Id)
	if err != nil {
		return
	}
	if neverRan(st) { // it is no instance of the pod's: its number is free again
		if err := k.rt.RemoveContainer(ctx, c.Id); err != nil && ctx.Err() == nil {
			k.log.Warn("remove container whose start was cut off", "err", err)
		}
		return
	}
	facts := k.factsOf(st)
	facts.Sandbox = c.PodSandboxId
	r.containers = append(r.containers, facts)
	k.own(c.Id, f.UID)
}

// neverRan says whether a container was left half started by a kubelet that died: the runtime gives up a start when its
// caller goes away, and kills the shim or runc that was at work. Such a one has not failed, so it counts for no restart
// and for no policy.
func neverRan(st *runtimeapi.ContainerStatus) bool {
	switch st.State {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return true
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return st.StartedAt == 0 && (strings.Contains(st.Message, "context canceled") || strings.Contains(st.Message, "signal: killed"))
	}
	return false
}

// endOrphansLocked ends pods of the runtime that nobody wants: static ones once the directory was
// read, others once the API server has said which pods this node has.
func (k *Kubelet) endOrphansLocked() {
	for uid, r := range k.found {
		known := k.staticRead || k.cfg.ManifestDir == ""
		if !r.static {
			known = k.cfg.Connect != nil && k.sync.listed.Load()
		}
		if !known || k.workers[uid] != nil || k.wantedLocked(uid) {
			continue
		}
		delete(k.found, uid)
		name := r.namespace + "/" + r.name
		k.ending[name]++
		k.metrics.orphans.Inc()
		k.log.Info("ending pod that no source names", "pod", name, "uid", uid)
		k.group.Go(func() {
			k.endOrphan(k.ctx, uid, r)
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.ending[name]--; k.ending[name] == 0 {
				delete(k.ending, name)
				k.dequeueLocked(name)
			}
		})
	}
}

// wantedLocked says whether a source has just named a pod that has no worker yet.
func (k *Kubelet) wantedLocked(uid types.UID) bool {
	for _, p := range k.queued {
		if p.UID == uid {
			return true
		}
	}
	return k.sync.names(uid)
}

// endOrphan stops a pod of which there is nothing but what the runtime has. What fails is found
// by the next sweep.
func (k *Kubelet) endOrphan(ctx context.Context, uid types.UID, r *remains) {
	var errs []error
	const grace = 30 * time.Second
	done := make(chan error, len(r.containers))
	for _, c := range r.containers {
		go func() { done <- k.rt.StopContainer(ctx, c.ID, grace) }()
	}
	for range r.containers {
		errs = append(errs, <-done)
	}
	for _, sb := range r.sandboxes {
		errs = append(errs, k.rt.StopSandbox(ctx, sb.ID), k.rt.RemoveSandbox(ctx, sb.ID))
	}
	errs = append(errs, k.vols.Teardown(ctx, uid), k.groups.RemovePod(ctx, uid))
	if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
		k.log.Warn("end pod that no source names", "uid", uid, "err", err)
		return
	}
	k.purge(ctx, uid, criconfig.LogDir(k.cfg.PodLogsDir, r.namespace, r.name, uid))
}

// watchNetwork opens the gate when the runtime's network is ready. The runtime has no event for
// that, so it is asked often while it is not, and seldom once it is.
func (k *Kubelet) watchNetwork(ctx context.Context) error {
	for {
		wait := 5 * time.Second
		st, err := k.rt.Status(ctx)
		ready := false
		if err == nil { // a runtime that is being restarted has not lost its network
			now := time.Now()
			k.answered.Store(&now)
			k.runtimeStatus.Store(st)
			var why string
			ready, why = networkReady(st)
			if k.network.set(ready, why) {
				k.log.Info("network of the runtime", "ready", ready, "why", why)
				k.sync.nodeChanged()
			}
		}
		if !ready {
			wait = 200 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func networkReady(st *runtimeapi.StatusResponse) (bool, string) {
	for _, c := range st.GetStatus().GetConditions() {
		if c.Type == runtimeapi.NetworkReady {
			return c.Status, "container runtime network not ready: NetworkReady=" + map[bool]string{true: "true", false: "false"}[c.Status] +
				" reason:" + c.Reason + " message:" + c.Message
		}
	}
	return false, "runtime does not tell of its network"
}
