package plugin

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/orlop-io/orlop/bpf/whole"
	"github.com/orlop-io/orlop/cni/nat"
	"github.com/orlop-io/orlop/cni/sysctl"
	"github.com/vishvananda/netlink"
)

// Check compares what Add made with what is there, and changes nothing.
func Check(args *Args) error {
	a, err := attachmentOf(args)
	if err != nil {
		return err
	}
	if a.conf.prev == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "CHECK needs prevResult", "")
	}
	prev, err := current.NewResultFromResult(a.conf.prev)
	if err != nil {
		return types.NewError(types.ErrDecodingFailure, "decode prevResult", err.Error())
	}
	lease, held, err := a.store.Lookup(a.Attachment)
	if err != nil {
		return coded(errState, err)
	}
	if !held {
		return types.NewError(errMismatch, fmt.Sprintf("container %s %s holds no lease", args.ContainerID, args.IfName), "")
	}
	addrs := a.conf.addressesOf(lease.Addrs)
	if a.conf.delegate != "" {
		if err := delegated("CHECK", a.conf, args); err != nil {
			return err
		}
		addrs = addressesIn(prev, args)
	}
	node, pod, err := open(args.Netns)
	if err != nil {
		return types.NewError(types.ErrInvalidNetNS, err.Error(), "")
	}
	defer node.close()
	defer pod.close()
	in, out := a.conf.RuntimeConfig.Bandwidth.shapes()
	holds := holdingOf(lease)
	return coded(errMismatch, errors.Join(
		sameAddrs(addrs, prev),
		pod.checkPod(args.IfName, addrs, a.begin(&given{addrs: addrs, routes: a.conf.routes}).Routes, a.conf),
		pod.checkMAC(prev, args),
		node.checkHost(hostName(a.Attachment), a.conf, a.gateways(addrs)),
		checkForwarding(a.conf, addrs),
		node.checkLimit(hostName(a.Attachment), in, out),
		a.checkRules(holds, addrs),
		a.checkPorts(holds),
		a.checkGuard(holds),
	))
}

// addressesIn are those that a result gives to the attachment's interface.
func addressesIn(r *current.Result, args *Args) []address {
	var out []address
	for _, ip := range r.IPs {
		if ip.Interface != nil && (*ip.Interface < 0 || *ip.Interface >= len(r.Interfaces) || r.Interfaces[*ip.Interface].Name != args.IfName) {
			continue
		}
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			ones, _ := ip.Address.Mask.Size()
			gw, _ := netip.AddrFromSlice(ip.Gateway)
			out = append(out, address{a.Unmap(), ones, gw.Unmap()})
		}
	}
	return out
}

func sameAddrs(want []address, prev *current.Result) error {
	for _, w := range want {
		if !slices.ContainsFunc(prev.IPs, func(ip *current.IPConfig) bool { return ip.Address.IP.Equal(w.AsSlice()) }) {
			return fmt.Errorf("prevResult lacks the leased address %s", w.Addr)
		}
	}
	return nil
}

func (a *attachment) checkRules(held holding, addrs []address) error {
	if !a.conf.IPMasq && len(held.Ports) == 0 {
		return nil
	}
	var subnets []netip.Prefix
	for _, x := range addrs {
		subnets = append(subnets, netip.PrefixFrom(x.Addr, x.bits))
	}
	there, err := a.table.HasRules(subnets)
	if err == nil && !there {
		err = fmt.Errorf("nftables table %s has no rules", a.table.Name())
	}
	return err
}

func (a *attachment) checkPorts(held holding) error {
	got, err := a.table.There(held.Ports)
	if err != nil {
		return err
	}
	for _, p := range held.Ports {
		if !slices.Contains(got, p) {
			return fmt.Errorf("host port %d does not lead to %s", p.Port, p.Pod)
		}
	}
	return nil
}

func (a *attachment) checkGuard(held holding) error {
	if held.Guard == nil {
		return nil
	}
	guards, err := a.table.Guards()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(guards, func(g nat.Guard) bool { return g.Port == held.Guard.Port && g.MAC.String() == held.Guard.MAC.String() }) {
		return fmt.Errorf("%s is not held to %s", held.Guard.Port, held.Guard.MAC)
	}
	return nil
}

