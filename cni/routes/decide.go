package routes

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Node is what routes need to know of a node.
type Node struct {
	Name  string
	UID   string
	Pods  []netip.Prefix
	Addrs []netip.Addr // where other nodes reach it; the first of each family counts
}

// View is the nodes of a cluster, as one of them sees them.
type View struct {
	Self  Node
	Peers []Node
}

// Path is how this node would send to an address, but for what is ours.
type Path struct {
	// Reachable says that there is a way.
	Reachable bool
	// Router is the next hop, if the address is not on a link.
	Router netip.Addr
	// Routed says that the address is not on a link that has neighbours, even if there is no Router: a tunnel of somebody else's.
	Routed bool
	// MTU of the way's first link, or of the route, in bytes.
	MTU int
	// Learned is the MTU of the whole way, where a router has told that it is smaller; 0 where none has.
	Learned int
}

// When says when packets to another node's pods go over a tunnel.
type When string

// The values of When.
const (
	Auto   When = "auto"   // where the node is not on a link of this one
	Always When = "always" // also where it is, as on clouds that drop what is not from a node's own address
	Never  When = "never"  // routers know the pods' ranges
)

// Overlay is how tunnels are made.
type Overlay struct {
	When When
	VNI  uint32 // 1 to 16777215
	Port uint16 // UDP
}

// DefaultOverlay is VNI 1 and IANA's port for VXLAN, where a router lies between.
func DefaultOverlay() Overlay { return Overlay{Auto, 1, 4789} }

// Validate says all that is wrong with o.
func (o Overlay) Validate() error {
	var errs []error
	if !slices.Contains([]When{Auto, Always, Never}, o.When) {
		errs = append(errs, fmt.Errorf("overlay %q: allowed are %s, %s and %s", o.When, Auto, Always, Never))
	}
	if o.VNI == 0 || o.VNI >= 1<<24 {
		errs = append(errs, fmt.Errorf("VXLAN network identifier %d is not between 1 and %d", o.VNI, 1<<24-1))
	}
	if o.Port == 0 {
		errs = append(errs, errors.New("the VXLAN port must not be 0"))
	}
	return errors.Join(errs...)
}

// Names of the tunnels, by the family of the packets outside.
const (
	tunnel4 = "orlop-vx"
	tunnel6 = "orlop-vx6"
	// What a tunnel adds to a packet: an Ethernet header inside; UDP, VXLAN and IP outside.
	overhead4 = 14 + 8 + 8 + 20
	overhead6 = 14 + 8 + 8 + 40
)

func tunnelOf(outer netip.Addr) (name string, overhead int) {
	if outer.Is4() {
		return tunnel4, overhead4
	}
	return tunnel6, overhead6
}

// How packets to a peer's pods go.
type How string

// The values of How.
const (
	ByNobody  How = "-"
	ByLink    How = "direct"
	ByTunnel  How = "overlay"
	ByRouters How = "routers" // whose business it is
)

// Decision is what became of a peer, and why.
type Decision struct {
	Peer Node
	How  How
	Why  string
}

