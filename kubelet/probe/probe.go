// Package probe asks containers how they are, and runs what they want done at their start and end.
//
// It owns the times and the counting: a probe is due the moment its container has run for initialDelaySeconds, then
// once every period, and a verdict changes after as many like answers as the threshold says. Until the first success of
// a freshly started container, readiness and startup are asked more often, so that no period is lost to an answer that
// came a moment too early; those extra failures count for nothing and make no event. What follows from a verdict is for the caller, who gets each change through Config.Changed. Liveness and readiness wait for the startup
// probe, and readiness is asked at once when that has succeeded.
package probe

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Kind is a kind of probe.
type Kind int

// Kinds of probe.
const (
	Liveness Kind = iota
	Readiness
	Startup
)

func (k Kind) String() string { return [...]string{"Liveness", "Readiness", "Startup"}[k] }

// runtime runs commands in containers; *cri.Client is one.
type runtime interface {
	ExecSync(ctx context.Context, id string, cmd []string, limit time.Duration) (*runtimeapi.ExecSyncResponse, error)
}

// Config says how probes reach containers and who is told.
type Config struct {
	// Runtime runs exec probes and hooks. Required.
	Runtime runtime
	// Changed is told each new verdict. It must not block. Required.
	Changed func(Verdict)
	// Event is told what belongs into an event on the pod: reason Unhealthy or ProbeWarning, type Warning. It must not
	// block. May be nil.
	Event func(pod *v1.Pod, container, reason, message string)
	// Asked is told each answer, for metrics: result is successful, failed or unknown. May be nil.
	Asked func(pod *v1.Pod, container string, kind Kind, result string, took time.Duration)
	// Version is in the User-Agent of HTTP probes, as in kube-probe/1.37.
	Version string
	// Log is told of answers at level debug. Required.
	Log *slog.Logger

	attempt attempt // nil but in tests
}

// Verdict is what a probe's answers amount to since the last verdict of the same probe on the same container. A failed
// Liveness or Startup is told once, and then the container with this ID is probed by it no more.
type Verdict struct {
	Pod       types.UID
	Container string
	ID        string
	Kind      Kind
	OK        bool
}

// Container is a running container to probe.
type Container struct {
	Name    string
	ID      string
	Started time.Time
	// Ready and StartedUp say what was known of this container before, by the pod's status, when the kubelet has
	// been started anew: they hold until the first verdict. In a container that was just started both are false.
	Ready     bool
	StartedUp bool
}

// Probes asks containers. Its methods may be called at the same time.
type Probes struct {
	cfg  Config
	poke chan struct{}

	mu      sync.Mutex
	workers map[key]*worker
	agenda  agenda // of workers
}

type key struct {
	pod       types.UID
	container string
	kind      Kind
}

// New checks cfg and returns Probes that ask nothing before Run.
func New(cfg Config) (*Probes, error) {
	var errs []error
	if cfg.Runtime == nil {
		errs = append(errs, errors.New("no runtime for exec probes"))
	}
	if cfg.Changed == nil {
		errs = append(errs, errors.New("nobody to tell verdicts"))
	}
	if cfg.Log == nil {
		errs = append(errs, errors.New("no log"))
	}
	if cfg.Event == nil {
		cfg.Event = func(*v1.Pod, string, string, string) {}
	}
	if cfg.Asked == nil {
		cfg.Asked = func(*v1.Pod, string, Kind, string, time.Duration) {}
	}
	if cfg.attempt == nil {
		cfg.attempt = actions{cfg.Runtime, cfg.Version}.attempt
	}
	return &Probes{cfg: cfg, poke: make(chan struct{}, 1), workers: map[key]*worker{}}, errors.Join(errs...)
}

// Run asks what is due until ctx ends, and waits for the answers that are still out.
func (p *Probes) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.poke:
		case <-timer.C:
		}
		wait := p.launch(time.Now(), func(w *worker, t target) {
			group.Go(func() { p.ask(ctx, w, t) })
		})
		timer.Reset(wait)
	}
}

