// Package ebpf is the proxy's backend that translates by BPF programs: in sockets, and in packets where no socket is seen. Both read the
// maps of package socklb.
//
// The maps are where it keeps what it has done: of a group it remembers by which number it is there, and reads the rest when the group changes. It adopts
// at its start what an earlier process left, and writes only differences, in an order in which a socket sees the old service or the new one and never a mixture: the backends of a changed group go under a generation of their
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

// Backend is the maps' content, by group. It belongs to one goroutine. What it keeps of each group it keeps 50,000 times.
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
	owner      map[socklb.Frontend]*live  // nil while nobody wants a frontend found in the maps
	found      map[socklb.Frontend]uint32 // service ids found in the maps, for groups not yet recognised
	orphans    map[uint32]*live           // found services by id, until a group is recognised in them
	read       map[*live][]socklb.Backend // what adopt has read, until the first change is in force
	again      map[string]*proxy.Group    // groups to try again: they want a frontend of another, or a map has no room for them
	unfit      map[string]string          // those that a map has no room for, and their ports
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

// live is what is known of one group in the maps. Its three lists of frontends are mostly one.
type live struct {
	entry     socklb.Entry
	want      []socklb.Frontend // the group's, as last given; none: it is to go
	frontends []socklb.Frontend // all that may be in the maps
	flipped   []socklb.Frontend // those that lead to entry
	sources   []netip.Prefix    // all that may be in the maps
	old       []socklb.Entry    // generations that a frontend not flipped may still lead to
	former    []former          // what is in the maps as a member beside the entry's backends
	kept      []netip.AddrPort  // the group's Leaving, while there are former
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

// Set makes the maps hold the model and nothing else.
func (b *Backend) Set(model proxy.Model) error { return b.Apply(model.Change()) }

// Apply makes the maps hold a change, and puts this process's programs in charge when they hold a whole model for the first time. It takes as long as the change is
// large. After an error the next change must be whole.
func (b *Backend) Apply(c proxy.Change) error {
	if !b.adopted {
		if err := b.adopt(); err != nil {
			return err
		}
	}
	gone := b.foresee(c)
	if !b.attached {
		b.lb.Fill(socklb.Need{Frontends: c.Frontends, Backends: c.Backends, Members: c.Backends})
	}
	errs := b.setGroups(maps.All(maps.Clone(b.again))) // the other group may be about to let go, and room have been made
	errs = append(errs, b.setGroups(c.Groups)...)
	if err := b.lb.Filled(); err != nil { // so it is not known what is there, and which groups have no room
		for _, l := range b.live {
			l.flipped = nil
		}
		errs = b.setGroups(c.Groups)
	}
	for _, name := range gone {
		if err := b.drop(name, b.live[name]); err != nil {
			errs = append(errs, fmt.Errorf("service %s: %w", name, err))
		}
	}
	if err := errors.Join(errs...); err != nil || b.attached {
		return err
	}
	return b.begin()
}

func (b *Backend) setGroups(all iter.Seq2[string, *proxy.Group]) (errs []error) {
	for name, g := range all {
		if g == nil || !b.concerns(g) {
			continue
		}
		if err := b.try(name, g); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// begin comes once, when the maps hold a whole model.
func (b *Backend) begin() error {
	if err := b.dropOrphans(); err != nil {
		return err
	}
	b.read = nil
	b.mu.Lock()
	b.whole = true
	b.mu.Unlock()
	if err := b.lb.Attach(); err != nil {
		return err
	}
	b.attached = true
	return nil
}

// foresee notes what groups are going to want, so that a frontend goes from one to the other in one step, and returns which are to go.
func (b *Backend) foresee(c proxy.Change) (gone []string) {
	if len(b.live) == 0 {
		return nil
	}
	if c.Whole {
		clear(b.again)
		for _, l := range b.live {
			l.want = nil
		}
	}
	for name, g := range c.Groups {
		delete(b.again, name)
		l := b.live[name]
		if l == nil {
			continue
		}
		if l.want = nil; g != nil {
			l.want = slices.Collect(b.frontends(g))
		}
		if len(l.want) == 0 && !c.Whole {
			gone = append(gone, name)
		}
	}
	if c.Whole {
		for name, l := range b.live {
			if len(l.want) == 0 {
				gone = append(gone, name)
			}
		}
	}
	return gone
}

// try sets a group. That a map has no room for it is told, and no error: the others go on, and Sweep has it tried again.
func (b *Backend) try(name string, g *proxy.Group) error {
	conflict, err := b.setGroup(name, g)
	_, before := b.unfit[name]
	full := errors.Is(err, socklb.ErrFull)
	if err != nil && !full {
		return fmt.Errorf("service %s: %w", name, err)
	}
	if full || conflict {
		b.again[name] = g
	} else {
		delete(b.again, name)
	}
	if full {
		b.unfit[name] = g.Port
	} else {
		delete(b.unfit, name)
	}
	if before != full {
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
func (b *Backend) setGroup(name string, g *proxy.Group) (conflict bool, err error) {
	l := b.live[name]
	if l == nil {
		l = b.recognise(g)
		b.live[name] = l
	}
	l.want = slices.Collect(b.frontends(g))
	old := l.entry
	entry := old
	entry.Affinity, entry.KeepSource, entry.Limited = g.Affinity, g.KeepSource, len(g.Sources) > 0
	before, list, places := b.holds(l), backendsOf(g), b.places(g)
	fresh := entry.Generation == 0 || entry.Table != places || !slices.Equal(before, list)
	if fresh {
		b.generation++
		entry.Generation, entry.Count, entry.Table = b.generation, uint32(len(list)), places
		if err := b.fill(entry, list, g.Backends); err != nil {
			b.retire(entry)
			return false, err
		}
	}
	if err := b.admit(l, entry.Service, g); err != nil {
		return false, err
	}
	if fresh && old.Generation != 0 {
		l.old = append(l.old, old)
	}
	mine := b.claim(l)
	if entry != old {
		l.flipped = nil
	}
	l.entry, l.kept, l.tcp = entry, g.Leaving, isTCP(g)
	delete(b.read, l)
	b.depose(l, before, list)
	if err := b.flip(l, mine); err != nil {
		return false, err
	}
	if err := b.release(l, mine); err != nil {
		return false, err
	}
	for _, e := range l.old { // no frontend leads there any more
		b.retire(e)
	}
	l.old = nil
	if err := errors.Join(b.age(l, time.Now()), b.deleteSources(l, wanted(g))); err != nil {
		return false, err
	}
	if len(l.former) == 0 {
		l.kept = nil
	}
	if len(mine) < len(l.want) {
		return true, nil // until the other lets go of it; Apply comes back to this group every time
	}
	l.frontends, l.flipped = l.want, l.want
	return false, nil
}

// holds reads which backends the maps have for what a group's frontends lead to. Not all there means that the maps are damaged: none makes setGroup write all anew.
func (b *Backend) holds(l *live) []socklb.Backend {
	if list, known := b.read[l]; known {
		return list
	}
	list, err := b.lb.Backends(l.entry.Generation, l.entry.Count)
	if err != nil {
		return []socklb.Backend{{}}
	}
	return list
}

// flip makes the frontends lead to what l holds now, each in one step.
func (b *Backend) flip(l *live, want []socklb.Frontend) error {
	for _, f := range want {
		if slices.Contains(l.flipped, f) {
			continue
		}
		if !slices.Contains(l.frontends, f) {
			l.frontends = append(slices.Clip(l.frontends), f)
		}
		if err := b.lb.PutFrontend(f, l.entry); err != nil {
			return err
		}
		l.flipped = append(slices.Clip(l.flipped), f)
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

// claim says which of the frontends that a group wants are its to write: those that no other group wants and had before.
func (b *Backend) claim(l *live) (mine []socklb.Frontend) {
	mine = make([]socklb.Frontend, 0, len(l.want))
	for _, f := range l.want {
		if other := b.owner[f]; other != nil && other != l && slices.Contains(other.want, f) {
			continue
		}
		b.owner[f] = l
		mine = append(mine, f)
	}
	return mine
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

// release deletes the frontends of l that the group does not have any more.
func (b *Backend) release(l *live, keep []socklb.Frontend) error {
	var left []socklb.Frontend
	var errs []error
	for _, f := range l.frontends {
		if slices.Contains(keep, f) {
			left = append(left, f)
			continue
		}
		if b.owner[f] != l {
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
	l.flipped = slices.DeleteFunc(slices.Clone(l.flipped), func(f socklb.Frontend) bool { return !slices.Contains(left, f) })
	return errors.Join(errs...)
}

func (b *Backend) drop(name string, l *live) error {
	if err := b.release(l, nil); err != nil {
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
	delete(b.again, name)
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
