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
	var k objectFrontendKey
	var v objectFrontend
	it := l.objs.Frontends.Iterate()
	for it.Next(&k, &v) {
		f := Frontend{Addr: addr(k.Addr), Port: swap(k.Port), Protocol: k.Proto}
		out[f] = Entry{Generation: v.Generation, Service: v.Service, Count: v.Count, Affinity: time.Duration(v.Affinity) * time.Second}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list frontends: %w", err)
	}
	return out, nil
}

// PutFrontend makes f lead to e, in one step for every socket.
func (l *LB) PutFrontend(f Frontend, e Entry) error {
	v := objectFrontend{Generation: e.Generation, Service: e.Service, Count: e.Count, Affinity: uint32(e.Affinity / time.Second)}
	if err := l.objs.Frontends.Put(keyOf(f), &v); err != nil {
		return fmt.Errorf("put frontend %s: %w", f, err)
	}
	return nil
}

// DeleteFrontend makes f an address like any other. One that is not there is no error.
func (l *LB) DeleteFrontend(f Frontend) error {
	if err := gone(l.objs.Frontends.Delete(keyOf(f))); err != nil {
		return fmt.Errorf("delete frontend %s: %w", f, err)
	}
	return nil
}

// PutBackends writes the backends of a generation that no frontend leads to yet.
func (l *LB) PutBackends(generation uint32, eps []netip.AddrPort) error {
	for i, ep := range eps {
		if err := l.objs.Backends.Put(&objectSlot{Generation: generation, Index: uint32(i)}, endpointOf(ep)); err != nil {
			return fmt.Errorf("put backend %s: %w", ep, err)
		}
	}
	return nil
}

// Backends returns the count backends of a generation.
func (l *LB) Backends(generation, count uint32) ([]netip.AddrPort, error) {
	out := make([]netip.AddrPort, 0, count)
	for i := range count {
		var e objectEndpoint
		if err := l.objs.Backends.Lookup(&objectSlot{Generation: generation, Index: i}, &e); err != nil {
			return nil, fmt.Errorf("look up backend %d of generation %d: %w", i, generation, err)
		}
		out = append(out, netip.AddrPortFrom(addr(e.Addr), swap(e.Port)))
	}
	return out, nil
}

// DeleteBackends removes the first count backends of a generation that no frontend has led to for a while.
func (l *LB) DeleteBackends(generation, count uint32) error {
	var errs []error
	for i := range count {
		if err := gone(l.objs.Backends.Delete(&objectSlot{Generation: generation, Index: i})); err != nil {
			errs = append(errs, fmt.Errorf("delete backend %d of generation %d: %w", i, generation, err))
		}
	}
	return errors.Join(errs...)
}

// Generations returns how many backends each generation has in the kernel, whether a frontend leads to it or not.
func (l *LB) Generations() (map[uint32]uint32, error) {
	out := map[uint32]uint32{}
	var k objectSlot
	var v objectEndpoint
	it := l.objs.Backends.Iterate()
	for it.Next(&k, &v) {
		out[k.Generation] = max(out[k.Generation], k.Index+1)
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list backends: %w", err)
	}
	return out, nil
}

// PutMember says that ep is a backend of a service, to those who chose it before.
func (l *LB) PutMember(service uint32, ep netip.AddrPort) error {
	if err := l.objs.Members.Put(&objectMember{Service: service, Ep: *endpointOf(ep)}, uint32(1)); err != nil {
		return fmt.Errorf("put member %s: %w", ep, err)
	}
	return nil
}

// DeleteMember makes those who chose ep choose anew. One that is not there is no error.
func (l *LB) DeleteMember(service uint32, ep netip.AddrPort) error {
	if err := gone(l.objs.Members.Delete(&objectMember{Service: service, Ep: *endpointOf(ep)})); err != nil {
		return fmt.Errorf("delete member %s: %w", ep, err)
	}
	return nil
}

// Members returns all members by service.
func (l *LB) Members() (map[uint32][]netip.AddrPort, error) {
	out := map[uint32][]netip.AddrPort{}
	var k objectMember
	var v uint32
	it := l.objs.Members.Iterate()
	for it.Next(&k, &v) {
		out[k.Service] = append(out[k.Service], netip.AddrPortFrom(addr(k.Ep.Addr), swap(k.Ep.Port)))
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	return out, nil
}

// SetNodes makes addrs the addresses at which node ports answer, beside 127.0.0.1 and ::1 on the node itself.
func (l *LB) SetNodes(addrs []netip.Addr) error {
	want := map[objectEndpoint]bool{}
	for _, a := range addrs {
		k := objectEndpoint{Addr: words(a)}
		want[k] = true
		if err := l.objs.Nodes.Put(&k, uint32(1)); err != nil {
			return fmt.Errorf("put node address %s: %w", a, err)
		}
	}
	var stale []objectEndpoint
	var k objectEndpoint
	var v uint32
	it := l.objs.Nodes.Iterate()
	for it.Next(&k, &v) {
		if !want[k] {
			stale = append(stale, k)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list node addresses: %w", err)
	}
	for _, k := range stale {
		if err := gone(l.objs.Nodes.Delete(&k)); err != nil {
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

func reasonNames() []string {
	return []string{"not_service", "translated", "sticky", "affinity", "no_endpoint", "lost_slot"}
}

func (f Frontend) String() string {
	where := "node port"
	if !f.Addr.IsUnspecified() {
		where = f.Addr.String()
	}
	return fmt.Sprintf("%s %d/%d", where, f.Port, f.Protocol)
}

func keyOf(f Frontend) *objectFrontendKey {
	k := &objectFrontendKey{Addr: words(f.Addr), Port: swap(f.Port), Proto: f.Protocol, Kind: uint8(objectKindKIND_ADDRESS)}
	if f.Addr.IsUnspecified() {
		k.Kind = uint8(objectKindKIND_NODEPORT)
	}
	return k
}

func endpointOf(ep netip.AddrPort) *objectEndpoint {
	return &objectEndpoint{Addr: words(ep.Addr()), Port: swap(ep.Port())}
}

func gone(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}
