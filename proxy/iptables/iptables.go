// Package iptables is the proxy's backend that translates packets by iptables, for kernels that have no nftables.
//
// The chains are named as kube-proxy's, so that whoever is on call finds them: KUBE-SERVICES leads by address to a service's KUBE-SVC-, or to its
// KUBE-EXT- where it may be asked from outside, by KUBE-FW- where only some may ask; that chooses a KUBE-SEP- by chance, or, with affinity, the one
// that the match "recent" knows the client from. KUBE-SVL- chooses among endpoints of this node. Only we have KUBE-REFUSE- and KUBE-DROP-, where those
// end that are led to none, to be counted. An empty chain KUBE-ORLOP beside them says that they are ours and no kube-proxy's: without it they are
// neither written nor removed.
//
// It runs the host's own iptables-restore, of the flavour that the host's rules are made by, with no more than the chains that have changed. A cluster
// address is translated for clients outside, too, and masqueraded, as kube-proxy does.
package iptables

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/flows"
)

// check is how often it is looked whether somebody has flushed the tables.
const check = 30 * time.Second

// Config is what Open needs.
type Config struct {
	// Root is where the host's files are, for its programs; "" where this process sees them itself.
	Root string
	Log  *slog.Logger
}

// Backend is the chains of the network namespace of the thread that calls. Set belongs to one goroutine.
type Backend struct {
	tool  tool
	sides []*side
	log   *slog.Logger

	mu     sync.Mutex
	node   proxy.Node
	health []uint16
	due    bool // node or health has changed since the chains were written
	told   flows.Told
	wrote  map[bool]written // by family, whether it is IPv4
}

// written is what is in force of a family, and what was written for it last.
type written struct {
	all  layout // not changed any more
	last map[string]int
}

// Rules are those of ours in a table of a family.
type Rules struct {
	V4    bool
	Table string
	All   int
	Last  int // of those, written by the last change
}

// Rules counts them.
func (b *Backend) Rules() (out []Rules) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for v4, w := range b.wrote {
		all := map[string]int{}
		for c, rules := range w.all {
			all[c.table] += len(rules)
		}
		for _, table := range []string{nat, filter} {
			out = append(out, Rules{v4, table, all[table], w.last[table]})
		}
	}
	return out
}

// TellFlows has f told of connections of UDP that are ended. It is called before the first Set.
func (b *Backend) TellFlows(f flows.Told) { b.told = f }

// Open finds the host's iptables and tries what it can do. What it leaves is as it was. The error names what is missing.
func Open(cfg Config) (*Backend, error) {
	tools, err := find(cfg.Root)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, t := range prefer(tools, tool.rules) {
		b, err := open(t, cfg.Log)
		if t.flavour == NFT { // trying has made tables
			_ = errors.Join(dropEmpty(true), dropEmpty(false)) // they do nothing
		}
		if err == nil {
			return b, nil
		}
		errs = append(errs, fmt.Errorf("iptables of flavour %s: %w", t.flavour, err))
	}
	return nil, errors.Join(errs...)
}

func open(t tool, log *slog.Logger) (*Backend, error) {
	b := &Backend{tool: t, log: log, due: true, wrote: map[bool]written{}}
	for _, f := range []family{{true, 32}, {false, 128}} {
		if !f.v4 && !hasIPv6() {
			continue
		}
		if err := t.probe(f.v4); err != nil {
			return nil, err
		}
		p, err := t.present(f.v4)
		if err != nil {
			return nil, err
		}
		if p.foreign() {
			return nil, ErrForeign
		}
		b.sides = append(b.sides, &side{f: f, tool: t, masquerade: t.masquerade(f.v4)})
	}
	return b, nil
}

// Flavour is that of the programs in use.
func (b *Backend) Flavour() Flavour { return b.tool.flavour }

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

// SetHealthPorts says which ports balancers ask for health at, for hosts that drop what they do not know. It is in force after the next Set.
func (b *Backend) SetHealthPorts(ports []uint16) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ports = slices.Sorted(slices.Values(ports))
	b.due = b.due || !slices.Equal(ports, b.health)
	b.health = ports
}

