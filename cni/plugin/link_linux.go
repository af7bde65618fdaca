package plugin

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// wire is the link that an ADD makes.
type wire struct {
	host   string // name of the node's end
	ifname string // of the container's
	mac    net.HardwareAddr
	addrs  []address
	routes []*types.Route
}

// address is one of a container's, with the length of its subnet and the gateway, if there is one.
type address struct {
	netip.Addr
	bits    int
	gateway netip.Addr
}

// connect makes the pair, one end on the bridge, the other in the container with addresses and routes.
//
// A policy for the container belongs between the pair and its addresses: nothing has gone in or out by then.
func (n *namespace) connect(pod *namespace, bridge iface, conf *Config, w wire) (host, eth iface, err error) {
	hostLink, err := n.addPair(pod, bridge, conf.MTU, w)
	if errors.Is(err, unix.EEXIST) {
		if l, err := pod.link(w.ifname); err != nil || l != nil {
			return iface{}, iface{}, errors.Join(err, exists(w.ifname))
		}
		// An earlier link of this attachment that DEL left to its namespace, which lives on.
		if err = n.remove(w.host); err == nil {
			hostLink, err = n.addPair(pod, bridge, conf.MTU, w)
		}
	}
	if err != nil {
		return iface{}, iface{}, fmt.Errorf("make link %s to %s: %w", w.host, w.ifname, err)
	}
	if err := n.setPort(hostLink, conf); err != nil {
		return iface{}, iface{}, fmt.Errorf("set up %s: %w", w.host, err)
	}
	inner := innerOf(hostLink, w)
	if err := pod.configure(conf, inner, w); err != nil {
		return iface{}, iface{}, fmt.Errorf("set up %s in the container: %w", w.ifname, err)
	}
	return ifaceOf(hostLink), ifaceOf(inner), nil
}

func (n *namespace) configure(conf *Config, l *link, w wire) error {
	if conf.DisableContainerInterface {
		return n.loopback()
	}
	if err := n.sysctls(conf.Sysctl, w.ifname); err != nil {
		return err
	}
	err := n.start(conf, l, w)
	if errors.Is(err, errNoIPv6) { // some runtimes turn it off in new namespaces
		if err = n.sysctls(map[string]string{"net.ipv6.conf.IFNAME.disable_ipv6": "0"}, l.name); err == nil {
			err = n.start(conf, l, w)
		}
	}
	return err
}

var errNoIPv6 = errors.New("IPv6 is turned off")

// start makes the container's links and addresses and routes ready, in one system call; what is there already, of a first try, stays.
//
// Duplicate address detection is skipped unless it is asked for: the store knows that nobody else has the address, and waiting costs 1 to 3 s.
func (n *namespace) start(conf *Config, l *link, w wire) error {
	reqs := []*nl.NetlinkRequest{setFlags(loopbackIndex, unix.IFF_UP, unix.IFF_UP)}
	for _, a := range w.addrs {
		reqs = append(reqs, newAddress(l.index, netip.PrefixFrom(a.Addr, a.bits), !conf.EnableDAD))
	}
	reqs = append(reqs, setFlags(l.index, unix.IFF_UP, unix.IFF_UP))
	for _, r := range w.routes {
		reqs = append(reqs, routeRequest(l.index, r, w.addrs))
	}
	answers := n.sock.ask(reqs...)
	for i, a := range w.addrs {
		err := answers[1+i].err
		if a.Is6() && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) {
			return fmt.Errorf("add address %s: %w: %w", a.Addr, errNoIPv6, err)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s: %w", a.Addr, err)
		}
	}
	for i, name := range map[int]string{0: "lo", 1 + len(w.addrs): w.ifname} {
		if err := answers[i].err; err != nil {
			return fmt.Errorf("set up %s: %w", name, err)
		}
	}
	for i, r := range w.routes {
		if err := answers[2+len(w.addrs)+i].err; err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add route %s: %w", routeOf(r, w.addrs), err)
		}
	}
	return nil
}

// sysctls sets keys in the namespace. A key is written with dots or slashes; in the first form a slash is a dot of a name.
func (n *namespace) sysctls(values map[string]string, ifname string) error {
	if len(values) == 0 {
		return nil
	}
	return n.do(func() error {
		for key, value := range values {
			if err := os.WriteFile(sysctlPath(key, ifname), []byte(value), 0); err != nil {
				return fmt.Errorf("sysctl %s: %w", key, err)
			}
		}
		return nil
	})
}

