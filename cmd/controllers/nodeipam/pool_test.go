package nodeipam

import (
	"net/netip"
	"testing"
)

func TestFree(t *testing.T) {
	p := netip.MustParsePrefix
	for _, tc := range []struct {
		name string
		pool Pool
		used []netip.Prefix
		want string
	}{
		{"first", Pool{p("10.244.0.0/16"), 24}, nil, "10.244.0.0/24"},
		{"gap", Pool{p("10.244.0.0/16"), 24}, []netip.Prefix{p("10.244.0.0/24"), p("10.244.2.0/24")}, "10.244.1.0/24"},
		{"foreign size", Pool{p("10.244.0.0/16"), 24}, []netip.Prefix{p("10.244.0.0/23")}, "10.244.2.0/24"},
		{"odd bits", Pool{p("10.0.0.0/20"), 22}, []netip.Prefix{p("10.0.0.0/22"), p("10.0.4.0/22")}, "10.0.8.0/22"},
		{"v6", Pool{p("fd00::/56"), 64}, []netip.Prefix{p("fd00::/64")}, "fd00:0:0:1::/64"},
		{"full", Pool{p("10.0.0.0/24"), 24}, []netip.Prefix{p("10.0.0.0/24")}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := tc.pool.Free(tc.used)
			if ok != (tc.want != "") || ok && got.String() != tc.want {
				t.Errorf("got %v, %v; want %q", got, ok, tc.want)
			}
		})
	}
}

func TestFreeNeverGivesTwice(t *testing.T) {
	pool := Pool{netip.MustParsePrefix("10.244.0.0/16"), 24}
	var used []netip.Prefix
	for range 256 {
		part, ok := pool.Free(used)
		if !ok {
			t.Fatalf("full after %d", len(used))
		}
		for _, u := range used {
			if u.Overlaps(part) {
				t.Fatalf("%s given though %s is in use", part, u)
			}
		}
		used = append(used, part)
	}
	if part, ok := pool.Free(used); ok {
		t.Errorf("257th part %s of 256", part)
	}
}

func TestParsePools(t *testing.T) {
	for _, bad := range []string{"10.0.0.0", "10.0.0.0/25", "10.0.0.0/16,10.1.0.0/16", "10.0.0.0/4"} {
		if _, err := ParsePools(bad, 24, 64); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
	if pools, err := ParsePools("10.0.0.0/16, fd00::/56", 24, 64); err != nil || len(pools) != 2 {
		t.Errorf("dual stack: %v, %v", pools, err)
	}
}
