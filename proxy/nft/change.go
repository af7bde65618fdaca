package nft

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"

	"github.com/orlop-io/orlop/proxy"
)

// message is how many elements go into one message, whose size has 16 bits.
const message = 250

// change is what a transaction will do to the elements of a table.
type change struct {
	*side
	put   map[place]element
	gone  map[place]bool
	stays []*proxy.Group // whose chains must be there
	// inside are the addresses of pods, for when the table has to be made.
	inside []netip.Prefix
}

func (c *change) size() int { return len(c.put) + len(c.gone) }

// replace lets go of old and asks for next. What another group still wants stays.
func (c *change) replace(old, next []element) {
	for _, e := range next {
		c.wanted[e.place]++
		c.set(e)
	}
	for _, e := range old {
		if c.wanted[e.place]--; c.wanted[e.place] == 0 {
			delete(c.wanted, e.place)
			c.delete(e.place)
		}
	}
}

func (c *change) set(e element) {
	delete(c.gone, e.place)
	if c.have[e.place] == e {
		delete(c.put, e.place)
		return
	}
	if c.put == nil {
		c.put = map[place]element{}
	}
	c.put[e.place] = e
}

func (c *change) delete(p place) {
	delete(c.put, p)
	if _, there := c.have[p]; !there {
		return
	}
	if c.gone == nil {
		c.gone = map[place]bool{}
	}
	c.gone[p] = true
}

// dropUnwanted lets go of all that no group asked for.
func (c *change) dropUnwanted() {
	for p := range c.have {
		if c.wanted[p] == 0 {
			c.delete(p)
		}
	}
}

// flush makes the change in one transaction: a packet meets all of it or nothing.
func (c *change) flush() error {
	if c.size() == 0 {
		return nil
	}
	if !c.made {
		if err := errors.Join(c.make(), c.setInside(c.inside)); err != nil {
			return err
		}
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	removed, added := map[string][]nftables.SetElement{}, map[string][]nftables.SetElement{}
	for p := range c.gone {
		removed[p.set] = append(removed[p.set], c.have[p].gone())
	}
	chains := map[string]bool{}
	for _, g := range c.stays {
		if name := stayChain(g); !c.chains[name] && !chains[name] {
			chains[name] = true
			writer{conn, c.tab, c.f, c.packets}.stay(g)
		}
	}
	for p, e := range c.put {
		if old, there := c.have[p]; there {
			removed[p.set] = append(removed[p.set], old.gone())
		}
		added[p.set] = append(added[p.set], e.nft())
		if ch, ok := chooserOf(e.chain); ok && !c.chains[e.chain] && !chains[e.chain] {
			chains[e.chain] = true
			writer{conn, c.tab, c.f, c.packets}.chooser(ch)
		}
	}
	for name, list := range removed {
		if err := inMessages(list, func(part []nftables.SetElement) error { return conn.SetDeleteElements(c.sets[name], part) }); err != nil {
			return fmt.Errorf("delete from %s: %w", name, err)
		}
	}
	for name, list := range added {
		if err := inMessages(list, func(part []nftables.SetElement) error { return conn.SetAddElements(c.sets[name], part) }); err != nil {
			return fmt.Errorf("add to %s: %w", name, err)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("change %d elements: %w", c.size(), err)
	}
	for p := range c.gone {
		delete(c.have, p)
	}
	for p, e := range c.put {
		c.have[p] = e
	}
	for name := range chains {
		c.chains[name] = true
	}
	c.put, c.gone, c.stays = nil, nil, nil
	return nil
}

// dropChains deletes the chains that no map leads to any more.
func (s *side) dropChains() error {
	used := map[string]bool{}
	for p, e := range s.have {
		if p.set == inside.pick || p.set == outside.pick {
			used[e.chain] = true
		}
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	var gone []string
	for name := range s.chains {
		if !used[name] {
			gone = append(gone, name)
			c := &nftables.Chain{Table: s.tab, Name: name}
			conn.FlushChain(c)
			conn.DelChain(c)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("delete chains %v: %w", gone, err)
	}
	for _, name := range gone {
		delete(s.chains, name)
	}
	return nil
}

func inMessages(list []nftables.SetElement, send func([]nftables.SetElement) error) error {
	for len(list) > 0 {
		n := min(message, len(list))
		if err := send(list[:n]); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}
