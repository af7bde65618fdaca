// Package nft is the proxy's backend that translates packets, by an nftables table of its own in each family.
//
// The rules are few and do not depend on what services there are: those are elements of maps, so that a change costs what it
// changes, at one service or at fifty thousand. A packet's destination is looked up for the chain that chooses among so many backends as the
// service has, and there, with a number by chance, for the backend itself. Only a service with affinity has a chain of its own. All of a changed
// service goes in one transaction.
//
// The table is there while there is something to translate. Whatever an earlier process left is read first and then changed, not replaced: connections and affinities stay. After an error the kernel is
// read again. Other tables are not looked at. The rules are such that nft 1.0.6 can show them: it ends at one that uses what a map gave in the
// key of another.
//
// What it cannot do, and a backend in sockets can: node ports at 127.0.0.1 and ::1, an address that the node has no route for, and
// consistent hashing.
package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/flows"
)

// Table is the name of the tables.
const Table = "orlop-services"

// ErrCleanup is returned by Set when all is in force, but chains that are not used any more could not be deleted.
var ErrCleanup = errors.New("clean up")

// batch is how many elements go into one transaction, so that its messages fit a socket's buffer. A service is never divided.
const batch = 1000

// Backend is the tables of the network namespace of the thread that calls. Set belongs to one goroutine.
type Backend struct {
	only  proxy.Scope
	sides []*side

	mu   sync.Mutex
	node proxy.Node
	// due says that node has changed since the tables were written.
	due bool
}

// New returns a backend for the frontends of a scope; it has read and written nothing yet.
func New(only proxy.Scope) *Backend {
	return &Backend{only: only, due: true, sides: []*side{{f: ipv4}, {f: ipv6}}}
}

// CountPackets has all packets counted that are translated. It is called before the first Set.
func (b *Backend) CountPackets() {
	for _, s := range b.sides {
		s.packets = true
	}
}

// TellFlows has f told of connections of UDP that are ended. It is called before the first Set.
func (b *Backend) TellFlows(f flows.Told) {
	for _, s := range b.sides {
		s.told = f
	}
}

// SetNode says what the node is now. It is in force after the next Set.
func (b *Backend) SetNode(n proxy.Node) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n.Equal(b.node) {
		return false
	}
	b.node, b.due = n.Clone(), true
	return true
}

// Set makes the tables hold the model.
func (b *Backend) Set(model proxy.Model) error {
	b.mu.Lock()
	node, due := b.node, b.due
	b.due = false
	b.mu.Unlock()
	var errs []error
	for _, s := range b.sides {
		if err := s.set(model, node, due, b.only); err != nil {
			s.have = nil // what is there is not known any more
			errs = append(errs, fmt.Errorf("nftables table %s of family %d: %w", Table, s.f.table, err))
		}
	}
	if len(errs) > 0 {
		b.mu.Lock()
		b.due = true
		b.mu.Unlock()
	}
	return errors.Join(errs...)
}

// Sweep implements the proxy's backend: Set leaves nothing to sweep.
func (b *Backend) Sweep(time.Time) (more bool, err error) { return false, nil }

// Remove deletes the tables. Those that are not there are no error.
func Remove() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	var errs []error
	for _, f := range []family{ipv4, ipv6} {
		conn.DelTable(&nftables.Table{Name: Table, Family: f.table})
		if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("delete nftables table %s: %w", Table, err))
		}
	}
	return errors.Join(errs...)
}

// side is the table of one family, and a mirror of what it holds.
type side struct {
	f       family
	packets bool // are counted
	told    flows.Told
	tab     *nftables.Table
	sets    map[string]*nftables.Set

	have   map[place]element // in the kernel; nil while not known
	made   bool              // the table is there
	chains map[string]bool   // that maps may lead to
	wanted map[place]int     // how many groups want an element
	owner  map[place]string  // the group that has a frontend
	live   map[string]*live
	ports  ports
}

// live is what the table holds of one group.
type live struct {
	group    *proxy.Group
	elements []element
	conflict bool // a frontend is another group's
}

