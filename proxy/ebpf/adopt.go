package ebpf

import (
	"errors"
	"time"

	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/proxy"
)

// adopt reads what an earlier process left in the maps. Services there have no names; recognise gives them one when the model
// has a group with one of their frontends, and until then they stay in force.
func (b *Backend) adopt() error {
	frontends, err := b.lb.Frontends()
	if err != nil {
		return err
	}
	members, err := b.lb.Members()
	if err != nil {
		return err
	}
	generations, err := b.lb.Generations()
	if err != nil {
		return err
	}
	sources, err := b.lb.Sources()
	if err != nil {
		return err
	}
	traffic, err := b.lb.Traffic()
	if err != nil {
		return err
	}
	b.live, b.orphans = map[string]*live{}, map[uint32]*live{}
	b.owner, b.found = map[socklb.Frontend]*live{}, map[socklb.Frontend]uint32{}
	b.again, b.unfit, b.read = map[string]*proxy.Group{}, map[string]string{}, map[*live][]socklb.Backend{}
	for f, e := range frontends {
		b.generation, b.service = max(b.generation, e.Generation), max(b.service, e.Service)
		b.found[f] = e.Service
		l := b.orphans[e.Service]
		if l == nil {
			l = &live{entry: e}
			b.orphans[e.Service] = l
		}
		// A process may have died between the flips of one service: keep the newest, so that setGroup flips the rest.
		if e.Generation > l.entry.Generation {
			l.entry = e
		}
	}
	for f, e := range frontends {
		l := b.orphans[e.Service]
		l.frontends = append(l.frontends, f)
		if l.entry == e {
			l.flipped = append(l.flipped, f)
		}
	}
	inUse := map[uint32]bool{}
	for _, l := range b.orphans {
		b.read[l] = b.holds(l)
		inUse[l.entry.Generation] = true
	}
	for gen, size := range generations {
		b.generation = max(b.generation, gen)
		if !inUse[gen] {
			b.retired = append(b.retired, retired{gen, size, time.Now()})
		}
	}
	for id := range traffic { // a new service must not begin with an old one's
		b.service = max(b.service, id)
	}
	var errs []error
	for id, eps := range members {
		b.service = max(b.service, id)
		for ep, state := range eps {
			switch l := b.orphans[id]; {
			case l == nil:
				errs = append(errs, b.lb.DeleteMember(id, ep))
			case state != socklb.Chosen || !has(b.read[l], ep):
				f := former{at: ep, state: state}
				if state == socklb.Gone {
					f.since = time.Now().Add(-doubt)
				}
				l.former = append(l.former, f)
				b.count(f, 1)
			}
		}
	}
	for id, list := range sources {
		if l := b.orphans[id]; l != nil {
			l.sources = list
			continue
		}
		for _, p := range list {
			errs = append(errs, b.lb.DeleteSource(id, p))
		}
	}
	b.adopted, b.looks = true, looks // somebody may have gone meanwhile
	return errors.Join(errs...)
}

// recognise finds the service that has one of the group's frontends in the maps, or begins a new one.
func (b *Backend) recognise(g *proxy.Group) *live {
	for f := range b.frontends(g) {
		id, ok := b.found[f]
		if l := b.orphans[id]; ok && l != nil {
			delete(b.orphans, id)
			b.name(id, g.Port)
			return l
		}
	}
	b.service++
	b.name(b.service, g.Port)
	return &live{entry: socklb.Entry{Service: b.service}}
}

// dropOrphans removes services that the whole model does not have.
func (b *Backend) dropOrphans() error {
	for f := range b.found {
		if b.owner[f] == nil {
			if err := b.lb.DeleteFrontend(f); err != nil {
				return err
			}
		}
		delete(b.found, f)
	}
	for id, l := range b.orphans {
		if err := errors.Join(b.depart(l), b.deleteSources(l, nil)); err != nil {
			return err
		}
		b.retire(l.entry)
		delete(b.orphans, id)
	}
	return nil
}