// Decide lists what should be in the kernel. Paths has one for each address of the peers; actual only decides where it says nothing.
func Decide(v View, o Overlay, paths map[netip.Addr]Path, actual State) (State, []Decision) {
	want := State{}
	var out []Decision
	peers := slices.Clone(v.Peers)
	slices.SortFunc(peers, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range peers {
		d := Decision{Peer: p, How: ByNobody}
		outer, err := underlay(v.Self, p)
		if err == nil {
			d.How, d.Why = choose(p, outer, o, paths, actual)
		} else {
			d.Why = err.Error()
		}
		switch d.How {
		case ByLink:
			direct(want, v.Self, p)
		case ByTunnel:
			over(want, v.Self, p, outer, o, paths)
		}
		out = append(out, d)
	}
	keepMTU(want, actual)
	return want, out
}

// underlay is the pair of addresses that packets between two nodes have: the first family that both have, IPv4 before IPv6.
func underlay(self, peer Node) ([2]netip.Addr, error) {
	for _, v4 := range []bool{true, false} {
		a, b := self.addr(v4), peer.addr(v4)
		if a.IsValid() && b.IsValid() {
			return [2]netip.Addr{a, b}, nil
		}
	}
	if len(peer.Pods) == 0 {
		return [2]netip.Addr{}, errors.New("it has no pods' range yet")
	}
	return [2]netip.Addr{}, errors.New("it has no InternalIP of a family that this node has one of")
}

func (n Node) addr(v4 bool) netip.Addr {
	i := slices.IndexFunc(n.Addrs, func(a netip.Addr) bool { return a.Is4() == v4 })
	if i < 0 {
		return netip.Addr{}
	}
	return n.Addrs[i]
}

func choose(p Node, outer [2]netip.Addr, o Overlay, paths map[netip.Addr]Path, actual State) (How, string) {
	path := paths[outer[1]]
	if o.When == Always {
		return ByTunnel, "an overlay is asked for"
	}
	if !path.Reachable {
		for _, pods := range p.Pods {
			if r, ok := actual[Route{Dst: pods}.key()].(Route); ok && (r.Tunnel == "") == (r.Via == p.addr(pods.Addr().Is4())) {
				return map[bool]How{true: ByLink, false: ByTunnel}[r.Tunnel == ""], fmt.Sprintf("kept: there is no way to %s now", outer[1])
			}
		}
		return ByNobody, fmt.Sprintf("there is no way to %s", outer[1])
	}
	off := ""
	for i := -1; i < len(p.Pods) && off == ""; i++ {
		a := outer[1]
		if i >= 0 { // packets of the other family need a next hop, too
			a = p.addr(p.Pods[i].Addr().Is4())
		}
		switch path := paths[a]; {
		case !a.IsValid():
			off = fmt.Sprintf("no InternalIP of the family of %s", p.Pods[i])
		case path.Router.IsValid():
			off = fmt.Sprintf("the router %s lies before %s", path.Router, a)
		case path.Routed:
			off = fmt.Sprintf("the link to %s has no neighbours", a)
		}
	}
	switch {
	case off == "":
		return ByLink, fmt.Sprintf("%s is on a link of this node", outer[1])
	case o.When == Never:
		return ByRouters, off + ", and an overlay is not allowed: routers must know the way to its pods"
	}
	return ByTunnel, off
}

// direct adds routes for a peer that is on a link.
func direct(want State, self, p Node) {
	for _, pods := range p.Pods {
		via := p.addr(pods.Addr().Is4())
		if via.IsValid() && !slices.Contains(self.Pods, pods) {
			want.Put(Route{Dst: pods, Via: via})
		}
	}
}

// over adds the tunnel and what leads a peer's packets into it. Packets between pods and the peer itself go there too: routers between need
// not let an address pass that they do not know, and answers come back the same way.
func over(want State, self, p Node, outer [2]netip.Addr, o Overlay, paths map[netip.Addr]Path) {
	name, overhead := tunnelOf(outer[0])
	t := Tunnel{Name: name, VNI: o.VNI, Port: o.Port, Local: outer[0], MAC: MACOf(self.UID)}
	if mtu := paths[outer[1]].MTU; mtu > 0 {
		t.MTU = mtu - overhead
	}
	if other, ok := want[t.key()].(Tunnel); ok && other.MTU > 0 && (t.MTU == 0 || other.MTU < t.MTU) {
		t.MTU = other.MTU
	}
	want[t.key()] = t
	mac := MACOf(p.UID)
	mtu := func(a netip.Addr) int {
		path := paths[outer[1]]
		if path.Learned == 0 || path.Learned >= path.MTU {
			return 0
		}
		if a.Is6() { // a link of IPv6 takes no less: the outer packet goes in fragments
			return max(path.Learned-overhead, 1280)
		}
		return path.Learned - overhead
	}
	want.Put(Endpoint{name, mac, outer[1]})
	for _, pods := range p.Pods {
		if slices.Contains(self.Pods, pods) {
			continue
		}
		hop := p.hop(pods.Addr(), mac)
		want.Put(Neighbour{name, hop, mac}, Route{Dst: pods, Via: hop, Tunnel: name, Source: self.addr(pods.Addr().Is4()), MTU: mtu(hop)})
	}
	for _, own := range self.Pods {
		if a := p.addr(own.Addr().Is4()); a.IsValid() {
			hop := p.hop(a, mac)
			want.Put(Neighbour{name, hop, mac}, Route{Inner: true, Dst: netip.PrefixFrom(a, a.BitLen()), Via: hop, Tunnel: name, MTU: mtu(a)}, Rule{own})
		}
	}
}

// hop is the next hop to an address at a node over a tunnel, of the same family: it has no meaning but in the neighbour entry beside it. IPv6
// takes no next hop that it would reach over another link.
func (n Node) hop(to netip.Addr, mac MAC) netip.Addr {
	if to.Is4() {
		if a := n.addr(true); a.IsValid() {
			return a
		}
		return to
	}
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

// keepMTU leaves that of a tunnel alone of which nothing is known now.
func keepMTU(want, actual State) {
	for key, i := range want {
		t, ok := i.(Tunnel)
		if have, there := actual[key].(Tunnel); ok && there && t.MTU == 0 {
			t.MTU = have.MTU
			want[key] = t
		}
	}
}
