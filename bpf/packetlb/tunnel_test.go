package packetlb

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

// Numbers of the tunnel: its hardware addresses here and there, its network and port.
var endHere, endThere = [6]byte{0x6e, 0, 0, 0, 0, 1}, [6]byte{0x6e, 0, 0, 0, 0, 2}

const (
	network    = 0x123456
	tunnelPort = "4790"
	otherNode  = "192.0.2.2"
)

// tunnelled is a frame in a packet of the tunnel, from there to here.
func tunnelled(inner []byte, change ...func(*pkt)) []byte {
	inside := append(append(append([]byte{8, 0, 0, 0, network >> 16, network >> 8 & 0xff, network & 0xff, 0}, endHere[:]...), endThere[:]...), inner[12:]...)
	p := pkt{src: ap(otherNode + ":50000"), dst: ap(node + ":" + tunnelPort), proto: udp, data: string(inside), noUDPSum: true}
	for _, f := range change {
		f(&p)
	}
	return frame(p.ip())
}

// with is a frame with a byte of it changed.
func with(frame []byte, at int, b byte) []byte {
	frame[at] = b
	return frame
}

// What connections of pods say goes past the tunnel's device: into a packet to the other end, and out of one from there. What is not plainly theirs passes the device.
func pairsPastTheTunnel(t *testing.T, b *bench) {
	b.ns = netnstest.New(t)
	defer func() { b.ns = nil }()
	b.ns.Forward()
	b.ns.Join("up", "", netnstest.New(t), "eth0")
	b.ns.Addrs("up", node+"/24")
	b.ns.Must(b.ns.NL.NeighSet(&netlink.Neigh{LinkIndex: b.ns.Link("up").Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(otherNode), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 2}}))
	b.ns.Must(b.ns.NL.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx", MTU: 1450, HardwareAddr: endHere[:]}, VxlanId: network, Port: 4790, SrcAddr: net.ParseIP(node)}))
	vx := b.ns.Link("vx")
	b.ns.Must(b.ns.NL.LinkSetUp(vx))
	next := net.ParseIP("169.254.77.1")
	b.ns.Must(b.ns.NL.NeighSet(&netlink.Neigh{LinkIndex: vx.Attrs().Index, State: netlink.NUD_PERMANENT, IP: next, HardwareAddr: endThere[:]}))
	_, dst, err := net.ParseCIDR("10.1.1.0/24")
	b.ns.Must(err)
	b.ns.Must(b.ns.NL.RouteReplace(&netlink.Route{LinkIndex: vx.Attrs().Index, Dst: dst, Gw: next, Flags: int(netlink.FLAG_ONLINK)}))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pod, bridge := net.HardwareAddr{2, 0xaa, 0, 0, 0, 2}, net.HardwareAddr{2, 0xbb, 0, 0, 0, 1}
	must(b.lb.setPods([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}))
	must(b.lb.SetPast(map[netip.Addr]Peer{ap(here).Addr(): {Link: 1, Via: 1, MAC: pod, Own: bridge}}, true))
	must(b.lb.SetPairs([]netip.Prefix{netip.MustParsePrefix("10.1.1.0/24")}, true))
	tunnel := &Tunnel{Link: vx.Attrs().Index, Local: netip.MustParseAddr(node), VNI: network, Port: 4790, MAC: endHere, Ends: map[[6]byte]netip.Addr{endThere: netip.MustParseAddr(otherNode)}}
	must(b.lb.SetTunnel(tunnel))

	in := "past " + there + " > " + here
	outer := otherNode + ":50000 > " + node + ":" + tunnelPort
	b.steps(t,
		step{"outside", tunnelled(b.pkt(tcp, there, here)), outer, "not_service"}, // nobody has seen how it began
		step{"outside", tunnelled(b.pkt(tcp, there, here, begins)), in, "not_service"},
		step{"outside", tunnelled(b.pkt(tcp, there, here)), in, "not_service"},
		step{"outside", withTOS(tunnelled(b.pkt(tcp, there, here)), 2), in, "not_service"}, // ECN is spoken of
		step{"outside", withTOS(tunnelled(b.pkt(tcp, there, here)), 3), outer, "not_service"},
		step{"outside", with(tunnelled(b.pkt(tcp, there, here)), 14+28, 0), outer, "not_service"},
		step{"outside", with(tunnelled(b.pkt(tcp, there, here)), 14+28+6, 0), outer, "not_service"}, // another network's
		step{"outside", with(tunnelled(b.pkt(tcp, there, here)), 14+36+5, 9), outer, "not_service"}, // for another end
		step{"outside", tunnelled(b.pkt(tcp, there, here), func(p *pkt) { p.dst = ap(otherNode + ":" + tunnelPort) }), otherNode + ":50000 > " + otherNode + ":" + tunnelPort, "not_service"},
		step{"outside", tunnelled(b.pkt(tcp, there, here), func(p *pkt) { p.dst = ap(node + ":4789") }), otherNode + ":50000 > " + node + ":4789", "not_service"},
		step{"outside", tunnelled(b.pkt(udp, there, here)), outer, "not_service"},
		step{"outside", tunnelled(b.pkt(tcp, there, "10.1.9.2:8080", begins)), outer, "not_service"},
		step{"outside", tunnelled(b.pkt(tcp, there, here, func(p *pkt) { p.options = 4 })), outer, "not_service"},
		step{"outside", tunnelled(b.pkt(tcp, there, here))[:14+50+20], outer, "not_service"}, // cut short
	)
	got, _, _ := b.run(b.objs.FromOutsideNow, tunnelled(b.pkt(tcp, there, here)))
	want := withHops(b.pkt(tcp, there, here), 63)
	copy(want, append(append([]byte{}, pod...), bridge...))
	if !bytes.Equal(got, want) {
		t.Errorf("into the pod:\n%x, want\n%x", got, want)
	}

	for tos, ecn := range map[byte]byte{0: 0, 0xb8 | 1: 1, 2: 2, 3: 2} {
		sent := withTOS(b.pkt(tcp, here, there), tos)
		out, action, _ := b.run(b.objs.FromPodNow, sent)
		if action != 7 || len(out) != len(sent)+50 {
			t.Fatalf("action %d, %d bytes from %d", action, len(out), len(sent))
		}
		ip, datagram := out[14:34], out[34:]
		inside := withTOS(withHops(b.pkt(tcp, here, there), 63), tos)[12:]
		switch vxlan := datagram[8:]; {
		case ip[0] != 0x45 || ip[1] != ecn || ip[8] != 64 || ip[9] != udp || folded(sum(ip, 0)) != 0 || !bytes.Equal(ip[12:20], []byte{192, 0, 2, 1, 192, 0, 2, 2}) || int(binary.BigEndian.Uint16(ip[2:])) != len(out)-14:
			t.Errorf("outside: %x", ip)
		case binary.BigEndian.Uint16(datagram) < 0xc000 || binary.BigEndian.Uint16(datagram[2:]) != 4790 || int(binary.BigEndian.Uint16(datagram[4:])) != len(datagram) || datagram[6]|datagram[7] != 0:
			t.Errorf("datagram: %x", datagram[:8])
		case !bytes.Equal(vxlan[:8], []byte{8, 0, 0, 0, 0x12, 0x34, 0x56, 0}) || !bytes.Equal(vxlan[8:14], endThere[:]) || !bytes.Equal(vxlan[14:20], endHere[:]) || !bytes.Equal(vxlan[20:], inside):
			t.Errorf("inside: %x, want %x", vxlan, inside)
		}
	}

	out := "past " + here + " > " + there // to the tunnel's device, as it is
	long := b.pkt(tcp, here, there, func(p *pkt) { p.data = string(make([]byte, 1410)) })
	if got, action, _ := b.run(b.objs.FromPodNow, long); action != 7 || len(got) != 14+1500 {
		t.Errorf("the longest packet: action %d, %d bytes", action, len(got))
	}
	b.ns.SetMTU("up", 1400)
	b.steps(t, step{"pod", long, out, ""}) // which says what is too long
	b.ns.SetMTU("up", 1500)
	tunnel.Ends = nil
	must(b.lb.SetTunnel(tunnel))
	b.steps(t, step{"pod", b.pkt(tcp, here, there), out, ""})
	must(b.lb.SetTunnel(nil))
	b.steps(t,
		step{"pod", b.pkt(tcp, here, there), out, ""},
		step{"outside", tunnelled(b.pkt(tcp, there, here)), outer, "not_service"},
	)
}

func withTOS(frame []byte, tos byte) []byte {
	frame[14+1], frame[14+10], frame[14+11] = tos, 0, 0
	c := folded(sum(frame[14:34], 0))
	frame[14+10], frame[14+11] = byte(c>>8), byte(c)
	return frame
}
