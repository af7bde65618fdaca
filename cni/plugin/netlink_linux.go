package plugin

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace and a netlink socket in it.
type namespace struct {
	ns netns.NsHandle // closed for the process's own
	nl *netlink.Handle
}

// iface is what a result says of a link.
type iface struct {
	name, mac string
	mtu       int
	index     int
}

func (n *namespace) close() {
	n.nl.Close()
	if n.ns.IsOpen() {
		n.ns.Close()
	}
}

// here opens the namespace the plugin was started in: the node's.
func here() (*namespace, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in the node's namespace: %w", err)
	}
	return &namespace{ns: netns.None(), nl: nl}, nil
}

func at(path string) (*namespace, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	nl, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("open netlink in %s: %w", path, err)
	}
	return &namespace{ns: ns, nl: nl}, nil
}

func open(path string) (node, pod *namespace, err error) {
	if node, err = here(); err != nil {
		return nil, nil, err
	}
	if pod, err = at(path); err != nil {
		node.close()
		return nil, nil, err
	}
	return node, pod, nil
}

func (n *namespace) exists(name string) (bool, error) {
	_, err := n.nl.LinkByName(name)
	if isNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up interface %s: %w", name, err)
	}
	return true, nil
}

func isNotFound(err error) bool {
	var nf netlink.LinkNotFoundError
	return errors.As(err, &nf) || errors.Is(err, unix.ENODEV)
}

// remove deletes a link. It waits for the kernel, 12 to 32 ms.
func (n *namespace) remove(name string) error {
	l, err := n.nl.LinkByName(name)
	if err == nil {
		err = n.nl.LinkDel(l)
	}
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("delete interface %s: %w", name, err)
	}
	return nil
}

// prepare sets what forwarding needs in the node's namespace; each host has its own, and new ones start with none.
func (n *namespace) prepare(conf *Config) error {
	for _, p := range conf.PodCIDRs {
		path := "/proc/sys/net/ipv4/ip_forward"
		if p.Addr().Is6() {
			path = "/proc/sys/net/ipv6/conf/all/forwarding"
		}
		if err := sysctl(path, "1"); err != nil {
			return err
		}
	}
	if conf.BridgeNetfilter != "off" {
		return nil
	}
	for _, name := range []string{"iptables", "ip6tables"} {
		err := sysctl("/proc/sys/net/bridge/bridge-nf-call-"+name, "0")
		if err != nil && !errors.Is(err, os.ErrNotExist) { // without br_netfilter there is nothing to turn off
			return err
		}
	}
	return nil
}

// routeLoopback lets answers from pods on bridge reach local clients of a host port on 127.0.0.1.
func (n *namespace) routeLoopback(bridge string) error {
	return sysctl(filepath.Join("/proc/sys/net/ipv4/conf", bridge, "route_localnet"), "1")
}

func sysctl(path, value string) error {
	old, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(old)) != value {
		err = os.WriteFile(path, []byte(value), 0)
	}
	if err != nil {
		return fmt.Errorf("set sysctl to %s: %w", value, err)
	}
	return nil
}

// ensureBridge makes the bridge, or makes the one there the way the configuration wants it. Any number of
// processes may do so at once.
func (n *namespace) ensureBridge(conf *Config) (iface, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Flags = conf.Bridge, conf.MTU, net.FlagUp
	// Set by hand it stays; else the bridge takes the lowest of its ports', and pods' ARP entries for it go stale.
	attrs.HardwareAddr = macOf(ipam.Gateway(conf.PodCIDRs[0]))
	l, err := n.nl.LinkByName(conf.Bridge)
	if isNotFound(err) {
		if err = n.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err == nil || errors.Is(err, unix.EEXIST) {
			l, err = n.nl.LinkByName(conf.Bridge)
		}
	}
	if err != nil {
		return iface{}, fmt.Errorf("make bridge %s: %w", conf.Bridge, err)
	}
	if l.Type() != "bridge" {
		return iface{}, fmt.Errorf("interface %s is a %s, not a bridge", conf.Bridge, l.Type())
	}
	if err := n.address(l, conf.PodCIDRs); err != nil {
		return iface{}, fmt.Errorf("address bridge %s: %w", conf.Bridge, err)
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		if err := n.nl.LinkSetUp(l); err != nil {
			return iface{}, fmt.Errorf("set bridge %s up: %w", conf.Bridge, err)
		}
	}
	return ifaceOf(l), nil
}

// address gives the bridge the gateways of ranges, and takes away those of ranges it had before.
func (n *namespace) address(l netlink.Link, ranges []netip.Prefix) error {
	have, err := n.nl.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	want := map[string]*netlink.Addr{}
	for _, r := range ranges {
		a := addrOf(ipam.Gateway(r), r.Bits())
		want[a.IPNet.String()] = a
	}
	for _, a := range have {
		if _, ok := want[a.IPNet.String()]; ok {
			delete(want, a.IPNet.String())
		} else if a.IP.IsGlobalUnicast() {
			if err := n.nl.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return err
			}
		}
	}
	for _, a := range want {
		if err := n.nl.AddrAdd(l, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

// addrOf skips duplicate address detection: the store knows that nobody else has it, and waiting costs 1 to 3 s.
func addrOf(a netip.Addr, bits int) *netlink.Addr {
	out := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}}
	if a.Is6() {
		out.Flags = unix.IFA_F_NODAD
	}
	return out
}

