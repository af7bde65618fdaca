package routes

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestKernelRoundTrip puts every kind of item and reads it again, changes and drops them.
func TestKernelRoundTrip(t *testing.T) {
	l := newLab(t, 0)
	n := l.nodes[0]
	for _, o := range []Overlay{DefaultOverlay(), {Auto, 7, 8472}} {
		for _, peers := range [][]Node{
			{peer(1, "10.200.0.9", "fd00:200::9"), peer(2, "10.200.1.9", "fd00:200:1::9")},
			{peer(1, "10.200.1.8"), peer(2, "10.200.0.7", "fd00:200::7"), peer(3, "fd00:200:1::3")},
			{},
		} {
			view := View{Self: n.node, Peers: peers}
			paths, err := Paths(n.k, view)
			must(t, err)
			for i := range 2 { // the second time there is nothing to do
				actual, err := n.k.State()
				must(t, err)
				want, _ := Decide(view, o, paths, actual)
				todo := Plan(want, actual)
				if i == 1 {
					if d := cmp.Diff(text(want), text(actual)); d != "" {
						t.Error(d)
					}
				}
				for _, a := range todo {
					if err := n.k.Apply(a); err != nil {
						t.Fatalf("%s: %v", a, err)
					}
				}
			}
		}
	}
	gone := Action{Item: Route{Dst: prefix("10.1.3.0/24")}, Drop: true}
	if err := n.k.Apply(gone); err != nil {
		t.Errorf("drop what is gone: %v", err)
	}
	if err := n.k.Apply(Action{Item: Route{Dst: prefix("10.1.3.0/24"), Via: addr("198.51.100.1")}}); !errors.Is(err, ErrOffLink) {
		t.Errorf("a next hop off link: %v", err)
	}
}

// TestKernelOthersThings leaves alone what somebody else made, even where it stands in the way.
func TestKernelOthersThings(t *testing.T) {
	l := newLab(t, 0, 1)
	n := l.nodes[0]
	theirs := &netlink.Route{Dst: netOf(prefix("10.244.1.0/24")), Gw: addr("10.200.0.254").AsSlice(), Protocol: unix.RTPROT_STATIC}
	must(t, n.NL.RouteAdd(theirs))
	l.run(DefaultOverlay())
	l.converge("both nodes", DefaultOverlay())
	vx, err := n.NL.LinkByName(tunnel4)
	must(t, err)
	mac := []byte{0x0a, 1, 2, 3, 4, 5}
	must(t, n.NL.NeighAdd(&netlink.Neigh{LinkIndex: vx.Attrs().Index, Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, State: unix.NUD_PERMANENT, IP: addr("10.200.1.99").AsSlice(), HardwareAddr: mac}))
	must(t, n.NL.NeighAdd(&netlink.Neigh{LinkIndex: vx.Attrs().Index, Family: netlink.FAMILY_V4, State: unix.NUD_PERMANENT, IP: addr("10.99.0.1").AsSlice(), HardwareAddr: mac}))
	rule := netlink.NewRule()
	rule.Src, rule.Table, rule.Priority, rule.Family = netOf(prefix("10.244.0.0/24")), 100, 100, netlink.FAMILY_V4
	must(t, n.NL.RuleAdd(rule))
	l.changed()
	l.converge("with others' things there", DefaultOverlay())
	fdb, err := n.NL.NeighList(vx.Attrs().Index, unix.AF_BRIDGE)
	must(t, err)
	neighbours, err := n.NL.NeighList(vx.Attrs().Index, netlink.FAMILY_V4)
	must(t, err)
	if len(fdb) != 2 || len(neighbours) != 2 {
		t.Errorf("left on the tunnel: %v, %v", fdb, neighbours)
	}
	if tun, link, ends, ok, err := n.k.Ends(); err != nil || !ok || link != vx.Attrs().Index || tun.MAC != MACOf(n.node.UID) || len(ends) != 1 || ends[0].Addr != l.nodes[1].node.Addrs[0] || ends[0].MAC != MACOf(l.nodes[1].node.UID) {
		t.Errorf("ends of the tunnel: %v %d %v %t %v", tun, link, ends, ok, err)
	}
	must(t, n.k.TurnOffload(tunnel4))
	if _, _, _, ok, err := n.k.Ends(); err != nil || ok {
		t.Errorf("a device that works out checksums is passed: %v", err)
	}
	l.stop()
	must(t, RemoveAll(n.k))
	routes, err := n.NL.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: theirs.Dst}, netlink.RT_FILTER_DST)
	must(t, err)
	rules, err := n.NL.RuleList(netlink.FAMILY_V4)
	must(t, err)
	if len(routes) != 1 || len(rules) != 4 { // three are the kernel's
		t.Errorf("left: %v, %v", routes, rules)
	}
	if _, err := n.NL.LinkByName(tunnel4); err == nil {
		t.Error("the tunnel is there still")
	}
	if _, link, _, ok, err := n.k.Ends(); err != nil || ok || link != 0 {
		t.Errorf("ends of no tunnel: %d %t %v", link, ok, err)
	}
}