func (n *namespace) checkPod(name string, addrs []address, routes []*types.Route, conf *Config) error {
	l, err := n.must(name)
	if err != nil {
		return fmt.Errorf("in the container: %w", err)
	}
	if conf.DisableContainerInterface {
		return nil
	}
	if !l.up() {
		return fmt.Errorf("%s in the container is down", name)
	}
	lib, err := n.lib()
	if err != nil {
		return err
	}
	have, err := whole.List(func() ([]netlink.Addr, error) { return lib.AddrList(l.device(), netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses of %s in the container: %w", name, err)
	}
	for _, a := range addrs {
		want := netOf(a.Addr, a.bits).String()
		if !slices.ContainsFunc(have, func(h netlink.Addr) bool { return h.IPNet.String() == want }) {
			return fmt.Errorf("%s in the container lacks address %s", name, want)
		}
	}
	there, err := whole.List(func() ([]netlink.Route, error) {
		return lib.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: l.index}, netlink.RT_FILTER_OIF)
	})
	if err != nil {
		return fmt.Errorf("list routes of %s in the container: %w", name, err)
	}
	for _, r := range routes {
		want := routeOf(r, addrs)
		if r.Table != nil && *r.Table != 0 {
			continue // of a table that only a rule leads to
		}
		if !slices.ContainsFunc(there, want.is) {
			return fmt.Errorf("the container lacks the route to %s", want.dst)
		}
	}
	return nil
}

// is says whether the kernel's route has the same destination and gateway. The default route's destination may be left out; then the gateway
// tells the family.
func (r route) is(t netlink.Route) bool {
	gw, _ := netip.AddrFromSlice(t.Gw)
	if gw.Unmap() != r.gw {
		return false
	}
	if t.Dst == nil {
		return r.dst.Bits() == 0
	}
	return t.Dst.String() == netOf(r.dst.Addr(), r.dst.Bits()).String()
}

// checkMAC says whether the container's end has the hardware address that the last plugin of the chain told.
func (n *namespace) checkMAC(prev *current.Result, args *Args) error {
	i := slices.IndexFunc(prev.Interfaces, func(i *current.Interface) bool { return i.Name == args.IfName && i.Sandbox == args.Netns })
	if i < 0 || prev.Interfaces[i].Mac == "" {
		return nil
	}
	l, err := n.link(args.IfName)
	if l == nil || err != nil {
		return err // a missing one is told already
	}
	if want := prev.Interfaces[i].Mac; !strings.EqualFold(l.mac.String(), want) {
		return fmt.Errorf("%s in the container has hardware address %s, not %s", args.IfName, l.mac, want)
	}
	return nil
}

func (n *namespace) checkHost(name string, conf *Config, gateways []netip.Prefix) error {
	l, err := n.must(name)
	if err != nil {
		return err
	}
	br, err := n.must(conf.Bridge)
	if err != nil {
		return err
	}
	if l.master != br.index {
		return fmt.Errorf("%s is not on bridge %s", name, conf.Bridge)
	}
	if !l.up() {
		return fmt.Errorf("%s is down", name)
	}
	if !br.up() {
		return fmt.Errorf("bridge %s is down", conf.Bridge)
	}
	if conf.PromiscMode && !br.promiscuous {
		return fmt.Errorf("bridge %s is not promiscuous", conf.Bridge)
	}
	if !conf.gateway() {
		return nil
	}
	gw := br
	if conf.gatewayLink() != conf.Bridge {
		if gw, err = n.must(conf.gatewayLink()); err != nil {
			return err
		}
		if !gw.up() {
			return fmt.Errorf("%s is down", gw.name)
		}
	}
	return n.checkAddresses(gw, gateways)
}

func (n *namespace) checkAddresses(l *link, gateways []netip.Prefix) error {
	for _, f := range familiesOf(gateways) {
		have, err := n.sock.addresses(l.index, f)
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", l.name, err)
		}
		for _, g := range gateways {
			if g.Addr().Is4() == (f == netlink.FAMILY_V4) && !slices.Contains(have, g) {
				return fmt.Errorf("%s lacks address %s", l.name, g)
			}
		}
	}
	return nil
}

func checkForwarding(conf *Config, addrs []address) error {
	for _, key := range forwarding(conf, addrs) {
		value, err := sysctl.Ledger{}.Value(key)
		if err != nil {
			return fmt.Errorf("read sysctl %s: %w", key, err)
		}
		if value != "1" {
			return fmt.Errorf("sysctl %s is %s, not 1", strings.ReplaceAll(key, "/", "."), value)
		}
	}
	return nil
}
