package plugin

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// addPair makes a veth pair in one request: the node's end up and on the bridge, the container's end in its namespace with its
// hardware address, down. It returns the node's end. The library takes three requests, each of which waits for the kernel's one lock on all
// network configuration; under load that lock is what an ADD spends its time on.
func (n *namespace) addPair(pod *namespace, bridge iface, mtu int, w wire) (*link, error) {
	// The echo is the link as it was made. To look it up instead, which kernels before 6.2 leave to do, first brings the kernel's idea of its carrier up to
	// date: off, for the other end is down, and to turn the queue off it waits for every processor. Soon after both ends are up.
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK|unix.NLM_F_ECHO)
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
	// Said, because of what the kernel does otherwise: it makes a queue for each processor, uses one of them all the same, and waits for all processors before
	// it puts the others out of use, at both ends.
	for _, queues := range []int{unix.IFLA_NUM_TX_QUEUES, unix.IFLA_NUM_RX_QUEUES} {
		req.AddData(nl.NewRtAttr(queues, nl.Uint32Attr(1)))
		peer.AddRtAttr(queues, nl.Uint32Attr(1))
	}
	if mtu > 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
		peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu)))
	}
	req.AddData(info)
	made := n.sock.ask(req)[0]
	if made.err != nil {
		return nil, made.err
	}
	if len(made.messages) == 0 {
		made = n.sock.ask(byName(w.host))[0]
	}
	l, err := linkIn(made)
	if l == nil && err == nil {
		err = errors.New("it is gone again")
	}
	return l, err
}

// innerOf is the container's end of a pair, as the node's end and the request tell it.
func innerOf(host *link, w wire) *link {
	return &link{index: host.parent, name: w.ifname, mtu: host.mtu, mac: w.mac}
}

// loopbackIndex is lo's in every namespace.
const loopbackIndex = 1

// loopback sets lo up.
func (n *namespace) loopback() error {
	if err := n.sock.tell(nil, setFlags(loopbackIndex, unix.IFF_UP, unix.IFF_UP)); err != nil {
		return fmt.Errorf("set up lo: %w", err)
	}
	return nil
}
