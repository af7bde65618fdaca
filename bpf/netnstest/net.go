package netnstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Must ends the test with an error.
func (n *NS) Must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// Sysctl sets a value below /proc/sys/net of the namespace.
func (n *NS) Sysctl(key, value string) {
	n.t.Helper()
	n.Must(n.Do(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644) }))
}

// Forward makes the namespace a router, of addresses that are in use at once.
func (n *NS) Forward() {
	n.t.Helper()
	n.Sysctl("ipv4/ip_forward", "1")
	n.Sysctl("ipv6/conf/all/forwarding", "1")
	n.Sysctl("ipv6/conf/default/accept_dad", "0")
}

// Link returns a device of the namespace.
func (n *NS) Link(name string) netlink.Link {
	n.t.Helper()
	l, err := n.NL.LinkByName(name)
	n.Must(err)
	return l
}

// Bridge makes a bridge that is up, with addresses.
func (n *NS) Bridge(name string, addrs ...string) {
	n.t.Helper()
	n.Must(n.NL.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}))
	n.Must(n.NL.LinkSetUp(n.Link(name)))
	n.Addrs(name, addrs...)
}

// Addrs gives a device addresses.
func (n *NS) Addrs(name string, addrs ...string) {
	n.t.Helper()
	l := n.Link(name)
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		n.Must(err)
		a.Flags = syscall.IFA_F_NODAD
		n.Must(n.NL.AddrAdd(l, a))
		if a.IP.To4() == nil && l.Attrs().Flags&net.FlagUp != 0 {
			n.reachable(a.IP)
		}
	}
}

// reachable waits for the local route of an address of IPv6, which the kernel makes a moment after the address.
func (n *NS) reachable(ip net.IP) {
	n.t.Helper()
	want := &netlink.Route{Table: syscall.RT_TABLE_LOCAL, Dst: &net.IPNet{IP: ip, Mask: net.CIDRMask(128, 128)}}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		routes, err := n.NL.RouteListFiltered(netlink.FAMILY_V6, want, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		n.Must(err)
		if len(routes) > 0 {
			return
		}
		if time.Now().After(end) {
			n.t.Fatalf("%s has no local route", ip)
		}
	}
}

// Join makes a pair of devices that are up: name here, far in other. On bridge, if not "", hangs the one here.
func (n *NS) Join(name, bridge string, other *NS, far string) {
	n.t.Helper()
	n.Must(n.NL.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: far, PeerNamespace: netlink.NsFd(other.FD())}))
	if bridge != "" {
		n.Must(n.NL.LinkSetMaster(n.Link(name), n.Link(bridge)))
	}
	n.Must(n.NL.LinkSetUp(n.Link(name)))
	n.Must(other.NL.LinkSetUp(other.Link(far)))
}

// Route sends what is for dst, "default" everything of the gateway's family, to a gateway.
func (n *NS) Route(dst, via string) {
	n.t.Helper()
	gw := net.ParseIP(via)
	if dst == "default" {
		dst = "0.0.0.0/0"
		if gw.To4() == nil {
			dst = "::/0"
		}
	}
	_, to, err := net.ParseCIDR(dst)
	n.Must(err)
	n.Must(n.NL.RouteReplace(&netlink.Route{Dst: to, Gw: gw}))
}

// RouteAnnouncing makes a gateway the way to everywhere, over which TCP asks for segments of that size whatever the device carries.
func (n *NS) RouteAnnouncing(via string, mss int) {
	n.t.Helper()
	gw := net.ParseIP(via)
	all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	if gw.To4() == nil {
		all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	n.Must(n.NL.RouteReplace(&netlink.Route{Dst: all, Gw: gw, AdvMSS: mss}))
}

// Meet waits until addr answers, or refuses: the first packets on a new link may be lost.
func (n *NS) Meet(addr string) {
	n.t.Helper()
	for i := 0; ; i++ {
		err := n.Do(func() error {
			c, err := net.DialTimeout("tcp", addr, 50*time.Millisecond)
			if err == nil {
				c.Close()
			}
			return err
		})
		if err == nil || errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		if i == 100 {
			n.t.Fatalf("%s is not there: %v", addr, err)
		}
	}
}

// Serve answers at addresses with ports, by TCP and UDP, with "own address<client's address": a connection when it is made or asks, and a datagram.
func (n *NS) Serve(addrs ...string) {
	n.t.Helper()
	for _, at := range addrs {
		own, _, err := net.SplitHostPort(at)
		n.Must(err)
		name := func(from net.Addr) []byte {
			host, _, _ := net.SplitHostPort(from.String())
			return []byte(own + "<" + host)
		}
		n.Must(n.Do(func() error {
			l, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			p, err := net.ListenPacket("udp", at)
			if err != nil {
				return err
			}
			n.t.Cleanup(func() { l.Close(); p.Close() })
			go accept(l, name)
			go func() {
				buf := make([]byte, 1<<16)
				for {
					_, from, err := p.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = p.WriteTo(name(from), from)
				}
			}()
			return nil
		}))
	}
}

func accept(l net.Listener, name func(net.Addr) []byte) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = c.Write(name(c.RemoteAddr()))
		}()
	}
}

