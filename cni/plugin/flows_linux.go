package plugin

import (
	"fmt"
	"net/netip"

	"github.com/orlop-io/orlop/cni/nat"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// asked is where clients send datagrams to; a zero address is any.
type asked map[netip.AddrPort]bool

// MatchConntrackFlow says whether a flow is of such a client.
func (a asked) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	to, _ := netip.AddrFromSlice(flow.Forward.DstIP)
	return flow.Forward.Protocol == unix.IPPROTO_UDP &&
		(a[netip.AddrPortFrom(netip.Addr{}, flow.Forward.DstPort)] || a[netip.AddrPortFrom(to.Unmap(), flow.Forward.DstPort)])
}

// forgetFlows lets clients that keep asking a UDP host port from one port of theirs reach its new container: the kernel knows their flow,
// to a container before or to nobody, and would not look at the rules again. It lists the flows once, however many ports there are.
func forgetFlows(ports []nat.HostPort) error {
	families := map[netlink.InetFamily]asked{}
	for _, p := range ports {
		if p.Protocol != nat.UDP {
			continue
		}
		family := netlink.InetFamily(unix.AF_INET)
		if p.Pod.Addr().Is6() {
			family = unix.AF_INET6
		}
		if families[family] == nil {
			families[family] = asked{}
		}
		families[family][netip.AddrPortFrom(p.HostIP, p.Port)] = true
	}
	if len(families) == 0 {
		return nil
	}
	nl, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netlink for connection tracking: %w", err)
	}
	defer nl.Close()
	for family, to := range families {
		if _, err := nl.ConntrackDeleteFilters(netlink.ConntrackTable, family, to); err != nil {
			return fmt.Errorf("forget flows to UDP host ports: %w", err)
		}
	}
	return nil
}
