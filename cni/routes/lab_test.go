package routes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lab is two networks, each with a router of its own and nodes on a bridge of it; a link joins the routers. Behind the first one is the outside.
//
//	node 0   node 1      node 2
//	  └──┬──────┘          │        10.200.LAN.1NODE, fd00:200:LAN::1NODE
//	  router 0 ─ core ─ router 1
//	     │
//	  outside                       203.0.113.1, 2001:db8:113::1
type lab struct {
	t       *testing.T
	routers [2]*netnstest.NS
	outside *netnstest.NS
	nodes   []*labNode
	mu      sync.Mutex
	log     []string
	stop    func() // ends the reconcilers
}

// labNode is a node, and the reconciler under test that runs on it.
type labNode struct {
	*netnstest.NS
	lab   *lab
	index int
	lan   int
	k     *Kernel
	poke  func()
	view  func() (View, bool) // other than the lab's, if set
	node  Node
}

func newLab(t *testing.T, lans ...int) *lab {
	t.Helper()
	l := &lab{t: t}
	l.outside = l.namespace()
	for i := range l.routers {
		l.routers[i] = l.namespace()
		l.sysctl(l.routers[i], "net/ipv4/ip_forward", "1")
		l.sysctl(l.routers[i], "net/ipv6/conf/all/forwarding", "1")
		must(t, l.routers[i].NL.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, byte(i)}}}))
		l.up(l.routers[i], "lan", fmt.Sprintf("10.200.%d.254/24", i), fmt.Sprintf("fd00:200:%d::254/64", i))
	}
	l.cable(l.routers[0], "core", l.routers[1], "core")
	for i, r := range l.routers {
		l.up(r, "core", fmt.Sprintf("10.255.0.%d/24", i+1), fmt.Sprintf("fd00:255::%d/64", i+1))
		l.route(r, fmt.Sprintf("10.200.%d.0/24", 1-i), fmt.Sprintf("10.255.0.%d", 2-i))
		l.route(r, fmt.Sprintf("fd00:200:%d::/64", 1-i), fmt.Sprintf("fd00:255::%d", 2-i))
	}
	l.cable(l.routers[0], "outside", l.outside, "eth0")
	l.up(l.routers[0], "outside", "203.0.113.254/24", "2001:db8:113::254/64")
	l.up(l.outside, "eth0", "203.0.113.1/24", "2001:db8:113::1/64")
	for _, n := range []string{"10.200.0.0/16", "fd00:200::/32"} { // the outside knows nodes, but not pods
		via := "203.0.113.254"
		if strings.Contains(n, ":") {
			via = "2001:db8:113::254"
		}
		l.route(l.outside, n, via)
	}
	l.route(l.routers[1], "203.0.113.0/24", "10.255.0.1")
	l.route(l.routers[1], "2001:db8:113::/64", "fd00:255::1")
	for i, lan := range lans {
		l.addNode(i, lan)
	}
	return l
}

// namespace makes one whose IPv6 addresses work at once.
func (l *lab) namespace() *netnstest.NS {
	l.t.Helper()
	ns := netnstest.New(l.t)
	l.sysctl(ns, "net/ipv6/conf/all/accept_dad", "0")
	l.sysctl(ns, "net/ipv6/conf/default/accept_dad", "0")
	return ns
}

func (l *lab) addNode(i, lan int) *labNode {
	l.t.Helper()
	n := &labNode{NS: l.namespace(), lab: l, index: i, lan: lan}
	l.sysctl(n.NS, "net/ipv4/ip_forward", "1")
	l.sysctl(n.NS, "net/ipv6/conf/all/forwarding", "1")
	n.plug(lan)
	must(l.t, n.Do(func() (err error) { n.k, err = Open(); return err }))
	l.t.Cleanup(n.k.Close)
	l.mu.Lock()
	l.nodes = append(l.nodes, n)
	l.mu.Unlock()
	return n
}

// plug hangs the node on a network, with the addresses it has there.
func (n *labNode) plug(lan int) {
	l := n.lab
	if eth, err := n.NL.LinkByName("eth0"); err == nil {
		must(l.t, n.NL.LinkDel(eth))
	}
	port := fmt.Sprintf("n%d", n.index)
	r := l.routers[lan]
	l.cable(n.NS, "eth0", r, port)
	bridge, err := r.NL.LinkByName("lan")
	must(l.t, err)
	end, err := r.NL.LinkByName(port)
	must(l.t, err)
	must(l.t, r.NL.LinkSetMaster(end, bridge), r.NL.LinkSetUp(end))
	a4, a6 := fmt.Sprintf("10.200.%d.1%d", lan, n.index), fmt.Sprintf("fd00:200:%d::1%d", lan, n.index)
	l.up(n.NS, "eth0", a4+"/24", a6+"/64")
	l.route(n.NS, "0.0.0.0/0", fmt.Sprintf("10.200.%d.254", lan))
	l.route(n.NS, "::/0", fmt.Sprintf("fd00:200:%d::254", lan))
	l.mu.Lock()
	defer l.mu.Unlock()
	n.lan = lan
	n.node = Node{
		Name: fmt.Sprintf("n%d", n.index), UID: fmt.Sprintf("uid-%d", n.index), Addrs: []netip.Addr{addr(a4), addr(a6)},
		Pods: []netip.Prefix{prefix(fmt.Sprintf("10.244.%d.0/24", n.index)), prefix(fmt.Sprintf("fd00:244:%d::/64", n.index))},
	}
}