// Answers is what clients met: how many were answered by whom, seen as whom, and what failed.
type Answers struct{ Who, Saw, Failed map[string]int }

// Ask asks a server so many times, each by a connection of its own.
func (n *NS) Ask(network, addr string, times int) Answers {
	a := Answers{map[string]int{}, map[string]int{}, map[string]int{}}
	_ = n.Do(func() error {
		for range times {
			answer, err := ask(network, addr)
			if err != nil {
				var no syscall.Errno
				if errors.As(err, &no) {
					err = no
				} else if os.IsTimeout(err) {
					err = os.ErrDeadlineExceeded
				}
				a.Failed[err.Error()]++
				continue
			}
			who, saw, _ := strings.Cut(answer, "<")
			a.Who[who]++
			a.Saw[saw]++
		}
		return nil
	})
	return a
}

func ask(network, addr string) (string, error) {
	d := net.Dialer{Timeout: time.Second}
	d.SetMultipathTCP(false)
	c, err := d.Dial(network, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// NoOffload has a device compute and check sums itself, as a card without the feature does: between veths they are left out otherwise.
func (n *NS) NoOffload(name string) {
	n.t.Helper()
	n.Must(n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, cmd := range []uint32{unix.ETHTOOL_STXCSUM, unix.ETHTOOL_SRXCSUM} {
			if err := setEthtool(fd, name, cmd, 0); err != nil {
				return err
			}
		}
		return nil
	}))
}

func setEthtool(fd int, name string, cmd, value uint32) error {
	data := struct{ cmd, value uint32 }{cmd, value}
	ifr := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		pad  [16]byte
	}{data: unsafe.Pointer(&data)}
	copy(ifr.name[:], name)
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); no != 0 {
		return no
	}
	return nil
}

// SetMTU sets the longest packet of a device.
func (n *NS) SetMTU(name string, mtu int) {
	n.t.Helper()
	n.Must(n.NL.LinkSetMTU(n.Link(name), mtu))
}

// Echo sends size bytes and reads back as many, by TCP or as one UDP datagram; the server must be an Echoes.
func (n *NS) Echo(network, addr string, size int) error {
	return n.Do(func() error {
		d := net.Dialer{Timeout: 2 * time.Second}
		d.SetMultipathTCP(false)
		c, err := d.Dial(network, addr)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		out, in := make([]byte, size), make([]byte, size)
		for i := range out {
			out[i] = byte(i * 7)
		}
		failed := make(chan error, 1)
		go func() {
			_, err := c.Write(out)
			failed <- err
		}()
		if _, err := io.ReadFull(c, in); err != nil {
			return fmt.Errorf("read back: %w", err)
		}
		if !bytes.Equal(in, out) {
			return errors.New("what came back is not what was sent")
		}
		return <-failed
	})
}

// Echoes sends back what it is sent, by TCP and UDP.
func (n *NS) Echoes(addr string) {
	n.t.Helper()
	n.Must(n.Do(func() error {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		p, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		n.t.Cleanup(func() { l.Close(); p.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_, _ = io.Copy(c, c)
				}()
			}
		}()
		go func() {
			buf := make([]byte, 1<<16)
			for {
				k, from, err := p.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = p.WriteTo(buf[:k], from)
			}
		}()
		return nil
	}))
}
