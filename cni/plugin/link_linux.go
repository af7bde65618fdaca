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
	"github.com/vishvananda/netlink"
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
	err = addPair(pod, bridge, conf.MTU, w)
	if errors.Is(err, unix.EEXIST) {
		if l, err := pod.link(w.ifname); err != nil || l != nil {
			return iface{}, iface{}, errors.Join(err, exists(w.ifname))
		}
		// An earlier link of this attachment that DEL left to its namespace, which lives on.
		if err = n.remove(w.host); err == nil {
			err = addPair(pod, bridge, conf.MTU, w)
		}
	}
	if err != nil {
		return iface{}, iface{}, fmt.Errorf("make link %s to %s: %w", w.host, w.ifname, err)
	}
	hostLink, err := n.nl.LinkByName(w.host)
	if err == nil {
		err = n.setPort(hostLink, conf)
	}
	if err != nil {
		return iface{}, iface{}, fmt.Errorf("set up %s: %w", w.host, err)
	}
	inner := innerOf(hostLink, w)
	if err := pod.configure(conf, inner, w); err != nil {
		return iface{}, iface{}, fmt.Errorf("set up %s in the container: %w", w.ifname, err)
	}
	return ifaceOf(hostLink), ifaceOf(inner), nil
}

func (n *namespace) configure(conf *Config, l netlink.Link, w wire) error {
	if err := n.loopback(); err != nil || conf.DisableContainerInterface {
		return err
	}
	if err := n.sysctls(conf.Sysctl, w.ifname); err != nil {
		return err
	}
	for _, a := range w.addrs {
		if err := n.addAddress(l, conf, a); err != nil {
			return fmt.Errorf("add address %s: %w", a.Addr, err)
		}
	}
	if err := n.nl.LinkSetUp(l); err != nil {
		return err
	}
	for _, r := range w.routes {
		if err := n.nl.RouteAdd(routeOf(l, r, w.addrs)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add route %s: %w", r, err)
		}
	}
	return nil
}

// addAddress skips duplicate address detection unless it is asked for: the store knows that nobody else has the address, and waiting
// costs 1 to 3 s.
func (n *namespace) addAddress(l netlink.Link, conf *Config, a address) error {
	addr := &netlink.Addr{IPNet: netOf(a.Addr, a.bits)}
	if a.Is6() && !conf.EnableDAD {
		addr.Flags = unix.IFA_F_NODAD
	}
	err := n.nl.AddrAdd(l, addr)
	if a.Is6() && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) { // some runtimes turn IPv6 off in new namespaces
		if err = n.sysctls(map[string]string{"net.ipv6.conf.IFNAME.disable_ipv6": "0"}, l.Attrs().Name); err == nil {
			err = n.nl.AddrAdd(l, addr)
		}
	}
	return err
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

// routeOf fills in the gateway of the family where a route has none.
func routeOf(l netlink.Link, r *types.Route, addrs []address) *netlink.Route {
	out := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: &r.Dst, Gw: r.GW, MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority}
	if out.Gw == nil {
		for _, a := range addrs {
			if a.gateway.IsValid() && a.Is4() == (r.Dst.IP.To4() != nil) {
				out.Gw = a.gateway.AsSlice()
				break
			}
		}
	}
	if r.Table != nil {
		out.Table = *r.Table
	}
	if r.Scope != nil {
		out.Scope = netlink.Scope(*r.Scope)
	}
	if out.Gw == nil && r.Scope == nil {
		out.Scope = netlink.SCOPE_LINK
	}
	return out
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
	if err := remember(); err != nil {
		return true, err
	}
	if err := retire(path, ifname, host, l.Attrs().ParentIndex); err != nil {
		return true, err
	}
	if l.Attrs().MasterIndex != 0 {
		if err := n.nl.LinkSetNoMaster(l); err != nil && !isNotFound(err) {
			return true, fmt.Errorf("take %s off its bridge: %w", host, err)
		}
	}
	if err := n.nl.LinkSetDown(l); err != nil && !isNotFound(err) {
		return true, fmt.Errorf("set %s down: %w", host, err)
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
	if l == nil || err != nil || l.Attrs().Index != index {
		return err
	}
	if err := pod.nl.LinkSetDown(l); err == nil || isNotFound(err) {
		err = pod.nl.LinkSetName(l, name)
	}
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("retire %s in the container: %w", ifname, err)
	}
	return nil
}
