package ebpf

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/packetlb"
)

// tunnel has packets between the two nodes' pods take a tunnel of VXLAN, and on the first node go past its device.
func (f *field) tunnel() {
	f.t.Helper()
	macs := []net.HardwareAddr{{0x6e, 0, 0, 0, 0, 1}, {0x6e, 0, 0, 0, 0, 2}}
	links := make([]int, 2)
	for i, ns := range []*netnstest.NS{f.node, f.other} {
		addrs := []net.IP{net.IPv4(192, 0, 2, 1).To4(), net.IPv4(192, 0, 2, 2).To4()}
		vx := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx", MTU: 1450, HardwareAddr: macs[i]}, VxlanId: 7, Port: 4790, SrcAddr: addrs[i]}
		ns.Must(ns.NL.LinkAdd(vx))
		links[i] = ns.Link("vx").Attrs().Index
		ns.Must(ns.NL.LinkSetUp(ns.Link("vx")))
		ns.Must(ns.NL.NeighSet(&netlink.Neigh{LinkIndex: links[i], Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: addrs[1-i], HardwareAddr: macs[1-i]}))
		for bits, pods := range map[int][]string{32: {"10.1.0.0/24", "10.1.1.0/24"}, 128: {"fd10::/64", "fd10:1::/64"}} {
			_, dst, err := net.ParseCIDR(pods[1-i])
			ns.Must(err)
			next := net.ParseIP(map[int]string{32: "169.254.77.1", 128: "fe80::77"}[bits])
			ns.Must(ns.NL.NeighSet(&netlink.Neigh{LinkIndex: links[i], State: netlink.NUD_PERMANENT, IP: next, HardwareAddr: macs[1-i]}))
			ns.Must(ns.NL.RouteReplace(&netlink.Route{LinkIndex: links[i], Dst: dst, Gw: next, Flags: int(netlink.FLAG_ONLINK)}))
		}
	}
	f.pairs(true) // programs on the new device, too
	f.through = &packetlb.Tunnel{
		Link: links[0], Local: netip.MustParseAddr("192.0.2.1"), VNI: 7, Port: 4790, MAC: [6]byte(macs[0]), Ends: map[[6]byte]netip.Addr{[6]byte(macs[1]): netip.MustParseAddr("192.0.2.2")},
	}
	f.pass(f.through)
}

// pass has connections go past the device of a tunnel, or of none.
func (f *field) pass(t *packetlb.Tunnel) {
	f.t.Helper()
	f.node.Must(f.node.Do(func() error { return f.lb.SetTunnel(t) }))
}

// untunnelled is a node that neither forwards nor lets a tunnel through.
const untunnelled = closed + `table inet untunnelled {
 chain input {
  type filter hook input priority 0;
  udp dport 4790 drop
 }
 chain output {
  type filter hook output priority 0;
  udp dport 4790 drop
 }
}
`

// Connections of pods go past the tunnel's device on one node, whose other end knows nothing of that; bulk arrives whole, by devices that cut packets and add up sums and by
// those that do not, and where a packet is too long its sender is told.
func TestKernelPairsPastTheTunnel(t *testing.T) {
	each(t, func(t *testing.T, f *field) {
		f.set(published(nil, 1))
		f.pods[2].Echoes("10.1.1.2:9090")
		f.pods[0].Echoes("10.1.0.2:9090")
		f.tunnel()
		rules(f.node, untunnelled)
		to := map[*netnstest.NS]string{f.pods[0]: "10.1.1.2:9090", f.pods[2]: "10.1.0.2:9090"}
		talk := f.talkers(to)
		talk("past the tunnel's device", 4<<20)
		if got := f.pods[0].Ask("tcp", "10.1.1.2:8080", 10); len(got.Failed) > 0 || got.Saw["10.1.0.2"] != 10 {
			t.Errorf("a pod elsewhere: %+v", got)
		}
		f.node.NoOffload("up")
		talk("with sums and segments by the kernel", 1<<20)
		f.open()
		talk("while the agent is away", 1<<10)
		f.set(published(nil, 1))
		rules(f.node, "delete table inet untunnelled\ndelete table inet closed\n")
		f.pass(nil)
		talk("by the tunnel's device again", 1<<20)
		for from, addr := range map[*netnstest.NS]string{f.pods[0]: "[fd10:1::2]:8080", f.pods[2]: "[fd10::2]:8080"} {
			if got := from.Ask("tcp", addr, 3); len(got.Failed) > 0 {
				t.Errorf("IPv6 by the tunnel: %+v", got)
			}
		}
		f.pairs(true)
		f.pass(f.through)
		f.narrow()
		f.talkers(to)("through a device that is too narrow for the tunnel", 1<<20)
	})
}
