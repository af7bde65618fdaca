package routes

import (
	"crypto/sha256"
	"fmt"
	"iter"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Item is one thing in the kernel that is ours: a Tunnel, Endpoint, Neighbour, Route or Rule.
type Item interface {
	fmt.Stringer
	// key is the same for two items of which the kernel holds only one.
	key() string
	// rank orders items: one rests on those of lower rank.
	rank() int
	// tunnel names the tunnel the item goes with, if any.
	tunnel() string
}

// MAC is the hardware address of a tunnel's end.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// macTag is the first byte of hardware addresses that are ours: a local unicast one.
const macTag = 0x6e

// MACOf derives a node's hardware address from its UID, so that no node need tell another one.
func MACOf(uid string) MAC {
	sum := sha256.Sum256([]byte("orlop tunnel\x00" + uid))
	return MAC{macTag, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

// Tunnel is a VXLAN link.
type Tunnel struct {
	Name  string
	VNI   uint32
	Port  uint16
	Local netip.Addr // its family is that of the packets outside
	MAC   MAC
	MTU   int
}

func (t Tunnel) key() string    { return "link " + t.Name }
func (t Tunnel) rank() int      { return 0 }
func (t Tunnel) tunnel() string { return "" }
func (t Tunnel) String() string {
	return fmt.Sprintf("link %s vxlan %d udp %d from %s address %s mtu %d", t.Name, t.VNI, t.Port, t.Local, t.MAC, t.MTU)
}

// remade says whether the kernel can only make t by deleting u.
func (t Tunnel) remade(u Tunnel) bool {
	return t.VNI != u.VNI || t.Port != u.Port || t.Local != u.Local
}

// Endpoint is where frames for a hardware address go.
type Endpoint struct {
	Tunnel string
	MAC    MAC
	Addr   netip.Addr
}

func (e Endpoint) key() string    { return fmt.Sprintf("endpoint %s at %s", e.MAC, e.Tunnel) }
func (e Endpoint) rank() int      { return 1 }
func (e Endpoint) tunnel() string { return e.Tunnel }
func (e Endpoint) String() string { return fmt.Sprintf("%s to %s", e.key(), e.Addr) }

// Neighbour is the hardware address of a next hop on a tunnel.
type Neighbour struct {
	Tunnel string
	Addr   netip.Addr
	MAC    MAC
}

func (n Neighbour) key() string    { return fmt.Sprintf("neighbour %s at %s", n.Addr, n.Tunnel) }
func (n Neighbour) rank() int      { return 2 }
func (n Neighbour) tunnel() string { return n.Tunnel }
func (n Neighbour) String() string { return fmt.Sprintf("%s is %s", n.key(), n.MAC) }

// Route leads to Dst. Without a tunnel Via is on a link of the node.
type Route struct {
	Inner  bool // in the table that only packets of this node's pods look into
	Dst    netip.Prefix
	Via    netip.Addr
	Tunnel string
	Source netip.Addr // of packets of the node itself; not valid: the kernel's choice
	MTU    int        // for packets that the node sends or forwards, in bytes; 0: the link's
}

func (r Route) key() string {
	if r.Inner {
		return fmt.Sprintf("route of pods to %s", r.Dst)
	}
	return fmt.Sprintf("route to %s", r.Dst)
}
func (r Route) rank() int      { return 3 }
func (r Route) tunnel() string { return r.Tunnel }
func (r Route) String() string { return r.key() + " " + r.way() }

func (r Route) way() string {
	s := "via " + r.Via.String()
	if r.Tunnel != "" {
		s += " over " + r.Tunnel
	}
	if r.Source.IsValid() {
		s += " from " + r.Source.String()
	}
	if r.MTU > 0 {
		s += fmt.Sprintf(" mtu %d", r.MTU)
	}
	return s
}

// Rule has packets from this node's pods look into the inner table first.
type Rule struct{ From netip.Prefix }

func (r Rule) key() string    { return fmt.Sprintf("rule for packets from %s", r.From) }
func (r Rule) rank() int      { return 4 }
func (r Rule) tunnel() string { return "" }
func (r Rule) String() string { return r.key() }

// State is a set of items, by key.
type State map[string]Item

// Put adds items to the state; the first of a key stays.
func (s State) Put(items ...Item) {
	for _, i := range items {
		if _, ok := s[i.key()]; !ok {
			s[i.key()] = i
		}
	}
}

// Items goes through the items, in no order.
func (s State) Items() iter.Seq[Item] { return maps.Values(s) }

// Action is one change to the kernel.
type Action struct {
	Item Item
	Drop bool
	Why  string
}

func (a Action) String() string {
	if a.Drop {
		return fmt.Sprintf("drop %s: %s", a.Item, a.Why)
	}
	return fmt.Sprintf("put %s: %s", a.Item, a.Why)
}

// Plan lists what turns actual into desired. Equal inputs give equal output.
func Plan(desired, actual State) []Action {
	var put, drop []Action
	remade := map[string]bool{} // links, with which the kernel drops all that rests on them
	for _, want := range desired {
		t, ok := want.(Tunnel)
		if have, there := actual[want.key()].(Tunnel); ok && there && t.remade(have) {
			remade[t.Name] = true
			drop = append(drop, Action{have, true, "the kernel cannot change it"})
		}
	}
	lost := func(i Item) bool { return remade[i.tunnel()] }
	for key, want := range desired {
		have, there := actual[key]
		t, isTunnel := want.(Tunnel)
		switch {
		case !there, isTunnel && remade[t.Name], lost(have):
			put = append(put, Action{want, false, "wanted"})
		case have != want:
			put = append(put, Action{want, false, "it was " + have.String()})
		}
	}
	var gone []Action
	for key, have := range actual {
		if _, ok := desired[key]; !ok && !lost(have) {
			gone = append(gone, Action{have, true, "no node needs it"})
		}
	}
	slices.SortFunc(drop, byRank)
	slices.SortFunc(put, byRank)
	slices.SortFunc(gone, func(a, b Action) int { return -byRank(a, b) })
	return slices.Concat(drop, put, gone) // put first where both can be: never a moment without a route
}

func byRank(a, b Action) int {
	if d := a.Item.rank() - b.Item.rank(); d != 0 {
		return d
	}
	return strings.Compare(a.Item.key(), b.Item.key())
}
