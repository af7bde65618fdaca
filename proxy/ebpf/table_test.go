package ebpf

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func some(n int) (out []netip.AddrPort) {
	for i := range n {
		out = append(out, netip.MustParseAddrPort(fmt.Sprintf("10.1.%d.%d:8080", i/250, i%250+1)))
	}
	return out
}

func TestTableIsFair(t *testing.T) {
	for _, n := range []int{2, 3, 5, 10, 100, 1000, 1365} {
		count := make([]int, n)
		for _, i := range table(some(n)) {
			count[i]++
		}
		least, most := slices.Min(count), slices.Max(count)
		if most-least > 1 || least*9 < most*8 && n > 1 {
			t.Errorf("%d backends: shares from %d to %d", n, least, most)
		}
	}
	for n, want := range map[int]int{0: 0, 1: 0, 2: 61, 20_000: 16381} {
		if got := table(some(n)); len(got) != want {
			t.Errorf("%d backends: a table of %d, want %d", n, len(got), want)
		}
	}
}

// What one backend leaves behind goes to the others, which keep nearly all that they had.
func TestTableMovesLittle(t *testing.T) {
	list := some(10)
	before := table(list)
	less := slices.Delete(slices.Clone(list), 4, 5)
	moved, places := 0, 0
	for i, b := range table(less) {
		if list[before[i]] != list[4] {
			places++
			if list[before[i]] != less[b] {
				moved++
			}
		}
	}
	if moved*6 > places {
		t.Errorf("%d of %d places moved between backends that stay", moved, places)
	}
}

// The order is written in the kernel's maps of nodes of other versions: it must not change.
func TestTableStaysWhatItIs(t *testing.T) {
	if got := hashOf(netip.MustParseAddrPort("10.1.0.1:8080")); got != 0xde4b6a714d31ddbb {
		t.Errorf("hash %#x", got)
	}
}
