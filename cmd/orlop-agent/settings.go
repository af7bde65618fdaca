package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/cni/routes"
)

// setting is a sysctl, by its path below /proc/sys, that packets of pods need.
type setting struct{ key, value, why string }

// settingsFor lists what forwarding needs, in the order to set it. uplinks have addresses of the node; acceptRA says what one does with router
// advertisements.
func settingsFor(pods []netip.Prefix, uplinks []string, acceptRA func(link string) string) (out []setting) {
	has := func(v4 bool) bool {
		return slices.ContainsFunc(pods, func(p netip.Prefix) bool { return p.Addr().Is4() == v4 })
	}
	if has(true) {
		out = append(out, setting{"net/ipv4/ip_forward", "1", "packets of pods are forwarded"})
	}
	if !has(false) {
		return out
	}
	for _, l := range uplinks {
		if acceptRA(l) == "1" {
			out = append(out, setting{"net/ipv6/conf/" + l + "/accept_ra", "2", "with 1 the node loses its default route as soon as it forwards"})
		}
	}
	return append(out, setting{"net/ipv6/conf/all/forwarding", "1", "packets of pods are forwarded"})
}

// findings says what stands in the way of packets and is not ours to change, and how to mend it.
func findings(overlay bool, uplinks []string, read func(key string) string) (out []string) {
	for _, l := range uplinks {
		strict := max(read("net/ipv4/conf/all/rp_filter"), read("net/ipv4/conf/"+l+"/rp_filter")) // the kernel takes the greater one, too
		if overlay && strict == "1" {
			out = append(out, fmt.Sprintf("net.ipv4.conf.%s.rp_filter is 1: a packet of a pod that comes over %s from a node which this one reaches over a router is dropped; "+
				"if nodes differ in that, set it to 2 (sysctl -w net.ipv4.conf.%s.rp_filter=2, and a file in /etc/sysctl.d)", l, l, l))
		}
	}
	return out
}

func sysctlValue(key string) string {
	b, err := os.ReadFile(filepath.Join("/proc/sys", key))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// settings sets what is needed, and tells what else is wrong when that is new.
func (a *agent) settings(c *cluster) error {
	uplinks := uplinksOf(c.own)
	ledger := a.o.ledger()
	for _, s := range settingsFor(c.podCIDRs, uplinks, func(l string) string { return sysctlValue("net/ipv6/conf/" + l + "/accept_ra") }) {
		err := ledger.Set(s.key, s.value)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: the kernel has no IPv6, but the node has a range of IPv6 pods", err)
		}
		if err != nil {
			name := strings.ReplaceAll(s.key, "/", ".")
			return fmt.Errorf("%w (%s; give the agent the node's /proc/sys/net by --proc-sys, or set it yourself: sysctl -w %s=%s)", err, s.why, name, s.value)
		}
	}
	mtu, _ := a.routes.MTU()
	for _, f := range findings(mtu > 0, uplinks, sysctlValue) {
		a.tell(f)
	}
	return nil
}

// uplinksOf are the links that have one of the addresses.
func uplinksOf(own []netip.Addr) (out []string) {
	eachUplink(own, func(l net.Interface) { out = append(out, l.Name) })
	return out
}

// mtuOf is that of the smallest link that has one of the node's addresses; 0 when none has.
func mtuOf(own []netip.Addr) (mtu int) {
	eachUplink(own, func(l net.Interface) {
		if mtu == 0 || l.MTU < mtu {
			mtu = l.MTU
		}
	})
	return mtu
}

func eachUplink(own []netip.Addr, f func(net.Interface)) {
	links, err := net.Interfaces()
	if err != nil {
		return
	}
	for _, l := range links {
		addrs, err := l.Addrs()
		if err != nil {
			continue
		}
		if slices.ContainsFunc(addrs, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && slices.Contains(own, p.Addr().Unmap())
		}) {
			f(l)
		}
	}
}

// foundHere is what is wrong on the node that this runs on, for "orlop-agent routes".
func foundHere(view routes.View, actual routes.State) []string {
	overlay := slices.ContainsFunc(slices.Collect(actual.Items()), func(i routes.Item) bool { _, ok := i.(routes.Tunnel); return ok })
	out := findings(overlay, uplinksOf(view.Self.Addrs), sysctlValue)
	for _, s := range settingsFor(view.Self.Pods, uplinksOf(view.Self.Addrs), func(string) string { return "" }) {
		if v := sysctlValue(s.key); v != s.value {
			out = append(out, fmt.Sprintf("%s is %q, not %s: %s, so the agent does not run here or somebody has changed it since", strings.ReplaceAll(s.key, "/", "."), v, s.value, s.why))
		}
	}
	return out
}

// linkKind is what kind of link has a name, in the kernel's words; empty when there is none.
func linkKind(name string) (string, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return "", fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	l, err := nl.LinkByName(name)
	if nf := (netlink.LinkNotFoundError{}); errors.As(err, &nf) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look up interface %s: %w", name, err)
	}
	return l.Type(), nil
}
