package ipam

import (
	"math"
	"net/netip"
)

// pool is the addresses of a range that pods may have: all but the network's own, the gateway's (the first),
// and in IPv4 the broadcast address.
type pool struct {
	first, last netip.Addr
	size        uint64 // at most MaxUint64, where IPv6 has more
}

// Gateway returns the address of r that the node's bridge has.
func Gateway(r netip.Prefix) netip.Addr { return r.Masked().Addr().Next() }

func poolOf(r netip.Prefix) pool {
	r = r.Masked()
	last := r.Addr().AsSlice()
	for i := r.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 1 << (7 - i%8)
	}
	p := pool{first: Gateway(r).Next()}
	p.last, _ = netip.AddrFromSlice(last)
	host := r.Addr().BitLen() - r.Bits()
	all := uint64(math.MaxUint64)
	if host < 64 {
		all = 1 << host
	}
	reserved := uint64(2)
	if r.Addr().Is4() {
		p.last, reserved = p.last.Prev(), 3
	}
	if all > reserved {
		p.size = all - reserved
	}
	return p
}

// after is the address to try when a was not free; it wraps, and begins anew for an address outside.
func (p pool) after(a netip.Addr) netip.Addr {
	n := a.Next()
	if !n.IsValid() || n.Less(p.first) || p.last.Less(n) {
		return p.first
	}
	return n
}
