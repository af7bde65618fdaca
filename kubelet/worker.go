package kubelet

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/orlop-io/orlop/kubelet/lifecycle"
	"github.com/orlop-io/orlop/kubelet/probe"
	"github.com/orlop-io/orlop/kubelet/volumes"
)

// worker owns one pod. Its goroutine alone steps the state; it never waits for anything but
// events, because every action runs in a goroutine of its own.
type worker struct {
	k      *Kubelet
	uid    types.UID
	static bool
	// leaving: the manifest is gone, so the pod ends. Guarded by the kubelet's mu.
	leaving bool
	log     *slog.Logger
	qos     v1.PodQOSClass

	mu    sync.Mutex
	inbox []lifecycle.Event
	poke  chan struct{}

	// shown is what others may see of the pod; never nil.
	shown atomic.Pointer[view]
	// mounts are the pod's volumes once they are set up.
	mounts atomic.Pointer[map[string]volumes.Mount]
	// counted is what the pod had stored when that was counted last.
	counted atomic.Pointer[count]
	// kills tells ends for want of memory from others.
	kills kills
	// refreshes counts what asked for the volumes to be brought up to date since that was begun; 0: it is not being done.
	refreshes atomic.Int32

	// granted is the pod with the resources of its newest resize; nil before the first. Guarded by the kubelet's mu.
	granted *v1.Pod
	// room is why a resize that was deferred is asked for again, in upstream's words; empty: the pod asks for another.
	// Guarded by the kubelet's mu.
	room string

	// going: it has to end for a critical pod. Guarded by the kubelet's mu.
	going bool
	// behind are pods whose room this one was given: it begins when they have ended.
	behind []*worker

	// start measures how long the pod takes to start.
	start startup

	// Below: the worker's goroutine only.
	state   lifecycle.State
	status  v1.PodStatus
	wakeAt  time.Time
	running []probe.Container
	effects sync.WaitGroup
	over    bool // what the pod held of the node is free
}

// view is a pod as it was after a step.
type view struct {
	state  lifecycle.State
	status v1.PodStatus
}

func (k *Kubelet) newWorker(pod *v1.Pod, static bool, state lifecycle.State) *worker {
	w := &worker{k: k, uid: pod.UID, static: static, state: state, poke: make(chan struct{}, 1), qos: qos.GetPodQOS(pod),
		log: k.log.With("pod", pod.Namespace+"/"+pod.Name, "uid", pod.UID)}
	w.status = *pod.Status.DeepCopy()
	w.shown.Store(&view{state, w.status})
	return w
}

// post gives the worker events; what comes together is told to the API server as one change. It never blocks.
func (w *worker) post(evs ...lifecycle.Event) {
	w.mu.Lock()
	w.inbox = append(w.inbox, evs...)
	w.mu.Unlock()
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

func (w *worker) take() []lifecycle.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	evs := w.inbox
	w.inbox = nil
	return evs
}

// run steps the pod until it is gone or ctx ends, and waits for what it started.
func (w *worker) run(ctx context.Context) {
	defer w.effects.Wait()
	// starting is cancelled when the pod begins to end: no pull or start is waited for then.
	starting, stopStarting := context.WithCancel(ctx)
	defer stopStarting()
	w.awaitRoom(ctx)
	timer := time.NewTimer(0) // the first tick begins the pod
	defer timer.Stop()
	for {
		var evs []lifecycle.Event
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			evs = append(evs, lifecycle.Tick{})
			w.wakeAt = time.Time{}
		case <-w.poke:
		}
		before := w.wakeAt
		changed := false
		for _, ev := range append(evs, w.take()...) {
			switch ev.(type) {
			case lifecycle.SpecChanged, lifecycle.Allocated:
				changed = true
			}
			w.step(ctx, starting, ev)
		}
		if w.state.Stage > lifecycle.Active {
			stopStarting()
		}
		w.publish()
		if changed { // labels, annotations and resources show in volumes
			w.refresh()
		}
		if w.state.Stage >= lifecycle.Finished && !w.over {
			w.over = true
			w.k.roomMade("pods_removed")
		}
		if w.state.Stage == lifecycle.Gone {
			w.k.gone(w)
			return
		}
		if w.wakeAt != before && !w.wakeAt.IsZero() {
			timer.Reset(time.Until(w.wakeAt))
		}
	}
}

func (w *worker) step(ctx, starting context.Context, ev lifecycle.Event) {
	now := time.Now()
	var actions []lifecycle.Action
	w.state, actions = lifecycle.Step(w.state, ev, now)
	for _, a := range actions {
		switch a := a.(type) {
		case lifecycle.Wake:
			if w.wakeAt.IsZero() || a.At.Before(w.wakeAt) {
				w.wakeAt = a.At
			}
		case lifecycle.Tell:
			w.k.events.Pod(w.state.Pod, a.Container, a.Warning, a.Reason, a.Message)
			if a.Warning { // the API server may be away, or be what cannot start
				w.log.Warn(a.Reason, "container", a.Container, "message", a.Message)
			}
		default:
			w.log.Debug("do", "action", a.String())
			effect := w.effect(ctx, starting, a, w.state)
			w.effects.Go(effect)
		}
	}
}

// publish tells the rest of the kubelet, and the API, what changed.
func (w *worker) publish() {
	s := &w.state
	w.syncProbes()
	w.shown.Store(&view{w.state, w.status})
	if s.Final != nil {
		return
	}
	st := lifecycle.StatusOf(s, w.k.cfg.NodeIPs, w.qos, &w.status, time.Now())
	if equality.Semantic.DeepEqual(st, w.status) {
		return
	}
	w.phaseChanged(w.status.Phase, st.Phase)
	w.status = st
	w.shown.Store(&view{w.state, w.status})
	w.k.reports.Set(s.Pod, w.static, st)
}

// syncProbes lets the running containers be probed, once per change of what runs.
func (w *worker) syncProbes() {
	s := &w.state
	var running []probe.Container
	for i := range s.Containers {
		c := &s.Containers[i]
		if c.Phase == lifecycle.Running && c.Hooked {
			running = append(running, probe.Container{Name: c.Name, ID: c.Facts.ID, Started: c.Facts.StartedAt, Ready: c.ReadyProbed, StartedUp: c.StartupProbed})
		}
	}
	same := func(a, b probe.Container) bool { return a.ID == b.ID }
	if slices.EqualFunc(running, w.running, same) && s.Stage == lifecycle.Active {
		return
	}
	ip := w.k.cfg.NodeIPs[0]
	if !s.Pod.Spec.HostNetwork {
		if len(s.Sandbox.IPs) == 0 {
			return
		}
		ip = s.Sandbox.IPs[0]
	}
	if !slices.EqualFunc(running, w.running, same) {
		w.k.probes.Sync(s.Pod, ip, running)
	}
	w.running = running
	if s.Stage > lifecycle.Active {
		w.k.probes.EndLiveness(w.uid)
	}
}

// probed hands a probe's verdict to the pod's worker.
func (k *Kubelet) probed(v probe.Verdict) {
	kind := map[probe.Kind]lifecycle.Probe{probe.Liveness: lifecycle.Liveness, probe.Readiness: lifecycle.Readiness, probe.Startup: lifecycle.Startup}[v.Kind]
	if w := k.worker(v.Pod); w != nil {
		w.post(lifecycle.Probed{Name: v.Container, ID: v.ID, Probe: kind, OK: v.OK})
	}
}