func (l *lab) cable(a *netnstest.NS, aName string, b *netnstest.NS, bName string) {
	l.t.Helper()
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: aName, MTU: 1500})
	veth.PeerName, veth.PeerNamespace = bName, netlink.NsFd(b.FD())
	must(l.t, a.NL.LinkAdd(veth))
}

func (l *lab) up(ns *netnstest.NS, name string, addrs ...string) {
	l.t.Helper()
	link, err := ns.NL.LinkByName(name)
	must(l.t, err)
	for _, a := range addrs {
		x := &netlink.Addr{IPNet: netOf(prefix(a))}
		x.IPNet.IP = prefix(a).Addr().AsSlice()
		if prefix(a).Addr().Is6() {
			x.Flags = unix.IFA_F_NODAD
		}
		must(l.t, ns.NL.AddrAdd(link, x))
	}
	must(l.t, ns.NL.LinkSetUp(link))
}

func (l *lab) route(ns *netnstest.NS, dst, via string) {
	l.t.Helper()
	must(l.t, ns.NL.RouteReplace(&netlink.Route{Dst: netOf(prefix(dst)), Gw: addr(via).AsSlice()}))
}

func (l *lab) sysctl(ns *netnstest.NS, key, value string) {
	l.t.Helper()
	must(l.t, ns.Do(func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0) }))
}

func (l *lab) mtu(ns *netnstest.NS, name string, mtu int) {
	l.t.Helper()
	link, err := ns.NL.LinkByName(name)
	must(l.t, err)
	must(l.t, ns.NL.LinkSetMTU(link, mtu))
}

// viewOf is the nodes as one of them sees them.
func (l *lab) viewOf(self *labNode) View {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := View{Self: self.node}
	for _, n := range l.nodes {
		if n != self {
			v.Peers = append(v.Peers, n.node)
		}
	}
	return v
}

// run starts the reconcilers of nodes.
func (l *lab) run(o Overlay) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	var wg sync.WaitGroup
	before := l.stop
	l.stop = func() {
		cancel()
		wg.Wait()
		if before != nil {
			before()
		}
	}
	l.t.Cleanup(l.stop)
	for _, n := range l.nodes {
		if n.poke != nil {
			continue
		}
		desired := func() (View, bool) {
			if n.view != nil {
				return n.view()
			}
			return l.viewOf(n), true
		}
		r, err := New(Config{Desired: desired, Overlay: o, Resync: time.Hour, Log: slog.New(slog.NewTextHandler(n, nil))}, n.k)
		must(l.t, err)
		n.poke = r.Poke
		wg.Go(func() { _ = r.Run(ctx) })
	}
	l.t.Cleanup(func() {
		if l.t.Failed() {
			l.mu.Lock()
			l.t.Log(strings.Join(l.log, ""))
			l.mu.Unlock()
		}
	})
}

// Write takes a line of the node's log.
func (n *labNode) Write(b []byte) (int, error) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.lab.log = append(n.lab.log, fmt.Sprintf("n%d: %s", n.index, b))
	return len(b), nil
}

// changed tells all nodes that the list of nodes has changed.
func (l *lab) changed() {
	for _, n := range l.nodes {
		if n.poke != nil {
			n.poke()
		}
	}
}

