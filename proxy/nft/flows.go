package nft

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/proxy"
)

// flows are the frontends of UDP whose backends have changed. The kernel goes on sending a client's datagrams where the first one went, and
// a client that never pauses would stay with a backend that is gone.
type flows map[proxy.Frontend]bool

// add notes the frontends of a group, when it may have flows that go elsewhere now.
func (fs flows) add(before, after *proxy.Group) {
	if before == nil {
		before = after // an earlier process may have left some
	}
	for _, f := range before.Frontends {
		if f.Protocol == proxy.UDP {
			f.Scope = 0
			fs[f] = true
		}
	}
}

// end deletes the connections, as the kernel remembers them, to noted frontends that lead to none of their backends. The next datagram is led anew.
func (fs flows) end(f family, model proxy.Model, nodes []netip.Addr, only proxy.Scope) error {
	if len(fs) == 0 {
		return nil
	}
	valid := ended{}
	at := func(fr proxy.Frontend) (out []netip.AddrPort) {
		addrs := []netip.Addr{fr.Addr}
		if fr.Addr.IsUnspecified() {
			addrs = nodes
		}
		for _, a := range addrs {
			if f.has(a) && a.Is4() == fr.Addr.Is4() {
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
	if len(valid) == 0 {
		return nil
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(f.nfproto), valid); err != nil {
		return fmt.Errorf("end connections to backends that are gone: %w", err)
	}
	return nil
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
