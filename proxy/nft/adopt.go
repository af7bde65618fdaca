package nft

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/proxy"
)

// adopt reads what the table holds, or makes it when there is none of this version.
func (s *side) adopt() error {
	s.tab = &nftables.Table{Name: Table, Family: s.f.table}
	s.sets = s.f.sets(s.tab)
	s.have, s.chains = map[place]element{}, map[string]bool{}
	s.wanted, s.owner, s.live = map[place]int{}, map[place]string{}, map[string]*live{}
	s.found, s.taken, s.retired = map[place]entry{}, map[uint32]bool{}, nil
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	if c, err := conn.ListChain(s.tab, version); err != nil || c == nil {
		// Made first, so that there is something to delete: all in one transaction.
		conn.AddTable(s.tab)
		conn.DelTable(s.tab)
		writer{conn, s.tab, s.f}.table()
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("make rules: %w", err)
		}
		return nil
	}
	chains, err := conn.ListChainsOfTableFamily(s.tab.Family)
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		if _, ok := chooserOf(c.Name); ok && c.Table.Name == Table {
			s.chains[c.Name] = true
		}
	}
	for name, set := range s.sets {
		if _, err := conn.GetSetByName(s.tab, name); err != nil { // the library hides why a dump of elements fails
			return fmt.Errorf("read %s: %w", name, err)
		}
		list, err := conn.GetSetElements(set)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("read %s: %w", name, err)
		}
		for _, e := range list {
			el := element{place: place{name, string(e.Key)}, end: string(e.KeyEnd)}
			if set.IsMap && set.DataType != nftables.TypeVerdict {
				el.data = string(e.Val)
			}
			s.have[el.place] = el
		}
	}
	return s.understand()
}

// understand finds the services in what was read, and names the chains that maps lead to, which a dump does not tell.
func (s *side) understand() error {
	for p, el := range s.have {
		if p.set == backendsMap {
			s.generation = max(s.generation, wordOf(p.key))
		}
		if p.set != insideServices && p.set != outsideServices {
			continue
		}
		e, err := entryOf([]byte(el.data))
		if err != nil {
			return err
		}
		s.found[p] = e
		s.generation, s.service = max(s.generation, e.generation), max(s.service, e.service)
		inside := p.set == insideServices
		pick, empty, refuse := outsidePick, outsideEmpty, refuseChain
		if inside {
			pick, empty = insidePick, insideEmpty
		} else if _, keeps := s.have[place{keepSource, p.key}]; keeps {
			refuse = dropChain
		}
		if at := (place{pick, p.key}); s.have[at].place == at {
			s.have[at] = element{place: at, chain: chooser{p.set, e.count, e.affinity}.name()}
		}
		if at := (place{empty, p.key}); s.have[at].place == at {
			s.have[at] = element{place: at, chain: refuse}
		}
	}
	return nil
}

// recognise finds the service that one of the group's frontends had, or begins a new one.
func (s *side) recognise(g *proxy.Group, nodes []netip.Addr, only proxy.Scope) entry {
	for _, el := range s.f.elements(g, entry{}, nodes, only) {
		if e, ok := s.found[el.place]; ok && !s.taken[e.service] {
			s.taken[e.service] = true
			return e
		}
	}
	s.service++
	return entry{service: s.service}
}

// holds says whether the table has just these backends for an entry.
func (s *side) holds(e entry, backends []netip.AddrPort) bool {
	if int(e.count) != len(backends) {
		return false
	}
	for i, b := range backends {
		if s.have[place{backendsMap, words(e.generation) + words(uint32(i))}].data != string(b.Addr().AsSlice())+padded(b.Port()) {
			return false
		}
	}
	return true
}