// within waits until check says that nothing is wrong. That takes a second at most; ten where other tests have the machine.
func (l *lab) within(what string, check func() error) {
	const limit = 10 * time.Second
	l.t.Helper()
	start := time.Now()
	for {
		err := check()
		if err == nil {
			l.t.Logf("%s after %s", what, time.Since(start).Round(time.Millisecond))
			return
		}
		if time.Since(start) > limit {
			l.t.Errorf("%s: not within %s: %v", what, limit, err)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// converged says how a node differs from what its view needs.
func (n *labNode) converged(o Overlay) error {
	view := n.lab.viewOf(n)
	actual, err := n.k.State()
	if err != nil {
		return err
	}
	paths, err := Paths(n.k, view)
	if err != nil {
		return err
	}
	want, _ := Decide(view, o, paths, actual)
	if todo := Plan(want, actual); len(todo) > 0 {
		return fmt.Errorf("n%d: %v", n.index, todo)
	}
	return nil
}

func (l *lab) converge(what string, o Overlay) {
	l.t.Helper()
	l.within(what, func() error {
		var errs []error
		for _, n := range l.nodes {
			errs = append(errs, n.converged(o))
		}
		return errors.Join(errs...)
	})
}

// pod gives a node one more network namespace behind a bridge, without any plugin, and returns it with its addresses.
func (n *labNode) pod(mtu int) (*netnstest.NS, []netip.Addr) {
	l, pod := n.lab, n.lab.namespace()
	if _, err := n.NL.LinkByName("pods"); err != nil {
		must(l.t, n.NL.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "pods"}}))
		l.up(n.NS, "pods", fmt.Sprintf("10.244.%d.1/24", n.index), fmt.Sprintf("fd00:244:%d::1/64", n.index))
	}
	l.cable(n.NS, "pod", pod, "eth0")
	bridge, err := n.NL.LinkByName("pods")
	must(l.t, err)
	end, err := n.NL.LinkByName("pod")
	must(l.t, err)
	must(l.t, n.NL.LinkSetMaster(end, bridge), n.NL.LinkSetUp(end))
	l.mtu(pod, "eth0", mtu)
	a4, a6 := fmt.Sprintf("10.244.%d.9", n.index), fmt.Sprintf("fd00:244:%d::9", n.index)
	l.up(pod, "eth0", a4+"/24", a6+"/64")
	l.route(pod, "0.0.0.0/0", fmt.Sprintf("10.244.%d.1", n.index))
	l.route(pod, "::/0", fmt.Sprintf("fd00:244:%d::1", n.index))
	return pod, []netip.Addr{addr(a4), addr(a6)}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// serve answers at addresses of a namespace, at ports 80 of TCP and UDP: TCP, after the client has sent all, with the client's address and how
// much it was; UDP the same of each datagram.
func serve(t *testing.T, ns *netnstest.NS, addrs []netip.Addr) {
	t.Helper()
	for _, a := range addrs {
		at := netip.AddrPortFrom(a, 80).String()
		must(t, ns.Do(func() error {
			l, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			go serveTCP(l)
			u, err := net.ListenPacket("udp", at) // not at all of them: an answer has the address that was asked
			if err != nil {
				return err
			}
			t.Cleanup(func() { u.Close() })
			go serveUDP(u)
			return nil
		}))
	}
}

func serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			total, buf := 0, make([]byte, 1<<16)
			for {
				n, err := c.Read(buf)
				total += n
				if err != nil {
					break
				}
			}
			fmt.Fprintf(c, "%s %d", hostOf(c.RemoteAddr()), total)
		}()
	}
}

func serveUDP(u net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := u.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = u.WriteTo(fmt.Appendf(nil, "%s %d", hostOf(from), n), from)
	}
}

func hostOf(a net.Addr) string {
	ap, _ := netip.ParseAddrPort(a.String())
	return ap.Addr().Unmap().String()
}

// ask sends size bytes by a network ("tcp" or "udp") and returns the address the other side saw.
func ask(from *netnstest.NS, network string, to netip.Addr, size int) (seen string, err error) {
	err = from.Do(func() error {
		c, err := net.DialTimeout(network, netip.AddrPortFrom(to, 80).String(), 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience(network)))
		if _, err := c.Write(make([]byte, size)); err != nil {
			return err
		}
		if t, ok := c.(*net.TCPConn); ok {
			if err := t.CloseWrite(); err != nil {
				return err
			}
		}
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		var got int
		if _, err := fmt.Sscan(string(buf[:n]), &seen, &got); err != nil || got != size {
			return fmt.Errorf("answer %q to %d bytes", buf[:n], size)
		}
		return nil
	})
	return seen, err
}

// patience is how long an answer may take: a lost datagram is lost at once.
func patience(network string) time.Duration {
	if network == "tcp" {
		return 5 * time.Second
	}
	return 500 * time.Millisecond
}

// ping sends an echo request of size bytes and waits for the answer.
func ping(from *netnstest.NS, to netip.Addr, size int) error {
	return from.Do(func() error {
		network, typ, reply := "ip4:icmp", byte(8), byte(0)
		if to.Is6() {
			network, typ, reply = "ip6:ipv6-icmp", 128, 129
		}
		c, err := net.Dial(network, to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience("icmp")))
		msg := make([]byte, 8+size)
		msg[0], msg[4], msg[5] = typ, byte(os.Getpid()>>8), byte(os.Getpid())
		if to.Is4() {
			var sum uint32
			for i := 0; i < len(msg); i += 2 {
				sum += uint32(msg[i])<<8 | uint32(msg[i+1])
			}
			sum = sum>>16 + sum&0xffff
			sum += sum >> 16
			msg[2], msg[3] = ^byte(sum>>8), ^byte(sum)
		}
		if _, err := c.Write(msg); err != nil {
			return err
		}
		for buf := make([]byte, 1<<16); ; {
			n, err := c.Read(buf)
			if err != nil {
				return err
			}
			got := buf[:n]
			if to.Is4() && n > 20 && got[0]>>4 == 4 { // net strips it on some paths, not on others
				got = got[20:]
			}
			if len(got) == len(msg) && got[0] == reply && got[4] == msg[4] && got[5] == msg[5] {
				return nil
			}
		}
	})
}
