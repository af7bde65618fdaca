package plugin

import (
	"fmt"

	"github.com/orlop-io/orlop/cni/nat"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forgetFlows lets clients that keep asking a UDP host port from one port of theirs reach its new container: the kernel knows their flow,
// to a container before or to nobody, and would not look at the rules again.
func forgetFlows(ports []nat.HostPort) error {
	var nl *netlink.Handle
	for _, p := range ports {
		if p.Protocol != nat.UDP {
			continue
		}
		if nl == nil {
			var err error
			if nl, err = netlink.NewHandle(unix.NETLINK_NETFILTER); err != nil {
				return fmt.Errorf("open netlink for connection tracking: %w", err)
			}
			defer nl.Close()
		}
		filter := &netlink.ConntrackFilter{}
		err := filter.AddProtocol(unix.IPPROTO_UDP)
		if err == nil {
			err = filter.AddPort(netlink.ConntrackOrigDstPort, p.Port)
		}
		if err == nil && p.HostIP.IsValid() {
			err = filter.AddIP(netlink.ConntrackOrigDstIP, p.HostIP.AsSlice())
		}
		family := netlink.InetFamily(unix.AF_INET)
		if p.Pod.Addr().Is6() {
			family = unix.AF_INET6
		}
		if err == nil {
			_, err = nl.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter)
		}
		if err != nil {
			return fmt.Errorf("forget flows to host port %d: %w", p.Port, err)
		}
	}
	return nil
}
