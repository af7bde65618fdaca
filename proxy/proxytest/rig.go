// Package proxytest is what tests of the proxy's backends share: a node with pods, a host outside, clients that ask, and a suite of what
// every backend does whatever it does it by.
package proxytest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/proxy"
)

// The cluster addresses of Service.
const (
	VIP  = "10.96.0.50"
	VIP6 = "fd96::50"
)

// Rig is a node with three pods at 10.10.0.1 to 3 and fd10::1 to 3, port 8080, each answering with its address and its client's, and a
// host outside at 192.0.2.9 and fd02::9. The node is 192.0.2.1 and fd02::1. Only the first two pods are the node's own: the third is as if routed.
type Rig struct {
	T       *testing.T
	Node    *netnstest.NS
	Outside *netnstest.NS
	Pods    []*netnstest.NS
	// Cgroup, where it is not empty, is where clients on the node and in pods run.
	Cgroup string
}

// New makes a rig that goes when the test ends.
func New(t *testing.T) *Rig {
	t.Helper()
	netnstest.RequireRoot(t)
	r := &Rig{T: t, Node: netnstest.New(t), Outside: netnstest.New(t)}
	set := func(ns *netnstest.NS, key, value string) {
		r.Must(ns.Do(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644) }))
	}
	set(r.Node, "ipv4/ip_forward", "1")
	set(r.Node, "ipv6/conf/all/forwarding", "1")
	set(r.Node, "ipv6/conf/default/accept_dad", "0") // a link-local address in doubt answers no neighbour
	set(r.Outside, "ipv6/conf/default/accept_dad", "0")
	set(r.Outside, "ipv6/conf/default/accept_redirects", "0") // a balancer's address is in the range of its link, where nobody has it
	for i := range 3 {
		r.Pods = append(r.Pods, netnstest.New(t))
		set(r.Pods[i], "ipv6/conf/default/accept_dad", "0")
		r.join(fmt.Sprint("pod", i+1), r.Pods[i], []string{"169.254.1.1/32", "fe80::1/64"}, []string{fmt.Sprintf("10.10.0.%d/32", i+1), fmt.Sprintf("fd10::%d/128", i+1)})
		r.serve(r.Pods[i], fmt.Sprintf("10.10.0.%d", i+1), fmt.Sprintf("fd10::%d", i+1))
	}
	r.join("out", r.Outside, []string{"192.0.2.1/24", "fd02::1/64"}, []string{"192.0.2.9/24", "fd02::9/64"})
	// Somewhere to send what no rule translates to, as a node has.
	for _, s := range []string{"0.0.0.0/0 192.0.2.9", "::/0 fd02::9"} {
		dst, gw, _ := strings.Cut(s, " ")
		_, n, _ := net.ParseCIDR(dst)
		r.Must(r.Node.NL.RouteAdd(&netlink.Route{Dst: n, Gw: net.ParseIP(gw)}))
	}
	r.meet(r.Outside, "[fd02::1]:8080")
	for i := range 3 {
		r.meet(r.Node, fmt.Sprintf("[fd10::%d]:8080", i+1))
	}
	return r
}

// NodeOf is what the rig's node is to a backend that translates packets: pods 1 and 2 are its own.
func NodeOf() proxy.Node {
	return proxy.Node{
		Inside: []netip.Prefix{
			netip.MustParsePrefix("10.10.0.0/31"), netip.MustParsePrefix("10.10.0.2/32"), netip.MustParsePrefix("fd10::/127"), netip.MustParsePrefix("fd10::2/128"),
		},
		NodePorts: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd02::1")},
	}
}

// Must ends the test at an error.
func (r *Rig) Must(err error) {
	r.T.Helper()
	if err != nil {
		r.T.Fatal(err)
	}
}

