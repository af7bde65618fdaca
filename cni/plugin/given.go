package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/orlop-io/orlop/cni/nat"
)

// given is what a container gets before there is a link.
type given struct {
	addrs  []address
	routes []*types.Route // of ipam
	dns    types.DNS      // of ipam
	mac    net.HardwareAddr
	held   holding
}

// subnets are those the container's addresses are of, and all of the configuration's.
func (g *given) subnets(conf *Config) []netip.Prefix {
	if conf.delegate == "" {
		return conf.PodCIDRs
	}
	var out []netip.Prefix
	for _, a := range g.addrs {
		out = append(out, netip.PrefixFrom(a.Addr, a.bits).Masked())
	}
	return out
}

// gateways are the addresses that the bridge is to have.
func (a *attachment) gateways(addrs []address) []netip.Prefix {
	var out []netip.Prefix
	for _, set := range a.conf.sets {
		for _, r := range set {
			out = append(out, netip.PrefixFrom(r.Gateway, r.Subnet.Bits()))
		}
	}
	if a.conf.delegate != "" {
		for _, x := range addrs {
			if x.gateway.IsValid() {
				out = append(out, netip.PrefixFrom(x.gateway, x.bits))
			}
		}
	}
	return out
}

// reserve writes the lease, with all that is to come.
func (a *attachment) reserve(node *namespace, w wish, undo *undoing) (*given, error) {
	if a.conf.delegate != "" {
		return a.reserveElsewhere(w, undo)
	}
	dns, err := a.conf.readDNS()
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	g := &given{routes: a.conf.routes, dns: dns}
	req := ipam.Request{
		Attachment: a.Attachment, Sets: a.conf.sets, Wanted: w.ips, Reserved: a.conf.reserved,
		Data: func(addrs []netip.Addr) (json.RawMessage, error) {
			if err := a.complete(g, w, a.conf.addressesOf(addrs)); err != nil {
				return nil, err
			}
			return g.held.encode()
		},
	}
	_, err = a.store.Reserve(req)
	if errors.Is(err, ipam.ErrExhausted) && a.reclaim(node) {
		_, err = a.store.Reserve(req)
	}
	if err != nil {
		return nil, refused(err)
	}
	undo.add(func() error { return a.store.Release(a.Attachment) })
	return g, nil
}

// refused gives an error of Reserve the specification's code: what another container may give back is asked for again later.
func refused(err error) error {
	code := uint(errState)
	switch {
	case errors.Is(err, ipam.ErrExhausted), errors.Is(err, ipam.ErrTaken):
		code = types.ErrTryAgainLater
	case errors.Is(err, ipam.ErrOutside):
		code = types.ErrInvalidNetworkConfig
	}
	return coded(code, err)
}

// addressesOf adds what the configuration says of each address.
func (c *Config) addressesOf(addrs []netip.Addr) []address {
	out := make([]address, 0, len(addrs))
	for _, a := range addrs {
		x := address{Addr: a, bits: a.BitLen()}
		for _, set := range c.sets {
			for _, r := range set {
				if r.Subnet.Contains(a) {
					x.bits, x.gateway = r.Subnet.Bits(), r.Gateway
				}
			}
		}
		out = append(out, x)
	}
	return out
}

// complete works out what follows from the addresses.
func (a *attachment) complete(g *given, w wish, addrs []address) error {
	g.addrs, g.mac = addrs, w.mac
	var plain []netip.Addr
	for _, x := range addrs {
		plain = append(plain, x.Addr)
	}
	if g.mac == nil {
		g.mac = macOfName(a.ContainerID + "/" + a.IfName)
		if len(plain) > 0 {
			g.mac = macOf(plain[0])
		}
	}
	ports, err := a.conf.hostPorts(plain)
	if err != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "port mappings are not valid", err.Error())
	}
	aliases, err := a.conf.aliases()
	if err != nil {
		return err
	}
	g.held = holding{
		Netns: a.args.Netns, Pod: w.pod, Aliases: aliases, Ports: ports, Limited: a.conf.RuntimeConfig.Bandwidth.EgressRate > 0,
	}
	if a.conf.varied() {
		g.held.Subnets = g.subnets(a.conf)
	}
	if a.conf.MacSpoofChk {
		g.held.Guard = &nat.Guard{Port: hostName(a.Attachment), MAC: g.mac}
	}
	return nil
}

