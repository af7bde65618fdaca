package routes

import (
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// probe is a socket that sends whole packets which no router may cut, however small it has said that the way is. It stays open, for what a
// router answers is heeded only while there is the socket that it is about.
type probe struct{ conn *net.UDPConn }

func (p *probe) close() {
	if p.conn != nil {
		p.conn.Close()
	}
}

// Probe sends a packet as large as the link takes to each address. The port is that of tunnels, which the routers between must let pass; what it
// carries is not a packet for a tunnel, so the other node drops it.
func (k *Kernel) Probe(to []netip.Addr, port uint16) {
	for _, a := range to {
		p := k.probes[a.Is4()]
		if p == nil {
			p = k.openProbe(a.Is4())
			k.probes[a.Is4()] = p
		}
		path, err := k.Path(a)
		if p.conn == nil || err != nil || path.MTU == 0 {
			continue
		}
		headers := 20 + 8
		if a.Is6() {
			headers = 40 + 8
		}
		_, _ = p.conn.WriteToUDPAddrPort(make([]byte, path.MTU-headers), netip.AddrPortFrom(a, port))
	}
}

// openProbe returns a probe that sends nothing where the kernel does not let it.
func (k *Kernel) openProbe(v4 bool) *probe {
	p := &probe{}
	family, level, option, value := unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
	if !v4 {
		family, level, option, value = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
	}
	_ = k.do(func() error {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "probe")
		defer f.Close()
		if err := unix.SetsockoptInt(fd, level, option, value); err != nil {
			return err
		}
		c, err := net.FilePacketConn(f)
		if err == nil {
			p.conn, _ = c.(*net.UDPConn)
		}
		return err
	})
	return p
}