// TestKernelTunnelTaken names who is in the way.
func TestKernelTunnelTaken(t *testing.T) {
	n := newLab(t, 0).nodes[0]
	must(t, n.NL.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "theirs"}, VxlanId: 1, Port: 4789}))
	mine := Tunnel{Name: tunnel4, VNI: 1, Port: 4789, Local: n.node.Addrs[0], MAC: MACOf("x"), MTU: 1450}
	if err := n.k.Apply(Action{Item: mine}); err == nil || !strings.Contains(err.Error(), "--vxlan-vni") {
		t.Errorf("beside another link of the same identifier: %v", err)
	}
	mine.VNI = 2
	must(t, n.k.Apply(Action{Item: mine}))
	must(t, n.NL.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: tunnel6}}))
	if _, err := n.k.State(); err == nil || !strings.Contains(err.Error(), "not ours") {
		t.Errorf("with a bridge of our name: %v", err)
	}
}

// TestKernelNodesComeAndGo has nodes added, removed, re-addressed, moved between networks and given other ranges, and packets follow within a second.
func TestKernelNodesComeAndGo(t *testing.T) {
	l := newLab(t, 0, 0, 1)
	o := DefaultOverlay()
	l.run(o)
	l.converge("three nodes", o)
	var ends []end
	for _, n := range l.nodes {
		pod, addrs := n.pod(1500)
		serve(t, pod, addrs)
		ends = append(ends, end{ns: pod, addrs: addrs})
	}
	all := func() error {
		var errs []error
		for i, a := range ends {
			for j, b := range ends {
				for f, to := range b.addrs {
					seen, err := ask(a.ns, "udp", to, 100)
					if err != nil || seen != a.addrs[f].String() {
						errs = append(errs, fmt.Errorf("pod %d to %d: %s seen, %w", i, j, seen, err))
					}
				}
			}
		}
		return errors.Join(errs...)
	}
	l.within("all pods reach all", all)
	l.nodes[1].plug(1)
	l.changed()
	l.converge("a node moved behind the router", o)
	l.within("all pods reach all", all)
	l.nodes[2].plug(0)
	l.changed()
	l.converge("another one moved to this side", o)
	l.within("all pods reach all", all)

	l.mu.Lock()
	n := l.nodes[1]
	n.node.UID = "another"
	n.node.Pods = []netip.Prefix{prefix("10.244.77.0/24")}
	l.mu.Unlock()
	l.changed()
	l.converge("a node made anew, with another range", o)
	if list, err := l.nodes[0].k.State(); err != nil || list[Route{Dst: prefix("10.244.1.0/24")}.key()] != nil {
		t.Errorf("the old range is still routed: %v", err)
	}
	more := l.addNode(3, 1)
	l.run(o)
	l.changed()
	l.converge("a fourth node", o)
	l.mu.Lock()
	l.nodes = []*labNode{l.nodes[0], l.nodes[2]}
	l.mu.Unlock()
	l.changed()
	l.converge("the two behind the router gone", o)
	if s, err := l.nodes[0].k.State(); err != nil || len(s) != 2 {
		t.Errorf("left with one node on the link: %s, %v", text(s), err)
	}
	_ = more
}

// TestKernelWayChanges has only the kernel's routes change: no word from the API.
func TestKernelWayChanges(t *testing.T) {
	l := newLab(t, 0, 0)
	o := DefaultOverlay()
	l.run(o)
	l.converge("two nodes", o)
	n := l.nodes[0]
	is := func(how string) func() error {
		return func() error {
			s, err := n.k.State()
			r, _ := s[Route{Dst: prefix("10.244.1.0/24")}.key()].(Route)
			if err != nil || r.way() != how {
				return fmt.Errorf("route %s, %w", r.way(), err)
			}
			return nil
		}
	}
	l.within("direct", is("via 10.200.0.11"))
	host := &netlink.Route{Dst: netOf(prefix("10.200.0.11/32")), Gw: addr("10.200.0.254").AsSlice()}
	must(t, n.NL.RouteAdd(host))
	l.within("a route by the router", is("via 10.200.0.11 over orlop-vx from 10.200.0.10"))
	must(t, n.NL.RouteDel(host))
	l.within("and none again", is("via 10.200.0.11"))
	l.mtu(n.NS, "eth0", 1400)
	must(t, n.NL.RouteAdd(host))
	l.within("by the router, over a smaller link", func() error {
		vx, err := n.NL.LinkByName(tunnel4)
		if err == nil && vx.Attrs().MTU != 1350 {
			err = fmt.Errorf("MTU %d", vx.Attrs().MTU)
		}
		return err
	})
}
