package services

import (
	"iter"
	"math/big"
	"net/netip"
)

// block is a range of addresses, in two bands: the lower is left, while there is room elsewhere, to Services that name
// their address, so that what an administrator writes into a file is not given away before.
type block struct{ prefix netip.Prefix }

// maxWalk bounds how many addresses are looked at one by one: a range that is full to there is full.
const maxWalk = 1 << 20

// size is the number of addresses, cut off where more would not help.
func (b block) size() uint64 {
	return uint64(1) << min(b.prefix.Addr().BitLen()-b.prefix.Bits(), 48)
}

// count is the number of addresses that may be given: not that of the network, nor the broadcast address.
func (b block) count() uint64 {
	n := b.size() - 1
	if b.prefix.Addr().Is4() && n > 0 {
		n--
	}
	return n
}

// band is the size of the lower band: as upstream a sixteenth, at least 16 and at most 256, and none in small ranges.
func (b block) band() uint64 {
	if b.size() <= 16 {
		return 0
	}
	return min(max(16, b.size()/16), 256)
}

// nth is the address that is n behind the first that may be given.
func (b block) nth(n uint64) netip.Addr {
	base := new(big.Int).SetBytes(b.prefix.Addr().AsSlice())
	raw := base.Add(base, new(big.Int).SetUint64(n+1)).FillBytes(make([]byte, b.prefix.Addr().BitLen()/8))
	ip, _ := netip.AddrFromSlice(raw)
	return ip
}

// usable says whether a Service may name ip.
func (b block) usable(ip netip.Addr) bool {
	if !b.prefix.Contains(ip) || ip == b.prefix.Addr() {
		return false
	}
	return ip.Is6() || b.prefix.Contains(ip.Next())
}

// random is an address of the upper band; pick returns a number below its argument.
func (b block) random(pick func(uint64) uint64) netip.Addr {
	low := b.band()
	return b.nth(low + pick(b.count()-low))
}

// all walks over the upper band and then the lower, each from a random place.
func (b block) all(pick func(uint64) uint64) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		low := b.band()
		for _, part := range [][2]uint64{{low, b.count()}, {0, low}} {
			length := part[1] - part[0]
			if length == 0 {
				continue
			}
			start := pick(length)
			for i := range min(length, maxWalk) {
				if !yield(b.nth(part[0] + (start+i)%length)) {
					return
				}
			}
		}
	}
}
