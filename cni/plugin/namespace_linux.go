package plugin

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/cni/sysctl"
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

// do runs f on a thread in the namespace, which dies after it.
func (n *namespace) do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(n.ns); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// link looks up a link; nil when there is none of the name.
func (n *namespace) link(name string) (netlink.Link, error) {
	l, err := n.nl.LinkByName(name)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up interface %s: %w", name, err)
	}
	return l, nil
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
func (n *namespace) prepare(conf *Config, addrs []address) error {
	kernel := sysctl.Ledger{Dir: filepath.Join(conf.StateDir, sysctl.Folder)}
	done := map[string]bool{}
	for _, a := range addrs {
		key := "net/ipv4/ip_forward"
		if a.Is6() {
			key = "net/ipv6/conf/all/forwarding"
		}
		if !conf.gateway() && !conf.IPMasq || done[key] {
			continue
		}
		done[key] = true
		if err := kernel.Set(key, "1"); err != nil {
			return err
		}
	}
	if conf.BridgeNetfilter != "off" {
		return nil
	}
	for _, name := range []string{"iptables", "ip6tables"} {
		err := kernel.Set("net/bridge/bridge-nf-call-"+name, "0")
		if err != nil && !errors.Is(err, os.ErrNotExist) { // without br_netfilter there is nothing to turn off
			return err
		}
	}
	return nil
}

// routeLoopback lets answers from containers on bridge reach local clients of a host port on 127.0.0.1.
func (n *namespace) routeLoopback(bridge string) error {
	path := filepath.Join("/proc/sys/net/ipv4/conf", bridge, "route_localnet")
	old, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(old)) != "1" {
		err = os.WriteFile(path, []byte("1"), 0) // it goes with the bridge
	}
	if err != nil {
		return fmt.Errorf("route 127.0.0.0/8 on %s: %w", bridge, err)
	}
	return nil
}

// uplinkMTU is that of the link with the default route, 0 when there is none.
func (n *namespace) uplinkMTU() int {
	for _, outside := range []string{"192.0.2.1", "2001:db8::1"} { // nobody has these
		routes, err := n.nl.RouteGet(net.ParseIP(outside))
		if err != nil || len(routes) == 0 {
			continue
		}
		if l, err := n.nl.LinkByIndex(routes[0].LinkIndex); err == nil && l.Attrs().Flags&net.FlagLoopback == 0 {
			return l.Attrs().MTU
		}
	}
	return 0
}

func ifaceOf(l netlink.Link) iface {
	a := l.Attrs()
	return iface{name: a.Name, mac: a.HardwareAddr.String(), mtu: a.MTU, index: a.Index}
}

func netOf(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}
