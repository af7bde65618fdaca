package proxyfield

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// links makes the namespaces of endpoints and of the client outside, and joins them to the node's, which is this process's. Endpoints that are the
// node's own hang on a link as pods do, others are on one to the network.
func (f *Field) links() (far netns.NsHandle, err error) {
	node, err := netlink.NewHandle()
	if err != nil {
		return far, err
	}
	defer node.Close()
	if far, err = newNamespace(); err != nil {
		return far, err
	}
	if f.Outside, err = newNamespace(); err != nil {
		return far, err
	}
	farLinks, err := netlink.NewHandleAt(far)
	if err != nil {
		return far, err
	}
	defer farLinks.Close()
	outLinks, err := netlink.NewHandleAt(f.Outside)
	if err != nil {
		return far, err
	}
	defer outLinks.Close()
	w := wiring{node: node}
	w.up(node, "lo")
	w.up(farLinks, "lo")
	w.up(outLinks, "lo")
	w.join("pods0", "169.254.1.1/32", far, farLinks, "eth0", "169.254.1.2/32")
	pods, err := farLinks.LinkByName("eth0")
	w.note(err)
	for _, a := range f.cfg.Pods {
		if err == nil {
			w.note(farLinks.AddrAdd(pods, &netlink.Addr{IPNet: parse(a.String() + "/32")}))
		}
	}
	w.join("net0", "198.51.100.1/24", far, farLinks, "eth1", "198.51.100.2/24")
	w.join("up0", Address+"/24", f.Outside, outLinks, "eth0", "192.0.2.254/24")
	w.route(node, "169.254.1.2/32", "", "pods0", 0)
	w.route(node, here, "169.254.1.2", "pods0", 0)
	w.route(node, elsewhere, "198.51.100.2", "net0", 0)
	w.route(node, "0.0.0.0/0", "192.0.2.254", "up0", 0)
	w.route(outLinks, "0.0.0.0/0", Address, "eth0", 0)
	w.route(farLinks, "169.254.1.1/32", "", "eth0", 0)
	w.route(farLinks, "0.0.0.0/0", "169.254.1.1", "eth0", 0)
	w.route(farLinks, "0.0.0.0/0", "198.51.100.1", "eth1", 100)
	rule := netlink.NewRule() // the answer leaves as the question came
	rule.Src, rule.Table = parse(elsewhere), 100
	lo, err := farLinks.LinkByName("lo")
	w.note(err)
	w.note(farLinks.RuleAdd(rule))
	if err == nil {
		w.note(farLinks.RouteAdd(&netlink.Route{Dst: parse("10.128.0.0/9"), LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}))
	}
	w.note(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
	return far, errors.Join(w.errs...)
}

// wiring collects what went wrong.
type wiring struct {
	node *netlink.Handle
	errs []error
}

func (w *wiring) note(err error) {
	if err != nil {
		w.errs = append(w.errs, err)
	}
}

func (w *wiring) up(nl *netlink.Handle, name string) {
	l, err := nl.LinkByName(name)
	if err == nil {
		err = nl.LinkSetUp(l)
	}
	w.note(err)
}

func (w *wiring) join(near, nearAddr string, ns netns.NsHandle, nl *netlink.Handle, farName, farAddr string) {
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: near})
	veth.PeerName, veth.PeerNamespace = farName, netlink.NsFd(ns)
	w.note(w.node.LinkAdd(veth))
	for _, end := range []struct {
		nl         *netlink.Handle
		name, addr string
	}{{w.node, near, nearAddr}, {nl, farName, farAddr}} {
		l, err := end.nl.LinkByName(end.name)
		if err == nil {
			var a *netlink.Addr
			if a, err = netlink.ParseAddr(end.addr); err == nil {
				err = end.nl.AddrAdd(l, a)
			}
		}
		w.note(err)
		w.up(end.nl, end.name)
	}
}

func (w *wiring) route(nl *netlink.Handle, dst, via, dev string, table int) {
	l, err := nl.LinkByName(dev)
	if err != nil {
		w.note(err)
		return
	}
	r := &netlink.Route{Dst: parse(dst), LinkIndex: l.Attrs().Index, Table: table, Scope: netlink.SCOPE_LINK}
	if via != "" {
		r.Gw, r.Flags, r.Scope = net.ParseIP(via), int(netlink.FLAG_ONLINK), netlink.SCOPE_UNIVERSE
	}
	if err := nl.RouteAdd(r); err != nil {
		w.note(fmt.Errorf("route to %s: %w", dst, err))
	}
}

