package packetlb

import (
	"net/netip"
	"slices"
	"testing"
)

func TestDevicesOf(t *testing.T) {
	a := func(list ...string) (out []netip.Addr) {
		for _, s := range list {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	pods := []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd44::/64")}
	lo := Link{Index: 1, Name: "lo", Type: "device", Loopback: true, Addrs: a("192.0.2.50")}
	for _, tt := range []struct {
		name  string
		links []Link
		want  []Device
	}{
		{"a card and pods on our bridge", []Link{lo,
			{Index: 2, Name: "eth0", Type: "device", Ethernet: true, Addrs: a("192.0.2.1")},
			{Index: 3, Name: "orlop0", Type: "bridge", Ethernet: true, Addrs: a("10.244.0.1", "fd44::1")},
			{Index: 4, Name: "orlaaaa", Type: "veth", Ethernet: true, Master: 3},
			{Index: 5, Name: "orbaaaa", Type: "ifb", Ethernet: true}}, []Device{{2, "eth0", false}, {4, "orlaaaa", true}}},
		{"a node that is itself a container", []Link{lo, {Index: 2, Name: "eth0", Type: "veth", Ethernet: true, Addrs: a("192.0.2.1")}}, []Device{{2, "eth0", false}}},
		{"pods on links of their own, with a gateway or without", []Link{
			{Index: 5, Name: "veth5", Type: "veth", Ethernet: true, Addrs: a("10.244.0.1")}, {Index: 6, Name: "cali6", Type: "veth", Ethernet: true}},
			[]Device{{5, "veth5", true}, {6, "cali6", true}}},
		{"a bond and a VLAN on it", []Link{
			{Index: 2, Name: "eth0", Type: "device", Ethernet: true, Master: 9}, {Index: 3, Name: "eth1", Type: "device", Ethernet: true, Master: 9},
			{Index: 9, Name: "bond0", Type: "bond", Ethernet: true}, {Index: 10, Name: "bond0.7", Type: "vlan", Ethernet: true, Addrs: a("192.0.2.1")}},
			[]Device{{9, "bond0", false}, {10, "bond0.7", false}}},
		{"a bridge that has the node's address", []Link{
			{Index: 2, Name: "eth0", Type: "device", Ethernet: true, Master: 3}, {Index: 3, Name: "br0", Type: "bridge", Ethernet: true, Addrs: a("192.0.2.1")}},
			[]Device{{3, "br0", false}}},
		{"an overlay, and a tunnel without Ethernet", []Link{
			{Index: 3, Name: "vxlan1", Type: "vxlan", Ethernet: true}, {Index: 4, Name: "wg0", Type: "wireguard", Addrs: a("192.0.2.77")}}, []Device{{3, "vxlan1", false}}},
	} {
		if got := DevicesOf(tt.links, pods); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestEveryReasonHasItsName(t *testing.T) {
	if got, want := len(reasonNames()), int(objectReasonREASON_MAX); got != want {
		t.Errorf("%d names for %d reasons", got, want)
	}
}

func TestPortsBeside(t *testing.T) {
	for local, want := range map[string][2]uint16{
		"32768\t60999\n": {1024, 29999}, "20000 60999": {1024, 19999}, "1024 60000": {60001, 65535}, "1024 65535": {}, "": {}, "1 x": {}, "70000 80000": {},
	} {
		first, last, err := PortsBeside(local)
		if [2]uint16{first, last} != want || (err != nil) != (want == [2]uint16{}) {
			t.Errorf("%q: %d to %d, %v, want %v", local, first, last, err, want)
		}
	}
}
