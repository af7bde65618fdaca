package nft

import (
	"net/netip"
	"testing"

	"github.com/orlop-io/orlop/proxy"
)

func TestChooserIsFoundByItsName(t *testing.T) {
	for _, c := range []chooser{{inside, 1}, {outside, 250}} {
		if got, ok := chooserOf(c.name()); !ok || got != c {
			t.Errorf("%s is read as %+v, %v", c.name(), got, ok)
		}
	}
	for _, name := range []string{"prerouting", "inside", "inside-of-", "inside-of-2-stay-3", "version-1", ""} {
		if c, ok := chooserOf(name); ok {
			t.Errorf("%q is read as %+v", name, c)
		}
	}
}

func TestSourcesDoNotOverlap(t *testing.T) {
	for _, tt := range []struct {
		ranges []string
		want   int // the mark that sources are limited, and what is admitted
	}{
		{nil, 0},
		{[]string{"192.0.2.0/24"}, 2},
		{[]string{"192.0.2.0/24", "192.0.2.0/24", "192.0.2.128/25"}, 2},
		{[]string{"192.0.2.0/25", "192.0.2.128/25"}, 3},
		{[]string{"0.0.0.0/0", "10.0.0.0/8"}, 2},
		{[]string{"fd00::/8"}, 1}, // nobody
	} {
		var ranges []netip.Prefix
		for _, s := range tt.ranges {
			ranges = append(ranges, netip.MustParsePrefix(s))
		}
		if got := ipv4.sources("key", ranges); len(got) != tt.want {
			t.Errorf("%v: %d elements, want %d", tt.ranges, len(got), tt.want)
		}
	}
	for prefix, want := range map[string]string{"10.1.2.3/8": "10.255.255.255", "0.0.0.0/0": "255.255.255.255", "fd00::/120": "fd00::ff", "10.0.0.1/32": "10.0.0.1"} {
		if got := last(netip.MustParsePrefix(prefix)); got.String() != want {
			t.Errorf("%s ends at %s, want %s", prefix, got, want)
		}
	}
}

// A frontend that two scopes lead elsewhere is two places, so that neither group takes the other's.
func TestElementsOfAFrontendAreOneGroups(t *testing.T) {
	g := &proxy.Group{KeepSource: true, Sources: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Frontends: []proxy.Frontend{
		{Addr: netip.IPv4Unspecified(), Port: 30080, Protocol: proxy.TCP, Scope: proxy.Everywhere},
	}}
	owners := map[place]bool{}
	for _, e := range ipv4.elements(g, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd00::1")}, proxy.Everywhere) {
		owners[ipv4.frontendOf(e.place)] = true
	}
	if len(owners) != 2 {
		t.Errorf("elements of %d frontends, want the inside's and the outside's", len(owners))
	}
}
