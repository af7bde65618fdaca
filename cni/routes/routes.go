// Package routes keeps the node's routes to the pods of other nodes: over a link to a node that shares one with this node, else over a
// VXLAN tunnel, chosen for each node and again whenever the nodes or the kernel's routes change.
//
// It owns the routes and rules it tagged with its own protocol number, its tunnels orlop-vx and orlop-vx6, and on these what has one of its
// hardware addresses; it touches no others. Where a node is in the tunnel follows from its UID and InternalIP, so nodes tell each other nothing.
package routes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// kernel is what the reconciler asks of the host.
type kernel interface {
	// State returns what is ours.
	State() (State, error)
	// Path returns the way to an address.
	Path(netip.Addr) (Path, error)
	Apply(Action) error
	// Probe sends packets to addresses that have Path learn the MTU of the whole way, a moment later. What does not arrive is nobody's error.
	Probe(to []netip.Addr, port uint16)
	// Try says whether an address answers to packets with and without a checksum of the device's.
	Try(context.Context, netip.Addr) Verdict
	// TurnOffload has the kernel work out checksums of what goes into a tunnel.
	TurnOffload(tunnel string) error
	// Watch calls changed after links, addresses or routes changed, until ctx ends.
	Watch(ctx context.Context, changed func()) error
}

// Config is what New needs.
type Config struct {
	// Desired returns the nodes; false while they have not been seen yet, when nothing is changed.
	Desired func() (View, bool)
	Overlay Overlay
	// Resync is how often the kernel is looked at without being poked or changed. After an error it is looked at sooner.
	Resync time.Duration
	// Done is called after each look, if it is set; MTU tells what came of it.
	Done func()
	Log  *slog.Logger
}

// Reconciler drives the kernel to what the newest nodes need.
type Reconciler struct {
	cfg    Config
	kernel kernel
	poke   chan struct{}
	mtu    atomic.Int64 // -1 before the first look
	told   map[string]string
	probed map[netip.Addr]probing

	targets atomic.Pointer[[]target]
	tunnels chan struct{} // targets have become others; holds one
}

// New checks cfg and returns a Reconciler that has done nothing yet.
func New(cfg Config, k kernel) (*Reconciler, error) {
	if cfg.Desired == nil || cfg.Resync <= 0 || cfg.Log == nil {
		return nil, errors.New("routes: Desired, a positive Resync and Log are needed")
	}
	if err := cfg.Overlay.Validate(); err != nil {
		return nil, err
	}
	r := &Reconciler{cfg: cfg, kernel: k, poke: make(chan struct{}, 1), told: map[string]string{}, tunnels: make(chan struct{}, 1)}
	r.mtu.Store(-1)
	return r, nil
}

// Poke says that desired may have changed. It never blocks; pokes coalesce.
func (r *Reconciler) Poke() { ring(r.poke) }

func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// MTU is that of the smallest tunnel in use, in bytes; 0 when there is none. It is not known before the first look at known nodes.
func (r *Reconciler) MTU() (mtu int, known bool) {
	v := int(r.mtu.Load())
	return max(v, 0), v >= 0
}

const (
	// settle is how long changes of the kernel are gathered before a look at it.
	settle = 100 * time.Millisecond
	// firstRetry is how soon a look follows one that failed; the wait doubles up to Resync.
	firstRetry = time.Second
	// answer is how long after probes a look follows that sees what they brought.
	answer = 300 * time.Millisecond
	// uncut is how soon a way is looked at again that takes no fragments. Over IPv4 routers cut what a way has become too small for; over IPv6 it
	// is lost, and what the kernel learns of that the pods must be told.
	uncut = 2 * time.Second
)

// Run keeps the kernel at what the newest nodes need until ctx ends, then returns its error. What it made stays.
func (r *Reconciler) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.kernel.Watch(ctx, func() { ring(changed) }) })
	group.Go(func() error { return r.loop(ctx, changed) })
	group.Go(func() error { return r.proveOffload(ctx) })
	return group.Wait()
}

func (r *Reconciler) loop(ctx context.Context, changed <-chan struct{}) error {
	wait := firstRetry
	resync, again := time.NewTicker(r.cfg.Resync), time.NewTimer(r.cfg.Resync)
	defer resync.Stop()
	defer again.Stop()
	due := time.Time{} // when again rings
	soon := func(d time.Duration) {
		if at := time.Now().Add(d); due.Before(time.Now()) || at.Before(due) {
			due = at
			again.Reset(d)
		}
	}
	for {
		routed, err := r.once(ctx)
		if err != nil {
			r.cfg.Log.Warn("reconcile routes", "err", err)
			soon(wait)
			wait = min(2*wait, r.cfg.Resync)
		} else {
			wait = firstRetry
		}
		if len(routed) > 0 {
			soon(r.probe(routed, time.Now()))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.poke:
		case <-again.C:
		case <-resync.C:
		case <-changed:
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-r.poke:
			case <-time.After(settle):
			}
		}
	}
}

