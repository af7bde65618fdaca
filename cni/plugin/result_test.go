package plugin

import (
	"encoding/json"
	"net"
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/orlop-io/orlop/cni/nat"
)

// Older and newer plugins of a node read each other's leases.
func TestHoldingsAreWrittenAsTheLibraryDoes(t *testing.T) {
	for _, h := range []holding{
		{}, {Netns: "/run/netns/a", Pod: "ns/a<b"}, {Aliases: []string{"a", "ä"}, Limited: true},
		{Netns: "/n", Ports: []nat.HostPort{{Protocol: nat.TCP, Port: 80}}, Guard: &nat.Guard{Port: "orl1", MAC: net.HardwareAddr{1, 2}}},
		{Subnets: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24"), netip.MustParsePrefix("fd00::/64")}, Limited: true},
	} {
		w := written{Netns: h.Netns, Pod: h.Pod, Aliases: h.Aliases, Subnets: h.Subnets, Limited: h.Limited}
		var err error
		if len(h.Ports) > 0 {
			w.Ports, err = json.Marshal(h.Ports)
		}
		if h.Guard != nil && err == nil {
			w.Guard, err = json.Marshal(h.Guard)
		}
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		got, err := h.encode()
		if d := cmp.Diff(string(want), string(got)); d != "" || err != nil {
			t.Errorf("%v, want less got:\n%s", err, d)
		}
		if d := cmp.Diff(h, holdingOf(ipam.Lease{Data: got}), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})); d != "" {
			t.Errorf("it came back otherwise, want less got:\n%s", d)
		}
	}
}

// Results are what the specification's library makes of them.
func TestResultsAreTheLibrarys(t *testing.T) {
	number := func(n int) *int { return &n }
	network := func(s string) net.IPNet {
		ip, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		n.IP = ip
		return *n
	}
	full := &current.Result{
		Interfaces: []*current.Interface{
			{Name: "cni0", Mac: "0a:58:0a:50:00:01", Mtu: 1500},
			{Name: "eth0", Sandbox: "/run/netns/a <b> & \"c\"\n\u2028ä", SocketPath: "/s", PciID: "1"},
			{},
		},
		IPs: []*current.IPConfig{
			{Address: network("10.0.0.2/24"), Gateway: net.IPv4(10, 0, 0, 1), Interface: number(2)},
			{Address: network("fd00::2/64"), Gateway: net.ParseIP("fd00::1"), Interface: number(0)},
			{Address: network("10.0.0.3/32"), Gateway: net.IP{10, 0, 0, 1}},
		},
		Routes: []*types.Route{
			{Dst: network("0.0.0.0/0"), GW: net.IP{10, 0, 0, 1}, MTU: 1450, AdvMSS: 1400, Priority: 7, Table: number(1000), Scope: number(0)},
			{Dst: network("::/0")},
		},
		DNS: types.DNS{Nameservers: []string{"192.0.2.1", "192.0.2.2"}, Domain: "example", Search: []string{"a<b"}, Options: []string{"ndots:5"}},
	}
	for name, r := range map[string]*current.Result{"full": full, "empty": {}, "of one key": {DNS: types.DNS{Domain: "a"}}} {
		for _, version := range []string{"1.0.0", "1.1.0"} {
			r.CNIVersion = version
			want, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(encodeResult(r, version))); d != "" {
				t.Errorf("%s, %s: want less got:\n%s", name, version, d)
			}
		}
	}
}
