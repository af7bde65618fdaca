package routes

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// Protocol tags our routes and rules; /etc/iproute2/rt_protos has no name for it.
	Protocol = 79
	// metric keeps a route of somebody else to the same pods apart from ours, and before it.
	metric = 79
)

// ErrOffLink is returned by Apply when the next hop is not on a link of this node.
var ErrOffLink = errors.New("the next hop is not on a link of this node, and an overlay network is not implemented: nodes must share a link")

// Kernel is the main routing table of a network namespace.
type Kernel struct{ nl *netlink.Handle }

// Open opens the table of the namespace of the calling thread.
func Open() (*Kernel, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &Kernel{nl}, nil
}

// Close lets go of the table; the routes stay.
func (k *Kernel) Close() { k.nl.Close() }

// Routes returns the routes that are ours. An interrupted dump is an error.
func (k *Kernel) Routes() (Table, error) {
	filter := &netlink.Route{Protocol: Protocol, Table: unix.RT_TABLE_MAIN}
	list, err := k.nl.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, err
	}
	out := Table{}
	for _, r := range list {
		if r.Dst == nil {
			continue
		}
		dst, ok := netip.AddrFromSlice(r.Dst.IP)
		via, _ := netip.AddrFromSlice(r.Gw)
		if ones, _ := r.Dst.Mask.Size(); ok {
			out[netip.PrefixFrom(dst.Unmap(), ones)] = via.Unmap()
		}
	}
	return out, nil
}

// Apply makes one change. Deleting what is gone is no error.
func (k *Kernel) Apply(a Action) error {
	bits := a.Dst.Addr().BitLen()
	r := &netlink.Route{
		Dst:      &net.IPNet{IP: a.Dst.Addr().AsSlice(), Mask: net.CIDRMask(a.Dst.Bits(), bits)},
		Protocol: Protocol, Priority: metric, Table: unix.RT_TABLE_MAIN,
	}
	if !a.Via.IsValid() {
		if err := k.nl.RouteDel(r); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		return nil
	}
	r.Gw = a.Via.AsSlice()
	err := k.nl.RouteReplace(r)
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w (%w)", ErrOffLink, err)
	}
	return err
}
