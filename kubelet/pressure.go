package kubelet

import (
	"context"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/kubelet/eviction"
	"github.com/orlop-io/orlop/kubelet/lifecycle"
	"github.com/orlop-io/orlop/kubelet/measure"
)

const (
	// lookEvery is how often the node is measured, which costs some file reads; lookSoon is for when it is nearly short.
	lookEvery, lookSoon = time.Second, 200 * time.Millisecond
	// relieveEvery bounds how often pressure that nothing can be done about is acted on.
	relieveEvery = 10 * time.Second
	// storageEvery is how often pods with limits of storage are measured. Where that takes long it is done more rarely, so
	// that it takes a twentieth of the time at most.
	storageEvery = 5 * time.Second
	// evictedIn is how long the next eviction waits for the end of the last.
	evictedIn = 30 * time.Second
)

// measures says where the node is measured.
func (k *Kubelet) measures() measure.Node {
	n := measure.Node{RootDir: k.cfg.RootDir, Groups: k.groups}
	if dir := k.imageDir.Load(); dir != nil {
		n.ImageDir = *dir
	}
	return n
}

// findImageDir asks the runtime until it says where images are.
func (k *Kubelet) findImageDir(ctx context.Context) {
	for {
		fs, err := k.rt.ImageFs(ctx)
		if err == nil && len(fs) > 0 && fs[0].GetFsId().GetMountpoint() != "" {
			dir := fs[0].GetFsId().GetMountpoint()
			k.imageDir.Store(&dir)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Second):
		}
	}
}

// pressures are the conditions of what the node is short of.
func (k *Kubelet) pressures() []v1.NodeConditionType {
	if c := k.short.Load(); c != nil {
		return *c
	}
	return nil
}