func sysctlPath(key, ifname string) string {
	if !strings.Contains(key, "/") || strings.IndexByte(key, '.') >= 0 && strings.IndexByte(key, '.') < strings.IndexByte(key, '/') {
		key = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, key)
	}
	// After the dots: the name may have some itself.
	return filepath.Join("/proc/sys", strings.ReplaceAll(key, "IFNAME", ifname))
}

// route is one of a configuration's with what it leaves out.
type route struct {
	dst      netip.Prefix
	gw       netip.Addr
	scope    uint8
	table    int
	priority int
}

func (r route) String() string {
	if r.gw.IsValid() {
		return fmt.Sprintf("to %s via %s", r.dst, r.gw)
	}
	return fmt.Sprintf("to %s", r.dst)
}

// routeOf fills in the gateway of the family where a route has none.
func routeOf(r *types.Route, addrs []address) route {
	ip, _ := netip.AddrFromSlice(r.Dst.IP)
	ones, bits := r.Dst.Mask.Size()
	if bits == 32 {
		ip = ip.Unmap()
	}
	out := route{dst: netip.PrefixFrom(ip, ones).Masked(), priority: r.Priority, table: unix.RT_TABLE_MAIN}
	if gw, ok := netip.AddrFromSlice(r.GW); ok {
		out.gw = gw.Unmap()
	}
	for _, a := range addrs {
		if !out.gw.IsValid() && a.gateway.IsValid() && a.Is4() == out.dst.Addr().Is4() {
			out.gw = a.gateway
		}
	}
	if r.Table != nil {
		out.table = *r.Table
	}
	if r.Scope != nil {
		out.scope = uint8(*r.Scope)
	} else if !out.gw.IsValid() {
		out.scope = unix.RT_SCOPE_LINK
	}
	return out
}

func routeRequest(index int, r *types.Route, addrs []address) *nl.NetlinkRequest {
	full := routeOf(r, addrs)
	req := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	msg := nl.NewRtMsg()
	msg.Family, msg.Dst_len, msg.Scope = unix.AF_INET, uint8(full.dst.Bits()), full.scope
	if full.dst.Addr().Is6() {
		msg.Family = unix.AF_INET6
	}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, full.dst.Addr().AsSlice()))
	if full.gw.IsValid() {
		req.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, full.gw.AsSlice()))
	}
	number := func(kind, value int) { req.AddData(nl.NewRtAttr(kind, nl.Uint32Attr(uint32(value)))) }
	msg.Table = uint8(full.table)
	if full.table >= 256 {
		msg.Table = unix.RT_TABLE_UNSPEC
		number(unix.RTA_TABLE, full.table)
	}
	if full.priority > 0 {
		number(unix.RTA_PRIORITY, full.priority)
	}
	if r.MTU > 0 || r.AdvMSS > 0 {
		metrics := nl.NewRtAttr(unix.RTA_METRICS, nil)
		for kind, value := range map[int]int{unix.RTAX_MTU: r.MTU, unix.RTAX_ADVMSS: r.AdvMSS} {
			if value > 0 {
				metrics.AddRtAttr(kind, nl.Uint32Attr(uint32(value)))
			}
		}
		req.AddData(metrics)
	}
	number(unix.RTA_OIF, index)
	return req
}

// detach takes a link out of use without waiting for the kernel to delete it, which takes 12 to 32 ms: the container's end gets a name
// that no ADD uses, both are down and off the bridge. The pair goes with the container's namespace, or with sweep. It says whether
// there was a link.
func (n *namespace) detach(path, ifname, host string, remember func() error) (bool, error) {
	l, err := n.link(host)
	if l == nil || err != nil {
		return false, err
	}
	// Before the bridge lets go: after it only the note tells whose this is.
	if remember() != nil {
		return true, n.remove(host) // on a full disk: it takes the time that the note would have saved
	}
	if err := retire(path, ifname, host, l.parent); err != nil {
		return true, err
	}
	if err := n.sock.tell(gone, release(l.index)); err != nil {
		return true, fmt.Errorf("take %s off its bridge: %w", host, err)
	}
	return true, nil
}

// retire takes the container's end down and renames it, if it is the one with that index.
func retire(path, ifname, name string, index int) error {
	if path == "" {
		return nil
	}
	pod, err := at(path)
	if err != nil {
		return nil // the namespace is gone, or on its way
	}
	defer pod.close()
	l, err := pod.link(ifname)
	if l == nil || err != nil || l.index != index {
		return err
	}
	if err := pod.sock.tell(gone, setFlags(index, 0, unix.IFF_UP), rename(index, name)); err != nil {
		return fmt.Errorf("retire %s in the container: %w", ifname, err)
	}
	return nil
}
