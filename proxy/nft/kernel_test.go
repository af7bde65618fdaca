package nft

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/google/nftables"
	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/proxy"
)

const (
	vip  = "10.96.0.50"
	vip6 = "fd96::50"
)

// rig is a node with three pods at 10.10.0.1 to 3 and fd10::1 to 3, port 8080, each answering with its address and its client's, and a
// host outside at 192.0.2.9 and fd02::9. The node is 192.0.2.1 and fd02::1. Only the first two pods are the node's own: the third is as if routed.
type rig struct {
	t       *testing.T
	node    *netnstest.NS
	outside *netnstest.NS
	pods    []*netnstest.NS
	b       *Backend
}

func newRig(t *testing.T, only proxy.Scope) *rig {
	t.Helper()
	netnstest.RequireRoot(t)
	r := &rig{t: t, node: netnstest.New(t), outside: netnstest.New(t)}
	set := func(ns *netnstest.NS, key, value string) {
		r.must(ns.Do(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644) }))
	}
	set(r.node, "ipv4/ip_forward", "1")
	set(r.node, "ipv6/conf/all/forwarding", "1")
	set(r.node, "ipv6/conf/default/accept_dad", "0") // a link-local address in doubt answers no neighbour
	set(r.outside, "ipv6/conf/default/accept_dad", "0")
	for i := range 3 {
		r.pods = append(r.pods, netnstest.New(t))
		set(r.pods[i], "ipv6/conf/default/accept_dad", "0")
		r.join(fmt.Sprint("pod", i+1), r.pods[i], []string{"169.254.1.1/32", "fe80::1/64"}, []string{fmt.Sprintf("10.10.0.%d/32", i+1), fmt.Sprintf("fd10::%d/128", i+1)})
		r.serve(r.pods[i], fmt.Sprintf("10.10.0.%d", i+1), fmt.Sprintf("fd10::%d", i+1))
	}
	r.join("out", r.outside, []string{"192.0.2.1/24", "fd02::1/64"}, []string{"192.0.2.9/24", "fd02::9/64"})
	// Somewhere to send what no rule translates to, as a node has.
	for _, s := range []string{"0.0.0.0/0 192.0.2.9", "::/0 fd02::9"} {
		dst, gw, _ := strings.Cut(s, " ")
		_, n, _ := net.ParseCIDR(dst)
		r.must(r.node.NL.RouteAdd(&netlink.Route{Dst: n, Gw: net.ParseIP(gw)}))
	}
	r.meet(r.outside, "[fd02::1]:8080")
	for i := range 3 {
		r.meet(r.node, fmt.Sprintf("[fd10::%d]:8080", i+1))
	}
	r.open(only)
	return r
}

// meet waits until neighbours know one another: the first packets on a new link may be lost.
func (r *rig) meet(ns *netnstest.NS, addr string) {
	r.t.Helper()
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
			r.t.Fatalf("%s is not there: %v", addr, err)
		}
	}
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// join is a pair of links between the node and ns. An address of a single host is reached by a route.
func (r *rig) join(name string, ns *netnstest.NS, node, far []string) {
	r.t.Helper()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.FD())}
	r.must(r.node.NL.LinkAdd(pair))
	near, err := r.node.NL.LinkByName(name)
	r.must(err)
	eth, err := ns.NL.LinkByName("eth0")
	r.must(err)
	add := func(nl *netlink.Handle, l netlink.Link, list []string) {
		for _, s := range list {
			a, err := netlink.ParseAddr(s)
			r.must(err)
			a.Flags = syscall.IFA_F_NODAD
			r.must(nl.AddrAdd(l, a))
		}
	}
	add(r.node.NL, near, node)
	add(ns.NL, eth, far)
	r.must(r.node.NL.LinkSetUp(near))
	r.must(ns.NL.LinkSetUp(eth))
	for i, s := range far {
		_, n, err := net.ParseCIDR(s)
		r.must(err)
		gw, _, _ := net.ParseCIDR(node[i])
		if ones, bits := n.Mask.Size(); ones == bits {
			r.must(r.node.NL.RouteAdd(&netlink.Route{Dst: n, LinkIndex: near.Attrs().Index, Scope: netlink.SCOPE_LINK}))
			if gw.To4() != nil {
				r.must(ns.NL.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: gw.To4(), Mask: net.CIDRMask(32, 32)}, LinkIndex: eth.Attrs().Index, Scope: netlink.SCOPE_LINK}))
			}
		}
		all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		if gw.To4() == nil {
			all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		}
		r.must(ns.NL.RouteAdd(&netlink.Route{Dst: all, Gw: gw, LinkIndex: eth.Attrs().Index}))
	}
}