// probing is when to probe a way, and how long after that again: at first soon, for routers may not have found each other yet, in the end at
// each Resync, for a way may become smaller or greater.
type probing struct {
	next time.Time
	wait time.Duration
}

// probe probes what is due, and returns when something is to be looked at or probed.
func (r *Reconciler) probe(routed []netip.Addr, now time.Time) (soonest time.Duration) {
	before := r.probed
	r.probed = map[netip.Addr]probing{}
	soonest = r.cfg.Resync
	var todo []netip.Addr
	for _, a := range routed {
		p := before[a]
		if !now.Before(p.next) {
			todo = append(todo, a)
			p.wait = min(max(2*p.wait, answer), r.cfg.Resync)
			p.next = now.Add(p.wait)
			soonest = min(soonest, answer)
		}
		if a.Is6() {
			soonest = min(soonest, uncut)
		}
		soonest = min(soonest, p.next.Sub(now))
		r.probed[a] = p
	}
	if len(todo) > 0 {
		r.kernel.Probe(todo, r.cfg.Overlay.Port)
	}
	return soonest
}

// once looks and acts. It returns the ends of tunnels.
func (r *Reconciler) once(ctx context.Context) (routed []netip.Addr, err error) {
	view, known := r.cfg.Desired()
	if !known {
		return nil, nil
	}
	actual, err := r.kernel.State()
	if err != nil {
		return nil, fmt.Errorf("read what is in the kernel: %w", err) // a partial list must delete nothing
	}
	paths, err := Paths(r.kernel, view)
	if err != nil {
		return nil, err
	}
	desired, decisions := Decide(view, r.cfg.Overlay, paths, actual)
	r.tell(decisions)
	var errs []error
	for _, a := range Plan(desired, actual) {
		if err := r.kernel.Apply(a); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a, err))
			continue
		}
		level := slog.LevelDebug
		if _, ok := a.Item.(Route); ok {
			level = slog.LevelInfo
		}
		r.cfg.Log.Log(ctx, level, "changed "+a.Item.key(), "action", a)
	}
	r.mtu.Store(int64(smallest(desired)))
	r.retarget(desired)
	if r.cfg.Done != nil {
		r.cfg.Done()
	}
	for _, i := range desired {
		if e, ok := i.(Endpoint); ok {
			routed = append(routed, e.Addr)
		}
	}
	return routed, errors.Join(errs...)
}

// retarget has tunnels tried that lead elsewhere than before.
func (r *Reconciler) retarget(desired State) {
	now, before := targetsOf(desired), r.targets.Load()
	slices.SortFunc(now, func(a, b target) int { return cmp.Or(strings.Compare(a.tunnel, b.tunnel), a.addr.Compare(b.addr)) })
	if before == nil || !slices.Equal(*before, now) {
		r.targets.Store(&now)
		ring(r.tunnels)
	}
}

// tell logs how a node is reached, when that is new.
func (r *Reconciler) tell(decisions []Decision) {
	told := map[string]string{}
	for _, d := range decisions {
		told[d.Peer.Name] = string(d.How) + d.Why
		if r.told[d.Peer.Name] != told[d.Peer.Name] {
			r.cfg.Log.Info("pods of a node are reached", "node", d.Peer.Name, "how", d.How, "why", d.Why)
		}
	}
	r.told = told
}

// Paths looks up the way to every address of the other nodes that may matter.
func Paths(k interface {
	Path(netip.Addr) (Path, error)
}, view View) (map[netip.Addr]Path, error) {
	out := map[netip.Addr]Path{}
	for _, p := range view.Peers {
		for _, v4 := range []bool{true, false} {
			a := p.addr(v4)
			if !a.IsValid() {
				continue
			}
			path, err := k.Path(a)
			if err != nil {
				return nil, err
			}
			out[a] = path
		}
	}
	return out, nil
}

func smallest(s State) int {
	mtu := 0
	for _, i := range s {
		if t, ok := i.(Tunnel); ok && (mtu == 0 || t.MTU < mtu) {
			mtu = t.MTU
		}
	}
	return mtu
}

// RemoveAll drops all that is ours.
func RemoveAll(k kernel) error {
	actual, err := k.State()
	if err != nil {
		return fmt.Errorf("read what is in the kernel: %w", err)
	}
	var errs []error
	for _, a := range Plan(nil, actual) {
		if err := k.Apply(a); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a, err))
		}
	}
	return errors.Join(errs...)
}
