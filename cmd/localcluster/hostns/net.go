package hostns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const bridgeName = "fabric0"

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// connect lays the cable from the host to the fabric's bridge and configures the host's end.
//
// A routed host has a network of its own, with the fabric as its router, and no other host on its link.
func connect(fabric *os.File, h layout.Host, routed bool) error {
	far, err := netlink.NewHandleAt(netns.NsHandle(fabric.Fd()))
	if err != nil {
		return fmt.Errorf("reach the fabric: %w", err)
	}
	defer far.Close()
	here, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("reach the host's network: %w", err)
	}
	defer here.Close()
	bridge, err := far.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("find the fabric's bridge: %w", err)
	}
	port := fmt.Sprintf("h%d", h.Index)
	if err := removeStale(far, port); err != nil {
		return err
	}
	a4 := h.Addr.As4()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	// The same address after a reboot: neighbours' caches stay right.
	attrs.HardwareAddr = net.HardwareAddr{0x0a, 0x58, a4[0], a4[1], a4[2], a4[3]}
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: port, PeerNamespace: netlink.NsFd(int(fabric.Fd()))}
	if err := here.LinkAdd(veth); err != nil {
		return fmt.Errorf("add eth0: %w", err)
	}
	peer, err := far.LinkByName(port)
	if err != nil {
		return fmt.Errorf("find the fabric's end of eth0: %w", err)
	}
	if routed {
		err = errors.Join(far.LinkSetUp(peer), far.RouteAdd(&netlink.Route{LinkIndex: peer.Attrs().Index, Dst: ipNet(netip.PrefixFrom(h.Addr, 32)), Src: layout.Gateway().AsSlice()}))
	} else {
		err = errors.Join(far.LinkSetMaster(peer, bridge), far.LinkSetUp(peer))
	}
	if err != nil {
		return fmt.Errorf("plug eth0 into the fabric: %w", err)
	}
	return configure(here, h, routed)
}

func configure(here *netlink.Handle, h layout.Host, routed bool) error {
	lo, err := here.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	eth, err := here.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w", err)
	}
	bits := layout.Fabric().Bits()
	if routed {
		bits = 32
	}
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(h.Addr, bits))}
	if err := errors.Join(here.LinkSetUp(lo), here.AddrAdd(eth, addr), here.LinkSetUp(eth)); err != nil {
		return fmt.Errorf("configure eth0: %w", err)
	}
	if err := here.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: layout.Gateway().AsSlice(), Flags: int(netlink.FLAG_ONLINK)}); err != nil {
		return fmt.Errorf("add the default route: %w", err)
	}
	for _, s := range []struct{ name, value string }{
		{"net/ipv4/ip_forward", "1"},
		// New namespaces begin with 1 where br_netfilter is there: bridged pod traffic would pass netfilter.
		{"net/bridge/bridge-nf-call-iptables", "0"},
		{"net/bridge/bridge-nf-call-ip6tables", "0"},
	} {
		if err := os.WriteFile("/proc/sys/"+s.name, []byte(s.value), 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	return nil
}

// removeStale waits for the cable of the host's last boot to go: the kernel takes namespaces down in its own time.
func removeStale(far *netlink.Handle, port string) error {
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		l, err := far.LinkByName(port)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		if err == nil {
			err = far.LinkDel(l)
		}
		if err != nil && time.Now().After(deadline) {
			return fmt.Errorf("remove %s of an earlier boot: %w", port, err)
		}
	}
}

// MakeFabric makes the cluster's fabric: a namespace with a bridge, held by a mount at handle.
func MakeFabric(handle string) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, in its new namespace
		done <- makeFabric(handle)
	}()
	return <-done
}

func makeFabric(handle string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make the fabric's namespace: %w", err)
	}
	h, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("reach the fabric: %w", err)
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add the fabric's bridge: %w", err)
	}
	br, err := h.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("find the fabric's bridge: %w", err)
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the fabric's lo: %w", err)
	}
	gw := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(layout.Gateway(), layout.Fabric().Bits()))}
	if err := errors.Join(h.LinkSetUp(lo), h.AddrAdd(br, gw), h.LinkSetUp(br)); err != nil {
		return fmt.Errorf("configure the fabric's bridge: %w", err)
	}
	// The fabric is a router, too, to hosts that are routed or make a route by it. It forwards what comes from a host's address only, as routers
	// do that know nothing of pods.
	for _, s := range []struct{ name, value string }{{"ip_forward", "1"}, {"conf/all/rp_filter", "1"}, {"conf/all/send_redirects", "0"}, {"conf/default/send_redirects", "0"}, {"conf/" + bridgeName + "/send_redirects", "0"}} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+s.name, []byte(s.value), 0o644); err != nil {
			return fmt.Errorf("set %s of the fabric: %w", s.name, err)
		}
	}
	// Frames between hosts must not meet a firewall of the fabric.
	for _, s := range []string{"iptables", "ip6tables", "arptables"} {
		err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+s, []byte("0"), 0o644)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set bridge-nf-call-%s: %w", s, err)
		}
	}
	f, err := os.OpenFile(handle, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make the fabric's handle: %w", err)
	}
	f.Close()
	self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	if err := unix.Mount(self, handle, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("hold the fabric at %s: %w", handle, err)
	}
	return nil
}

// RemoveFabric lets go of the fabric. The namespace goes with the last process in it.
func RemoveFabric(handle string) error {
	for {
		err := unix.Unmount(handle, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // nothing mounted there (any more)
		}
		if err != nil {
			return fmt.Errorf("let go of the fabric: %w", err)
		}
	}
	if err := os.Remove(handle); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("let go of the fabric: %w", err)
	}
	return nil
}

// HasFabric says whether the fabric is held.
func HasFabric(handle string) bool {
	var st unix.Statfs_t
	return unix.Statfs(handle, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// InNamespace runs f on a thread in the network namespace of an open handle.
func InNamespace(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not fit for anything else
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}
