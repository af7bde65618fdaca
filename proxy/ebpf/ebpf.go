// Package ebpf is the proxy's backend that translates by BPF programs: in sockets, and in packets where no socket is seen. Both read the
// maps of package socklb.
//
// It mirrors what the maps hold, adopting at its start what an earlier process left, and writes only differences, in an order in which a
// socket sees the old service or the new one and never a mixture: the backends of a changed group go under a generation of their
// own, then each frontend is flipped to it by one write, then what only the old one had goes. The old generation's backends stay a while longer,
// for a program that has read the frontend and not yet the backend.
package ebpf

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/proxy"
)

// grace is how long backends outlive their generation: far longer than a program runs.
const grace = time.Second

// Backend is the maps' content, by group. It belongs to one goroutine.
type Backend struct {
	// Unfit, if not nil, is told of a service's port (as proxy.Group has it) for which a map has no room, and why; and, with nil, that it has room again.
	Unfit func(port string, err error)

	lb   *socklb.LB
	only proxy.Scope
	// attached says that the programs of this process are in charge.
	attached bool
	// adopted says that the fields below mirror the maps.
	adopted bool

	live       map[string]*live           // by group name
	owner      map[socklb.Frontend]string // "" while nobody wants a frontend found in the maps
	found      map[socklb.Frontend]uint32 // service ids found in the maps, for groups not yet recognised
	orphans    map[uint32]*live           // found services by id, until a group is recognised in them
	conflicts  map[string]bool            // groups that want a frontend of another
	unfit      map[string]string          // groups that a map has no room for, and their ports
	retired    []retired
	generation uint32 // last one given
	service    uint32

	end     func() error   // ends sockets that the maps say are to be; nil: nobody can
	parting map[*live]bool // groups with former backends that change by themselves
	gone    int            // how many former backends are Gone
	looks   int            // how often end is still to be called
	looked  time.Time      // when it was last

	mu    sync.Mutex
	ports map[uint32]string // of each service id, as proxy.Group has it
	whole bool              // ports has all services in the maps
}

// live is what the maps hold of one group.
type live struct {
	group     *proxy.Group // as last set without error; nil when that failed or it was adopted
	entry     socklb.Entry
	backends  []socklb.Backend
	sources   []netip.Prefix    // all that may be in the maps
	frontends []socklb.Frontend // all that may be in the maps
	flipped   []socklb.Frontend // those that lead to entry
	old       []socklb.Entry    // generations that a frontend not flipped may still lead to
	former    []former          // what else is in the maps as a member
	kept      []netip.AddrPort  // the group's Leaving
	tcp       bool
}

type retired struct {
	generation uint32
	size       socklb.Size
	at         time.Time
}

// New returns a backend on open maps for the frontends of a scope; it has read and written nothing yet.
func New(lb *socklb.LB, only proxy.Scope) *Backend {
	return &Backend{lb: lb, only: only, parting: map[*live]bool{}}
}

