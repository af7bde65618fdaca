package routes

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/orlop-io/orlop/bpf/whole"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// Protocol tags our routes and rules; /etc/iproute2/rt_protos has no name for it.
	Protocol = 79
	// metric keeps a route of somebody else to the same pods apart from ours, and before it.
	metric = 79
	// innerTable holds the routes that only packets of this node's pods see.
	innerTable = 79
	// priority of our rules: after the local table's, before the main one's.
	priority = 7900
)

// ErrOffLink is returned by Apply when the next hop of a route without a tunnel is not on a link of this node.
var ErrOffLink = errors.New("the next hop is not on a link of this node")

// Kernel is the routing tables, rules and tunnels of a network namespace.
type Kernel struct {
	ns     netns.NsHandle
	nl     *netlink.Handle
	probes map[bool]*probe // by whether for IPv4
}

// Open opens those of the namespace of the calling thread.
func Open() (*Kernel, error) {
	ns, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &Kernel{ns, nl, map[bool]*probe{}}, nil
}

// Close lets go; what was made stays.
func (k *Kernel) Close() {
	for _, p := range k.probes {
		p.close()
	}
	k.nl.Close()
	k.ns.Close()
}

// State returns what is ours. An interrupted dump is an error.
func (k *Kernel) State() (State, error) {
	out := State{}
	names := map[int]string{}
	for _, name := range []string{tunnel4, tunnel6} {
		index, err := k.addTunnel(out, name)
		if err != nil {
			return nil, err
		}
		if index != 0 {
			names[index] = name
		}
	}
	filter := &netlink.Route{Protocol: Protocol, Table: unix.RT_TABLE_UNSPEC}
	list, err := whole.List(func() ([]netlink.Route, error) {
		return k.nl.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range list {
		if dst, ok := prefixOf(r.Dst); ok {
			out.Put(Route{Inner: r.Table == innerTable, Dst: dst, Via: addrOf(r.Gw), Tunnel: names[r.LinkIndex], Source: addrOf(r.Src), MTU: r.MTU})
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := whole.List(func() ([]netlink.Rule, error) { return k.nl.RuleList(family) })
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for _, r := range rules {
			if from, ok := prefixOf(r.Src); ok && r.Protocol == Protocol {
				out.Put(Rule{from})
			}
		}
	}
	return out, nil
}

// addTunnel adds a tunnel and what is on it, if it is there. A link of the name that is not a tunnel is somebody else's.
func (k *Kernel) addTunnel(out State, name string) (index int, err error) {
	l, err := k.nl.LinkByName(name)
	if isNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look up link %s: %w", name, err)
	}
	vx, ok := l.(*netlink.Vxlan)
	if !ok {
		return 0, fmt.Errorf("the link %s is a %s and not ours: rename it", name, l.Type())
	}
	a := vx.Attrs()
	out.Put(Tunnel{name, uint32(vx.VxlanId), uint16(vx.Port), addrOf(vx.SrcAddr), macOf(a.HardwareAddr), a.MTU})
	for _, family := range []int{unix.AF_BRIDGE, netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := whole.List(func() ([]netlink.Neigh, error) { return k.nl.NeighList(a.Index, family) })
		if err != nil {
			return 0, fmt.Errorf("list neighbours on %s: %w", name, err)
		}
		for _, n := range list {
			mac := macOf(n.HardwareAddr)
			switch {
			case mac[0] != macTag || n.State&unix.NUD_PERMANENT == 0:
			case family == unix.AF_BRIDGE:
				out.Put(Endpoint{name, mac, addrOf(n.IP)})
			default:
				out.Put(Neighbour{name, addrOf(n.IP), mac})
			}
		}
	}
	return a.Index, nil
}

// Path asks the kernel for the way to an address.
func (k *Kernel) Path(to netip.Addr) (Path, error) {
	found, err := k.nl.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL) {
		return Path{}, nil
	}
	if err != nil {
		return Path{}, fmt.Errorf("look up the way to %s: %w", to, err)
	}
	if len(found) == 0 || found[0].Type == unix.RTN_LOCAL {
		return Path{}, nil
	}
	r := found[0]
	path := Path{Reachable: true, Router: routerOf(r.Gw, r.Via), MTU: r.MTU}
	index := r.LinkIndex
	for _, hop := range r.MultiPath {
		index = hop.LinkIndex
		if router := routerOf(hop.Gw, hop.Via); router.IsValid() {
			path.Router = router
		}
	}
	l, err := k.nl.LinkByIndex(index)
	if err != nil {
		return Path{}, fmt.Errorf("look up the link to %s: %w", to, err)
	}
	a := l.Attrs()
	if path.MTU == 0 || a.MTU < path.MTU {
		path.MTU = a.MTU
	}
	if path.Router.IsValid() {
		if path.Learned, err = k.learned(to); err != nil {
			return Path{}, err
		}
	}
	path.Routed = a.RawFlags&unix.IFF_NOARP != 0 || a.Flags&net.FlagPointToPoint != 0
	return path, nil
}

// learned is the path MTU that the kernel holds for an address, 0 when it holds none.
func (k *Kernel) learned(to netip.Addr) (int, error) {
	found, err := k.nl.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{})
	if err != nil || len(found) == 0 {
		return 0, fmt.Errorf("look up the path MTU to %s: %w", to, err)
	}
	return found[0].MTU, nil
}

