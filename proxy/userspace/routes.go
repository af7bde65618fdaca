package userspace

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/orlop-io/orlop/bpf/whole"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// protocol marks our routes: who made them.
const protocol = 0x6f

// captured are the ranges that make all addresses this node's own: those given where they cover an address, and the address itself where none does.
func captured(ranges []netip.Prefix, addrs []netip.Addr) map[netip.Prefix]bool {
	out := map[netip.Prefix]bool{}
	for _, a := range addrs {
		p := netip.PrefixFrom(a, a.BitLen())
		if i := slices.IndexFunc(ranges, func(r netip.Prefix) bool { return r.Contains(a) }); i >= 0 {
			p = ranges[i].Masked()
		}
		out[p] = true
	}
	return out
}

// setRoutes makes the addresses of leads this node's own, but for those that are. It adds before it deletes.
func (b *Backend) setRoutes(leads map[endpoint]lead) error {
	node := b.nodes.Load()
	var addrs []netip.Addr
	for e := range leads {
		if a := e.at.Addr(); !a.IsLoopback() && !slices.Contains(node.NodePorts, a) {
			addrs = append(addrs, a)
		}
	}
	want := captured(b.cfg.Capture, addrs)
	h, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	have, err := list(h)
	if err != nil {
		return err
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	var errs []error
	for p := range want {
		if !have[p] {
			if err := h.RouteReplace(route(p, lo.Attrs().Index)); err != nil {
				errs = append(errs, fmt.Errorf("make %s local: %w", p, err))
			}
		}
	}
	for p := range have {
		if !want[p] {
			errs = append(errs, remove(h, p, lo.Attrs().Index))
		}
	}
	return errors.Join(errs...)
}

func route(p netip.Prefix, lo int) *netlink.Route {
	return &netlink.Route{
		Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}, LinkIndex: lo,
		Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Protocol: protocol,
	}
}

func remove(h *netlink.Handle, p netip.Prefix, lo int) error {
	if err := h.RouteDel(route(p, lo)); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete local route of %s: %w", p, err)
	}
	return nil
}

// list is our routes. A family that the kernel does not have has none.
func list(h *netlink.Handle) (map[netip.Prefix]bool, error) {
	out := map[netip.Prefix]bool{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := whole.List(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_LOCAL, Protocol: protocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("list local routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			a, _ := netip.AddrFromSlice(r.Dst.IP)
			ones, _ := r.Dst.Mask.Size()
			out[netip.PrefixFrom(a.Unmap(), ones)] = true
		}
	}
	return out, nil
}

func localRoutes() (map[netip.Prefix]bool, error) {
	h, err := netlink.NewHandle()
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	return list(h)
}

// Routes are those that are left of this mode in the network namespace of the calling thread.
func Routes() ([]netip.Prefix, error) {
	have, err := localRoutes()
	var out []netip.Prefix
	for p := range have {
		out = append(out, p)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out, err
}

// Remove deletes the routes. That there are none is no error.
func Remove() error {
	h, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	have, err := list(h)
	if err != nil {
		return err
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	var errs []error
	for p := range have {
		errs = append(errs, remove(h, p, lo.Attrs().Index))
	}
	return errors.Join(errs...)
}
