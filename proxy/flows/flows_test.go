package flows

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/orlop-io/orlop/proxy"
)

func TestWhichConnectionsEnd(t *testing.T) {
	front := proxy.Frontend{Addr: netip.MustParseAddr("10.96.0.9"), Port: 53, Protocol: proxy.UDP, Scope: proxy.Inside}
	node := proxy.Frontend{Addr: netip.IPv4Unspecified(), Port: 30053, Protocol: proxy.UDP, Scope: proxy.Everywhere}
	old := &proxy.Group{Frontends: []proxy.Frontend{front, node}, Backends: []netip.AddrPort{netip.MustParseAddrPort("10.1.0.1:53")}}
	next := &proxy.Group{Frontends: old.Frontends, Backends: []netip.AddrPort{netip.MustParseAddrPort("10.1.0.2:53")}}
	fs := Set{}
	fs.Add(old, next)
	ends := fs.valid(true, proxy.Model{"a": next}, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, proxy.Everywhere)
	for _, tt := range []struct {
		name     string
		proto    uint8
		to, from string
		want     bool
	}{
		{"to the backend that went", 17, "10.96.0.9:53", "10.1.0.1:53", true},
		{"to the one there is", 17, "10.96.0.9:53", "10.1.0.2:53", false},
		{"never translated, as when there was none", 17, "10.96.0.9:53", "10.96.0.9:53", true},
		{"at the node port", 17, "192.0.2.1:30053", "10.1.0.1:53", true},
		{"another service's", 17, "10.96.0.8:53", "10.1.0.1:53", false},
		{"TCP", 6, "10.96.0.9:53", "10.1.0.1:53", false},
	} {
		to, from := netip.MustParseAddrPort(tt.to), netip.MustParseAddrPort(tt.from)
		flow := &netlink.ConntrackFlow{
			Forward: netlink.IPTuple{Protocol: tt.proto, DstIP: net.IP(to.Addr().AsSlice()), DstPort: to.Port()},
			Reverse: netlink.IPTuple{SrcIP: net.IP(from.Addr().AsSlice()), SrcPort: from.Port()},
		}
		if got := ends.MatchConntrackFlow(flow); got != tt.want {
			t.Errorf("%s: ends is %v, want %v", tt.name, got, tt.want)
		}
	}
	if got := fs.valid(true, proxy.Model{}, nil, proxy.Outside); len(got) != 1 {
		t.Errorf("of a service that is gone %v, want its address with no backend", got)
	}
}