func (s *side) set(model proxy.Model, node proxy.Node, due bool, only proxy.Scope) error {
	fresh := s.have == nil
	if fresh {
		if err := s.adopt(); err != nil {
			return err
		}
	}
	if s.made && (due || fresh) {
		if err := errors.Join(s.setInside(node.Inside), s.setCounting()); err != nil {
			return err
		}
	}
	c := change{side: s, inside: node.Inside}
	stale := flows.Set{}
	lost := visits{}
	for name, l := range s.live {
		if model[name] == nil {
			stale.Add(l.group, nil)
			c.replace(l.elements, nil)
			s.disown(name, l.elements)
			delete(s.live, name)
		}
	}
	for name, g := range model {
		if l := s.live[name]; l != nil && l.group == g && !due {
			continue
		}
		if l := s.live[name]; l != nil {
			lost.ended(l.elements, l.group, g)
		}
		stale.Add(s.setGroup(&c, name, g, node.NodePorts, only), g)
		if c.size() > batch {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	for name, l := range s.live { // the group that had its frontend may have let go of it by now
		if l.conflict {
			s.setGroup(&c, name, l.group, node.NodePorts, only)
		}
	}
	if fresh {
		c.dropUnwanted()
	}
	if err := c.flush(); err != nil {
		return err
	}
	if len(s.have) == 0 && (s.made || fresh) { // hooks with nothing to do would cost every connection
		if err := s.remove(); err != nil {
			return err
		}
	}
	if err := s.dropChains(); err != nil {
		return fmt.Errorf("%w: %w", ErrCleanup, err)
	}
	return errors.Join(stale.End(s.f.nfproto == unix.NFPROTO_IPV4, model, node.NodePorts, only, s.told), s.forget(lost))
}

// setGroup queues what differs between a group and what the table holds of it, and returns what it was.
func (s *side) setGroup(c *change, name string, g *proxy.Group, nodes []netip.Addr, only proxy.Scope) (before *proxy.Group) {
	l := s.live[name]
	if l == nil {
		l = &live{}
		s.live[name] = l
	}
	before, l.conflict = l.group, false
	next := slices.DeleteFunc(s.f.elements(g, nodes, only), func(el element) bool {
		other := s.owner[s.f.frontendOf(el.place)]
		l.conflict = l.conflict || other != "" && other != name
		return other != "" && other != name
	})
	if g.Affinity > 0 && len(g.Backends) > 0 && len(next) > 0 && s.f.has(g.Backends[0].Addr()) {
		c.stays = append(c.stays, g)
	}
	c.replace(l.elements, next)
	s.disown(name, l.elements)
	for _, el := range next {
		if p := s.f.frontendOf(el.place); p.set != "" {
			s.owner[p] = name
			s.ports.set(p, g.Port)
		}
	}
	l.group, l.elements = g, next
	return before
}

func (s *side) disown(name string, list []element) {
	for _, el := range list {
		if p := s.f.frontendOf(el.place); s.owner[p] == name {
			delete(s.owner, p)
			s.ports.set(p, "")
		}
	}
}

// setInside makes ranges the addresses of packets from inside. It writes nothing that is there: a packet could meet neither the old nor the new.
func (s *side) setInside(ranges []netip.Prefix) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	set := s.f.inside(s.tab)
	have, err := conn.GetSetElements(set)
	if err != nil {
		return fmt.Errorf("read addresses of pods: %w", err)
	}
	there := map[string]bool{}
	for _, e := range have {
		there[boundary(e)] = true
	}
	var list []nftables.SetElement
	same := true
	for _, p := range ranges {
		if s.f.has(p.Addr()) {
			list = append(list, nftables.SetElement{Key: p.Masked().Addr().AsSlice()})
			if end := last(p).Next(); end.IsValid() {
				list = append(list, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
			}
		}
	}
	for _, e := range list {
		same = same && there[boundary(e)]
	}
	if same && len(list) == len(there) {
		return nil
	}
	conn.FlushSet(set)
	if len(list) > 0 {
		if err := conn.SetAddElements(set, list); err != nil {
			return fmt.Errorf("set addresses of pods: %w", err)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("set addresses of pods: %w", err)
	}
	return nil
}

func boundary(e nftables.SetElement) string { return fmt.Sprintf("%x %v", e.Key, e.IntervalEnd) }
