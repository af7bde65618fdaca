package nft

import (
	"errors"
	"fmt"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/proxy"
)

// The sets that the rules fill, an element for each frontend that somebody has asked for, with a counter. Only the first packet of a connection, and those that are
// refused or dropped, come by a rule that counts; of the last two, each.
const (
	connectionsSet = "connections"
	failuresSet    = "failures"
	inSet          = "to-endpoints"
	outSet         = "from-endpoints"
)

// counted is how many frontends are counted at most; what has no room is not.
const counted = 1 << 16

func (f family) counts(tab *nftables.Table, name string) *nftables.Set {
	return &nftables.Set{
		Table: tab, Name: name, Concatenation: true, Dynamic: true, Size: counted,
		KeyType: nftables.MustConcatSetType(f.addr, nftables.TypeInetProto, nftables.TypeInetService),
	}
}

// count counts the packet for where it goes to. It is a rule of its own: where there is no room the packet goes on with the next.
func (f family) count(set string) []expr.Any {
	return append(f.frontend(), &expr.Dynset{SrcRegKey: r0, SetName: set, Operation: unix.NFT_DYNSET_OP_ADD, Exprs: []expr.Any{&expr.Counter{}}})
}

// counters are the chains that count packets of connections that have been led to an endpoint, those to it before they are translated and those from it after, so that each has the address in its header that
// the client asked for. They are there only where that is wanted: they cost each packet of the node something. (By what conntrack knows of a connection's first packet one chain would do, but nft 1.0.6
// ends at a rule that has that address in a key.)
func counters() []counter {
	before, after := nftables.ChainPriorityRef(*refusePriority-5), nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource+5)
	return []counter{
		{"prerouting-count", nftables.ChainHookPrerouting, before, original, inSet},
		{"output-count", nftables.ChainHookOutput, before, original, inSet},
		{"input-count", nftables.ChainHookInput, after, reply, outSet},
		{"postrouting-count", nftables.ChainHookPostrouting, after, reply, outSet},
	}
}

type counter struct {
	name      string
	hook      *nftables.ChainHook
	priority  *nftables.ChainPriority
	direction byte
	set       string
}

// The directions of a connection, IP_CT_DIR_.
const (
	original = 0
	reply    = 1
)

func (w writer) countPackets() {
	for _, set := range []string{inSet, outSet} {
		_ = w.conn.AddSet(w.f.counts(w.tab, set), nil)
	}
	for _, k := range counters() {
		c := w.chain(k.name, nftables.ChainTypeFilter, k.hook, k.priority)
		w.rule(c, untranslated(), verdict(expr.VerdictAccept)) // and a connection's first packet, which a chooser counts
		if k.hook == nftables.ChainHookPrerouting || k.hook == nftables.ChainHookInput {
			w.rule(c, fromItself(), verdict(expr.VerdictAccept)) // it has been counted when it was sent
		}
		asked := w.f.frontend()
		if k.direction == reply {
			asked = w.f.sender()
		}
		w.rule(c, going(k.direction), asked, []expr.Any{&expr.Dynset{SrcRegKey: r0, SetName: k.set, Operation: unix.NFT_DYNSET_OP_ADD, Exprs: []expr.Any{&expr.Counter{}}}})
	}
}

// going goes on when the packet is of a direction of its connection.
func going(direction byte) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: r0}, &expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: []byte{direction}}}
}

// sender leaves where the packet comes from as frontend leaves where it goes to.
func (f family) sender() []expr.Any {
	return append(f.address(r0, f.saddr),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r0 + f.words},
		&expr.Payload{DestRegister: r0 + f.words + 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2})
}

// fromItself goes on when the packet comes by lo, whose index is 1 everywhere.
func fromItself() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIF, Register: r0}, &expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: native(1)}}
}

// setCounting has a table that an earlier process made count packets or not, as is wanted now. It stays in force meanwhile.
func (s *side) setCounting() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	c, err := conn.ListChain(s.tab, counters()[0].name)
	there := err == nil && c != nil
	switch {
	case there == s.packets:
		return nil
	case s.packets:
		writer{conn, s.tab, s.f, true}.countPackets()
	default:
		for _, k := range counters() {
			c := &nftables.Chain{Table: s.tab, Name: k.name}
			conn.FlushChain(c)
			conn.DelChain(c)
		}
		for _, name := range []string{inSet, outSet} {
			conn.DelSet(s.f.counts(s.tab, name))
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("count packets, or no more: %w", err)
	}
	return nil
}

// ports are of the services that frontends are of.
type ports struct {
	mu sync.Mutex
	of map[place]string
}

func (p *ports) set(at place, port string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if port == "" {
		delete(p.of, at)
		return
	}
	if p.of == nil {
		p.of = map[place]string{}
	}
	p.of[at] = port
}

// at is the port of a frontend's key; empty where there is none any more.
func (p *ports) at(key string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if port := p.of[place{outside.name, key}]; port != "" {
		return port
	}
	return p.of[place{inside.name, key}]
}

// Traffic returns what became of clients since the tables were made, by the service's port they asked for. It may be called at any time, and forgets frontends that are
// gone.
func (b *Backend) Traffic() (map[string]proxy.Traffic, error) {
	out := map[string]proxy.Traffic{}
	var errs []error
	for _, s := range b.sides {
		tab := &nftables.Table{Name: Table, Family: s.f.table}
		errs = append(errs,
			s.read(s.f.counts(tab, connectionsSet), out, func(n expr.Counter) proxy.Traffic {
				if s.packets {
					return proxy.Traffic{Connections: n.Packets, PacketsIn: n.Packets, BytesIn: n.Bytes}
				}
				return proxy.Traffic{Connections: n.Packets}
			}),
			s.read(s.f.counts(tab, failuresSet), out, func(n expr.Counter) proxy.Traffic { return proxy.Traffic{Failures: n.Packets} }))
		if s.packets {
			errs = append(errs,
				s.read(s.f.counts(tab, inSet), out, func(n expr.Counter) proxy.Traffic { return proxy.Traffic{PacketsIn: n.Packets, BytesIn: n.Bytes} }),
				s.read(s.f.counts(tab, outSet), out, func(n expr.Counter) proxy.Traffic { return proxy.Traffic{PacketsOut: n.Packets, BytesOut: n.Bytes} }))
		}
	}
	return out, errors.Join(errs...)
}

func (s *side) read(set *nftables.Set, out map[string]proxy.Traffic, as func(expr.Counter) proxy.Traffic) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	if _, err := conn.GetSetByName(set.Table, set.Name); errors.Is(err, unix.ENOENT) {
		return nil // there is no table while there is nothing to translate
	}
	list, err := conn.GetSetElements(set)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("read %s: %w", set.Name, err)
	}
	for _, e := range list {
		port := s.ports.at(string(e.Key))
		if port != "" && e.Counter != nil {
			out[port] = out[port].Plus(as(*e.Counter))
		}
		if port != "" {
			continue
		}
		// A transaction each: the table may have gone meanwhile.
		if err := conn.SetDeleteElements(set, []nftables.SetElement{{Key: e.Key}}); err != nil {
			return fmt.Errorf("forget what a frontend counted: %w", err)
		}
		if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("forget what a frontend counted: %w", err)
		}
	}
	return nil
}
