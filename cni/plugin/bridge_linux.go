package plugin

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/orlop-io/orlop/cni/sysctl"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ensureBridge makes the bridge, or makes the one there the way the configuration wants it, with the gateways as addresses of it, or of its
// link in the containers' VLAN. Any number of processes may do so at once. It returns the bridge, and the other link if there is one.
func (n *namespace) ensureBridge(conf *Config, gateways []netip.Prefix) ([]iface, error) {
	l, err := n.sock.bridge(conf.Bridge), error(nil)
	if l == nil {
		l, err = n.link(conf.Bridge)
	}
	if err == nil && l == nil {
		l, err = n.makeBridge(conf, gateways)
	}
	if err != nil {
		return nil, fmt.Errorf("make bridge %s: %w", conf.Bridge, err)
	}
	if l.kind != "bridge" {
		return nil, notABridge(l)
	}
	if conf.gatewayLink() == conf.Bridge {
		if err := n.address(l, conf, gateways); err != nil {
			return nil, err
		}
	}
	if err := n.setUp(l); err != nil {
		return nil, err
	}
	if conf.PromiscMode && !l.promiscuous {
		if err := n.sock.tell(nil, setFlags(l.index, unix.IFF_PROMISC, unix.IFF_PROMISC)); err != nil {
			return nil, fmt.Errorf("set bridge %s promiscuous: %w", conf.Bridge, err)
		}
	}
	all := []iface{ifaceOf(l)}
	if !conf.vlans() {
		return all, nil
	}
	if err := n.filterVLANs(l); err != nil {
		return nil, err
	}
	if conf.gatewayLink() == conf.Bridge {
		return all, nil
	}
	inVLAN, err := n.ensureVLANLink(l, conf)
	if err != nil {
		return nil, fmt.Errorf("make %s, the bridge's link in VLAN %d: %w", conf.gatewayLink(), conf.VLAN, err)
	}
	if err := n.address(inVLAN, conf, gateways); err != nil {
		return nil, err
	}
	return append(all, ifaceOf(inVLAN)), n.setUp(inVLAN)
}

func (n *namespace) setUp(l *link) error {
	if l.up() {
		return nil
	}
	if err := n.sock.tell(nil, setFlags(l.index, unix.IFF_UP, unix.IFF_UP)); err != nil {
		return fmt.Errorf("set %s up: %w", l.name, err)
	}
	return nil
}

func (n *namespace) makeBridge(conf *Config, gateways []netip.Prefix) (*link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = conf.Bridge, conf.MTU
	// Set by hand it stays; else the bridge takes the lowest of its ports', and containers' ARP entries for it go stale.
	attrs.HardwareAddr = macOfName(conf.Bridge)
	if len(gateways) > 0 {
		attrs.HardwareAddr = macOf(gateways[0].Addr())
	}
	lib, err := n.lib()
	if err != nil {
		return nil, err
	}
	if err := lib.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	conf.skipDAD(conf.Bridge)
	return n.must(conf.Bridge) // whoever looks at it next sets it up
}

// skipDAD is for a new link that is to be the gateway.
func (c *Config) skipDAD(name string) {
	if !c.EnableDAD {
		// The node asks for a pod's neighbour by the bridge's own address of the link, which otherwise is tried for two seconds first: so long no IPv6 from
		// elsewhere would reach a first pod. A kernel without IPv6 has no such file, and one that is read-only only keeps the wait.
		_ = os.WriteFile(sysctlPath("net.ipv6.conf.IFNAME.accept_dad", name), []byte("0"), 0)
	}
}

func notABridge(l *link) error {
	return fmt.Errorf("interface %s is a %s, not a bridge", l.name, cmp.Or(l.kind, "device"))
}

// address gives the gateways to the bridge, or its link in a VLAN, and takes away those of ranges it had before, where the configuration lets it.
func (n *namespace) address(l *link, conf *Config, gateways []netip.Prefix) error {
	if !conf.gateway() {
		return nil
	}
	if err := n.readdress(l, conf, gateways); err != nil {
		return fmt.Errorf("address %s: %w", l.name, err)
	}
	return nil
}