// open is what a process does at its start; called again, it is a restart.
func (r *rig) open(only proxy.Scope) {
	r.b = New(only)
	r.b.SetNode(proxy.Node{ // pods 1 and 2; the third is another node's
		Inside:    []netip.Prefix{netip.MustParsePrefix("10.10.0.0/31"), netip.MustParsePrefix("10.10.0.2/32"), netip.MustParsePrefix("fd10::/127"), netip.MustParsePrefix("fd10::2/128")},
		NodePorts: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd02::1")},
	})
}

// serve answers at port 8080, by TCP and UDP, with "own address<client's address".
func (r *rig) serve(ns *netnstest.NS, addrs ...string) {
	r.t.Helper()
	for _, a := range addrs {
		at := net.JoinHostPort(a, "8080")
		name := func(from net.Addr) []byte {
			host, _, _ := net.SplitHostPort(from.String())
			return []byte(a + "<" + host)
		}
		r.must(ns.Do(func() error {
			l, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			p, err := net.ListenPacket("udp", at)
			if err != nil {
				return err
			}
			r.t.Cleanup(func() { l.Close(); p.Close() })
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

func (r *rig) set(m proxy.Model) {
	r.t.Helper()
	r.must(r.node.Do(func() error { return r.b.Set(m) }))
}

// ask asks so many times, each by a connection of its own, and returns who answered, whom they saw, and what failed.
func ask(ns *netnstest.NS, network, addr string, times int) (who, saw, failed map[string]int) {
	who, saw, failed = map[string]int{}, map[string]int{}, map[string]int{}
	_ = ns.Do(func() error {
		for range times {
			answer, err := once(network, addr)
			if err != nil {
				var no syscall.Errno
				if errors.As(err, &no) {
					err = no
				} else if os.IsTimeout(err) {
					err = os.ErrDeadlineExceeded
				}
				failed[err.Error()]++
				continue
			}
			a, b, _ := strings.Cut(answer, "<")
			who[a]++
			saw[b]++
		}
		return nil
	})
	return who, saw, failed
}

func once(network, addr string) (string, error) {
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

// service is a model of one dual-stack service with TCP and UDP port 80, node port 30080, and a balancer's address.
func service(change func(*proxy.Group), last ...int) proxy.Model {
	m := proxy.Model{}
	for _, p := range []proxy.Protocol{proxy.TCP, proxy.UDP} {
		for family, addrs := range map[string][]string{"4/": {"10.10.0.%d:8080", vip, "192.0.2.50", "0.0.0.0"}, "6/": {"[fd10::%d]:8080", vip6, "fd02::50", "::"}} {
			g := &proxy.Group{Frontends: []proxy.Frontend{
				{Addr: netip.MustParseAddr(addrs[1]), Port: 80, Protocol: p, Scope: proxy.Inside},
				{Addr: netip.MustParseAddr(addrs[2]), Port: 80, Protocol: p, Scope: proxy.Everywhere},
				{Addr: netip.MustParseAddr(addrs[3]), Port: 30080, Protocol: p, Scope: proxy.Everywhere},
			}}
			for _, i := range last {
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

// elements is all that the tables hold.
func (r *rig) elements() map[place]bool {
	r.t.Helper()
	out := map[place]bool{}
	r.must(r.node.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		for _, f := range []family{ipv4, ipv6} {
			if c, err := conn.ListChain(&nftables.Table{Name: Table, Family: f.table}, version); err != nil || c == nil {
				continue
			}
			for name, set := range f.sets(&nftables.Table{Name: Table, Family: f.table}) {
				list, err := conn.GetSetElements(set)
				if err != nil {
					return err
				}
				for _, e := range list {
					out[place{fmt.Sprint(f.table, " ", name), string(e.Key)}] = true
				}
			}
		}
		return nil
	}))
	return out
}

func TestKernelAllBackendsAnswer(t *testing.T) {
	r := newRig(t, proxy.Everywhere)
	r.set(service(nil, 1, 2, 3))
	for _, tt := range []struct {
		from  string
		ns    *netnstest.NS
		addrs []string
		saw   map[string]string // by network family: whom the backends see; "" anything
	}{
		{"the node", r.node, []string{vip + ":80", "[" + vip6 + "]:80", "192.0.2.1:30080", "192.0.2.50:80", "[fd02::1]:30080"}, nil},
		{"a pod", r.pods[0], []string{vip + ":80", "[" + vip6 + "]:80", "192.0.2.1:30080", "[fd02::50]:80"}, nil},
		{"outside", r.outside, []string{"192.0.2.1:30080", "[fd02::1]:30080", "192.0.2.50:80", "[fd02::50]:80"}, nil},
	} {
		for _, network := range []string{"tcp", "udp"} {
			for _, addr := range tt.addrs {
				if tt.from == "outside" && strings.Contains(addr, ":80") && !strings.Contains(addr, "8080") && strings.Contains(addr, "50") {
					r.announce(addr)
				}
				t.Run(tt.from+" "+network+" "+addr, func(t *testing.T) {
					who, saw, failed := ask(tt.ns, network, addr, 40)
					if len(who) != 3 || len(failed) > 0 {
						t.Fatalf("answered %v, seen as %v, failed %v: want three answering", who, saw, failed)
					}
					if tt.from == "outside" && (saw["192.0.2.9"] > 0 || saw["fd02::9"] > 0) {
						t.Errorf("a backend saw the client's own address: the answer may take another way: %v", saw)
					}
				})
			}
		}
	}
}

// announce makes the host outside send what is for a balancer's address to the node.
func (r *rig) announce(addr string) {
	host, _, _ := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	gw, bits := net.ParseIP("192.0.2.1"), 32
	if ip.To4() == nil {
		gw, bits = net.ParseIP("fd02::1"), 128
	}
	err := r.outside.NL.RouteReplace(&netlink.Route{Dst: &net.IPNet{IP: ip, Mask: net.CIDRMask(bits, bits)}, Gw: gw})
	r.must(err)
}

// A pod that asks for a service it is a backend of reaches itself too, and sees the node then.
func TestKernelPodReachesItself(t *testing.T) {
	r := newRig(t, proxy.Everywhere)
	r.set(service(nil, 1))
	for _, addr := range []string{vip + ":80", "[" + vip6 + "]:80"} {
		if who, _, failed := ask(r.pods[0], "tcp", addr, 3); len(who) != 1 || len(failed) > 0 {
			t.Errorf("%s: answered %v, failed %v", addr, who, failed)
		}
	}
	_, saw, failed := ask(r.pods[1], "tcp", vip+":80", 3)
	if saw["10.10.0.2"] != 3 {
		t.Errorf("a backend saw %v, failed %v, want the pod that asked", saw, failed)
	}
}

func TestKernelNoEndpointsRefusesAtOnce(t *testing.T) {
	r := newRig(t, proxy.Everywhere)
	r.set(service(nil))
	for name, ns := range map[string]*netnstest.NS{"node": r.node, "pod": r.pods[0]} {
		for _, network := range []string{"tcp", "udp"} {
			for _, addr := range []string{vip + ":80", "[" + vip6 + "]:80"} {
				start := time.Now()
				_, _, failed := ask(ns, network, addr, 3)
				refused := failed[syscall.ECONNREFUSED.Error()]
				if network == "udp" {
					refused += failed[syscall.EPERM.Error()] // what the kernel says when it refuses a datagram of its own sockets
				}
				if refused != 3 || time.Since(start) > time.Second {
					t.Errorf("%s %s %s: failed %v in %s", name, network, addr, failed, time.Since(start))
				}
			}
		}
	}
	if _, _, failed := ask(r.outside, "tcp", "192.0.2.1:30080", 2); failed[syscall.ECONNREFUSED.Error()] != 2 {
		t.Errorf("from outside: %v", failed)
	}
	r.set(service(nil, 1)) // and it is over as soon as there is one
	if who, _, failed := ask(r.pods[0], "udp", vip+":80", 3); who["10.10.0.1"] != 3 {
		t.Errorf("failed %v", failed)
	}
}

func TestKernelAffinity(t *testing.T) {
	r := newRig(t, proxy.Everywhere)
	stay := func(g *proxy.Group) { g.Affinity = time.Hour }
	for _, addr := range []string{vip + ":80", "[" + vip6 + "]:80"} {
		r.set(service(stay, 1, 2, 3))
		who, _, failed := ask(r.pods[0], "tcp", addr, 30)
		if len(who) != 1 || len(failed) > 0 {
			t.Fatalf("%s: answered %v, failed %v, want one backend", addr, who, failed)
		}
		var chosen int
		for a := range who {
			if _, err := fmt.Sscanf(a[strings.LastIndexAny(a, ".:")+1:], "%d", &chosen); err != nil {
				t.Fatal(err)
			}
		}
		left := []int{chosen%3 + 1, (chosen+1)%3 + 1}
		if left[0] > left[1] {
			left[0], left[1] = left[1], left[0]
		}
		r.set(service(stay, left...)) // without the chosen one
		before, _, failed := ask(r.pods[0], "tcp", addr, 30)
		if len(before) != 1 || len(failed) > 0 {
			t.Fatalf("%s: answered %v, failed %v after the chosen backend went: want one of the others to stay with", addr, before, failed)
		}
		r.open(proxy.Everywhere) // a restart forgets nothing
		r.set(service(stay, 1, 2, 3))
		after, _, _ := ask(r.pods[0], "tcp", addr, 30)
		for a := range before {
			if after[a] != 30 {
				t.Errorf("%s: answered %v, want %s to go on", addr, after, a)
			}
		}
	}
}

// Local: a client outside is seen as itself, by backends here only; with none here its packets are dropped, not refused.
func TestKernelExternalLocal(t *testing.T) {
	r := newRig(t, proxy.Everywhere)
	local := func(last ...int) proxy.Model {
		m := service(nil, 1, 2, 3)
		for name, g := range service(func(g *proxy.Group) { g.KeepSource = true }, last...) {
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
	r.set(local(1))
	for _, addr := range []string{"192.0.2.1:30080", "[fd02::1]:30080"} {
		who, saw, failed := ask(r.outside, "tcp", addr, 10)
		if len(who) != 1 || saw["192.0.2.9"]+saw["fd02::9"] != 10 {
			t.Errorf("%s: answered %v, seen as %v, failed %v", addr, who, saw, failed)
		}
		if who, _, failed := ask(r.pods[0], "tcp", addr, 40); len(who) != 3 || len(failed) > 0 {
			t.Errorf("%s from a pod: answered %v, failed %v, want all", addr, who, failed)
		}
	}
	r.set(local())
	if _, _, failed := ask(r.outside, "tcp", "192.0.2.1:30080", 1); failed[os.ErrDeadlineExceeded.Error()] != 1 {
		t.Errorf("with no backend here: %v, want silence", failed)
	}
	if who, _, failed := ask(r.node, "tcp", "192.0.2.1:30080", 40); len(who) != 3 {
		t.Errorf("from the node: answered %v, failed %v, want all", who, failed)
	}
}

func TestKernelSourceRanges(t *testing.T) {
	r := newRig(t, proxy.Everywhere)
	for _, addr := range []string{"192.0.2.50:80", "[fd02::50]:80"} {
		r.announce(addr)
	}
	ranges := func(list ...string) func(*proxy.Group) {
		return func(g *proxy.Group) {
			for _, s := range list {
				g.Sources = append(g.Sources, netip.MustParsePrefix(s))
			}
		}
	}
	for _, tt := range []struct {
		ranges []string
		v4, v6 bool
	}{
		{[]string{"192.0.2.0/24", "192.0.2.0/28", "192.0.2.0/24"}, true, false}, // one within another, one twice
		{[]string{"203.0.113.0/24", "fd02::9/128"}, false, true},
		{[]string{"0.0.0.0/0", "::/0"}, true, true},
	} {
		r.set(service(ranges(tt.ranges...), 1))
		for addr, want := range map[string]bool{"192.0.2.50:80": tt.v4, "[fd02::50]:80": tt.v6} {
			if who, _, failed := ask(r.outside, "tcp", addr, 1); (len(who) == 1) != want {
				t.Errorf("%v: %s answered %v, failed %v", tt.ranges, addr, who, failed)
			}
		}
	}
	if who, _, _ := ask(r.pods[0], "tcp", "192.0.2.50:80", 1); len(who) != 1 {
		t.Error("a pod is refused: ranges are for clients outside")
	}
}

// A client of UDP that never pauses goes on to another backend when its own is gone, and gets one when there was none.
func TestKernelFlowsEndWithTheirBackend(t *testing.T) {
	r := newRig(t, proxy.Everywhere)
	r.set(service(nil, 1))
	var c net.Conn
	r.must(r.pods[1].Do(func() (err error) {
		c, err = net.Dial("udp", vip+":80")
		return err
	}))
	defer c.Close()
	answer := func() string {
		buf := make([]byte, 100)
		for range 20 {
			_, _ = c.Write([]byte("?"))
			_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if n, err := c.Read(buf); err == nil {
				return string(buf[:n])
			}
		}
		return "nothing"
	}
	for _, last := range [][]int{{1}, {2}, {3}, {}, {1}} {
		r.set(service(nil, last...))
		want := "nothing"
		if len(last) > 0 {
			want = fmt.Sprintf("10.10.0.%d<10.10.0.2", last[0])
		}
		if len(last) > 0 && last[0] == 2 {
			want = "10.10.0.2<" // itself, which sees the node
		}
		if got := answer(); !strings.HasPrefix(got, want) {
			t.Errorf("backends %v: %s answered, want %s", last, got, want)
		}
	}
}

func TestKernelNothingFailsWhileServicesChange(t *testing.T) {
	r := newRig(t, proxy.Everywhere)
	r.set(service(nil, 1, 2))
	stop, done := make(chan struct{}), make(chan map[string]int)
	n := 0
	go func() {
		failures := map[string]int{}
		for {
			select {
			case <-stop:
				done <- failures
				return
			default:
			}
			time.Sleep(time.Millisecond) // so few that no port of the client comes round again
			who, _, failed := ask(r.pods[0], "tcp", vip+":80", 1)
			for k, v := range failed {
				failures[k] += v
			}
			for _, v := range who {
				n += v
			}
		}
	}()
	var slowest time.Duration
	for i := range 100 {
		list := [][]int{{1, 2}, {2, 3}, {1, 3}, {1, 2, 3}}[i%4]
		start := time.Now()
		r.set(service(nil, list...))
		slowest = max(slowest, time.Since(start))
		if i%10 == 9 {
			r.open(proxy.Everywhere)
		}
		time.Sleep(3 * time.Millisecond)
	}
	close(stop)
	if failures := <-done; len(failures) > 0 || n < 200 {
		t.Errorf("%d answers, failures %v", n, failures)
	}
	t.Logf("%d answers, slowest change %s", n, slowest)
}

// A restart writes nothing that is there, and removes what is not wanted any more.
func TestKernelRestartKeepsAndCleans(t *testing.T) {
	r := newRig(t, proxy.Everywhere)
	more := service(nil, 1, 2)
	more["gone"] = &proxy.Group{
		Frontends: []proxy.Frontend{{Addr: netip.MustParseAddr("10.96.0.51"), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}},
		Backends:  more["4/6"].Backends, Here: more["4/6"].Here, Affinity: time.Minute,
	}
	r.set(service(nil, 1, 2))
	want := r.elements()
	r.set(more)
	r.open(proxy.Everywhere)
	r.set(service(nil, 1, 2))
	got := r.elements()
	for p := range want {
		if !got[p] {
			t.Errorf("%s has lost %x", p.set, p.key)
		}
	}
	for p := range got {
		if !want[p] {
			t.Errorf("%s has %x left over", p.set, p.key)
		}
	}
	r.set(proxy.Model{})
	r.noTables("an empty model")
	r.set(service(nil, 1))
	r.must(r.node.Do(Remove))
	r.must(r.node.Do(Remove)) // twice is no error
	r.noTables("remove")
	r.open(proxy.Everywhere)
	r.set(service(nil, 1))
	r.open(proxy.Outside) // as when sockets are translated from now on, and no service is for outside
	r.set(proxy.Model{"4/6": {
		Frontends: []proxy.Frontend{{Addr: netip.MustParseAddr(vip), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}},
	}})
	r.noTables("services that are all for inside")
}

func (r *rig) noTables(after string) {
	r.t.Helper()
	r.must(r.node.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		if len(tables) > 0 {
			r.t.Errorf("%s leaves %d tables", after, len(tables))
		}
		return err
	}))
}

// An address that goes from one group to another is never without one; one that two groups want is the first one's.
func TestKernelFrontendChangesHands(t *testing.T) {
	r := newRig(t, proxy.Everywhere)
	group := func(i int) *proxy.Group {
		return &proxy.Group{
			Frontends: []proxy.Frontend{{Addr: netip.MustParseAddr(vip), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}},
			Backends:  []netip.AddrPort{netip.MustParseAddrPort(fmt.Sprintf("10.10.0.%d:8080", i))},
		}
	}
	want := func(step, a string) {
		t.Helper()
		if who, _, failed := ask(r.node, "tcp", vip+":80", 3); who[a] != 3 {
			t.Errorf("%s: answered %v, failed %v, want %s", step, who, failed, a)
		}
	}
	first, second := group(1), group(2)
	r.set(proxy.Model{"a": first})
	want("one group", "10.10.0.1")
	r.set(proxy.Model{"a": first, "b": second})
	want("two want it", "10.10.0.1")
	r.set(proxy.Model{"b": second})
	want("the first let go", "10.10.0.2")
	r.set(proxy.Model{"c": group(3)})
	want("another at once", "10.10.0.3")
}

// Beside a backend in sockets only packets from outside are this one's.
func TestKernelOnlyOutside(t *testing.T) {
	r := newRig(t, proxy.Outside)
	r.set(service(nil, 1, 2, 3))
	if who, _, failed := ask(r.outside, "tcp", "192.0.2.1:30080", 30); len(who) != 3 || len(failed) > 0 {
		t.Errorf("from outside: answered %v, failed %v", who, failed)
	}
	for p := range r.elements() {
		if strings.Contains(p.set, " inside-") {
			t.Errorf("%s has elements", p.set)
		}
	}
}

// Whoever is on call looks with nft, and a rule that it cannot show ends it, for all tables.
func TestKernelNftShowsTheRules(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Fatalf("apt install nftables: %v", err)
	}
	r := newRig(t, proxy.Everywhere)
	r.set(service(nil, 1, 2, 3))
	r.set(service(func(g *proxy.Group) {
		g.Affinity = time.Minute
		g.Sources = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		g.KeepSource = true
	}, 1, 2))
	ask(r.pods[0], "tcp", vip+":80", 1)
	var out bytes.Buffer
	cmd := exec.Command("nft", "list", "ruleset")
	cmd.Stdout, cmd.Stderr = &out, &out
	r.must(r.node.Start(cmd))
	if err := cmd.Wait(); err != nil {
		t.Fatalf("nft list ruleset: %v: %s", err, out.String())
	}
	for _, want := range []string{"table ip " + Table, "table ip6 " + Table, "goto stay-", "numgen random mod 2", "192.0.2.0/24"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("nft does not show %q", want)
		}
	}
	t.Log(out.String())
}
