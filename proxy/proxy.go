// Package proxy keeps a node's translation of services in step with Services and EndpointSlices.
//
// It turns them into a Model, a small value that says which address leads to which endpoints, and hands every new one to a
// backend, at once: there is no period to wait for. The model is pure; what the kernel does with it is the backend's
// (package proxy/ebpf). It serves sockets of the node and its pods. Packets from outside the node, to a node port or a balancer's address,
// meet no socket here and are not translated.
//
// Nothing is given to the backend before all Services and EndpointSlices have been seen once, so that a restart, or an
// API server that is away, never takes a service from the kernel.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config is what New needs.
type Config struct {
	// Synced returns nil once all Services and EndpointSlices of the start have been given to SetService and SetSlice.
	Synced func(context.Context) error
	// Ready, if not nil, is called once, after the backend has taken the first model.
	Ready func()
	// Observe, if not nil, is told of each synchronisation.
	Observe func(Sync)
	// Node is this node's name, which hints of endpoints speak of.
	Node string
	// ExternalIPs says that spec.externalIPs are translated. Whoever may write a Service can then take any address over (CVE-2020-8554).
	ExternalIPs bool
	// HealthChecks, if not nil, is told of all checks of healthCheckNodePorts before each new model.
	HealthChecks func([]HealthCheck)
	// Mode is the backend's, which says what it cannot do; all backends cannot do what every mode cannot.
	Mode string
	// Refused, if not nil, is told what of a service (namespace/name) is not translated whenever that changes: nothing any more, when the list is empty.
	Refused func(service string, why []Limit)
	Log     *slog.Logger
}

// allowed are features that are refused unless somebody asks for them.
func (c Config) allowed() []Feature {
	if c.ExternalIPs {
		return []Feature{ExternalIPs}
	}
	return nil
}

// backend is what puts a model to work.
type backend interface {
	// Set makes the model the one in force. It may be called again with the same; after an error it will be.
	Set(Model) error
	// Sweep removes what the last models left and no reader can still hold.
	Sweep(now time.Time) (more bool, err error)
}

// Proxy is the services of a cluster, as one node translates them.
type Proxy struct {
	cfg     Config
	backend backend
	poke    chan struct{}

	mu       sync.Mutex
	place    Place
	services map[string]Service // by key
	slices   map[string][]keyed // by service, in the order of the slices' keys
	owner    map[string]string  // service by the slice's key
	dirty    map[string]bool    // services to compute again
	refused  map[string][]Limit // by service
	lonely   map[string]lonely  // by service; those that are not, are not there
	pending  pending
	seen     Changes // but for what can be computed
	began    time.Time
	whole    bool // the backend has taken a model
}

// keyed is a slice by its own key.
type keyed struct {
	key string
	compact
}

// New returns a Proxy that has done nothing yet.
func New(cfg Config, b backend) (*Proxy, error) {
	if cfg.Synced == nil || cfg.Log == nil {
		return nil, errors.New("proxy: Synced and Log are needed")
	}
	return &Proxy{
		cfg: cfg, backend: b, place: Place{Node: cfg.Node}, poke: make(chan struct{}, 1),
		services: map[string]Service{}, slices: map[string][]keyed{}, owner: map[string]string{}, dirty: map[string]bool{}, refused: map[string][]Limit{},
		lonely: map[string]lonely{}, began: time.Now(),
	}, nil
}

// SetService says what a service is now; nil, that it is none of ours.
func (p *Proxy) SetService(key string, s *Service) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s != nil {
		p.services[key] = *s
	} else if _, known := p.services[key]; known {
		delete(p.services, key)
	} else {
		return
	}
	p.seen.Services++
	p.pending.services++
	p.touchLocked(key)
}

// SetSlice says what a slice of endpoints is now; nil, that it is gone.
func (p *Proxy) SetSlice(key string, s *Slice) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen.Slices++
	p.pending.slices++
	p.triggerLocked(key, s)
	if old, known := p.owner[key]; known && (s == nil || s.Service != old) {
		p.slices[old] = slices.DeleteFunc(p.slices[old], func(k keyed) bool { return k.key == key })
		if len(p.slices[old]) == 0 {
			delete(p.slices, old)
		}
		delete(p.owner, key)
		p.touchLocked(old)
	}
	if s == nil {
		return
	}
	list := p.slices[s.Service]
	i, known := slices.BinarySearchFunc(list, key, func(k keyed, key string) int { return strings.Compare(k.key, key) })
	if known {
		list[i].compact = compactOf(*s)
	} else {
		p.slices[s.Service] = slices.Insert(list, i, keyed{key, compactOf(*s)})
	}
	p.owner[key] = s.Service
	p.touchLocked(s.Service)
}

