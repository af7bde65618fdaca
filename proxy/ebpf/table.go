package ebpf

import (
	"net/netip"
	"slices"
)

// tableSizes are primes, so that every step leads everywhere. A service takes the first in which its backends' shares differ by less than a
// tenth or so, and keeps it while its number of backends does not change much.
var tableSizes = [...]uint32{61, 251, 1021, 4093, 16381}

// tableSize is that of the table for so many backends; 0 when none is needed.
func tableSize(backends int) uint32 {
	if backends < 2 {
		return 0
	}
	for _, size := range tableSizes {
		if uint32(backends)*12 <= size {
			return size
		}
	}
	return tableSizes[len(tableSizes)-1]
}

// table says at each place which backend has it (Maglev, NSDI 2016): each backend in turn takes the next free place of an order of its own. It depends on
// the backends alone, so every node has the same, and one that comes or goes moves few places of others. Of more backends than fit, the last have no place.
func table(list []netip.AddrPort) []uint16 {
	size := tableSize(len(list))
	if size == 0 {
		return nil
	}
	const free = 1<<16 - 1
	list = list[:min(len(list), int(size))]
	out := slices.Repeat([]uint16{free}, int(size))
	next, step := make([]uint32, len(list)), make([]uint32, len(list))
	for i, b := range list {
		h := hashOf(b)
		next[i], step[i] = uint32(h>>32)%size, uint32(h)%(size-1)+1
	}
	for left := size; ; {
		for i := range list {
			for out[next[i]] != free {
				next[i] = (next[i] + step[i]) % size
			}
			out[next[i]] = uint16(i)
			if left--; left == 0 {
				return out
			}
		}
	}
}

// hashOf is the same on all nodes and in all versions: FNV-1a, with its bits mixed at the end.
func hashOf(b netip.AddrPort) uint64 {
	h := uint64(14695981039346656037)
	bytes, _ := b.MarshalBinary()
	for _, c := range bytes {
		h = (h ^ uint64(c)) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
