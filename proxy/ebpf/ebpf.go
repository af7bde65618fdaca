// Package ebpf is the proxy's backend that translates in sockets, by the maps of package socklb.
//
// It mirrors what the maps hold, adopting at its start what an earlier process left, and writes only differences, in an order in which a
// socket sees the old service or the new one and never a mixture: the backends of a changed group go under a generation of their
// own, then each frontend is flipped to it by one write, then what only the old one had goes. The old generation's backends stay a while longer,
// for a program that has read the frontend and not yet the backend.
package ebpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/proxy"
)

// grace is how long backends outlive their generation: far longer than a program runs.
const grace = time.Second

// Backend is the maps' content, by group. It belongs to one goroutine.
type Backend struct {
	lb *socklb.LB
	// attached says that the programs of this process are in charge.
	attached bool
	// adopted says that the fields below mirror the maps.
	adopted bool

	live       map[string]*live           // by group name
	owner      map[socklb.Frontend]string // "" while nobody wants a frontend found in the maps
	found      map[socklb.Frontend]uint32 // service ids found in the maps, for groups not yet recognised
	orphans    map[uint32]*live           // found services by id, until a group is recognised in them
	conflicts  map[string]bool            // groups that want a frontend of another
	retired    []retired
	generation uint32 // last one given
	service    uint32
}

// live is what the maps hold of one group.
type live struct {
	group     *proxy.Group // as last set without error; nil when that failed or it was adopted
	entry     socklb.Entry
	backends  []netip.AddrPort
	frontends []socklb.Frontend // all that may be in the maps
	flipped   []socklb.Frontend // those that lead to entry
	old       []socklb.Entry    // generations that a frontend not flipped may still lead to
}

type retired struct {
	generation, count uint32
	at                time.Time
}

// New returns a backend on open maps; it has read and written nothing yet.
func New(lb *socklb.LB) *Backend { return &Backend{lb: lb} }

// Set makes the maps hold the model, and puts this process's programs in charge when they hold it for the first time.
func (b *Backend) Set(model proxy.Model) error {
	if !b.adopted {
		if err := b.adopt(); err != nil {
			return err
		}
	}
	var errs []error
	inside := 0
	for name, g := range model {
		if !forSockets(g) {
			continue
		}
		inside++
		l := b.live[name]
		if l != nil && l.group == g && !b.conflicts[name] {
			continue
		}
		if err := b.setGroup(name, g, model); err != nil {
			errs = append(errs, fmt.Errorf("service %s: %w", name, err))
		}
	}
	for name, l := range b.live {
		if len(b.live) == inside {
			break // live has every name that is for sockets by now, so it has no other
		}
		if g := model[name]; g == nil || !forSockets(g) {
			if err := b.drop(name, l); err != nil {
				errs = append(errs, fmt.Errorf("service %s: %w", name, err))
			}
		}
	}
	for name := range b.conflicts { // the other group may have let go by now
		if err := b.setGroup(name, model[name], model); err != nil {
			errs = append(errs, fmt.Errorf("service %s: %w", name, err))
		}
	}
	if len(errs) == 0 {
		errs = append(errs, b.dropOrphans())
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

// Sweep deletes the backends of generations that no program can still be reading.
func (b *Backend) Sweep(now time.Time) (more bool, err error) {
	for len(b.retired) > 0 {
		r := b.retired[0]
		if now.Sub(r.at) < grace {
			return true, nil
		}
		if err := b.lb.DeleteBackends(r.generation, r.count); err != nil {
			return true, err
		}
		b.retired = b.retired[1:]
	}
	return false, nil
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
	entry.Affinity = g.Affinity
	fresh := entry.Generation == 0 || !slices.Equal(l.backends, g.Backends)
	if fresh {
		b.generation++
		entry.Generation, entry.Count = b.generation, uint32(len(g.Backends))
		if err := b.fill(entry, g.Backends); err != nil {
			b.retire(entry)
			return err
		}
	}
	if fresh && old.Generation != 0 {
		l.old = append(l.old, old)
	}
	want, conflict := b.claim(name, g, model)
	if entry != old {
		l.flipped = nil
	}
	before := l.backends
	l.entry, l.backends = entry, g.Backends
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
	if err := b.deleteMembers(entry.Service, before, g.Backends); err != nil {
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
func (b *Backend) fill(e socklb.Entry, eps []netip.AddrPort) error {
	for _, ep := range eps {
		if err := b.lb.PutMember(e.Service, ep); err != nil {
			return err
		}
	}
	return b.lb.PutBackends(e.Generation, eps)
}

// claim says which of a group's frontends are its to write: those that no other group in the model has and had before.
func (b *Backend) claim(name string, g *proxy.Group, model proxy.Model) (mine []socklb.Frontend, conflict bool) {
	for _, pf := range g.Frontends {
		if pf.Scope&proxy.Inside == 0 {
			continue
		}
		f := frontendOf(pf)
		other := b.owner[f]
		if og := model[other]; other != name && og != nil && has(og, f) {
			conflict = true // until the other lets go of it; Set comes back to this group every time
			continue
		}
		b.owner[f] = name
		mine = append(mine, f)
	}
	return mine, conflict
}

// forSockets says whether sockets ask for the group at all; other groups are for packets from outside.
func forSockets(g *proxy.Group) bool {
	return slices.ContainsFunc(g.Frontends, func(f proxy.Frontend) bool { return f.Scope&proxy.Inside != 0 })
}

func has(g *proxy.Group, f socklb.Frontend) bool {
	return slices.ContainsFunc(g.Frontends, func(pf proxy.Frontend) bool { return pf.Scope&proxy.Inside != 0 && frontendOf(pf) == f })
}

func frontendOf(f proxy.Frontend) socklb.Frontend {
	return socklb.Frontend{Addr: f.Addr, Port: f.Port, Protocol: uint8(f.Protocol)}
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
	if err := b.deleteMembers(l.entry.Service, l.backends, nil); err != nil {
		return err
	}
	for _, e := range append(l.old, l.entry) {
		b.retire(e)
	}
	delete(b.live, name)
	delete(b.conflicts, name)
	return nil
}

func (b *Backend) deleteMembers(service uint32, before, after []netip.AddrPort) error {
	for _, ep := range before {
		if _, still := slices.BinarySearchFunc(after, ep, netip.AddrPort.Compare); !still {
			if err := b.lb.DeleteMember(service, ep); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *Backend) retire(e socklb.Entry) {
	if e.Generation != 0 {
		b.retired = append(b.retired, retired{e.Generation, e.Count, time.Now()})
	}
}