func (p *Probes) wake() {
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// Sync makes the pod's running containers be probed as its spec says, and no others of the pod. ip is the address that
// network probes go to. Call it whenever a container starts or ends, or the spec changes.
func (p *Probes) Sync(pod *v1.Pod, ip string, running []Container) {
	defer p.wake()
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted, now := map[key]bool{}, time.Now()
	for _, c := range running {
		spec := containerSpec(pod, c.Name)
		if spec == nil {
			continue
		}
		for kind, probe := range map[Kind]*v1.Probe{Liveness: spec.LivenessProbe, Readiness: spec.ReadinessProbe, Startup: spec.StartupProbe} {
			if probe == nil {
				continue
			}
			k := key{pod.UID, c.Name, kind}
			wanted[k] = true
			before := p.workers[k]
			if w := before.updated(kind, target{pod, spec, probe, ip, c.ID}, c, now); w != before {
				p.agenda.strike(before)
				p.workers[k] = w
				p.agenda.note(w)
			}
		}
	}
	p.dropLocked(pod.UID, func(k key) bool { return !wanted[k] })
}

// dropLocked ends those probes of a pod. What waited for a startup probe among them waits no more.
func (p *Probes) dropLocked(uid types.UID, which func(key) bool) {
	for k, w := range p.workers {
		switch {
		case k.pod != uid:
		case which(k):
			p.agenda.strike(w)
			delete(p.workers, k)
		default:
			p.agenda.note(w)
		}
	}
}

// Remove ends all probes of the pod.
func (p *Probes) Remove(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropLocked(uid, func(key) bool { return true })
}

// EndLiveness ends the probes of the pod that could restart its containers, for when it is being ended. Readiness goes
// on, as whoever sends it requests must learn when it stops answering. The next Sync starts them again.
func (p *Probes) EndLiveness(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropLocked(uid, func(k key) bool { return k.kind != Readiness })
	p.wake()
}

func containerSpec(pod *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// launch starts what is due and returns the time until the next is.
func (p *Probes) launch(now time.Time, start func(*worker, target)) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.agenda) > 0 {
		w := p.agenda[0]
		if left := w.due.Sub(now); left > 0 {
			return left
		}
		heap.Pop(&p.agenda)
		if w.kind != Startup && p.starting(w.key()) {
			continue // it is noted anew when that has succeeded
		}
		w.asking = true
		start(w, w.target)
	}
	return time.Hour
}

// starting tells whether the container's startup probe has not succeeded yet.
func (p *Probes) starting(k key) bool {
	w := p.workers[key{k.pod, k.container, Startup}]
	return w != nil && !w.ok
}

// ask makes one attempt and takes in its answer.
func (p *Probes) ask(ctx context.Context, w *worker, t target) {
	begun := time.Now()
	a := p.try(ctx, t)
	if ctx.Err() != nil {
		return
	}
	took := time.Since(begun)
	p.cfg.Log.Debug("probed", "pod", t.pod.Namespace+"/"+t.pod.Name, "container", t.container.Name, "kind", w.kind, "result", a.result, "output", a.output)
	verdict, early, told := p.take(w, t, a.result, time.Now())
	if !told {
		return // the container is not there any more
	}
	p.cfg.Asked(t.pod, t.container.Name, w.kind, a.result.String(), took)
	switch {
	case early && a.result != warning: // not worth an event
	case a.err != nil:
		p.cfg.Event(t.pod, t.container.Name, "Unhealthy", fmt.Sprintf("%s probe errored and resulted in %s state: %v", w.kind, "unknown", a.err))
	case a.result == failure:
		p.cfg.Event(t.pod, t.container.Name, "Unhealthy", fmt.Sprintf("%s probe failed: %s", w.kind, a.output))
	case a.result == warning:
		p.cfg.Event(t.pod, t.container.Name, "ProbeWarning", fmt.Sprintf("%s probe warning: %s", w.kind, a.output))
	}
	if verdict != nil {
		p.cfg.Changed(*verdict)
	}
	p.wake()
}

// tries is how often an attempt is made that the node itself could not carry out, before its answer is unknown.
const tries = 3

func (p *Probes) try(ctx context.Context, t target) answer {
	var a answer
	for range tries {
		if a = p.cfg.attempt(ctx, t); a.err == nil {
			break
		}
	}
	return a
}

// take counts one answer. It reports whether it was asked out of turn, and whether the container is still the one that
// was asked.
func (p *Probes) take(w *worker, t target, r result, now time.Time) (verdict *Verdict, early, current bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.asking = false
	k := key{t.pod.UID, t.container.Name, w.kind}
	if p.workers[k] != w || w.target.id != t.id {
		return nil, false, false
	}
	early = w.early()
	changed := w.take(r, now)
	p.agenda.note(w)
	if !changed {
		return nil, early, true
	}
	if w.kind == Startup && w.ok {
		// Do not let the others wait for the end of a period that began before they were allowed to ask.
		for _, kind := range []Kind{Liveness, Readiness} {
			if other := p.workers[key{k.pod, k.container, kind}]; other != nil {
				other.due = later(now, other.first)
				other.tick = other.due
				p.agenda.note(other)
			}
		}
	}
	return &Verdict{Pod: k.pod, Container: k.container, ID: t.id, Kind: k.kind, OK: w.ok}, early, true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
