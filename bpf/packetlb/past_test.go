package packetlb

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/podnet"
	"github.com/orlop-io/orlop/bpf/socklb"
)

// A request goes straight into its pod and the answer straight out, each one hop nearer to its end; what the stack has to say something about goes to it.
func pastTheStack(t *testing.T, b *bench) {
	b.ns = netnstest.New(t)
	defer func() { b.ns = nil }()
	b.ns.Forward()
	out := netnstest.New(t)
	b.ns.Join("up", "", out, "eth0")
	b.ns.Addrs("up", node+"/24", node6+"/64")
	b.ns.Route("default", "192.0.2.254")
	b.ns.Route("default", "fd02::254")
	router, _ := net.ParseMAC("02:00:00:00:00:fe")
	for _, gw := range []string{"192.0.2.254", "fd02::254"} {
		b.ns.Must(b.ns.NL.NeighSet(&netlink.Neigh{LinkIndex: b.ns.Link("up").Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(gw), HardwareAddr: router}))
	}
	pod, _ := net.ParseMAC("02:aa:00:00:00:02")
	bridge, _ := net.ParseMAC("02:bb:00:00:00:01")
	past := Peer{Link: 1, Via: 1, MAC: pod, Own: bridge} // the device that packets are run at
	peers := map[netip.Addr]Peer{ap(here).Addr(): past, ap(here6).Addr(): past}
	for _, f := range families {
		b.lead(f.wild, true, socklb.Entry{Service: f.near, Count: 1})
		for _, proto := range []uint8{tcp, udp} {
			if err := b.lb.SetPast(peers, true); err != nil {
				t.Fatal(err)
			}
			b.steps(t,
				step{"pod", b.pkt(proto, f.here, f.client), "", "not_service"},
				step{"outside", b.pkt(proto, f.client, f.port, begins), "past " + f.client + " > " + f.here, "started"},
				step{"pod", b.pkt(proto, f.here, f.client), "past " + f.here + " > " + f.client, ""},
				step{"out", b.pkt(proto, f.here, f.client), f.port + " > " + f.client, "reply"},
				step{"outside", b.pkt(proto, f.client, f.port), "past " + f.client + " > " + f.here, "request"},
				step{"pod", b.pkt(proto, f.there, f.client), "", "not_service"},
			)
			in, _, _ := b.run(b.objs.FromOutsideNow, b.pkt(proto, f.client, f.port))
			if !bytes.Equal(in[:6], pod) || !bytes.Equal(in[6:12], bridge) || hops(in) != 63 {
				t.Errorf("into the pod: %x, %d hops left", in[:14], hops(in))
			}
			reply, _, _ := b.run(b.objs.FromPodNow, b.pkt(proto, f.here, f.client))
			if hops(reply) != 63 {
				t.Errorf("out of the pod: %d hops left", hops(reply))
			}
			last := func(p []byte) []byte { return withHops(p, 1) }
			b.steps(t, // the stack tells the sender
				step{"outside", last(b.pkt(proto, f.client, f.port)), f.client + " > " + f.here, "request"},
				step{"pod", last(b.pkt(proto, f.here, f.client)), "", "not_service"},
			)
			// A flow stays on its way when others begin on another; one that begins meanwhile goes by the stack, both ways.
			if err := b.lb.SetPast(peers, false); err != nil {
				t.Fatal(err)
			}
			other := ap(f.client)
			second := netip.AddrPortFrom(other.Addr(), 40001).String()
			b.at(1001)
			b.steps(t,
				step{"outside", b.pkt(proto, f.client, f.port), "past " + f.client + " > " + f.here, "request"},
				step{"pod", b.pkt(proto, f.here, f.client), "past " + f.here + " > " + f.client, ""},
				step{"outside", b.pkt(proto, second, f.port, begins), second + " > " + f.here, "started"},
				step{"pod", b.pkt(proto, f.here, second), "", "not_service"},
				step{"out", b.pkt(proto, f.here, second), f.port + " > " + second, "reply"},
			)
			// The link is gone, and nobody has said so: the stack knows where the pod is.
			gone := past
			gone.Link = 999
			if err := b.lb.SetPast(map[netip.Addr]Peer{ap(f.here).Addr(): gone}, true); err != nil {
				t.Fatal(err)
			}
			b.steps(t, step{"outside", b.pkt(proto, f.client, f.port), f.client + " > " + f.here, "request"})
			b.at(1000)
		}
	}
}

func hops(frame []byte) byte {
	if frame[14]>>4 == 4 {
		return frame[14+8]
	}
	return frame[14+7]
}

func withHops(frame []byte, n byte) []byte {
	if frame[14]>>4 == 6 {
		frame[14+7] = n
		return frame
	}
	frame[14+8] = n
	frame[14+10], frame[14+11] = 0, 0
	c := folded(sum(frame[14:34], 0))
	frame[14+10], frame[14+11] = byte(c>>8), byte(c)
	return frame
}

func TestPeersOfOneAddress(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	mine, stolen := netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.3")
	found := []podnet.Namespace{
		{Cookie: 1, Links: []podnet.Link{{MAC: mac, Peer: 5, Addrs: []netip.Addr{mine, stolen}}}},
		{Cookie: 2, Links: []podnet.Link{{MAC: mac, Peer: 6, Addrs: []netip.Addr{stolen}}}},
	}
	peers, _ := PeersOf(found, []Shape{{Index: 5}, {Index: 6}}, []Device{{5, "orl5", true}, {6, "orl6", true}}, func(Shape, Shape) bool { return true })
	if len(peers) != 1 || peers[mine].Link != 5 {
		t.Errorf("%v", peers)
	}
}

func TestPeersOf(t *testing.T) {
	mac, _ := net.ParseMAC("02:aa:00:00:00:02")
	own, _ := net.ParseMAC("02:bb:00:00:00:01")
	found := []podnet.Namespace{{Cookie: 9, Links: []podnet.Link{{MAC: mac, Peer: 5, Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd10::2")}}}}}
	on := []Device{{5, "orl5", true}}
	for _, tt := range []struct {
		name   string
		change func(host, bridge *Shape)
		on     []Device
		trust  bool
		want   bool
		why    string
	}{
		{"a pod of ours", func(*Shape, *Shape) {}, on, true, true, ""},
		{"another's", func(*Shape, *Shape) {}, on, false, false, "it is not of Orlop's CNI plugin"},
		{"with a limit to it", func(h, _ *Shape) { h.Queue = "tbf" }, on, true, false, "packets to it wait in a queue of type tbf"},
		{"with a limit from it", func(h, _ *Shape) { h.Others = []string{"a filter of type u32"} }, on, true, false, "a filter of type u32 looks at packets from it"},
		{"on a bridge with VLANs", func(_, b *Shape) { b.VLANs = true }, on, true, false, "its bridge filters by VLAN"},
		{"without programs", func(*Shape, *Shape) {}, nil, true, false, ""},
	} {
		host, bridge := Shape{Index: 5, Master: 3, Name: "orl5", Type: "veth"}, Shape{Index: 3, Name: "orlop0", Type: "bridge", MAC: own}
		tt.change(&host, &bridge)
		want := map[netip.Addr]Peer{}
		if tt.want {
			for _, a := range found[0].Links[0].Addrs {
				want[a] = Peer{Link: 5, Via: 3, MAC: mac, Own: own}
			}
		}
		got, why := PeersOf(found, []Shape{host, bridge}, tt.on, func(_, _ Shape) bool { return tt.trust })
		if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" || why["orl5"] != tt.why {
			t.Errorf("%s: %s %q", tt.name, d, why["orl5"])
		}
	}
}
