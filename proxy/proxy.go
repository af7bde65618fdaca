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
	"iter"
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
	// Apply puts a change in force. The first is whole, and so is the one after an error.
	Apply(Change) error
	// Sweep removes what the last models left and no reader can still hold.
	Sweep(now time.Time) (more bool, err error)
}

// Proxy is the services of a cluster, as one node translates them.
type Proxy struct {
	cfg     Config
	backend backend
	poke    chan struct{}

	mu      sync.Mutex
	place   Place
	records map[string]*record     // by service
	owner   map[string]*record     // by slice
	dirty   map[string]bool        // services to compute again
	refused map[string][]Limit     // by service
	lonely  map[string]lonely      // by service; those that are not, are not there
	checks  map[string]HealthCheck // by service
	pending pending
	taken   time.Time // since when the oldest change waits that the backend has in hand; zero: it has none
	seen    Changes   // but for what can be computed
	began   time.Time

	begun bool // the backend has taken a model
	whole bool // and all changes since
}

// record is what is known of a service and its slices.
type record struct {
	key    string
	now    PackedService // "": it is none, or none of ours
	given  PackedService // what the backend's groups were computed from
	slices []keyed       // in the order of their keys
}

// keyed is a slice by its own key.
type keyed struct {
	key   string
	slice PackedSlice
}

// New returns a Proxy that has done nothing yet.
func New(cfg Config, b backend) (*Proxy, error) {
	if cfg.Synced == nil || cfg.Log == nil {
		return nil, errors.New("proxy: Synced and Log are needed")
	}
	return &Proxy{
		cfg: cfg, backend: b, place: Place{Node: cfg.Node}, poke: make(chan struct{}, 1),
		records: map[string]*record{}, owner: map[string]*record{}, dirty: map[string]bool{}, refused: map[string][]Limit{},
		lonely: map[string]lonely{}, checks: map[string]HealthCheck{}, began: time.Now(),
	}, nil
}

// SetService says what a service is now; "", that it is none of ours.
func (p *Proxy) SetService(key string, s PackedService) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.records[key]
	if s == "" && (r == nil || r.now == "") {
		return
	}
	p.seen.Services++
	p.pending.services++
	if r == nil {
		r = p.recordLocked(key)
	}
	r.now = s
	p.touchLocked(key)
}

// SetSlice says what a slice of endpoints is now; "", that it is gone.
func (p *Proxy) SetSlice(key string, s PackedSlice) {
	p.mu.Lock()
	defer p.mu.Unlock()
	service, triggered := s.service()
	p.seen.Slices++
	p.pending.slices++
	p.triggerLocked(key, triggered)
	if r := p.owner[key]; r != nil && (s == "" || r.key != service) {
		r.slices = slices.DeleteFunc(r.slices, func(k keyed) bool { return k.key == key })
		delete(p.owner, key)
		p.touchLocked(r.key)
	}
	if s == "" {
		return
	}
	r := p.records[service]
	if r == nil {
		r = p.recordLocked(service)
	}
	i, known := r.find(key)
	if known {
		r.slices[i].slice = s
	} else {
		r.slices = slices.Insert(slices.Clip(r.slices), i, keyed{key, s})
		p.owner[key] = r
	}
	p.touchLocked(service)
}

func (r *record) find(slice string) (int, bool) {
	return slices.BinarySearchFunc(r.slices, slice, func(k keyed, key string) int { return strings.Compare(k.key, key) })
}

func (p *Proxy) recordLocked(service string) *record {
	r := &record{key: service}
	p.records[service] = r
	return r
}

// list are the slices of a service.
func (r *record) list() []Slice {
	out := make([]Slice, 0, len(r.slices))
	for _, k := range r.slices {
		s, _ := k.slice.Unpack() // it is whole
		out = append(out, s)
	}
	return out
}