// SetZone says which zone the node is in; "" is not known.
func (p *Proxy) SetZone(zone string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if zone == p.place.Zone {
		return
	}
	p.place.Zone = zone
	for key := range p.services {
		p.touchLocked(key)
	}
}

func (p *Proxy) touchLocked(service string) {
	now := time.Now()
	if p.pending.since.IsZero() {
		p.pending.since = now
	}
	p.seen.Queued = now
	p.dirty[service] = true
	p.Poke()
}

// Poke has the backend take the model again, as when what it knows of the node has changed.
func (p *Proxy) Poke() {
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// Run keeps the backend at the newest model until ctx ends, then returns its error. The translation stays as it is.
func (p *Proxy) Run(ctx context.Context) error {
	if err := p.cfg.Synced(ctx); err != nil {
		return fmt.Errorf("wait for services: %w", err)
	}
	model := Model{}
	names := map[string][]string{}     // of the groups of each service
	checks := map[string]HealthCheck{} // by service
	ready := p.cfg.Ready
	var again <-chan time.Time // after an error, or for a sweep
	for {
		if p.compute(model, names, checks) && p.cfg.HealthChecks != nil {
			p.cfg.HealthChecks(slices.Collect(maps.Values(checks)))
		}
		wait, err := p.sync(model)
		if err != nil {
			p.cfg.Log.Warn("set services", "err", err)
		} else if ready != nil {
			ready()
			ready = nil
		}
		if again = nil; wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.poke:
		case <-again:
		}
	}
}

// sync hands the model on; wait is when to come again without being poked, 0 never.
func (p *Proxy) sync(model Model) (wait time.Duration, err error) {
	start := time.Now()
	p.mu.Lock()
	taken := p.pending
	p.pending = pending{}
	p.mu.Unlock()
	err = p.backend.Set(model)
	done := Sync{Took: time.Since(start), Whole: err == nil && !p.whole, Err: err, Triggered: taken.triggered}
	if !taken.since.IsZero() {
		done.Waited = start.Sub(taken.since)
	}
	if p.cfg.Observe != nil && (err != nil || !taken.since.IsZero()) {
		p.cfg.Observe(done)
	}
	if err != nil {
		p.mu.Lock()
		p.pending = p.pending.with(taken)
		p.mu.Unlock()
		return time.Second, err
	}
	p.whole = true
	more, err := p.backend.Sweep(time.Now())
	if more || err != nil {
		return time.Second, err
	}
	return 0, nil
}

// compute brings model and checks up to date with the services that changed, and tells whether a check has changed.
func (p *Proxy) compute(model Model, names map[string][]string, checks map[string]HealthCheck) (checked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.dirty {
		before, had := checks[key]
		delete(checks, key)
		for _, name := range names[key] {
			delete(model, name)
		}
		delete(names, key)
		svc, known := p.services[key]
		if !known {
			checked = checked || had
			delete(p.refused, key)
			delete(p.lonely, key)
			continue
		}
		svc = p.limitLocked(key, svc)
		var list []Slice
		for _, s := range p.slices[key] {
			list = append(list, s.slice())
		}
		delete(p.lonely, key)
		if l := lonelyOf(svc, list); l != (lonely{}) {
			p.lonely[key] = l
		}
		check, has := healthCheck(svc, list)
		if has {
			checks[key] = check
		}
		checked = checked || had != has || before != check
		part := groups(svc, list, p.place)
		maps.Copy(model, part)
		for name := range part {
			names[key] = append(names[key], name)
		}
	}
	clear(p.dirty)
	return checked
}

// limitLocked takes from a service what the mode cannot do, and says so.
func (p *Proxy) limitLocked(key string, svc Service) Service {
	svc, why := svc.limit(p.cfg.Mode, p.cfg.allowed()...)
	same := slices.EqualFunc(why, p.refused[key], func(a, b Limit) bool { return a.Feature == b.Feature })
	if delete(p.refused, key); len(why) > 0 {
		p.refused[key] = why
	}
	if !same && p.cfg.Refused != nil {
		p.cfg.Refused(key, why)
	}
	return svc
}