// connect makes the pair, one end on the bridge, the other in the pod with addresses and default routes.
func (n *namespace) connect(pod *namespace, bridge iface, conf *Config, att ipam.Attachment, addrs []netip.Addr) (host, eth iface, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = hostName(att), conf.MTU, bridge.index, net.FlagUp
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = att.IfName, netlink.NsFd(int(pod.ns))
	veth.PeerHardwareAddr, veth.PeerMTU = macOf(addrs[0]), uint32(conf.MTU)
	if err := n.nl.LinkAdd(veth); err != nil {
		return iface{}, iface{}, fmt.Errorf("make link %s to %s: %w", attrs.Name, att.IfName, err)
	}
	hostLink, err := n.nl.LinkByName(attrs.Name)
	if err == nil && conf.BridgeNetfilter != "off" {
		err = n.nl.LinkSetHairpin(hostLink, true)
	}
	if err != nil {
		return iface{}, iface{}, fmt.Errorf("set up %s: %w", attrs.Name, err)
	}
	l, err := pod.configure(att.IfName, addrs, conf.PodCIDRs)
	if err != nil {
		return iface{}, iface{}, fmt.Errorf("set up %s in the pod: %w", att.IfName, err)
	}
	return ifaceOf(hostLink), ifaceOf(l), nil
}

func (n *namespace) configure(name string, addrs []netip.Addr, ranges []netip.Prefix) (netlink.Link, error) {
	if err := n.loopback(); err != nil {
		return nil, err
	}
	l, err := n.nl.LinkByName(name)
	if err != nil {
		return nil, err
	}
	for i, a := range addrs {
		if err := n.nl.AddrAdd(l, addrOf(a, ranges[i].Bits())); err != nil {
			return nil, fmt.Errorf("add address %s: %w", a, err)
		}
	}
	if err := n.nl.LinkSetUp(l); err != nil {
		return nil, err
	}
	for _, r := range ranges {
		gw := ipam.Gateway(r)
		route := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: gw.AsSlice(), Dst: &net.IPNet{IP: make([]byte, gw.BitLen()/8), Mask: net.CIDRMask(0, gw.BitLen())}}
		if err := n.nl.RouteAdd(route); err != nil {
			return nil, fmt.Errorf("add default route via %s: %w", gw, err)
		}
	}
	return l, nil
}

func (n *namespace) loopback() error {
	lo, err := n.nl.LinkByName("lo")
	if err == nil {
		err = n.nl.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set up lo: %w", err)
	}
	return nil
}

// silence takes the addresses off an attachment's interface where its runtime removes the namespace next, and deletes
// the link where the namespace may live on. A namespace that is gone has taken its link along.
func silence(path, name string, att ipam.Attachment) error {
	if path != "" && !runtimeRemoves(path, name) {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	if path == "" || !runtimeRemoves(path, name) {
		node, err := here()
		if err != nil {
			return err
		}
		defer node.close()
		return node.remove(hostName(att))
	}
	pod, err := at(path)
	if err != nil {
		return nil // unmounted: the namespace is on its way out
	}
	defer pod.close()
	l, err := pod.nl.LinkByName(name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up %s in the pod: %w", name, err)
	}
	addrs, err := pod.nl.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s in the pod: %w", name, err)
	}
	for _, a := range addrs {
		if err := pod.nl.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s of %s in the pod: %w", a.IP, name, err)
		}
	}
	return nil
}

// runtimeRemoves says whether a namespace was made by a runtime that removes it right after DEL, by the names containerd
// and podman give. Only a pod's first interface counts: others can be detached while the pod lives on.
func runtimeRemoves(path, name string) bool {
	base := filepath.Base(path)
	return name == "eth0" && (strings.HasPrefix(base, "cni-") || strings.HasPrefix(base, "netns-"))
}

func (n *namespace) checkPod(name string, addrs []netip.Addr, conf *Config) error {
	l, err := n.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("look up %s in the pod: %w", name, err)
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s in the pod is down", name)
	}
	have, err := n.nl.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s in the pod: %w", name, err)
	}
	routes, err := n.nl.RouteList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list routes of %s in the pod: %w", name, err)
	}
	for i, a := range addrs {
		want := addrOf(a, conf.PodCIDRs[i].Bits()).IPNet.String()
		if !slices.ContainsFunc(have, func(h netlink.Addr) bool { return h.IPNet.String() == want }) {
			return fmt.Errorf("%s in the pod lacks address %s", name, want)
		}
		gw := net.IP(ipam.Gateway(conf.PodCIDRs[i]).AsSlice())
		if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Gw.Equal(gw) }) {
			return fmt.Errorf("the pod lacks a route via %s", gw)
		}
	}
	return nil
}

func (n *namespace) checkHost(name, bridge string) error {
	l, err := n.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("look up %s: %w", name, err)
	}
	br, err := n.nl.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("look up bridge %s: %w", bridge, err)
	}
	if l.Attrs().MasterIndex != br.Attrs().Index {
		return fmt.Errorf("%s is not on bridge %s", name, bridge)
	}
	return nil
}

// portsOf names the links on a bridge; none when there is no bridge.
func (n *namespace) portsOf(bridge string) ([]string, error) {
	br, err := n.nl.LinkByName(bridge)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up bridge %s: %w", bridge, err)
	}
	links, err := n.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var names []string
	for _, l := range links {
		if l.Attrs().MasterIndex == br.Attrs().Index {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

func ifaceOf(l netlink.Link) iface {
	a := l.Attrs()
	return iface{name: a.Name, mac: a.HardwareAddr.String(), mtu: a.MTU, index: a.Index}
}
