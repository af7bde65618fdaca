package plugin

import (
	"errors"
	"fmt"
	"math"
	"net"
	"strings"

	"github.com/orlop-io/orlop/bpf/whole"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// limitPrefix begins the name of the device through which what a container sends goes, where it is limited. It takes the place of
// hostPrefix.
const limitPrefix = "orb"

func limiter(host string) string { return limitPrefix + strings.TrimPrefix(host, hostPrefix) }

// limit holds a container to its rates. What goes to it waits in a token bucket on the node's end of its link; what comes from it is
// sent through a device of its own that has such a bucket, for the kernel shapes only what leaves a device.
func (n *namespace) limit(host string, in, out shape) error {
	lib, err := n.lib()
	if err != nil {
		return err
	}
	l, err := lib.LinkByName(host)
	if err != nil {
		return fmt.Errorf("look up %s: %w", host, err)
	}
	if in.rate > 0 {
		if err := bucket(lib, l, in); err != nil {
			return fmt.Errorf("limit what goes to the container: %w", err)
		}
	}
	if out.rate == 0 {
		return nil
	}
	if err := limitOut(lib, l, limiter(host), out); err != nil {
		return fmt.Errorf("limit what comes from the container: %w", err)
	}
	return nil
}

func limitOut(lib *netlink.Handle, l netlink.Link, name string, out shape) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Flags = name, l.Attrs().MTU, net.FlagUp
	if err := lib.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make device %s: %w", name, err)
	}
	ifb, err := lib.LinkByName(name)
	if err != nil {
		return err
	}
	if err := bucket(lib, ifb, out); err != nil {
		return err
	}
	// Whoever else looks at the link's packets, as programs that translate services do, uses the same queue, and must come first: what is sent on does
	// not come back to it.
	both := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := lib.QdiscAdd(both); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add ingress queue: %w", err)
	}
	redirect := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 100, Protocol: unix.ETH_P_ALL},
		ClassId:     netlink.MakeHandle(1, 1),
		Actions:     []netlink.Action{netlink.NewMirredAction(ifb.Attrs().Index)},
	}
	if err := lib.FilterAdd(redirect); err != nil {
		return fmt.Errorf("redirect to %s: %w", name, err)
	}
	return nil
}

func bucket(lib *netlink.Handle, l netlink.Link, s shape) error {
	queue := s.rate/40 + s.burst // what waits no longer than 25 ms
	q := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       s.rate, Limit: uint32(min(queue, math.MaxUint32)), Buffer: netlink.Xmittime(s.rate, uint32(s.burst)),
	}
	if err := lib.QdiscReplace(q); err != nil {
		return fmt.Errorf("add token bucket to %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// strayLimiters names devices whose container's link is gone: that goes with its namespace, they do not.
func (n *namespace) strayLimiters() ([]string, error) {
	lib, err := n.lib()
	if err != nil {
		return nil, err
	}
	links, err := whole.List(lib.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var names []string
	for _, l := range links {
		hash, ok := strings.CutPrefix(l.Attrs().Name, limitPrefix)
		if !ok || l.Type() != "ifb" {
			continue
		}
		link, err := n.link(hostPrefix + hash)
		if err != nil {
			return nil, err
		}
		if link == nil {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

// checkLimit says whether a limit that was asked for is there.
func (n *namespace) checkLimit(host string, in, out shape) error {
	for name, s := range map[string]shape{host: in, limiter(host): out} {
		if s.rate == 0 {
			continue
		}
		lib, err := n.lib()
		if err != nil {
			return err
		}
		l, err := lib.LinkByName(name)
		if err != nil {
			return fmt.Errorf("look up %s: %w", name, err)
		}
		queues, err := whole.List(func() ([]netlink.Qdisc, error) { return lib.QdiscList(l) })
		if err != nil {
			return fmt.Errorf("list queues of %s: %w", name, err)
		}
		found := false
		for _, q := range queues {
			t, ok := q.(*netlink.Tbf)
			found = found || ok && t.Rate == s.rate
		}
		if !found {
			return fmt.Errorf("%s has no limit of %d bytes a second", name, s.rate)
		}
	}
	return nil
}
