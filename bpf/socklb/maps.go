package socklb

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
)

// Frontends returns all frontends. It fails rather than leave one out.
func (l *LB) Frontends() (map[Frontend]Entry, error) {
	out := map[Frontend]Entry{}
	err := l.frontends.each(func(k objectFrontendKey, v objectFrontend) {
		f := Frontend{Addr: addr(k.Addr), Port: swap(k.Port), Protocol: k.Proto, Outside: k.Kind&uint8(objectKindKIND_OUTSIDE) != 0}
		out[f] = Entry{
			Generation: v.Generation, Service: v.Service, Count: v.Count, Affinity: time.Duration(v.Affinity) * time.Second, Table: v.Table,
			KeepSource: v.Flags&uint32(objectFrontendFlagFRONTEND_KEEP_SOURCE) != 0, Limited: v.Flags&uint32(objectFrontendFlagFRONTEND_LIMITED) != 0,
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list frontends: %w", err)
	}
	return out, nil
}

// PutFrontend makes f lead to e, in one step for every socket.
func (l *LB) PutFrontend(f Frontend, e Entry) error {
	v := objectFrontend{Generation: e.Generation, Service: e.Service, Count: e.Count, Affinity: uint32(e.Affinity / time.Second), Table: e.Table}
	if e.KeepSource {
		v.Flags |= uint32(objectFrontendFlagFRONTEND_KEEP_SOURCE)
	}
	if e.Limited {
		v.Flags |= uint32(objectFrontendFlagFRONTEND_LIMITED)
	}
	if err := l.frontends.put(keyOf(f), &v); err != nil {
		return fmt.Errorf("put frontend %s: %w", f, err)
	}
	return nil
}

// DeleteFrontend makes f an address like any other. One that is not there is no error.
func (l *LB) DeleteFrontend(f Frontend) error {
	if err := l.frontends.remove(keyOf(f)); err != nil {
		return fmt.Errorf("delete frontend %s: %w", f, err)
	}
	return nil
}

// PutBackends writes the backends of a generation that no frontend leads to yet.
func (l *LB) PutBackends(generation uint32, list []Backend) error {
	for i, b := range list {
		e := endpointOf(b.AddrPort)
		if b.Here {
			e.Flags = uint16(objectBackendFlagBACKEND_HERE)
		}
		if err := l.backends.put(&objectSlot{Generation: generation, Index: uint32(i)}, e); err != nil {
			return fmt.Errorf("put backend %s: %w", b.AddrPort, err)
		}
	}
	return nil
}

// Backends returns the count backends of a generation.
func (l *LB) Backends(generation, count uint32) ([]Backend, error) {
	out := make([]Backend, 0, count)
	for i := range count {
		var e objectEndpoint
		if err := l.backends.lookup(&objectSlot{Generation: generation, Index: i}, &e); err != nil {
			return nil, fmt.Errorf("look up backend %d of generation %d: %w", i, generation, err)
		}
		out = append(out, Backend{netip.AddrPortFrom(addr(e.Addr), swap(e.Port)), e.Flags&uint16(objectBackendFlagBACKEND_HERE) != 0})
	}
	return out, nil
}

// PutTable writes the table of a generation that no frontend leads to yet: at each place the index of a backend.
func (l *LB) PutTable(generation uint32, table []uint16) error {
	for i := range blocks(uint32(len(table))) {
		var b objectBlock
		copy(b.Slot[:], table[i*blockLen:])
		if err := l.tables.put(&objectSlot{Generation: generation, Index: i}, &b); err != nil {
			return fmt.Errorf("put block %d of the table of generation %d: %w", i, generation, err)
		}
	}
	return nil
}

// DeleteGeneration removes what a generation has that no frontend has led to for a while.
func (l *LB) DeleteGeneration(generation uint32, size Size) error {
	var errs []error
	for i := range size.Backends {
		if err := l.backends.remove(&objectSlot{Generation: generation, Index: i}); err != nil {
			errs = append(errs, fmt.Errorf("delete backend %d of generation %d: %w", i, generation, err))
		}
	}
	for i := range size.Blocks {
		if err := l.tables.remove(&objectSlot{Generation: generation, Index: i}); err != nil {
			errs = append(errs, fmt.Errorf("delete block %d of generation %d: %w", i, generation, err))
		}
	}
	return errors.Join(errs...)
}

// Generations returns how much of each generation is in the kernel, whether a frontend leads to it or not.
func (l *LB) Generations() (map[uint32]Size, error) {
	out := map[uint32]Size{}
	err := l.backends.each(func(k objectSlot, _ objectEndpoint) {
		out[k.Generation] = Size{Backends: max(out[k.Generation].Backends, k.Index+1)}
	})
	if err != nil {
		return nil, fmt.Errorf("list backends: %w", err)
	}
	err = l.tables.each(func(k objectSlot, _ objectBlock) {
		s := out[k.Generation]
		s.Blocks = max(s.Blocks, k.Index+1)
		out[k.Generation] = s
	})
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	return out, nil
}

// PutSource admits clients of a range to a service that is limited.
func (l *LB) PutSource(service uint32, from netip.Prefix) error {
	if err := l.objs.Sources.Put(sourceOf(service, from), uint32(1)); err != nil {
		return fmt.Errorf("put source %s: %w", from, err)
	}
	return nil
}

// DeleteSource admits them no more. One that is not there is no error.
func (l *LB) DeleteSource(service uint32, from netip.Prefix) error {
	if err := gone(l.objs.Sources.Delete(sourceOf(service, from))); err != nil {
		return fmt.Errorf("delete source %s: %w", from, err)
	}
	return nil
}

// Sources returns all ranges by service.
func (l *LB) Sources() (map[uint32][]netip.Prefix, error) {
	out := map[uint32][]netip.Prefix{}
	var k objectSource
	var v uint32
	it := l.objs.Sources.Iterate()
	for it.Next(&k, &v) {
		a, bits := addr(k.Addr), int(k.Bits)-sourceHead
		if a.Is4() {
			bits -= 96
		}
		out[k.Service] = append(out[k.Service], netip.PrefixFrom(a, bits))
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list sources: %w", err)
	}
	return out, nil
}

// PutMember says what ep is to a service, for those who chose it before.
func (l *LB) PutMember(service uint32, ep netip.AddrPort, state MemberState) error {
	if err := l.members.put(&objectMember{Service: service, Ep: *endpointOf(ep)}, new(uint32(state))); err != nil {
		return fmt.Errorf("put member %s: %w", ep, err)
	}
	return nil
}

// DeleteMember makes those who chose ep choose anew; connections of TCP to it stay. One that is not there is no error.
func (l *LB) DeleteMember(service uint32, ep netip.AddrPort) error {
	if err := l.members.remove(&objectMember{Service: service, Ep: *endpointOf(ep)}); err != nil {
		return fmt.Errorf("delete member %s: %w", ep, err)
	}
	return nil
}

// Members returns all members by service.
func (l *LB) Members() (map[uint32]map[netip.AddrPort]MemberState, error) {
	out := map[uint32]map[netip.AddrPort]MemberState{}
	err := l.members.each(func(k objectMember, state uint32) {
		if out[k.Service] == nil {
			out[k.Service] = map[netip.AddrPort]MemberState{}
		}
		out[k.Service][netip.AddrPortFrom(addr(k.Ep.Addr), swap(k.Ep.Port))] = MemberState(state)
	})
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	return out, nil
}

// SetNodes makes all the addresses at which sockets and pods of this node find node ports, beside 127.0.0.1 and ::1 on the node itself, and
// own those of this node at which packets from elsewhere do.
func (l *LB) SetNodes(all, own []netip.Addr) error {
	want := map[objectEndpoint]uint32{}
	for _, a := range all {
		want[objectEndpoint{Addr: words(a)}] |= uint32(objectNodeFlagNODE_ANY)
	}
	for _, a := range own {
		want[objectEndpoint{Addr: words(a)}] |= uint32(objectNodeFlagNODE_PORTS)
	}
	for k, flags := range want {
		if err := l.nodes.put(&k, &flags); err != nil {
			return fmt.Errorf("put node address %s: %w", addr(k.Addr), err)
		}
	}
	var stale []objectEndpoint
	err := l.nodes.each(func(k objectEndpoint, _ uint32) {
		if want[k] == 0 {
			stale = append(stale, k)
		}
	})
	if err != nil {
		return fmt.Errorf("list node addresses: %w", err)
	}
	for _, k := range stale {
		if err := l.nodes.remove(&k); err != nil {
			return fmt.Errorf("delete node address %s: %w", addr(k.Addr), err)
		}
	}
	return nil
}

// Counters returns how often each reason decided a call since the maps were made.
func (l *LB) Counters() (map[string]uint64, error) {
	out := map[string]uint64{}
	for r, name := range reasonNames() {
		var perCPU []uint64
		if err := l.objs.Reasons.Lookup(uint32(r), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", name, err)
		}
		for _, n := range perCPU {
			out[name] += n
		}
	}
	return out, nil
}

// Usages says how full each map of services is.
func (l *LB) Usages() ([]Usage, error) {
	all, err := l.Sources()
	if err != nil {
		return nil, err
	}
	sources := Usage{Map: objectMapSources, Capacity: l.objs.Sources.MaxEntries(), Limit: l.objs.Sources.MaxEntries()}
	for _, list := range all {
		sources.Entries += uint32(len(list))
	}
	traffic := Usage{Map: objectMapTraffics, Entries: l.counted.Load(), Capacity: l.objs.Traffics.MaxEntries(), Limit: l.objs.Traffics.MaxEntries()}
	return []Usage{l.frontends.usage(), l.backends.usage(), l.tables.usage(), l.members.usage(), l.nodes.usage(), sources, traffic}, nil
}

// Need is how many entries maps are going to have.
type Need struct{ Frontends, Backends, Blocks, Members int }

// Fill lets maps grow in one step to what they are going to have, if they can. Where they are empty, what is put into them may stay away until Filled, which
// takes half the time; frontends come last.
func (l *LB) Fill(n Need) {
	l.frontends.reserve(n.Frontends - int(l.frontends.entries.Load()))
	l.backends.reserve(n.Backends - int(l.backends.entries.Load()))
	l.tables.reserve(n.Blocks - int(l.tables.entries.Load()))
	l.members.reserve(n.Members - int(l.members.entries.Load()))
	if l.frontends.empty() && l.backends.empty() && l.tables.empty() && l.members.empty() {
		l.frontends.begin(l.fill)
		l.backends.begin(l.backends.flush)
		l.tables.begin(l.tables.flush)
		l.members.begin(l.members.flush)
	}
}

// fill puts all that was kept back.
func (l *LB) fill() error {
	return errors.Join(l.members.flush(), l.backends.flush(), l.tables.flush(), l.frontends.flush())
}

// Filled puts all that was kept back since Fill, and ends it.
func (l *LB) Filled() error {
	err := l.fill()
	l.frontends.end()
	l.backends.end()
	l.tables.end()
	l.members.end()
	return err
}

func reasonNames() []string {
	return []string{"not_service", "translated", "sticky", "affinity", "no_endpoint", "lost_slot"}
}

func (f Frontend) String() string {
	where := "node port"
	if !f.Addr.IsUnspecified() {
		where = f.Addr.String()
	}
	if f.Outside {
		where += " from outside"
	}
	return fmt.Sprintf("%s %d/%d", where, f.Port, f.Protocol)
}

func keyOf(f Frontend) *objectFrontendKey {
	k := &objectFrontendKey{Addr: words(f.Addr), Port: swap(f.Port), Proto: f.Protocol, Kind: uint8(objectKindKIND_ADDRESS)}
	if f.Addr.IsUnspecified() {
		k.Kind = uint8(objectKindKIND_NODEPORT)
	}
	if f.Outside {
		k.Kind += uint8(objectKindKIND_OUTSIDE)
	}
	return k
}

func endpointOf(ep netip.AddrPort) *objectEndpoint {
	return &objectEndpoint{Addr: words(ep.Addr()), Port: swap(ep.Port())}
}

const (
	blockLen   = uint32(len(objectBlock{}.Slot))
	sourceHead = 32 // bits of the service before the address
)

func blocks(table uint32) uint32 { return (table + blockLen - 1) / blockLen }

func sourceOf(service uint32, from netip.Prefix) *objectSource {
	bits := sourceHead + from.Bits()
	if from.Addr().Is4() {
		bits += 96
	}
	return &objectSource{Bits: uint32(bits), Service: service, Addr: words(from.Masked().Addr())}
}

func gone(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}
