// Package userspace is the proxy's backend that carries connections itself, for kernels without BPF and netfilter.
//
// A route of the kind "local" on lo makes this node take the addresses of services for its own, and a listener at each address and port takes what
// comes, from the node, its pods and from outside alike. One goroutine waits for all of them: a service that nobody asks costs a socket and no
// goroutine. Each connection goes to the next of the backends in turn; a connection of TCP has two goroutines, which the kernel moves the bytes for
// (splice), and a client of UDP has a socket until it has been silent for as long as conntrack would wait.
//
// Where there is no backend there is no listener, so that the kernel refuses. Backends see this node as the client. All ends with the process but the
// routes, so that clients are refused at once meanwhile. A port that a process of the node has taken at all addresses cannot be listened at: such
// addresses are told to Config.Unserved, and tried again.
package userspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/orlop-io/orlop/proxy"
)

// Config is what Open needs.
type Config struct {
	// Capture are ranges that services' cluster addresses come from: each is one route. An address outside of them has a route of its own.
	Capture []netip.Prefix
	// Unserved, if not nil, is told of a service's port (namespace/name:port) at an address that cannot be listened at, and with no error when it can again.
	Unserved func(port string, at netip.AddrPort, err error)
	// In, if not nil, runs f where sockets are to be made.
	In  func(f func() error) error
	Log *slog.Logger
}

// Backend is the listeners. Set belongs to one goroutine.
type Backend struct {
	cfg   Config
	loop  *loop
	tcp   connections
	now   func() time.Time
	nodes atomic.Pointer[proxy.Node]
	due   atomic.Bool

	states    map[string]*state // by name of the group
	listeners map[endpoint]*listener
	failed    map[endpoint]string // the service's port, by where it cannot be listened at
	routed    map[netip.Prefix]bool
	model     map[string]*proxy.Group // as last set
	retry     time.Time

	sessions sessions
	traffic  traffic

	served, unserved atomic.Int64
}

// endpoint is where something is listened at.
type endpoint struct {
	at    netip.AddrPort
	proto proxy.Protocol
}

// listener is a socket, and where those that come to it are led.
type listener struct {
	endpoint
	fd   int
	lead atomic.Pointer[lead]
}

// lead is the groups of an address; nil nobody.
type lead struct{ in, out *target }

func (l lead) none() bool { return !l.in.serves() && !l.out.serves() }

// Open returns a backend that listens to nothing yet. Run makes it work.
func Open(cfg Config) (*Backend, error) {
	if cfg.In == nil {
		cfg.In = func(f func() error) error { return f() }
	}
	if _, err := localRoutes(); err != nil { // what it needs is the right to make routes, and netlink
		return nil, err
	}
	l, err := newLoop()
	if err != nil {
		return nil, err
	}
	b := &Backend{
		cfg: cfg, loop: l, now: time.Now, states: map[string]*state{}, listeners: map[endpoint]*listener{}, failed: map[endpoint]string{},
		sessions: sessions{byClient: map[client]*session{}},
	}
	b.nodes.Store(&proxy.Node{})
	return b, nil
}

// Run carries connections until ctx ends, and ends them all then.
func (b *Backend) Run(ctx context.Context) error {
	err := b.loop.run(ctx)
	b.tcp.end()
	return err
}

// SetNode says what the node is now. It is in force after the next Set.
func (b *Backend) SetNode(n proxy.Node) (changed bool) {
	if n.Equal(*b.nodes.Load()) {
		return false
	}
	n = n.Clone()
	b.nodes.Store(&n)
	b.due.Store(true)
	return true
}

// Listening is how many addresses are listened at, and how many cannot be.
func (b *Backend) Listening() (served, unserved int) {
	return int(b.served.Load()), int(b.unserved.Load())
}

// Set makes the listeners those of the model. What is established goes on, but for UDP to backends that are gone.
func (b *Backend) Set(model proxy.Model) error {
	again := len(b.failed) > 0 && b.now().After(b.retry)
	if !b.due.Swap(false) && !again && maps.Equal(model, b.model) {
		return nil
	}
	b.model = nil // until all is done
	b.retry = b.now().Add(10 * time.Second)
	leads := b.plan(model, *b.nodes.Load())
	var errs []error
	errs = append(errs, b.cfg.In(func() error { return b.setRoutes(leads) }))
	var ends []*listener
	for e, l := range b.listeners {
		if next, wanted := leads[e]; !wanted || next.none() {
			ends = append(ends, l)
			delete(b.listeners, e)
		}
	}
	b.loop.do(func() {
		for _, l := range ends {
			b.sessions.endOf(b.loop, l)
			b.loop.close(l.fd)
		}
	})
	for e, next := range leads {
		if l := b.listeners[e]; l != nil {
			l.lead.Store(&next)
		} else if !next.none() {
			b.listen(e, next)
		}
	}
	for e := range b.failed {
		if next, wanted := leads[e]; !wanted || next.none() {
			b.tell(e, "", nil)
		}
	}
	b.loop.do(func() { b.sessions.endLost(b.loop) })
	b.served.Store(int64(len(b.listeners)))
	b.unserved.Store(int64(len(b.failed)))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	b.model = maps.Clone(model)
	b.traffic.keep(model)
	return nil
}