// meet waits until neighbours know one another: the first packets on a new link may be lost.
func (r *Rig) meet(ns *netnstest.NS, addr string) {
	r.T.Helper()
	for i := 0; ; i++ {
		err := ns.Do(func() error {
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
			r.T.Fatalf("%s is not there: %v", addr, err)
		}
	}
}

// join is a pair of links between the node and ns. An address of a single host is reached by a route.
func (r *Rig) join(name string, ns *netnstest.NS, node, far []string) {
	r.T.Helper()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.FD())}
	r.Must(r.Node.NL.LinkAdd(pair))
	near, err := r.Node.NL.LinkByName(name)
	r.Must(err)
	eth, err := ns.NL.LinkByName("eth0")
	r.Must(err)
	add := func(nl *netlink.Handle, l netlink.Link, list []string) {
		for _, s := range list {
			a, err := netlink.ParseAddr(s)
			r.Must(err)
			a.Flags = syscall.IFA_F_NODAD
			r.Must(nl.AddrAdd(l, a))
		}
	}
	add(r.Node.NL, near, node)
	add(ns.NL, eth, far)
	r.Must(r.Node.NL.LinkSetUp(near))
	r.Must(ns.NL.LinkSetUp(eth))
	for i, s := range far {
		_, n, err := net.ParseCIDR(s)
		r.Must(err)
		gw, _, _ := net.ParseCIDR(node[i])
		if ones, bits := n.Mask.Size(); ones == bits {
			r.Must(r.Node.NL.RouteAdd(&netlink.Route{Dst: n, LinkIndex: near.Attrs().Index, Scope: netlink.SCOPE_LINK}))
			if gw.To4() != nil {
				r.Must(ns.NL.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: gw.To4(), Mask: net.CIDRMask(32, 32)}, LinkIndex: eth.Attrs().Index, Scope: netlink.SCOPE_LINK}))
			}
		}
		all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		if gw.To4() == nil {
			all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		}
		r.Must(ns.NL.RouteAdd(&netlink.Route{Dst: all, Gw: gw, LinkIndex: eth.Attrs().Index}))
	}
}

// serve answers at port 8080, by TCP and UDP, with "own address<client's address".
func (r *Rig) serve(ns *netnstest.NS, addrs ...string) {
	r.T.Helper()
	for _, a := range addrs {
		at := net.JoinHostPort(a, "8080")
		name := func(from net.Addr) []byte {
			host, _, _ := net.SplitHostPort(from.String())
			return []byte(a + "<" + host)
		}
		r.Must(ns.Do(func() error {
			l, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			p, err := net.ListenPacket("udp", at)
			if err != nil {
				return err
			}
			r.T.Cleanup(func() { l.Close(); p.Close() })
			go func() {
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
			}()
			go func() {
				buf := make([]byte, 10)
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

// Announce makes the host outside send what is for these addresses to the node.
func (r *Rig) Announce(addrs ...string) {
	r.T.Helper()
	for _, addr := range addrs {
		ip := net.ParseIP(addr)
		gw, bits := net.ParseIP("192.0.2.1"), 32
		if ip.To4() == nil {
			gw, bits = net.ParseIP("fd02::1"), 128
		}
		r.Must(r.Outside.NL.RouteReplace(&netlink.Route{Dst: &net.IPNet{IP: ip, Mask: net.CIDRMask(bits, bits)}, Gw: gw}))
	}
}

// Service is a model of one dual-stack service with TCP and UDP port 80, node port 30080, and a balancer's address, 192.0.2.50 and fd02::50. It
// has the pods of these numbers.
func Service(change func(*proxy.Group), pods ...int) proxy.Model {
	m := proxy.Model{}
	for _, p := range []proxy.Protocol{proxy.TCP, proxy.UDP} {
		for family, addrs := range map[string][]string{"4/": {"10.10.0.%d:8080", VIP, "192.0.2.50", "0.0.0.0"}, "6/": {"[fd10::%d]:8080", VIP6, "fd02::50", "::"}} {
			g := &proxy.Group{Port: "default/web:http", Frontends: []proxy.Frontend{
				{Addr: netip.MustParseAddr(addrs[1]), Port: 80, Protocol: p, Scope: proxy.Inside},
				{Addr: netip.MustParseAddr(addrs[2]), Port: 80, Protocol: p, Scope: proxy.Everywhere},
				{Addr: netip.MustParseAddr(addrs[3]), Port: 30080, Protocol: p, Scope: proxy.Everywhere},
			}}
			for _, i := range pods {
				b := netip.MustParseAddrPort(fmt.Sprintf(addrs[0], i))
				g.Backends = append(g.Backends, b)
				if i < 3 {
					g.Here = append(g.Here, b.Addr())
				}
			}
			if change != nil {
				change(g)
			}
			m[fmt.Sprint(family, p)] = g
		}
	}
	return m
}

// Local is Service under externalTrafficPolicy Local: pods are those that clients outside may reach.
func Local(pods ...int) proxy.Model {
	m := Service(nil, 1, 2, 3)
	for name, g := range Service(func(g *proxy.Group) { g.KeepSource = true }, pods...) {
		in := *m[name]
		in.Frontends = nil
		for _, f := range m[name].Frontends {
			f.Scope = proxy.Inside
			in.Frontends = append(in.Frontends, f)
		}
		m[name] = &in
		out := *g
		out.Frontends = nil
		for _, f := range g.Frontends[1:] {
			f.Scope = proxy.Outside
			out.Frontends = append(out.Frontends, f)
		}
		m[name+"/outside"] = &out
	}
	return m
}
