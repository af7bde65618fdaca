package packetlb

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/socklb"
)

// A connection of pods of two nodes goes past the stack, both ways, if its first packet is seen to begin it; nothing else does.
func pairsOfPods(t *testing.T, b *bench) {
	b.ns = netnstest.New(t)
	defer func() { b.ns = nil }()
	b.ns.Forward()
	out := netnstest.New(t)
	b.ns.Join("up", "", out, "eth0")
	b.ns.Addrs("up", node+"/24", node6+"/64")
	b.ns.Route("default", "192.0.2.254")
	b.ns.Route("default", "fd02::254")
	for _, gw := range []string{"192.0.2.254", "fd02::254"} {
		b.ns.Must(b.ns.NL.NeighSet(&netlink.Neigh{LinkIndex: b.ns.Link("up").Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(gw), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 0xfe}}))
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pod, bridge := net.HardwareAddr{2, 0xaa, 0, 0, 0, 2}, net.HardwareAddr{2, 0xbb, 0, 0, 0, 1}
	past := Peer{Link: 1, Via: 1, MAC: pod, Own: bridge} // the device that packets are run at
	elsewhere := past
	elsewhere.Link = 999
	peers := map[netip.Addr]Peer{ap(here).Addr(): past, ap(here6).Addr(): past}
	must(b.lb.setPods([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd10::/64")}))
	others := []netip.Prefix{netip.MustParsePrefix("10.1.1.0/24"), netip.MustParsePrefix("fd11::/64")}
	must(b.lb.SetPast(peers, true))
	for _, f := range families {
		must(clearMap[objectPair, objectPeer](b.lb.objs.Pairs))
		must(b.lb.SetPairs(others, true))
		const answers = syn | ack
		first, answer, synAnswer, data := b.pkt(tcp, f.here, f.there, begins), b.pkt(tcp, f.there, f.here), b.pkt(tcp, f.there, f.here, func(p *pkt) { p.flags = answers }), b.pkt(tcp, f.here, f.there)
		out := "past " + f.here + " > " + f.there
		in := "past " + f.there + " > " + f.here
		b.steps(t,
			step{"outside", answer, "", "not_service"}, // nobody has seen how they began
			step{"pod", data, "", "not_service"},
			step{"pod", b.pkt(udp, f.here, f.there), "", "not_service"},
			step{"pod", b.pkt(tcp, f.here, f.client, begins), "", "not_service"}, // where the stack masquerades
			step{"outside", b.pkt(tcp, f.client, f.here, begins), "", "not_service"},
			step{"outside", b.pkt(tcp, f.there, f.node+":80", begins), "", "not_service"},
			step{"pod", first, out, ""},
			step{"outside", synAnswer, in, "not_service"},
			step{"pod", data, out, ""},
			step{"outside", answer, in, "not_service"},
			step{"outside", withHops(b.pkt(tcp, f.there, f.here), 1), f.there + " > " + f.here, "not_service"}, // the stack tells the sender
			step{"pod", withHops(b.pkt(tcp, f.here, f.there), 1), "", "not_service"},
		)
		got, _, _ := b.run(b.objs.FromOutsideNow, answer)
		if !bytes.Equal(got[:6], pod) || !bytes.Equal(got[6:12], bridge) || hops(got) != 63 {
			t.Errorf("into the pod: %x, %d hops left", got[:14], hops(got))
		}
		if got, _, _ = b.run(b.objs.FromPodNow, data); hops(got) != 63 {
			t.Errorf("out of the pod: %d hops left", hops(got))
		}
		// It stays on its way when the node has rules by now; one that begins then does not take it, nor with the ports of one that did.
		must(b.lb.SetPairs(others, false))
		later := netip.AddrPortFrom(ap(f.there).Addr(), 41000).String()
		b.steps(t,
			step{"pod", data, out, ""},
			step{"outside", answer, in, "not_service"},
			step{"outside", b.pkt(tcp, later, f.here, begins), "", "not_service"},
			step{"outside", b.pkt(tcp, later, f.here), "", "not_service"},
			step{"pod", first, "", "not_service"},
			step{"pod", data, "", "not_service"},
			step{"outside", answer, "", "not_service"},
		)
		must(b.lb.SetPairs(others, false))
		if any, err := b.lb.AnyPair(); err != nil || any {
			t.Errorf("packets are looked up for nothing: %v", err)
		}
		// From outside; then another pod, by its own link, says that it is this one: neither its packets go this way, nor are the connection's kept from it.
		must(b.lb.SetPairs(others, true))
		b.steps(t,
			step{"outside", b.pkt(tcp, f.there, f.here, begins), in, "not_service"},
			step{"pod", b.pkt(tcp, f.here, f.there, func(p *pkt) { p.flags = answers }), out, ""},
		)
		must(b.lb.SetPast(map[netip.Addr]Peer{ap(f.here).Addr(): elsewhere}, true))
		b.steps(t,
			step{"pod", b.pkt(tcp, f.here, f.client, begins), "", "not_service"},
			step{"outside", b.pkt(tcp, later, f.here, begins), "", "not_service"}, // to a link that has gone
			step{"pod", b.pkt(tcp, f.here, later), "", "not_service"},             // from another's
		)
		must(b.lb.SetPast(peers, true))
		// What asks for a service is one's, wherever its address is.
		b.lead(f.there, false, socklb.Entry{Service: f.near, Count: 1})
		asks := netip.AddrPortFrom(ap(f.here).Addr(), 42000).String()
		if _, action, why := b.run(b.objs.FromPodNow, b.pkt(tcp, asks, f.there, begins)); action != -1 || why != "started" {
			t.Errorf("a pod asks for a service at %s: action %d because of %s", f.there, action, why)
		}
		must(b.svc.DeleteFrontend(socklb.Frontend{Addr: ap(f.there).Addr(), Port: ap(f.there).Port(), Protocol: tcp}))
		must(b.svc.DeleteFrontend(socklb.Frontend{Addr: ap(f.there).Addr(), Port: ap(f.there).Port(), Protocol: udp}))
		must(clearMap[uint32, objectLink](b.lb.objs.Links))
	}
}