func (n *namespace) readdress(l *link, conf *Config, gateways []netip.Prefix) error {
	var have []netip.Prefix
	want := map[netip.Prefix]bool{}
	for _, g := range gateways {
		want[g] = true
	}
	for _, f := range familiesOf(gateways) {
		list, err := n.sock.addresses(l.index, f)
		if err != nil {
			return err
		}
		have = append(have, list...)
	}
	for _, p := range have {
		if want[p] {
			delete(want, p)
			continue
		}
		if !p.Addr().IsGlobalUnicast() || conf.varied() {
			continue // another container's gateway
		}
		clash := clashes(p, gateways)
		if !clash && (conf.hasIPAM || !conf.replacesAddress()) {
			continue // without ipam it is of a range that the node had before
		}
		if !conf.replacesAddress() {
			return fmt.Errorf("it has %s already; forceAddress: true replaces it", p)
		}
		if conf.ForceAddress == nil {
			if err := conf.othersUse(p); err != nil {
				return err
			}
		}
		lib, err := n.lib()
		if err == nil {
			err = lib.AddrDel(l.device(), &netlink.Addr{IPNet: netOf(p.Addr(), p.Bits())})
		}
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
	}
	for p := range want {
		if err := n.sock.tell([]unix.Errno{unix.EEXIST}, newAddress(l.index, p, true)); err != nil {
			return err
		}
	}
	return nil
}

// othersUse refuses to take an address from the bridge by which containers of another network in the folder of leases reach the node.
func (c *Config) othersUse(p netip.Prefix) error {
	networks, err := os.ReadDir(c.StateDir)
	if err != nil {
		return err
	}
	for _, e := range networks {
		if !e.IsDir() || e.Name() == c.Name || e.Name() == sysctl.Folder {
			continue
		}
		store, err := storeOf(&Config{StateDir: c.StateDir, Name: e.Name()})
		if err != nil {
			return err
		}
		leases, err := store.List()
		if err != nil {
			return err
		}
		for _, l := range leases {
			if slices.ContainsFunc(l.Addrs, p.Contains) {
				return fmt.Errorf("it has %s, which containers of network %s need: name another bridge, or set forceAddress", p, e.Name())
			}
		}
	}
	return nil
}

func familiesOf(ps []netip.Prefix) []int {
	var four, six []int
	for _, p := range ps {
		if p.Addr().Is4() {
			four = []int{netlink.FAMILY_V4}
		} else {
			six = []int{netlink.FAMILY_V6}
		}
	}
	return append(four, six...)
}

// clashes says whether p cannot stay beside the gateways: IPv4 has one network on a bridge, IPv6's must not overlap.
func clashes(p netip.Prefix, gateways []netip.Prefix) bool {
	for _, g := range gateways {
		if g.Addr().Is4() == p.Addr().Is4() && (g.Addr().Is4() || g.Overlaps(p)) {
			return true
		}
	}
	return false
}

func (c *Config) replacesAddress() bool {
	if c.ForceAddress == nil {
		return !c.hasIPAM
	}
	return *c.ForceAddress
}

// setPort gives the node's end of a link its place on the bridge.
func (n *namespace) setPort(l *link, conf *Config) error {
	if conf.hairpin() {
		if err := n.sock.tell(nil, sendBack(l.index)); err != nil {
			return fmt.Errorf("hairpinMode: %w", err)
		}
	}
	if !conf.PortIsolation && !conf.vlans() {
		return nil
	}
	lib, err := n.lib()
	if err != nil {
		return err
	}
	if conf.PortIsolation {
		if err := lib.LinkSetIsolated(l.device(), true); err != nil {
			return fmt.Errorf("portIsolation: %w", err)
		}
	}
	if conf.vlans() {
		return setVLANs(lib, l, conf)
	}
	return nil
}

// checkBridge says whether an ADD could use the bridge that is there, or make one.
func (n *namespace) checkBridge(conf *Config) error {
	l, err := n.link(conf.Bridge)
	if err != nil || l == nil {
		return err
	}
	if l.kind != "bridge" {
		return notABridge(l)
	}
	if !conf.vlans() {
		return nil
	}
	lib, err := n.lib()
	if err != nil {
		return err
	}
	there, err := lib.LinkByName(conf.Bridge)
	if br, ok := there.(*netlink.Bridge); ok && br.VlanDefaultPVID == nil { // a kernel that has them says it of each
		return fmt.Errorf("%s: %w", noVLANs, unix.EOPNOTSUPP)
	}
	return err
}
