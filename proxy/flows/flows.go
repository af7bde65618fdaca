// Package flows ends connections of UDP, as the kernel remembers them, whose backend is not one of what was asked for any more.
//
// It is for backends of the proxy that translate packets. The kernel goes on sending a client's datagrams where the first one went, and a client
// that never pauses would stay with a backend that is gone. TCP ends by itself.
package flows

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/proxy"
)

// Told is told of each look through the kernel's connections of a family: how many it ended, and how long it took.
type Told func(v4 bool, ended uint, took time.Duration)

// Set is the frontends of UDP whose backends have changed, each with no scope.
type Set map[proxy.Frontend]bool

// Add notes the frontends of a group, when it may have flows that go elsewhere now. With no group before, an earlier process may have left some.
func (fs Set) Add(before, after *proxy.Group) {
	if before == nil {
		before = after
	}
	for _, f := range before.Frontends {
		if f.Protocol == proxy.UDP {
			f.Scope = 0
			fs[f] = true
		}
	}
}

// End deletes the connections of a family to noted frontends that lead to none of their backends. The next datagram is led anew. Node ports are
// at each of nodes.
func (fs Set) End(v4 bool, model proxy.Model, nodes []netip.Addr, only proxy.Scope, told Told) error {
	valid := fs.valid(v4, model, nodes, only)
	if len(valid) == 0 {
		return nil
	}
	family := netlink.InetFamily(unix.AF_INET)
	if !v4 {
		family = unix.AF_INET6
	}
	began := time.Now()
	ended, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, valid)
	if told != nil {
		told(v4, ended, time.Since(began))
	}
	if err != nil {
		return fmt.Errorf("end connections to backends that are gone: %w", err)
	}
	return nil
}

// valid is where connections to noted frontends may lead.
func (fs Set) valid(v4 bool, model proxy.Model, nodes []netip.Addr, only proxy.Scope) ended {
	valid := ended{}
	if len(fs) == 0 {
		return valid
	}
	at := func(fr proxy.Frontend) (out []netip.AddrPort) {
		addrs := []netip.Addr{fr.Addr}
		if fr.Addr.IsUnspecified() {
			addrs = nodes
		}
		for _, a := range addrs {
			if a.Is4() == v4 && a.Is4() == fr.Addr.Is4() {
				out = append(out, netip.AddrPortFrom(a, fr.Port))
			}
		}
		return out
	}
	for fr := range fs {
		for _, ap := range at(fr) {
			valid[ap] = map[netip.AddrPort]bool{}
		}
	}
	for _, g := range model {
		for _, fr := range g.Frontends {
			key := fr
			key.Scope = 0
			if fr.Scope&only == 0 || !fs[key] {
				continue
			}
			for _, ap := range at(fr) {
				for _, b := range g.Backends {
					valid[ap][b] = true
				}
			}
		}
	}
	return valid
}

// ended matches connections to a frontend that lead to none of its backends.
type ended map[netip.AddrPort]map[netip.AddrPort]bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (e ended) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	from, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok || !ok2 {
		return false
	}
	valid, ours := e[netip.AddrPortFrom(to.Unmap(), flow.Forward.DstPort)]
	return ours && !valid[netip.AddrPortFrom(from.Unmap(), flow.Reverse.SrcPort)]
}
