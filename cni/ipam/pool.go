package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Range is addresses of a subnet that containers may have.
type Range struct {
	Subnet netip.Prefix
	// Start and End are the first and the last that may be given; zero: the subnet's first and last that a host can have.
	Start, End netip.Addr
	// Gateway is never given; zero: the subnet's first address.
	Gateway netip.Addr
}

// Set is ranges of a family, of which a container gets one address.
type Set []Range

// RangeOf is all of a subnet, with its first address as the gateway's.
func RangeOf(subnet netip.Prefix) Range { return Range{Subnet: subnet} }

// Normal fills in what is left out and checks the rest.
func (r Range) Normal() (Range, error) {
	if !r.Subnet.IsValid() {
		return r, errors.New("subnet is missing")
	}
	if r.Subnet.Masked() != r.Subnet {
		return r, fmt.Errorf("subnet %s has bits set beyond its length: %s is meant", r.Subnet, r.Subnet.Masked())
	}
	if r.Subnet.Addr().BitLen()-r.Subnet.Bits() < 2 {
		return r, fmt.Errorf("subnet %s has no address for a container", r.Subnet)
	}
	if a := r.Subnet.Addr(); a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is4In6() {
		return r, fmt.Errorf("subnet %s: no container can have its addresses", r.Subnet)
	}
	first, last := hosts(r.Subnet)
	for _, p := range []struct {
		name  string
		field *netip.Addr
		def   netip.Addr
	}{{"rangeStart", &r.Start, first}, {"rangeEnd", &r.End, last}, {"gateway", &r.Gateway, first}} {
		if !p.field.IsValid() {
			*p.field = p.def
		}
		if !r.Subnet.Contains(*p.field) {
			return r, fmt.Errorf("%s %s is not in subnet %s", p.name, *p.field, r.Subnet)
		}
	}
	if r.End.Less(r.Start) {
		return r, fmt.Errorf("rangeEnd %s is before rangeStart %s", r.End, r.Start)
	}
	return r, nil
}

// has says whether a may be given to a container.
func (r Range) has(a netip.Addr) bool {
	return a != r.Gateway && !a.Less(r.Start) && !r.End.Less(a)
}

func (r Range) overlaps(o Range) bool { return !r.End.Less(o.Start) && !o.End.Less(r.Start) }

func (r Range) String() string { return fmt.Sprintf("%s to %s", r.Start, r.End) }

// Normal fills in what is left out of a set's ranges and checks that they go together.
func (s Set) Normal() (Set, error) {
	if len(s) == 0 {
		return nil, errors.New("the set has no range")
	}
	var out Set
	for _, r := range s {
		n, err := r.Normal()
		if err != nil {
			return nil, err
		}
		if len(out) > 0 && n.Start.Is4() != out[0].Start.Is4() {
			return nil, fmt.Errorf("the set mixes families: %s and %s", out[0].Subnet, n.Subnet)
		}
		if i := slices.IndexFunc(out, n.overlaps); i >= 0 {
			return nil, fmt.Errorf("ranges %s and %s overlap", out[i], n)
		}
		out = append(out, n)
	}
	return out, nil
}

// Disjoint says whether no range of one set overlaps one of another.
func Disjoint(sets []Set) error {
	for i, s := range sets {
		for _, o := range sets[:i] {
			for _, r := range s {
				if j := slices.IndexFunc(o, r.overlaps); j >= 0 {
					return fmt.Errorf("ranges %s and %s of two sets overlap", o[j], r)
				}
			}
		}
	}
	return nil
}

// of returns the range of the set that may give a.
func (s Set) of(a netip.Addr) (Range, bool) {
	i := slices.IndexFunc(s, func(r Range) bool { return r.has(a) })
	if i < 0 {
		return Range{}, false
	}
	return s[i], true
}

// search calls free with the set's addresses, from the one after last on and around, until it says yes. Reserved ones are left out.
func (s Set) search(last netip.Addr, reserved []netip.Prefix, free func(netip.Addr) (bool, error)) (netip.Addr, error) {
	at := slices.IndexFunc(s, func(r Range) bool { return last.IsValid() && !last.Less(r.Start) && !r.End.Less(last) })
	spans := make([]Range, 0, len(s)+1)
	if at >= 0 {
		tail := s[at]
		if tail.Start = last.Next(); tail.Start.IsValid() {
			spans = append(spans, tail)
		}
	}
	for i := range s {
		spans = append(spans, s[(at+1+i)%len(s)])
	}
	for _, r := range spans {
		for a := r.Start; a.IsValid() && !r.End.Less(a); a = a.Next() {
			if i := slices.IndexFunc(reserved, func(p netip.Prefix) bool { return p.Contains(a) }); i >= 0 {
				a = lastOf(reserved[i])
				continue
			}
			if a == r.Gateway {
				continue
			}
			if ok, err := free(a); ok || err != nil {
				return a, err
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("%v: %w", []Range(s), ErrExhausted)
}

// hosts are the first and the last address of a subnet that a host can have: not its own, nor IPv4's broadcast.
func hosts(p netip.Prefix) (first, last netip.Addr) {
	first, last = p.Masked().Addr().Next(), lastOf(p)
	if last.Is4() {
		last = last.Prev()
	}
	return first, last
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