// Set makes the chains hold the model.
func (b *Backend) Set(model proxy.Model) error {
	b.mu.Lock()
	node, health, due := b.node, b.health, b.due
	b.due = false
	b.mu.Unlock()
	var errs []error
	for _, s := range b.sides {
		last, err := s.set(model, node, health, due, b.told)
		if last != nil {
			b.mu.Lock()
			b.wrote[s.f.v4] = written{s.have, last}
			b.mu.Unlock()
		}
		if err != nil {
			s.have = nil // what is there is not known any more
			errs = append(errs, fmt.Errorf("set rules: %w", err))
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

// side is the chains of one family, and a mirror of what they hold.
type side struct {
	f          family
	tool       tool
	masquerade string

	have    layout // nil while not known
	units   map[portKey]*unit
	live    map[string]*proxy.Group
	checked time.Time
	ledger  ledger
}

// set returns how many rules it has written into each table; nil where nothing had changed, or nothing is in force.
func (s *side) set(model proxy.Model, node proxy.Node, health []uint16, due bool, told flows.Told) (last map[string]int, err error) {
	gone, lost, err := s.adopt()
	if err != nil {
		return nil, err
	}
	fresh := s.units == nil
	if s.units == nil {
		s.units, s.live = map[portKey]*unit{}, map[string]*proxy.Group{}
	}
	stale := flows.Set{}
	changed := s.regroup(model, stale) || due || fresh || len(lost) > 0 || len(gone) > 0 || len(s.have) == 0 || s.ledger.settled()
	if !changed {
		return nil, nil
	}
	for _, u := range s.units {
		if u.own == nil || due {
			s.f.lay(u, node)
		}
	}
	want := s.whole(s.f.base(node, health, s.masquerade))
	s.ledger.keep(s.have, want, s.units)
	for c := range s.have {
		gone[c] = true
	}
	input, last := "", map[string]int{}
	for _, table := range []string{nat, filter} {
		part := change(table, s.have, want, gone, lost)
		last[table] = strings.Count(part, "\n-A ") + strings.Count(part, "\n-I ")
		input += part
	}
	if input != "" {
		if err := s.tool.restore(s.f.v4, input); err != nil {
			return nil, err
		}
	}
	s.ledger.wrote(s.have, want, s.units)
	s.have = want
	return last, stale.End(s.f.v4, model, node.NodePorts, proxy.Everywhere, told)
}

// adopt reads what there is, at the first time, and now and then later, as somebody may have flushed it: gone are the chains of ours that are there
// while have is not known, and lost are the rules that should lead to ours and are not there.
func (s *side) adopt() (gone map[chain]bool, lost []jump, err error) {
	gone = map[chain]bool{}
	if s.have != nil && time.Since(s.checked) < check {
		return gone, nil, nil
	}
	var p present
	err = s.ledger.read(func() (_ map[string]uint64, err error) { // what is written anew counts from nothing
		p, err = s.tool.present(s.f.v4)
		return p.counts, err
	})
	if err != nil {
		return nil, nil, err
	}
	s.checked = time.Now()
	for c, rules := range s.have {
		if !p.chains[c] || p.rules[c] != len(rules) { // -F leaves chains with no rules
			s.have = nil
			break
		}
	}
	if s.have == nil {
		s.have, gone = layout{}, p.chains
	}
	for _, j := range jumps() {
		if !p.jumps[jump{j.table, j.from, j.to, ""}] {
			lost = append(lost, j)
		}
	}
	return gone, lost, nil
}

// regroup brings units up to date with the model, and tells whether any has changed.
func (s *side) regroup(model proxy.Model, stale flows.Set) (changed bool) {
	touch := func(name string, g, next *proxy.Group) {
		k := keyOf(name, g)
		u := s.units[k]
		if u == nil {
			u = &unit{key: k, groups: map[string]*proxy.Group{}}
			s.units[k] = u
		}
		if u.own, changed = nil, true; next != nil {
			u.groups[name] = next
			return
		}
		if delete(u.groups, name); len(u.groups) == 0 {
			delete(s.units, k)
		}
	}
	for name, g := range s.live {
		if next := model[name]; next == nil || keyOf(name, next) != keyOf(name, g) {
			stale.Add(g, nil)
			touch(name, g, nil)
			delete(s.live, name)
		}
	}
	for name, g := range model {
		if s.live[name] == g || !s.f.serves(g) {
			continue
		}
		stale.Add(s.live[name], g)
		touch(name, g, g)
		s.live[name] = g
	}
	return changed
}

func (f family) serves(g *proxy.Group) bool {
	return len(g.Frontends) > 0 && f.has(g.Frontends[0].Addr)
}

// keyOf is the port that a group is of. A group that has none stands alone.
func keyOf(name string, g *proxy.Group) portKey {
	k := portKey{port: g.Port, proto: g.Frontends[0].Protocol}
	if k.port == "" {
		k.port = name
	}
	return k
}

// whole is all chains: services in the order of their names, and after them what is for node ports.
func (s *side) whole(l layout) layout {
	for _, c := range []chain{{nat, services}, {nat, nodePorts}, {filter, services}, {filter, external}, {filter, firewall}} {
		l[c] = nil
	}
	for _, k := range slices.SortedFunc(maps.Keys(s.units), portKey.compare) {
		u := s.units[k]
		maps.Copy(l, u.own)
		for c, rules := range u.shared {
			l[c] = append(l[c], rules...)
		}
	}
	c := chain{nat, services}
	l[c] = append(l[c], "-m addrtype --dst-type LOCAL -j "+nodePorts)
	return l
}