func routerOf(gw net.IP, via netlink.Destination) netip.Addr {
	if v, ok := via.(*netlink.Via); ok && len(gw) == 0 {
		return addrOf(v.Addr)
	}
	return addrOf(gw)
}

// Apply makes one change. Dropping what is gone is no error.
func (k *Kernel) Apply(a Action) error {
	var err error
	switch i := a.Item.(type) {
	case Tunnel:
		err = k.tunnel(i, a.Drop)
	case Endpoint:
		err = k.neighbour(i.Tunnel, unix.AF_BRIDGE, i.Addr, i.MAC, a.Drop)
	case Neighbour:
		err = k.neighbour(i.Tunnel, familyOf(i.Addr), i.Addr, i.MAC, a.Drop)
	case Route:
		err = k.route(i, a.Drop)
	case Rule:
		err = k.rule(i, a.Drop)
	}
	if a.Drop && (isNotFound(err) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT)) {
		return nil
	}
	return err
}

func (k *Kernel) neighbour(tunnel string, family int, addr netip.Addr, mac MAC, drop bool) error {
	l, err := k.nl.LinkByName(tunnel)
	if err != nil {
		return err
	}
	n := &netlink.Neigh{
		LinkIndex: l.Attrs().Index, Family: family, State: unix.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac[:],
	}
	if family == unix.AF_BRIDGE {
		n.Flags = unix.NTF_SELF
	}
	if drop {
		return k.nl.NeighDel(n)
	}
	return k.nl.NeighSet(n)
}

func (k *Kernel) route(i Route, drop bool) error {
	r := &netlink.Route{Dst: netOf(i.Dst), Protocol: Protocol, Priority: metric, Table: unix.RT_TABLE_MAIN}
	if i.Inner {
		r.Table = innerTable
	}
	if drop {
		return k.nl.RouteDel(r)
	}
	r.Gw = i.Via.AsSlice()
	if i.Tunnel != "" {
		l, err := k.nl.LinkByName(i.Tunnel)
		if err != nil {
			return err
		}
		r.LinkIndex, r.Flags = l.Attrs().Index, int(netlink.FLAG_ONLINK)
	}
	if i.Source.IsValid() {
		r.Src = i.Source.AsSlice()
	}
	if i.MTU > 0 {
		// Locked: for packets that it forwards the kernel heeds no other MTU but the link's.
		r.MTU, r.MTULock = i.MTU, true
	}
	err := k.nl.RouteReplace(r)
	if i.Tunnel == "" && (errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EINVAL)) {
		return fmt.Errorf("%w (%w)", ErrOffLink, err)
	}
	return err
}

func (k *Kernel) rule(i Rule, drop bool) error {
	r := netlink.NewRule()
	r.Family, r.Src, r.Table, r.Priority, r.Protocol = familyOf(i.From.Addr()), netOf(i.From), innerTable, priority, Protocol
	if drop {
		return k.nl.RuleDel(r)
	}
	if err := k.nl.RuleAdd(r); !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func isNotFound(err error) bool {
	var nf netlink.LinkNotFoundError
	return errors.As(err, &nf) || errors.Is(err, unix.ENODEV)
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func netOf(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func macOf(a net.HardwareAddr) (m MAC) {
	if len(a) == len(m) {
		copy(m[:], a)
	}
	return m
}