// plan is who is led where at each address. Of groups that want the same one the first by name has it.
func (b *Backend) plan(model proxy.Model, node proxy.Node) map[endpoint]lead {
	leads := map[endpoint]lead{}
	for name := range b.states {
		if model[name] == nil {
			delete(b.states, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(model)) {
		g := model[name]
		if b.states[name] == nil {
			b.states[name] = &state{}
		}
		t := &target{g, b.states[name]}
		for _, fr := range g.Frontends {
			for _, a := range addresses(fr.Addr, node) {
				e := endpoint{netip.AddrPortFrom(a, fr.Port), fr.Protocol}
				l := leads[e]
				if fr.Scope&proxy.Inside != 0 && l.in == nil {
					l.in = t
				}
				if fr.Scope&proxy.Outside != 0 && l.out == nil {
					l.out = t
				}
				leads[e] = l
			}
		}
	}
	for e, l := range leads { // who routes cluster addresses to a node is answered, too
		if l.out == nil && !slices.Contains(node.NodePorts, e.at.Addr()) {
			l.out = l.in
			leads[e] = l
		}
	}
	return leads
}

// addresses are where a frontend is asked at: a node port at the node's addresses and its loopback.
func addresses(a netip.Addr, node proxy.Node) []netip.Addr {
	if !a.IsUnspecified() {
		return []netip.Addr{a}
	}
	loopback := netip.IPv6Loopback()
	if a.Is4() {
		loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	out := []netip.Addr{loopback}
	for _, n := range node.NodePorts {
		if n.Is4() == a.Is4() {
			out = append(out, n)
		}
	}
	return out
}

func (b *Backend) listen(e endpoint, next lead) {
	l := &listener{endpoint: e}
	l.lead.Store(&next)
	err := b.cfg.In(func() (err error) {
		l.fd, err = openSocket(e)
		return err
	})
	ready := func() { b.accept(l) }
	if e.proto == proxy.UDP {
		ready = func() { b.receive(l) }
	}
	if err == nil {
		err = b.loop.add(l.fd, ready)
	}
	port := ""
	for _, t := range []*target{next.in, next.out} {
		if t != nil {
			port = t.group.Port
		}
	}
	b.tell(e, port, err)
	if err == nil {
		b.listeners[e] = l
	}
}

// tell says that an address is not listened at, or is again.
func (b *Backend) tell(e endpoint, port string, err error) {
	before, failed := b.failed[e]
	if err == nil {
		if delete(b.failed, e); failed && b.cfg.Unserved != nil {
			b.cfg.Unserved(before, e.at, nil)
		}
		return
	}
	b.failed[e] = port
	if !failed && b.cfg.Unserved != nil {
		b.cfg.Unserved(port, e.at, fmt.Errorf("listen at %s for %s: %w", e.at, port, err))
	}
}

// Sweep forgets clients whose affinity is over, and asks to be called again where an address could not be listened at.
func (b *Backend) Sweep(now time.Time) (more bool, err error) {
	for _, s := range b.states {
		s.forget(now)
	}
	return len(b.failed) > 0, nil
}

// Close ends what Open began, if Run was never called.
func (b *Backend) Close() { b.loop.closeAll() }

// inside tells whether a client is the node, or a pod of it.
func (b *Backend) inside(client, asked netip.Addr) bool {
	n := b.nodes.Load()
	return client.IsLoopback() || client == asked || slices.Contains(n.NodePorts, client) ||
		slices.ContainsFunc(n.Inside, func(p netip.Prefix) bool { return p.Contains(client) })
}

// targetOf is the group that a client is led to; nil where it may not ask.
func (b *Backend) targetOf(l *listener, from netip.Addr) *target {
	lead := l.lead.Load()
	if b.inside(from, l.at.Addr()) {
		return lead.in
	}
	t := lead.out
	if t != nil && len(t.group.Sources) > 0 && !slices.ContainsFunc(t.group.Sources, func(p netip.Prefix) bool { return p.Contains(from) }) {
		return nil
	}
	return t
}
