package nft

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// adopt reads what the table holds. One of another version is as none: make replaces it.
func (s *side) adopt() error {
	s.tab = &nftables.Table{Name: Table, Family: s.f.table}
	s.sets = s.f.sets(s.tab)
	s.have, s.chains = map[place]element{}, map[string]bool{}
	s.wanted, s.owner, s.live = map[place]int{}, map[place]string{}, map[string]*live{}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	c, err := conn.ListChain(s.tab, version)
	if s.made = err == nil && c != nil; !s.made {
		return nil
	}
	chains, err := conn.ListChainsOfTableFamily(s.tab.Family)
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		if _, ok := chooserOf(c.Name); c.Table.Name == Table && (ok || strings.HasPrefix(c.Name, stayPrefix)) {
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
			switch {
			case set.IsMap && set.DataType == nftables.TypeVerdict:
				el.chain = unread
			case set.IsMap:
				el.data = string(e.Val)
			}
			s.have[el.place] = el
		}
	}
	return nil
}

// make makes the table with its rules, and nothing in it, in one transaction.
func (s *side) make() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	conn.AddTable(s.tab) // so that there is something to delete
	conn.DelTable(s.tab)
	writer{conn, s.tab, s.f, s.packets}.table()
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("make rules: %w", err)
	}
	s.made = true
	return nil
}

// remove deletes the table, or one of another version.
func (s *side) remove() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	conn.DelTable(s.tab)
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete table: %w", err)
	}
	s.made, s.chains = false, map[string]bool{}
	return nil
}

// unread stands for the chain that an element leads to, which the library does not read. Each such element is written again once.
const unread = "?"
