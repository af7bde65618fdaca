package routes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// From linux/ip.h and ethtool.h; the libraries do not name them.
	devconfRPFilter = 8 // IPV4_DEVCONF_RP_FILTER
	ethtoolGetTX    = 0x16
	ethtoolSetTX    = 0x17
)

// tunnel makes, changes or deletes a VXLAN link.
func (k *Kernel) tunnel(t Tunnel, drop bool) error {
	l, err := k.nl.LinkByName(t.Name)
	if drop {
		if err == nil {
			err = k.nl.LinkDel(l)
		}
		return err
	}
	if isNotFound(err) {
		if err := k.makeTunnel(t); err != nil {
			return err
		}
		l, err = k.nl.LinkByName(t.Name)
	}
	if err != nil {
		return err
	}
	a := l.Attrs()
	if macOf(a.HardwareAddr) != t.MAC {
		if err := k.nl.LinkSetHardwareAddr(l, t.MAC[:]); err != nil {
			return fmt.Errorf("set hardware address: %w", err)
		}
	}
	if t.MTU > 0 && a.MTU != t.MTU {
		if err := k.nl.LinkSetMTU(l, t.MTU); err != nil {
			return fmt.Errorf("set MTU: %w", err)
		}
	}
	if err := k.configure(a.Index); err != nil {
		return err
	}
	return k.nl.LinkSetUp(l)
}

// makeTunnel makes the link, down. The library cannot turn off checksums outside.
func (k *Kernel) makeTunnel(t Tunnel) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(t.Name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, t.MAC[:]))
	if t.MTU > 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(t.MTU))))
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("vxlan"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(t.VNI))
	data.AddRtAttr(nl.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, t.Port))
	local := uint16(nl.IFLA_VXLAN_LOCAL)
	if t.Local.Is6() {
		local = nl.IFLA_VXLAN_LOCAL6
	} else {
		data.AddRtAttr(nl.IFLA_VXLAN_UDP_CSUM, []byte{0}) // the packet inside has its own; RFC 7348, section 5
	}
	data.AddRtAttr(int(local), t.Local.AsSlice())
	data.AddRtAttr(nl.IFLA_VXLAN_LEARNING, []byte{0})
	req.AddData(info)
	err := k.execute(req)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("another VXLAN link of this node has identifier %d at UDP port %d: choose others with --vxlan-vni or --vxlan-port, the same on all nodes (%w)", t.VNI, t.Port, err)
	}
	return err
}

// configure keeps IPv6 from talking on the link, and lets packets in whose source is not reached over it: a node's own address.
func (k *Kernel) configure(index int) error {
	set := func(family int, parts ...func(*nl.RtAttr)) error {
		req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(index)
		req.AddData(msg)
		spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
		inner := spec.AddRtAttr(family, nil)
		for _, p := range parts {
			p(inner)
		}
		req.AddData(spec)
		return k.execute(req)
	}
	err := set(unix.AF_INET, func(a *nl.RtAttr) {
		a.AddRtAttr(unix.IFLA_INET_CONF, nil).AddRtAttr(devconfRPFilter, nl.Uint32Attr(2)) // loose; the greater of this and "all" counts
	})
	if err != nil {
		return fmt.Errorf("set rp_filter: %w", err)
	}
	err = set(unix.AF_INET6, func(a *nl.RtAttr) {
		a.AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{nl.IN6_ADDR_GEN_MODE_NONE})
	})
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EINVAL) { // a node without IPv6
		return fmt.Errorf("set addr_gen_mode: %w", err)
	}
	return nil
}

// execute sends a request that the library has no function for, from the namespace of k.
func (k *Kernel) execute(req *nl.NetlinkRequest) error {
	return k.do(func() error {
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// do runs f on a thread in the namespace, which dies after it.
func (k *Kernel) do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		here, err := netns.Get()
		if err == nil && here.Equal(k.ns) { // entering it again would take CAP_SYS_ADMIN
			runtime.UnlockOSThread()
			here.Close()
			done <- f()
			return
		}
		here.Close()
		if err := netns.Set(k.ns); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// TurnOffload tells the kernel to work out checksums of packets in a tunnel itself.
func (k *Kernel) TurnOffload(tunnel string) error {
	if err := k.ethtool(tunnel, &ethtoolValue{cmd: ethtoolSetTX}); err != nil {
		return fmt.Errorf("turn off checksum offload of %s: %w", tunnel, err)
	}
	return nil
}

// Ends is the tunnel over IPv4, if there is one, for packets that go past its device: its link's index and where frames for each hardware address go. A device that works out
// checksums of packets inside by itself, because the network's leaves them wrong, must not be passed: then ok is false, too.
func (k *Kernel) Ends() (t Tunnel, link int, ends []Endpoint, ok bool, err error) {
	found := State{}
	link, err = k.addTunnel(found, tunnel4)
	if err != nil || link == 0 {
		return t, 0, nil, false, err
	}
	for i := range found.Items() {
		switch i := i.(type) {
		case Tunnel:
			t = i
		case Endpoint:
			ends = append(ends, i)
		}
	}
	offload := ethtoolValue{cmd: ethtoolGetTX}
	if err := k.ethtool(tunnel4, &offload); err != nil {
		return t, 0, nil, false, fmt.Errorf("look whether checksums are offloaded on %s: %w", tunnel4, err)
	}
	return t, link, ends, offload.data != 0, nil
}

type ethtoolValue struct{ cmd, data uint32 }

func (k *Kernel) ethtool(link string, value *ethtoolValue) error {
	return k.do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		req := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(value)}
		copy(req.name[:], link)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
			return errno
		}
		return nil
	})
}
