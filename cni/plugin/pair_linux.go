package plugin

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// addPair makes a veth pair in one request: the node's end up and on the bridge, the container's end in its namespace with its
// hardware address, down. The library takes three requests, each of which waits for the kernel's one lock on all
// network configuration; under load that lock is what an ADD spends its time on.
func addPair(pod *namespace, bridge iface, mtu int, w wire) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	host := nl.NewIfInfomsg(unix.AF_UNSPEC)
	host.Flags, host.Change = unix.IFF_UP, unix.IFF_UP
	req.AddData(host)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(w.host)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge.index))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(w.ifname))
	peer.AddRtAttr(unix.IFLA_ADDRESS, []byte(w.mac))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(pod.ns)))
	if mtu > 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
		peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu)))
	}
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// innerOf is the container's end of a pair, as the node's end and the request tell it.
func innerOf(host netlink.Link, w wire) netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Index, attrs.Name, attrs.MTU, attrs.HardwareAddr = host.Attrs().ParentIndex, w.ifname, host.Attrs().MTU, w.mac
	return &netlink.Device{LinkAttrs: attrs}
}

// loopback sets lo up, which has the same index in every namespace.
func (n *namespace) loopback() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Index, attrs.Name = 1, "lo"
	if err := n.nl.LinkSetUp(&netlink.Device{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("set up lo: %w", err)
	}
	return nil
}
