package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/whole"
	"github.com/orlop-io/orlop/cni/nat"
	"github.com/orlop-io/orlop/cni/routes"
	"github.com/orlop-io/orlop/proxy/nft"
)

// tables are ours in nftables, of any family.
func tables(options) ([]effect, error) { return tablesNamed(nft.Table, nat.New(networkName).Name()) }

// serviceTables are those that translate services.
func serviceTables(options) ([]effect, error) { return tablesNamed(nft.Table) }

func tablesNamed(names ...string) (list []effect, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open netfilter socket: %w", err)
	}
	all, err := conn.ListTables()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // a kernel without nftables
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range all {
		if !slices.Contains(names, t.Name) {
			continue
		}
		list = append(list, effect{fmt.Sprintf("delete nftables table %s %s", familyName(t.Family), t.Name), func() error {
			conn.DelTable(t)
			if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
			return nil
		}})
	}
	return list, nil
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyBridge:
		return "bridge"
	case nftables.TableFamilyNetdev:
		return "netdev"
	default:
		return fmt.Sprintf("family-%d", f)
	}
}

// routesAndRules are those that carry our tag, in all tables.
func routesAndRules(options) (list []effect, err error) {
	ours := &netlink.Route{Protocol: routes.Protocol, Table: unix.RT_TABLE_UNSPEC}
	rts, err := whole.List(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, ours, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range rts {
		list = append(list, effect{fmt.Sprintf("delete route to %s", r.Dst), func() error {
			if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			return nil
		}})
	}
	rules, err := whole.List(func() ([]netlink.Rule, error) { return netlink.RuleList(netlink.FAMILY_ALL) })
	if err != nil {
		return list, fmt.Errorf("list routing rules: %w", err)
	}
	for _, r := range rules {
		if r.Protocol != routes.Protocol {
			continue
		}
		list = append(list, effect{fmt.Sprintf("delete routing rule %d to table %d", r.Priority, r.Table), func() error {
			if err := netlink.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
			return nil
		}})
	}
	return list, nil
}

// links are the bridge, the node's ends of pods' links, what limits those, and the overlay's device.
func links(o options) (list []effect, err error) {
	all, err := whole.List(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, l := range ours(all, o.bridge) {
		list = append(list, effect{fmt.Sprintf("delete %s %s", l.Type(), l.Attrs().Name), func() error {
			if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
				return err
			}
			return nil
		}})
	}
	return list, nil
}

// ours picks the links to delete. A pod's link is ours on our bridge, or on none, when it is on its way out; on another bridge it belongs to a network
// that somebody else gave to the plugin.
func ours(all []netlink.Link, bridge string) (out []netlink.Link) {
	index, master := -1, map[string]int{}
	for _, l := range all {
		if l.Attrs().Name == bridge && l.Type() == "bridge" {
			index = l.Attrs().Index
			out = append(out, l)
		}
		master[l.Attrs().Name] = l.Attrs().MasterIndex
	}
	for _, l := range all {
		name := l.Attrs().Name
		switch l.Type() {
		case "veth":
			if m := l.Attrs().MasterIndex; strings.HasPrefix(name, "orl") && (m == 0 || m == index) {
				out = append(out, l)
			}
		case "ifb":
			pod, limits := strings.CutPrefix(name, "orb")
			m, there := master["orl"+pod]
			if limits && (!there || m == 0 || m == index) {
				out = append(out, l)
			}
		case "vxlan":
			if strings.HasPrefix(name, "orl") {
				out = append(out, l)
			}
		}
	}
	return out
}