// Set makes the maps hold the model, and puts this process's programs in charge when they hold it for the first time.
func (b *Backend) Set(model proxy.Model) error {
	if !b.adopted {
		if err := b.adopt(); err != nil {
			return err
		}
	}
	if !b.attached {
		b.lb.Reserve(b.need(model))
	}
	var errs []error
	ours := 0
	for name, g := range model {
		if !b.concerns(g) {
			continue
		}
		ours++
		l := b.live[name]
		if l != nil && l.group == g && !b.conflicts[name] {
			continue
		}
		if err := b.try(name, g, model); err != nil {
			errs = append(errs, err)
		}
	}
	for name, l := range b.live {
		if len(b.live) == ours {
			break // live has every name that concerns it by now, so it has no other
		}
		if g := model[name]; g == nil || !b.concerns(g) {
			if err := b.drop(name, l); err != nil {
				errs = append(errs, fmt.Errorf("service %s: %w", name, err))
			}
		}
	}
	for name := range b.conflicts { // the other group may have let go by now
		if err := b.try(name, model[name], model); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		errs = append(errs, b.dropOrphans())
		b.mu.Lock()
		b.whole = errs[0] == nil
		b.mu.Unlock()
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if !b.attached {
		if err := b.lb.Attach(); err != nil {
			return err
		}
		b.attached = true
	}
	return nil
}

// try sets a group. That a map has no room for it is told, and no error: the others go on, and Sweep has it tried again.
func (b *Backend) try(name string, g *proxy.Group, model proxy.Model) error {
	err := b.setGroup(name, g, model)
	_, before := b.unfit[name]
	switch {
	case errors.Is(err, socklb.ErrFull):
		b.unfit[name] = g.Port
	case err != nil:
		return fmt.Errorf("service %s: %w", name, err)
	case !before:
		return nil
	default:
		delete(b.unfit, name)
	}
	if before != (err != nil) {
		b.tell(g.Port, err)
	}
	return nil
}

// tell says that a port has room again only when all its groups have, as of both families.
func (b *Backend) tell(port string, err error) {
	if b.Unfit == nil || err == nil && slices.Contains(slices.Collect(maps.Values(b.unfit)), port) {
		return
	}
	b.Unfit(port, err)
}

// need is what the maps hold for a model.
func (b *Backend) need(model proxy.Model) (n socklb.Need) {
	for _, g := range model {
		if !b.concerns(g) {
			continue
		}
		for range b.frontends(g) {
			n.Frontends++
		}
		n.Backends += len(g.Backends)
		n.Members += len(g.Backends)
		n.Blocks += int(socklb.Entry{Table: b.places(g)}.Size().Blocks)
	}
	return n
}

// places is the size of a group's table.
func (b *Backend) places(g *proxy.Group) uint32 {
	if b.only&proxy.Outside != 0 && hasScope(g, proxy.Outside) {
		return tableSize(len(g.Backends))
	}
	return 0
}

// Sweep deletes the backends of generations that no program can still be reading, and ends what is connected to backends that are gone.
func (b *Backend) Sweep(now time.Time) (more bool, err error) {
	more, err = b.sweepEndings(now)
	for len(b.retired) > 0 {
		r := b.retired[0]
		if now.Sub(r.at) < grace {
			return true, err
		}
		if err2 := b.lb.DeleteGeneration(r.generation, r.size); err2 != nil {
			return true, errors.Join(err, err2)
		}
		b.retired = b.retired[1:]
	}
	return more || len(b.unfit) > 0, err
}

// setGroup writes what differs between a group and what the maps hold of it.
func (b *Backend) setGroup(name string, g *proxy.Group, model proxy.Model) error {
	l := b.live[name]
	if l == nil {
		l = b.recognise(g)
		b.live[name] = l
	}
	l.group = nil
	old := l.entry
	entry := old
	entry.Affinity, entry.KeepSource, entry.Limited = g.Affinity, g.KeepSource, len(g.Sources) > 0
	list, places := backendsOf(g), b.places(g)
	fresh := entry.Generation == 0 || entry.Table != places || !slices.Equal(l.backends, list)
	if fresh {
		b.generation++
		entry.Generation, entry.Count, entry.Table = b.generation, uint32(len(list)), places
		if err := b.fill(entry, list, g.Backends); err != nil {
			b.retire(entry)
			return err
		}
	}
	if err := b.admit(l, entry.Service, g); err != nil {
		return err
	}
	if fresh && old.Generation != 0 {
		l.old = append(l.old, old)
	}
	want, conflict := b.claim(name, g, model)
	if entry != old {
		l.flipped = nil
	}
	before := l.backends
	l.entry, l.backends, l.kept, l.tcp = entry, list, g.Leaving, isTCP(g)
	b.depose(l, before)
	if err := b.flip(l, want); err != nil {
		return err
	}
	if err := b.release(name, l, want); err != nil {
		return err
	}
	for _, e := range l.old { // no frontend leads there any more
		b.retire(e)
	}
	l.old = nil
	if err := errors.Join(b.age(l, time.Now()), b.deleteSources(l, wanted(g))); err != nil {
		return err
	}
	delete(b.conflicts, name)
	if conflict {
		b.conflicts[name] = true
	}
	l.group = g
	return nil
}

// flip makes the frontends lead to what l holds now, each in one step.
func (b *Backend) flip(l *live, want []socklb.Frontend) error {
	for _, f := range want {
		if slices.Contains(l.flipped, f) {
			continue
		}
		if !slices.Contains(l.frontends, f) {
			l.frontends = append(l.frontends, f)
		}
		if err := b.lb.PutFrontend(f, l.entry); err != nil {
			return err
		}
		l.flipped = append(l.flipped, f)
	}
	return nil
}

// fill writes a generation that no frontend leads to yet.
func (b *Backend) fill(e socklb.Entry, list []socklb.Backend, addrs []netip.AddrPort) error {
	for _, ep := range addrs {
		if err := b.lb.PutMember(e.Service, ep, socklb.Chosen); err != nil {
			return err
		}
	}
	if err := b.lb.PutBackends(e.Generation, list); err != nil {
		return err
	}
	if e.Table == 0 {
		return nil
	}
	return b.lb.PutTable(e.Generation, table(addrs))
}

// admit puts the sources of a group that are not there.
func (b *Backend) admit(l *live, service uint32, g *proxy.Group) error {
	for _, p := range wanted(g) {
		if slices.Contains(l.sources, p) {
			continue
		}
		if err := b.lb.PutSource(service, p); err != nil {
			return err
		}
		l.sources = append(l.sources, p)
	}
	return nil
}

func (b *Backend) deleteSources(l *live, keep []netip.Prefix) error {
	for len(l.sources) > 0 {
		i := slices.IndexFunc(l.sources, func(p netip.Prefix) bool { return !slices.Contains(keep, p) })
		if i < 0 {
			return nil
		}
		if err := b.lb.DeleteSource(l.entry.Service, l.sources[i]); err != nil {
			return err
		}
		l.sources = slices.Delete(l.sources, i, i+1)
	}
	return nil
}

// wanted are the sources of a group in the family of its frontends: one of IPv6 could take in what stands for IPv4.
func wanted(g *proxy.Group) []netip.Prefix {
	v4 := len(g.Frontends) > 0 && g.Frontends[0].Addr.Is4()
	return slices.DeleteFunc(slices.Clone(g.Sources), func(p netip.Prefix) bool { return p.Addr().Is4() != v4 })
}

func backendsOf(g *proxy.Group) []socklb.Backend {
	out := make([]socklb.Backend, 0, len(g.Backends))
	for _, ap := range g.Backends {
		_, here := slices.BinarySearchFunc(g.Here, ap.Addr(), netip.Addr.Compare)
		out = append(out, socklb.Backend{AddrPort: ap, Here: here})
	}
	return out
}

// claim says which of a group's frontends are its to write: those that no other group in the model has and had before.
func (b *Backend) claim(name string, g *proxy.Group, model proxy.Model) (mine []socklb.Frontend, conflict bool) {
	for f := range b.frontends(g) {
		other := b.owner[f]
		if og := model[other]; other != name && og != nil && b.has(og, f) {
			conflict = true // until the other lets go of it; Set comes back to this group every time
			continue
		}
		b.owner[f] = name
		mine = append(mine, f)
	}
	return mine, conflict
}

// frontends are those of a group in the maps.
func (b *Backend) frontends(g *proxy.Group) iter.Seq[socklb.Frontend] {
	return func(yield func(socklb.Frontend) bool) {
		for _, f := range g.Frontends {
			for _, scope := range []proxy.Scope{proxy.Inside, proxy.Outside} {
				if f.Scope&b.only&scope == 0 {
					continue
				}
				if !yield(socklb.Frontend{Addr: f.Addr, Port: f.Port, Protocol: uint8(f.Protocol), Outside: scope == proxy.Outside}) {
					return
				}
			}
		}
	}
}

// concerns says whether the maps have to do with a group at all.
func (b *Backend) concerns(g *proxy.Group) bool { return hasScope(g, b.only) }

func hasScope(g *proxy.Group, s proxy.Scope) bool {
	return slices.ContainsFunc(g.Frontends, func(f proxy.Frontend) bool { return f.Scope&s != 0 })
}

func (b *Backend) has(g *proxy.Group, f socklb.Frontend) bool {
	for other := range b.frontends(g) {
		if other == f {
			return true
		}
	}
	return false
}

// release deletes the frontends of l that the group does not have any more.
func (b *Backend) release(name string, l *live, keep []socklb.Frontend) error {
	var left []socklb.Frontend
	var errs []error
	for _, f := range l.frontends {
		if slices.Contains(keep, f) {
			left = append(left, f)
			continue
		}
		if b.owner[f] != name {
			continue // another group's by now
		}
		if err := b.lb.DeleteFrontend(f); err != nil {
			errs = append(errs, err)
			left = append(left, f)
			continue
		}
		delete(b.owner, f)
	}
	l.frontends = left
	l.flipped = slices.DeleteFunc(l.flipped, func(f socklb.Frontend) bool { return !slices.Contains(left, f) })
	return errors.Join(errs...)
}

func (b *Backend) drop(name string, l *live) error {
	l.group = nil
	if err := b.release(name, l, nil); err != nil {
		return err
	}
	if err := errors.Join(b.depart(l), b.deleteSources(l, nil)); err != nil {
		return err
	}
	for _, e := range append(l.old, l.entry) {
		b.retire(e)
	}
	b.name(l.entry.Service, "")
	delete(b.live, name)
	delete(b.conflicts, name)
	if port, was := b.unfit[name]; was {
		delete(b.unfit, name)
		b.tell(port, nil)
	}
	return nil
}

func (b *Backend) retire(e socklb.Entry) {
	if e.Generation != 0 {
		b.retired = append(b.retired, retired{e.Generation, e.Size(), time.Now()})
	}
}