// begin is the result as far as it decides what is set up: addresses and routes.
func (a *attachment) begin(g *given) *current.Result {
	r := &current.Result{CNIVersion: current.ImplementedSpecVersion}
	for _, x := range g.addrs {
		ip := &current.IPConfig{Address: *netOf(x.Addr, x.bits)}
		if x.gateway.IsValid() {
			ip.Gateway = x.gateway.AsSlice()
		}
		r.IPs = append(r.IPs, ip)
	}
	r.Routes = append(r.Routes, g.routes...)
	if !a.conf.defaultGateway() {
		return r
	}
	for _, x := range g.addrs {
		all := net.IPNet{IP: make([]byte, x.BitLen()/8), Mask: net.CIDRMask(0, x.BitLen())}
		if x.gateway.IsValid() && !slices.ContainsFunc(r.Routes, func(o *types.Route) bool { return o.Dst.String() == all.String() }) {
			r.Routes = append(r.Routes, &types.Route{Dst: all, GW: x.gateway.AsSlice(), MTU: a.conf.RouteMTU})
		}
	}
	return r
}

// finish adds the interfaces and what a plugin before this one said.
func (a *attachment) finish(r *current.Result, g *given, bridges []iface, host, eth iface) {
	r.Interfaces = []*current.Interface{
		{Name: bridges[0].name, Mac: bridges[0].mac, Mtu: bridges[0].mtu},
		{Name: host.name, Mac: host.mac, Mtu: host.mtu},
		{Name: eth.name, Mac: eth.mac, Mtu: eth.mtu, Sandbox: a.args.Netns},
	}
	for _, l := range bridges[1:] {
		r.Interfaces = append(r.Interfaces, &current.Interface{Name: l.name, Mac: l.mac, Mtu: l.mtu})
	}
	for _, ip := range r.IPs {
		n := 2
		ip.Interface = &n
	}
	r.DNS = a.conf.resolvers(g.dns)
	if a.conf.prev == nil {
		return
	}
	prev, err := current.NewResultFromResult(a.conf.prev)
	if err != nil {
		return // Parse has decoded it
	}
	for _, ip := range r.IPs {
		*ip.Interface += len(prev.Interfaces)
	}
	r.Interfaces = append(prev.Interfaces, r.Interfaces...)
	r.IPs = append(prev.IPs, r.IPs...)
	r.Routes = append(prev.Routes, r.Routes...)
	if r.DNS.IsEmpty() {
		r.DNS = prev.DNS
	}
}

// resolvers are the runtime's, or the configuration's, or those of ipam.
func (c *Config) resolvers(byIPAM types.DNS) types.DNS {
	d := c.DNS
	if d.IsEmpty() {
		d = byIPAM
	}
	rt := c.RuntimeConfig.DNS
	if len(rt.Nameservers) > 0 {
		d.Nameservers = rt.Nameservers
	}
	if len(rt.Search) > 0 {
		d.Search = rt.Search
	}
	if len(rt.Options) > 0 {
		d.Options = rt.Options
	}
	return d
}

// reclaim frees addresses of containers whose namespace and link are gone, which a runtime forgot to delete. It says whether it freed any.
func (a *attachment) reclaim(node *namespace) bool {
	leases, err := a.store.List()
	if err != nil {
		return false
	}
	freed := false
	for _, l := range leases {
		if dead, err := abandoned(node, l); err != nil || !dead {
			continue
		}
		freed = a.undoLease(node, l, func() error { return nil }) == nil || freed
	}
	return freed
}

// reserveElsewhere calls another IPAM plugin. The lease comes first all the same, for it is what everything else is found by.
func (a *attachment) reserveElsewhere(w wish, undo *undoing) (*given, error) {
	data, err := holding{Netns: a.args.Netns, Pod: w.pod}.encode()
	if err != nil {
		return nil, fmt.Errorf("encode lease: %w", err)
	}
	_, err = a.store.Reserve(ipam.Request{Attachment: a.Attachment, Data: func([]netip.Addr) (json.RawMessage, error) { return data, nil }})
	if err != nil {
		return nil, coded(errState, err)
	}
	undo.add(func() error { return a.store.Release(a.Attachment) })
	undo.add(func() error { return delegated("DEL", a.conf, a.args) })
	r, err := delegatedAdd(a.conf, a.args)
	if err != nil {
		return nil, err
	}
	var addrs []address
	for _, ip := range r.IPs {
		ones, _ := ip.Address.Mask.Size()
		x, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, fmt.Errorf("IPAM plugin %s returned an address that is none", a.conf.delegate)
		}
		gw, _ := netip.AddrFromSlice(ip.Gateway)
		if !gw.IsValid() && a.conf.gateway() {
			gw = netip.PrefixFrom(x.Unmap(), ones).Masked().Addr().Next() // as bridge does
		}
		addrs = append(addrs, address{x.Unmap(), ones, gw.Unmap()})
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("IPAM plugin %s returned no address", a.conf.delegate)
	}
	g := &given{routes: r.Routes, dns: r.DNS}
	if err := a.complete(g, w, addrs); err != nil {
		return nil, err
	}
	if data, err = g.held.encode(); err == nil {
		err = a.store.SetData(a.Attachment, data)
	}
	return g, coded(errState, err)
}