func parse(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err) // all are written above
	}
	return n
}

func newNamespace() (ns netns.NsHandle, err error) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		own, err := netns.Get()
		if err == nil {
			if ns, err = netns.New(); err == nil {
				err = netns.Set(own)
			}
		}
		if err == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return ns, <-done
}

// within runs fn on a thread in a namespace. The thread lives on: programs that it started would end with it.
func within(ns netns.NsHandle, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		own, err := netns.Get()
		if err == nil {
			defer own.Close()
			if err = netns.Set(ns); err == nil {
				err = fn()
				if back := netns.Set(own); back == nil {
					runtime.UnlockOSThread()
				}
			}
		}
		done <- err
	}()
	return <-done
}

// clients is how many may be outside at once.
const clients = 32

// errand is what a client outside is to do.
type errand struct {
	fn   func() error
	done chan<- error
}

// settle makes threads that are outside for good: in the namespace, and in the cgroup that no program of the agent's sees the sockets of.
func (f *Field) settle() error {
	f.errands = make(chan errand)
	ready := make(chan error)
	for range clients {
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			err := netns.Set(f.Outside)
			if err == nil {
				err = moveThread(outsideCgroup())
			}
			ready <- err
			for e := range f.errands {
				e.done <- e.fn()
			}
		}()
	}
	var errs []error
	for range clients {
		errs = append(errs, <-ready)
	}
	return errors.Join(errs...)
}

// FromOutside runs fn as a client outside; sockets that it makes are there.
func (f *Field) FromOutside(fn func() error) error {
	done := make(chan error)
	f.errands <- errand{fn, done}
	return <-done
}

// serve answers by TCP and UDP, at every address of the namespace, with that address. The server closes, and so has what TCP keeps of a connection.
func serve(ctx context.Context) error {
	config := net.ListenConfig{}
	config.SetMultipathTCP(false)
	l, err := config.Listen(ctx, "tcp4", fmt.Sprintf(":%d", Port))
	if err != nil {
		return err
	}
	stays, err := config.Listen(ctx, "tcp4", fmt.Sprintf(":%d", PortStays))
	if err != nil {
		return err
	}
	u, err := net.ListenUDP("udp4", &net.UDPAddr{Port: Port})
	if err != nil {
		return err
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1) }); err != nil || set != nil {
		return errors.Join(err, set)
	}
	_ = u.SetReadBuffer(4 << 20)
	go accept(l, func(c net.Conn, name string) { _, _ = io.WriteString(c, name) })
	go accept(stays, func(c net.Conn, name string) {
		for buf := make([]byte, 1); ; {
			if _, err := c.Read(buf); err != nil {
				return
			}
			_, _ = io.WriteString(c, name)
		}
	})
	for range 4 {
		go answerDatagrams(u)
	}
	return nil
}

// accept has each connection talked to, and closes it then.
func accept(l net.Listener, talk func(c net.Conn, name string)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			talk(c, c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().String())
		}()
	}
}

func answerDatagrams(u *net.UDPConn) {
	buf, oob := make([]byte, 64), make([]byte, 128)
	for {
		_, n, _, from, err := u.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			return
		}
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil || len(messages) == 0 || len(messages[0].Data) < unix.SizeofInet4Pktinfo {
			continue
		}
		at := [4]byte(messages[0].Data[8:12]) // struct in_pktinfo: ifindex, local address, address of the header
		answer := netip.AddrFrom4(at).String()
		_, _, _ = u.WriteMsgUDPAddrPort([]byte(answer), unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: at}), from)
	}
}

// Ask asks once, by a socket of its own, and returns who answered.
func Ask(network, addr string, within time.Duration) (netip.Addr, error) {
	d := net.Dialer{Timeout: within}
	d.SetMultipathTCP(false)
	c, err := d.Dial(network, addr)
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(within))
	if strings.HasPrefix(network, "udp") {
		if _, err := c.Write([]byte("?")); err != nil {
			return netip.Addr{}, err
		}
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.ParseAddr(string(buf[:n]))
}