// watchPressure measures the node, tells its conditions, and ends pods when it is short of something.
func (k *Kubelet) watchPressure(ctx context.Context) error {
	select {
	case <-k.restored: // until then nobody knows what runs
	case <-ctx.Done():
		return ctx.Err()
	}
	k.group.Go(func() { k.findImageDir(ctx) })
	k.group.Go(func() { k.watchStorage(ctx) })
	var state eviction.State
	var d eviction.Decision
	var relieved time.Time
	complained := false
	for {
		obs, err := k.measures().Observe()
		if err != nil && !complained {
			k.log.Warn("measure node", "err", err)
		}
		complained = err != nil
		state, d = eviction.Step(k.cfg.Eviction, state, obs, time.Now())
		if !slices.Equal(d.Conditions, k.pressures()) {
			k.log.Info("pressure on the node", "conditions", d.Conditions)
			k.short.Store(&d.Conditions)
			k.sync.nodeChanged()
		}
		wait := lookEvery
		if eviction.Near(k.cfg.Eviction, obs) {
			wait = lookSoon
		}
		if len(d.Due) > 0 && time.Since(relieved) > relieveEvery {
			if !k.relieve(ctx, d.Due) {
				relieved = time.Now()
			}
			wait = 0
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// relieve frees what is short: what nobody uses first, then at most one pod. It says whether it freed anything.
func (k *Kubelet) relieve(ctx context.Context, due []eviction.Due) bool {
	resource := due[0].Signal.Resource()
	k.events.Node(true, "EvictionThresholdMet", "Attempting to reclaim "+string(resource))
	k.log.Warn("eviction threshold is met", "signal", due[0].Signal, "available", due[0].Available, "capacity", due[0].Capacity)
	node := k.measures()
	onNode := due[0].Signal == eviction.NodeFsAvailable || due[0].Signal == eviction.NodeFsInodes
	if due[0].Signal.Condition() == v1.NodeDiskPressure && !(onNode && node.Disks().Separate) {
		k.dropUnused(ctx)
	}
	// The figures are from before the removal, and may have been of a moment only.
	asOf := time.Now()
	obs, err := k.measures().Observe()
	if err != nil {
		k.log.Warn("measure node again", "err", err)
	}
	if due = eviction.Still(due, obs); len(due) == 0 {
		return true
	}
	pods := k.measurePods(ctx, due[0].Signal)
	k.metrics.evictionAge.WithLabelValues(string(due[0].Signal)).Observe(time.Since(asOf).Seconds())
	for _, p := range eviction.Rank(due[0].Signal, pods, node.Disks()) {
		w := k.worker(p.Pod.UID)
		if w == nil {
			continue
		}
		k.evict(w, due[0].Signal, eviction.Message(p, due[0]), k.cfg.Eviction.Grace(due[0].Threshold, p.Pod))
		w.awaitEnd(ctx, evictedIn)
		return true
	}
	k.log.Warn("no pod can be evicted", "signal", due[0].Signal)
	return false
}

func (k *Kubelet) evict(w *worker, signal eviction.Signal, message string, grace time.Duration) {
	w.log.Warn("evict pod", "signal", signal, "message", message, "grace", grace)
	k.events.Pod(w.shown.Load().state.Pod, "", true, "Evicted", message)
	k.metrics.evictions.WithLabelValues(string(signal)).Inc()
	w.post(lifecycle.Evicted{Reason: "Evicted", Message: message, Grace: grace})
}

// awaitEnd waits until the pod holds nothing of the node any more.
func (w *worker) awaitEnd(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for w.shown.Load().state.Stage < lifecycle.Finished {
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// measurePods measures of all pods what a signal is about.
func (k *Kubelet) measurePods(ctx context.Context, s eviction.Signal) []eviction.Pod {
	var out []eviction.Pod
	var layers map[string]eviction.ContainerUse
	disk := s.Condition() == v1.NodeDiskPressure
	if disk {
		layers = k.layers(ctx)
	}
	for _, w := range k.all() {
		v := w.shown.Load()
		if v.state.Stage >= lifecycle.Finished || v.state.Rejected() {
			continue
		}
		if disk {
			out = append(out, w.stored(ctx, layers))
		} else {
			out = append(out, w.held())
		}
	}
	return out
}

// held measures the pod's memory and processes.
func (w *worker) held() eviction.Pod {
	s := &w.shown.Load().state
	out := eviction.Pod{Pod: s.Pod, Static: w.static, Containers: map[string]eviction.ContainerUse{}}
	all, each, err := w.k.groups.PodUsage(s.Pod)
	if err != nil {
		w.log.Warn("measure pod", "err", err)
		out.Unknown = true
		return out
	}
	out.Memory, out.Pids = all.Memory, all.Pids
	for i := range s.Containers {
		c := &s.Containers[i]
		if u, ok := each[c.Facts.ID]; ok && c.Facts.ID != "" {
			out.Containers[c.Name] = eviction.ContainerUse{Memory: u.Memory}
		}
	}
	return out
}

// stored measures what the pod has stored on the node. layers has the containers' writable layers by id.
func (w *worker) stored(ctx context.Context, layers map[string]eviction.ContainerUse) eviction.Pod {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s := &w.shown.Load().state
	out := eviction.Pod{Pod: s.Pod, Static: w.static, Containers: map[string]eviction.ContainerUse{}}
	n, err := w.countStored(ctx)
	if err != nil {
		w.log.Warn("count what the pod has stored", "err", err)
		out.Unknown = true
		return out
	}
	out.Volumes = n.volumes
	for i := range s.Containers {
		c := &s.Containers[i]
		u := layers[c.Facts.ID]
		u.Logs, u.LogInodes = n.logs[c.Name].Bytes, n.logs[c.Name].Inodes
		out.Containers[c.Name] = u
	}
	return out
}

// layers asks the runtime for the containers' writable layers, by id.
func (k *Kubelet) layers(ctx context.Context) map[string]eviction.ContainerUse {
	out := map[string]eviction.ContainerUse{}
	list, err := k.rt.ContainerStats(ctx)
	if err != nil {
		if ctx.Err() == nil {
			k.log.Warn("measure writable layers", "err", err)
		}
		return out
	}
	for _, c := range list {
		if l := c.GetWritableLayer(); l != nil {
			out[c.GetAttributes().GetId()] = eviction.ContainerUse{Writable: int64(l.GetUsedBytes().GetValue()), WritableInodes: int64(l.GetInodesUsed().GetValue())}
		}
	}
	return out
}

// watchStorage ends pods that store more than they may.
func (k *Kubelet) watchStorage(ctx context.Context) {
	wait := storageEvery
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		begun := time.Now()
		k.checkStorage(ctx)
		wait = max(storageEvery, 20*time.Since(begun))
	}
}

func (k *Kubelet) checkStorage(ctx context.Context) {
	var layers map[string]eviction.ContainerUse
	for _, w := range k.all() {
		s := &w.shown.Load().state
		if s.Stage != lifecycle.Active || !eviction.Bounded(s.Pod) {
			continue
		}
		if layers == nil {
			layers = k.layers(ctx)
		}
		p := w.stored(ctx, layers)
		if p.Unknown || p.Critical() {
			continue
		}
		if x := eviction.Exceeded(p, k.measures().Disks()); x != nil {
			k.evict(w, x.Of, x.Message, time.Second)
		}
	}
}