// SetZone says which zone the node is in; "" is not known.
func (p *Proxy) SetZone(zone string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if zone == p.place.Zone {
		return
	}
	p.place.Zone = zone
	for key := range p.records {
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
	ready := p.cfg.Ready
	var again <-chan time.Time // after an error, or for a sweep
	for {
		wait, err := p.sync()
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

// sync hands on what has changed; wait is when to come again without being poked, 0 never.
func (p *Proxy) sync() (wait time.Duration, err error) {
	change, taken, checks := p.take()
	if checks != nil && p.cfg.HealthChecks != nil {
		p.cfg.HealthChecks(checks)
	}
	start := time.Now()
	err = p.backend.Apply(change)
	done := Sync{Took: time.Since(start), Whole: err == nil && !p.begun, Err: err, Triggered: taken.triggered}
	if !taken.since.IsZero() {
		done.Waited = start.Sub(taken.since)
	}
	if p.cfg.Observe != nil && (err != nil || !taken.since.IsZero()) {
		p.cfg.Observe(done)
	}
	p.whole = err == nil
	p.mu.Lock()
	p.taken = time.Time{}
	if err != nil {
		p.pending = p.pending.with(taken)
	}
	p.mu.Unlock()
	if err != nil {
		return time.Second, err
	}
	p.begun = true
	more, err := p.backend.Sweep(time.Now())
	if more || err != nil {
		return time.Second, err
	}
	return 0, nil
}

// take returns what has changed since it was called last, or all where the backend may not have taken that; and all checks, where one has changed.
func (p *Proxy) take() (change Change, taken pending, checks []HealthCheck) {
	p.mu.Lock()
	defer p.mu.Unlock()
	dirty := p.dirty
	taken = p.pending
	p.taken = taken.since
	p.pending, p.dirty = pending{}, map[string]bool{}
	change.Whole = !p.whole
	var gone []string
	checked := false
	for key := range dirty {
		names, other := p.reviewLocked(key)
		gone, checked = append(gone, names...), checked || other
	}
	if checked {
		checks = slices.AppendSeq([]HealthCheck{}, maps.Values(p.checks))
		slices.SortFunc(checks, func(a, b HealthCheck) int { return strings.Compare(a.Service, b.Service) })
	}
	keys := maps.Keys(dirty)
	if change.Whole {
		keys, gone = slices.Values(slices.Collect(maps.Keys(p.records))), nil
		for _, r := range p.records {
			change.Frontends++
			for _, k := range r.slices {
				change.Backends += k.slice.endpoints()
			}
		}
	}
	change.Groups = p.groups(keys, gone)
	return change, taken, checks
}

// groups computes those of services, and then says of others that they are gone.
func (p *Proxy) groups(services iter.Seq[string], gone []string) iter.Seq2[string, *Group] {
	return func(yield func(string, *Group) bool) {
		for key := range services {
			for name, g := range p.groupsOf(key) {
				if !yield(name, g) {
					return
				}
			}
		}
		for _, name := range gone {
			if !yield(name, nil) {
				return
			}
		}
	}
}

func (p *Proxy) groupsOf(key string) Model {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.records[key]
	if r == nil || r.given == "" {
		return nil
	}
	return groups(p.givenLocked(r.given), r.list(), p.place)
}

// givenLocked is what of a service the backend is told.
func (p *Proxy) givenLocked(packed PackedService) Service {
	s, _ := packed.Unpack() // it is whole
	s, _ = s.limit(p.cfg.Mode, p.cfg.allowed()...)
	return s
}

// reviewLocked brings what is known of a service up to date with what it is now, and returns which of its groups are gone, and whether its check has changed.
func (p *Proxy) reviewLocked(key string) (gone []string, checked bool) {
	r := p.records[key]
	if r == nil {
		return nil, false
	}
	if r.given != "" && r.given != r.now {
		gone = groupNames(p.givenLocked(r.given))
	}
	r.given = r.now
	before, had := p.checks[key]
	delete(p.checks, key)
	delete(p.lonely, key)
	if r.now == "" {
		delete(p.refused, key)
		if len(r.slices) == 0 {
			delete(p.records, key)
		}
		return gone, had
	}
	svc, _ := r.now.Unpack() // it is whole
	svc = p.limitLocked(key, svc)
	if gone != nil {
		names := groupNames(svc)
		gone = slices.DeleteFunc(gone, func(name string) bool { return slices.Contains(names, name) })
	}
	if !svc.InternalLocal && !svc.ExternalLocal { // it is neither lonely nor checked
		return gone, had
	}
	list := r.list()
	if l := lonelyOf(svc, list); l != (lonely{}) {
		p.lonely[key] = l
	}
	check, has := healthCheck(svc, list)
	if has {
		p.checks[key] = check
	}
	return gone, had != has || before != check
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
