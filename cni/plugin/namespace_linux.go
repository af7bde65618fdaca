package plugin

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/cni/sysctl"
)

// namespace is a network namespace and a netlink socket in it.
type namespace struct {
	ns   netns.NsHandle // closed for the process's own
	sock *socket
	rare *netlink.Handle // nil until lib is called
}

// iface is what a result says of a link.
type iface struct {
	name, mac string
	mtu       int
	index     int
}

// gone is what the kernel says of links that are not there.
var gone = []unix.Errno{unix.ENODEV}

func (n *namespace) close() {
	n.sock.close()
	if n.rare != nil {
		n.rare.Close()
	}
	if n.ns.IsOpen() {
		n.ns.Close()
	}
}

// here opens the namespace the plugin was started in: the node's.
func here() (*namespace, error) {
	sock, err := openSocket()
	if err != nil {
		return nil, fmt.Errorf("open netlink in the node's namespace: %w", err)
	}
	return &namespace{ns: netns.None(), sock: sock}, nil
}

func at(path string) (*namespace, error) {
	ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	sock, err := socketIn(ns)
	if err != nil {
		unix.Close(ns)
		return nil, fmt.Errorf("open netlink in %s: %w", path, err)
	}
	return &namespace{ns: netns.NsHandle(ns), sock: sock}, nil
}

// socketIn opens a socket in another namespace, where it stays.
func socketIn(ns int) (*socket, error) {
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(own) // whichever thread opened it: all are in the node's namespace
	fd, errno := visit(uintptr(own), uintptr(ns))
	if errno != 0 {
		return nil, errno
	}
	return newSocket(fd), nil
}

// visit opens a netlink socket in another namespace, and is back in its own when it returns.
//
// A thread that is in a foreign namespace must meet no other goroutine. Locking it would be the usual way, but at the first lock the runtime starts
// a further thread in case it needs threads later, which with its stacks and its end costs a process of two milliseconds a twentieth of them. So nothing
// here lets go of the thread: the compiler puts no point into a nosplit function at which it could be interrupted, and raw system calls tell
// the runtime nothing.
//
//go:nosplit
func visit(own, ns uintptr) (fd int, errno syscall.Errno) {
	if _, _, errno = syscall.RawSyscall(unix.SYS_SETNS, ns, unix.CLONE_NEWNET, 0); errno != 0 {
		return 0, errno
	}
	r, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if _, _, lost := syscall.RawSyscall(unix.SYS_SETNS, own, unix.CLONE_NEWNET, 0); lost != 0 {
		// Going on, the process would work on the container as if it were the node. The kernel gives no reason for which this could come to pass.
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(lost), 0, 0)
	}
	return int(r), errno
}

// lib is the library's handle, for what few containers ask for.
func (n *namespace) lib() (*netlink.Handle, error) {
	if n.rare != nil {
		return n.rare, nil
	}
	var err error
	if n.ns.IsOpen() {
		n.rare, err = netlink.NewHandleAt(n.ns, unix.NETLINK_ROUTE)
	} else {
		n.rare, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return n.rare, nil
}

// device names a link to the library.
func (l *link) device() netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Index, attrs.Name = l.index, l.name
	return &netlink.Device{LinkAttrs: attrs}
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
func (n *namespace) link(name string) (*link, error) {
	l, err := n.sock.link(name)
	if err != nil {
		return nil, fmt.Errorf("look up interface %s: %w", name, err)
	}
	return l, nil
}

// must looks up a link that has to be there.
func (n *namespace) must(name string) (*link, error) {
	l, err := n.link(name)
	if err == nil && l == nil {
		err = fmt.Errorf("there is no interface %s", name)
	}
	return l, err
}

func isNotFound(err error) bool {
	var nf netlink.LinkNotFoundError
	return errors.As(err, &nf) || errors.Is(err, unix.ENODEV)
}

// remove deletes a link. It waits for the kernel, 12 to 32 ms.
func (n *namespace) remove(name string) error {
	l, err := n.link(name)
	if l == nil || err != nil {
		return err
	}
	req, _ := linkRequest(unix.RTM_DELLINK, 0, l.index)
	if err := n.sock.tell(gone, req); err != nil {
		return fmt.Errorf("delete interface %s: %w", name, err)
	}
	return nil
}

// prepare sets what forwarding needs in the node's namespace; each host has its own, and new ones start with none.
func (n *namespace) prepare(conf *Config, addrs []address) error {
	kernel := sysctl.Ledger{Dir: filepath.Join(conf.StateDir, sysctl.Folder)}
	for _, key := range forwarding(conf, addrs) {
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

// forwarding names the settings that have to be 1 for packets between containers with such addresses and elsewhere.
func forwarding(conf *Config, addrs []address) (keys []string) {
	if !conf.gateway() && !conf.IPMasq {
		return nil
	}
	for _, f := range []struct {
		v4  bool
		key string
	}{{true, "net/ipv4/ip_forward"}, {false, "net/ipv6/conf/all/forwarding"}} {
		if slices.ContainsFunc(addrs, func(a address) bool { return a.Is4() == f.v4 }) {
			keys = append(keys, f.key)
		}
	}
	return keys
}

// routeLoopback lets answers from containers on bridge reach local clients of a host port on 127.0.0.1.
func (n *namespace) routeLoopback(bridge string) error {
	path := filepath.Join("/proc/sys/net/ipv4/conf", bridge, "route_localnet")
	old, err := sysctl.Ledger{}.Value("net/ipv4/conf/" + bridge + "/route_localnet")
	if err == nil && old != "1" {
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
		index := n.sock.linkTo(netip.MustParseAddr(outside))
		if index == 0 {
			continue
		}
		if l, err := n.sock.linkAt(index); err == nil && l != nil && l.flags&unix.IFF_LOOPBACK == 0 {
			return l.mtu
		}
	}
	return 0
}

func ifaceOf(l *link) iface {
	return iface{name: l.name, mac: l.mac.String(), mtu: l.mtu, index: l.index}
}

func netOf(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}
