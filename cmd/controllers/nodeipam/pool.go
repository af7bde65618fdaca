package nodeipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Pool is one cluster-wide range, cut into equal parts for nodes.
type Pool struct {
	Range netip.Prefix
	// Bits is the prefix length of a node's part, not shorter than Range's.
	Bits int
}

// ParsePools reads a comma-separated list of at most one range per family. Masks are the prefix lengths of a node's part.
func ParsePools(text string, mask4, mask6 int) ([]Pool, error) {
	var pools []Pool
	var errs []error
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		p, err := netip.ParsePrefix(part)
		if err != nil {
			errs = append(errs, fmt.Errorf("cluster range: %w", err))
			continue
		}
		pool := Pool{Range: p.Masked(), Bits: mask4}
		if p.Addr().Is6() {
			pool.Bits = mask6
		}
		if pool.Bits < p.Bits() || pool.Bits > p.Addr().BitLen() || pool.Bits-p.Bits() > 16 {
			errs = append(errs, fmt.Errorf("node mask /%d does not cut %s into at most 65536 parts", pool.Bits, p))
		}
		pools = append(pools, pool)
	}
	if len(pools) > 2 || len(pools) == 2 && pools[0].Range.Addr().Is6() == pools[1].Range.Addr().Is6() {
		errs = append(errs, errors.New("at most one cluster range per address family"))
	}
	return pools, errors.Join(errs...)
}

// Free returns the lowest part of the pool that overlaps nothing in used.
func (p Pool) Free(used []netip.Prefix) (netip.Prefix, bool) {
	taken := map[netip.Prefix]bool{}
	var wide []netip.Prefix // uncommon sizes are compared one by one
	for _, u := range used {
		if u.Bits() == p.Bits {
			taken[u.Masked()] = true
		} else if u.Overlaps(p.Range) {
			wide = append(wide, u)
		}
	}
next:
	for i := range 1 << (p.Bits - p.Range.Bits()) {
		part := p.part(i)
		if taken[part] {
			continue
		}
		for _, w := range wide {
			if w.Overlaps(part) {
				continue next
			}
		}
		return part, true
	}
	return netip.Prefix{}, false
}

// part returns the i-th part of the pool.
func (p Pool) part(i int) netip.Prefix {
	b := p.Range.Addr().AsSlice()
	// Add i at bit position p.Bits, counted from the left.
	for bit := p.Bits - 1; i > 0; bit-- {
		if i&1 == 1 {
			b[bit/8] |= 1 << (7 - bit%8)
		}
		i >>= 1
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(addr, p.Bits)
}
