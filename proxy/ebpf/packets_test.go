package ebpf

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	ciliumebpf "github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/packetlb"
	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/proxy"
)

// field is a client behind a router, and on the router's other side two nodes with pods. Programs are on the first node alone, which has pods 1 and 2 on a
// bridge; pod 3 is the second's. The router knows no way to pods: what comes back to the client comes back through the node that it asked.
//
//	client 198.51.100.9 -- router -- node 192.0.2.1 -- orlop0 -- pod1 10.1.0.2, pod2 10.1.0.3
//	                         `------ other 192.0.2.2 ----------- pod3 10.1.1.2
type field struct {
	t                           testing.TB
	client, router, node, other *netnstest.NS
	pods                        []*netnstest.NS
	pins, cgroup, attach        string
	svc                         *socklb.LB
	lb                          *packetlb.LB
	b                           *Backend
	charged                     bool // this process's programs are in charge
	through                     *packetlb.Tunnel
	others                      proxy.Model // of a bench, beside the Services that are asked
}

func newField(t testing.TB, attach string) *field {
	t.Helper()
	netnstest.RequireRoot(t)
	f := &field{t: t, attach: attach, client: netnstest.New(t), router: netnstest.New(t), node: netnstest.New(t), other: netnstest.New(t), cgroup: cgroup(t)}
	for range 3 {
		f.pods = append(f.pods, netnstest.New(t))
	}
	for _, ns := range []*netnstest.NS{f.router, f.node, f.other} {
		ns.Forward()
	}
	for _, ns := range append([]*netnstest.NS{f.client}, f.pods...) {
		ns.Sysctl("ipv6/conf/default/accept_dad", "0")
	}
	f.router.Bridge("br0", "192.0.2.254/24", "fd02::254/64")
	f.router.Join("out", "", f.client, "eth0")
	f.router.Addrs("out", "198.51.100.254/24", "fd98::254/64")
	f.client.Addrs("eth0", "198.51.100.9/24", "fd98::9/64")
	f.client.Route("default", "198.51.100.254")
	f.client.Route("default", "fd98::254")
	for i, ns := range []*netnstest.NS{f.node, f.other} {
		f.router.Join(fmt.Sprint("node", i+1), "br0", ns, "up")
		ns.Addrs("up", fmt.Sprintf("192.0.2.%d/24", i+1), fmt.Sprintf("fd02::%d/64", i+1))
		ns.Route("default", "192.0.2.254")
		ns.Route("default", "fd02::254")
		ns.Bridge("orlop0", fmt.Sprintf("10.1.%d.1/24", i), fmt.Sprintf("fd10:%d::1/64", i))
	}
	f.node.Route("10.1.1.0/24", "192.0.2.2")
	f.node.Route("fd10:1::/64", "fd02::2")
	f.other.Route("10.1.0.0/24", "192.0.2.1")
	f.other.Route("fd10:0::/64", "fd02::1")
	for i, pod := range f.pods {
		host, last := f.node, i+2
		if i == 2 {
			host, last = f.other, 2
		}
		host.Join(fmt.Sprint("orl", i+1), "orlop0", pod, "eth0")
		pod.Addrs("eth0", fmt.Sprintf("10.1.%d.%d/24", i/2, last), fmt.Sprintf("fd10:%d::%d/64", i/2, last))
		pod.Route("default", fmt.Sprintf("10.1.%d.1", i/2))
		pod.Route("default", fmt.Sprintf("fd10:%d::1", i/2))
		at, at6 := fmt.Sprintf("10.1.%d.%d:8080", i/2, last), netip.MustParseAddrPort(fmt.Sprintf("[fd10:%d::%d]:8080", i/2, last)).String()
		pod.Serve(at, at6)
		f.node.Meet(at)
		f.node.Meet(at6)
	}
	f.client.Meet("192.0.2.1:1")
	f.client.Meet("[fd02::1]:1")
	f.pins = filepath.Join(netnstest.BPFFS(t), "orlop")
	t.Cleanup(func() {
		f.close()
		if err := f.node.Do(func() error { return packetlb.Remove(f.pins) }); err != nil {
			t.Error(err)
		}
		if err := socklb.Remove(f.pins); err != nil {
			t.Error(err)
		}
	})
	f.open()
	return f
}

// open is what a process does at its start; called again, it is a restart.
func (f *field) open() {
	f.t.Helper()
	f.close()
	err := f.node.Do(func() (err error) {
		if f.svc, err = socklb.Open(socklb.Config{PinDir: f.pins, Cgroup: f.cgroup}); err != nil {
			return err
		}
		nodes := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd02::1")}
		all := append(nodes, netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("fd02::2"))
		if err := f.svc.SetNodes(all, nodes); err != nil {
			return err
		}
		if f.lb, err = packetlb.Open(packetlb.Config{PinDir: f.pins, Attach: f.attach, Flows: 1 << 17}); err != nil {
			return err
		}
		return f.lb.SetMasquerade(nodes)
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.b, f.charged = New(f.svc, proxy.Everywhere), false
}

func (f *field) close() {
	if f.lb != nil {
		f.lb.Close()
		f.lb = nil
	}
	if f.svc != nil {
		f.svc.Close()
		f.svc = nil
	}
}

// set makes a model the one in force, and this process's programs those in charge.
func (f *field) set(m proxy.Model) {
	f.t.Helper()
	if err := f.b.Set(m); err != nil {
		f.t.Fatal(err)
	}
	if f.charged {
		return
	}
	f.charged = true
	err := f.node.Do(func() error {
		_, err := f.lb.Sync([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd10::/64")})
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// published is a model of one dual-stack service with TCP and UDP port 80, node port 30080, and a balancer's address, with backends by the numbers of pods.
func published(change func(*proxy.Group), pods ...int) proxy.Model {
	m := proxy.Model{}
	for _, p := range []proxy.Protocol{proxy.TCP, proxy.UDP} {
		for family, addrs := range map[string][]string{"4/": {"10.1.%d.%d:8080", vip, "203.0.113.50", "0.0.0.0"}, "6/": {"[fd10:%d::%d]:8080", vip6, "fd03::50", "::"}} {
			g := &proxy.Group{Frontends: []proxy.Frontend{
				{Addr: netip.MustParseAddr(addrs[1]), Port: 80, Protocol: p, Scope: proxy.Inside},
				{Addr: netip.MustParseAddr(addrs[2]), Port: 80, Protocol: p, Scope: proxy.Everywhere},
				{Addr: netip.MustParseAddr(addrs[3]), Port: 30080, Protocol: p, Scope: proxy.Everywhere},
			}}
			for _, i := range pods {
				b := netip.MustParseAddrPort(fmt.Sprintf(addrs[0], (i-1)/2, i+1-(i-1)/2*2))
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

// each runs f on a field with programs attached in each of the two ways.
func each(t *testing.T, run func(t *testing.T, f *field)) {
	for _, attach := range []string{packetlb.TCX, packetlb.Clsact} {
		t.Run(attach, func(t *testing.T) {
			lo := netnstest.New(t).Link("lo").Attrs().Index
			if _, err := link.QueryPrograms(link.QueryOptions{Target: lo, Attach: ciliumebpf.AttachTCXIngress}); err != nil && attach == packetlb.TCX {
				var u unix.Utsname
				if err := unix.Uname(&u); err != nil || unix.ByteSliceToString(u.Release[:]) > "6.6" && u.Release[1] == '.' {
					t.Fatalf("Linux %s has TCX: %v", u.Release, err)
				}
				t.Skip("TCX came with Linux 6.6")
			}
			run(t, newField(t, attach))
		})
	}
}

const clientAddr, clientAddr6 = "198.51.100.9", "fd98::9"

func TestKernelPacketsFromOutside(t *testing.T) {
	each(t, func(t *testing.T, f *field) {
		f.set(published(nil, 1, 2, 3))
		for _, network := range []string{"tcp", "udp"} {
			for _, addr := range []string{"192.0.2.1:30080", "[fd02::1]:30080", "203.0.113.50:80", "[fd03::50]:80"} {
				f.announce()
				got := f.client.Ask(network, addr, 40)
				own, node, far := clientAddr, "192.0.2.1", "10.1.1.2"
				if strings.HasPrefix(addr, "[") {
					own, node, far = clientAddr6, "fd02::1", "fd10:1::2"
				}
				if len(got.Who) != 3 || len(got.Failed) > 0 || got.Saw[node] != got.Who[far] || got.Saw[own] != 40-got.Who[far] {
					t.Errorf("%s %s: %+v; want all three, those here to see the client and the other the node: %v", network, addr, got, f.counters())
				}
			}
		}
		if got := f.client.Ask("tcp", "203.0.113.50:81", 1); len(got.Failed) != 1 {
			t.Errorf("another port of the balancer's address: %+v", got)
		}
	})
}

// announce makes the router send what is for balancers' addresses to the node.
func (f *field) announce() {
	f.router.Route("203.0.113.50/32", "192.0.2.1")
	f.router.Route("fd03::50/128", "fd02::1")
}

// Pods whose sockets no program sees ask as others do, and see whom others see.
func TestKernelPacketsFromPods(t *testing.T) {
	f := newField(t, "")
	for _, network := range []string{"tcp", "udp"} {
		for _, addr := range []string{vip + ":80", "[" + vip6 + "]:80", "192.0.2.1:30080", "192.0.2.2:30080", "[fd02::1]:30080", "203.0.113.50:80"} {
			own, node := "10.1.0.2", "192.0.2.1"
			if strings.HasPrefix(addr, "[") {
				own, node = "fd10::2", "fd02::1"
			}
			for _, pod := range []int{2, 3} {
				f.set(published(nil, pod))
				if got := f.pods[0].Ask(network, addr, 5); got.Saw[own] != 5 {
					t.Errorf("%s %s on pod %d: %+v %v", network, addr, pod, got, f.counters())
				}
			}
			f.set(published(nil, 1))
			if got := f.pods[0].Ask(network, addr, 5); got.Who[own] != 5 || got.Saw[node] != 5 {
				t.Errorf("%s %s on itself: %+v, want itself to see the node: %v", network, addr, got, f.counters())
			}
		}
	}
}

func TestKernelPacketsExternalLocal(t *testing.T) {
	f := newField(t, "")
	f.announce()
	local := func(pods ...int) proxy.Model {
		m := published(nil, 1, 2, 3)
		for name, g := range published(func(g *proxy.Group) { g.KeepSource = true }, pods...) {
			for i := range g.Frontends {
				g.Frontends[i].Scope &= proxy.Outside
				m[name].Frontends[i].Scope &= proxy.Inside
			}
			g.Frontends = g.Frontends[1:]
			m[name+"/outside"] = g
		}
		return m
	}
	f.set(local(1, 2))
	for _, addr := range []string{"192.0.2.1:30080", "[fd02::1]:30080", "203.0.113.50:80"} {
		got := f.client.Ask("tcp", addr, 20)
		if len(got.Who) != 2 || got.Saw[clientAddr]+got.Saw[clientAddr6] != 20 {
			t.Errorf("%s: %+v, want the backends here to see the client", addr, got)
		}
	}
	if got := f.pods[0].Ask("tcp", "192.0.2.1:30080", 30); len(got.Who) != 3 {
		t.Errorf("from inside: %+v, want all backends", got)
	}
	f.set(local())
	if got := f.client.Ask("tcp", "192.0.2.1:30080", 1); got.Failed[os.ErrDeadlineExceeded.Error()] != 1 || f.counters()["no_endpoint_here"] == 0 {
		t.Errorf("without one here: %+v, want silence: %v", got, f.counters())
	}
}

func TestKernelPacketsRefusedAtOnce(t *testing.T) {
	f := newField(t, "")
	f.announce()
	f.set(published(nil))
	for _, network := range []string{"tcp", "udp"} {
		for _, addr := range []string{"192.0.2.1:30080", "[fd02::1]:30080", "203.0.113.50:80", "[fd03::50]:80"} {
			if got := f.client.Ask(network, addr, 1); got.Failed[syscall.ECONNREFUSED.Error()] != 1 {
				t.Errorf("%s %s: %+v %v", network, addr, got, f.counters())
			}
		}
		if got := f.pods[0].Ask(network, vip+":80", 1); got.Failed[syscall.ECONNREFUSED.Error()] != 1 {
			t.Errorf("%s from a pod: %+v %v", network, got, f.counters())
		}
	}
}

func TestKernelPacketsSourceRanges(t *testing.T) {
	f := newField(t, "")
	f.announce()
	only := func(ranges ...string) proxy.Model {
		return published(func(g *proxy.Group) {
			for _, s := range ranges {
				g.Sources = append(g.Sources, netip.MustParsePrefix(s))
			}
		}, 1)
	}
	for _, tt := range []struct {
		ranges []string
		v4, v6 int
	}{
		{[]string{"198.51.100.0/24", "fd98::/64"}, 1, 1},
		{[]string{"198.51.100.8/32", "fd98::9/128"}, 0, 1},
		{[]string{"::/0"}, 0, 1},
		{[]string{"0.0.0.0/0", "198.51.0.0/16"}, 1, 0},
		{nil, 1, 1},
	} {
		f.set(only(tt.ranges...))
		if got := f.client.Ask("tcp", "203.0.113.50:80", 1); got.Who["10.1.0.2"] != tt.v4 {
			t.Errorf("%v: IPv4 %+v", tt.ranges, got)
		}
		if got := f.client.Ask("tcp", "[fd03::50]:80", 1); got.Saw[clientAddr6] != tt.v6 {
			t.Errorf("%v: IPv6 %+v", tt.ranges, got)
		}
	}
}

func TestKernelPacketsAffinity(t *testing.T) {
	f := newField(t, "")
	stay := func(g *proxy.Group) { g.Affinity = time.Hour }
	f.set(published(stay, 1, 2, 3))
	got := f.client.Ask("tcp", "192.0.2.1:30080", 20)
	if len(got.Who) != 1 || len(got.Failed) > 0 {
		t.Fatalf("%+v, want one backend", got)
	}
	var left []int
	for i, a := range []string{"10.1.0.2", "10.1.0.3", "10.1.1.2"} {
		if got.Who[a] == 0 {
			left = append(left, i+1)
		}
	}
	f.set(published(stay, left...)) // without the chosen one
	got = f.client.Ask("tcp", "192.0.2.1:30080", 20)
	if len(got.Who) != 1 || len(got.Failed) > 0 {
		t.Fatalf("%+v after the chosen backend went, want one of the others", got)
	}
	f.open() // a restart forgets nothing
	f.set(published(stay, 1, 2, 3))
	if again := f.client.Ask("tcp", "192.0.2.1:30080", 20); !maps.Equal(again.Who, got.Who) {
		t.Errorf("%+v after a restart, want %+v", again, got)
	}
}

// Long streams and datagrams pass where links on the way are narrow, on the client's side and on the backend's: errors find their sender, fragments
// each other. Devices compute all sums themselves, so that a wrong one would be dropped.
func TestKernelPacketsPathMTUAndFragments(t *testing.T) {
	for _, past := range []bool{false, true} {
		t.Run(fmt.Sprint("past the stack ", past), func(t *testing.T) { pathMTUAndFragments(t, past) })
	}
}

func pathMTUAndFragments(t *testing.T, past bool) {
	f := newField(t, "")
	for _, ns := range append([]*netnstest.NS{f.client}, f.pods...) {
		ns.NoOffload("eth0")
	}
	f.router.NoOffload("out")
	for i, at := range []string{"10.1.0.2:9090", "[fd10::2]:9090", "10.1.1.2:9090", "[fd10:1::2]:9090"} {
		f.pods[i/2*2].Echoes(at)
	}
	narrow := func(near *netnstest.NS, name string, far *netnstest.NS, mtu int, gateways ...string) {
		near.SetMTU(name, mtu)
		far.SetMTU("eth0", mtu)
		for _, gw := range gateways { // without saying so to the other side
			far.RouteAnnouncing(gw, 1440)
		}
	}
	narrow(f.router, "out", f.client, 1400, "198.51.100.254", "fd98::254")
	narrow(f.other, "orl3", f.pods[2], 1280, "10.1.1.1", "fd10:1::1")
	for _, pod := range []int{1, 3} {
		f.set(published(func(g *proxy.Group) {
			for i, b := range g.Backends {
				g.Backends[i] = netip.AddrPortFrom(b.Addr(), 9090)
			}
		}, pod))
		f.past(past)
		for _, addr := range []string{"192.0.2.1:30080", "[fd02::1]:30080"} {
			// The first long ones tell the sender the path's MTU, and datagrams are not sent again.
			for network, sizes := range map[string][]int{"tcp": {300_000}, "udp": {1000, 4000}} {
				for _, size := range sizes {
					var err error
					for range 4 {
						if err = f.client.Echo(network, addr, size); err == nil {
							break
						}
					}
					if err != nil {
						t.Errorf("%s, %d bytes to pod %d at %s: %v %v", network, size, pod, addr, err, f.counters())
					}
				}
			}
		}
	}
	if n := f.counters(); n["icmp"] < 4 || n["fragment"] == 0 || n["not_written"] > 0 {
		t.Errorf("errors or fragments were not translated: %v", n)
	}
}

// A node's programs and services change under clients outside, and none notices.
func TestKernelPacketsNothingFailsWhileServicesAndProgramsChange(t *testing.T) {
	each(t, func(t *testing.T, f *field) {
		f.set(published(nil, 1, 2))
		done := make(chan struct{})
		results := make(chan netnstest.Answers)
		for _, network := range []string{"tcp", "udp"} {
			go func() {
				all := netnstest.Answers{Who: map[string]int{}, Saw: map[string]int{}, Failed: map[string]int{}}
				for {
					select {
					case <-done:
						results <- all
						return
					default:
					}
					got := f.client.Ask(network, "192.0.2.1:30080", 20)
					for name, n := range got.Who {
						all.Who[name] += n
					}
					for name, n := range got.Failed {
						all.Failed[network+" "+name] += n
					}
				}
			}()
		}
		for i := range 60 {
			if i%15 == 14 { // a restart: nothing is removed, everything is replaced
				f.open()
			}
			f.set(published(nil, i%3+1, (i+1)%3+1))
			if _, err := f.b.Sweep(time.Now()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		close(done)
		for range 2 {
			if got := <-results; len(got.Failed) > 0 || len(got.Who) != 3 {
				t.Errorf("%+v %v", got, f.counters())
			}
		}
	})
}

// A device that comes gets the programs, one that goes leaves no trace, and an end leaves none at all.
func TestKernelPacketsDevicesComeAndGo(t *testing.T) {
	each(t, func(t *testing.T, f *field) {
		pods := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd10::/64")}
		sync := func() (names []string) {
			t.Helper()
			f.node.Must(f.node.Do(func() error {
				on, err := f.lb.Sync(pods)
				for _, d := range on {
					names = append(names, fmt.Sprint(d.Name, d.Pod))
				}
				return err
			}))
			return names
		}
		if got := sync(); !slices.Equal(got, []string{"upfalse", "orl1true", "orl2true"}) {
			t.Errorf("devices %v", got)
		}
		more := netnstest.New(t)
		f.node.Join("orl9", "orlop0", more, "eth0")
		if got := sync(); !slices.Equal(got, []string{"upfalse", "orl1true", "orl2true", "orl9true"}) {
			t.Errorf("devices %v", got)
		}
		f.node.Must(f.node.NL.LinkDel(f.node.Link("orl9")))
		if got := sync(); len(got) != 3 {
			t.Errorf("devices %v", got)
		}
		pins, err := filepath.Glob(filepath.Join(f.pins, "links", "devices", "*"))
		if want := map[string]int{packetlb.TCX: 6}[f.attach]; err != nil || len(pins) != want {
			t.Errorf("pins %v, %v", pins, err)
		}
		f.node.Must(f.node.Do(func() error { return packetlb.Remove(f.pins) }))
		for end := time.Now().Add(10 * time.Second); f.attached() != 0; time.Sleep(10 * time.Millisecond) { // the kernel lets go of a pin a little later
			if time.Now().After(end) {
				t.Fatalf("%d programs are left on the uplink", f.attached())
			}
		}
	})
}

// attached counts the programs on the uplink.
func (f *field) attached() (n int) {
	up := f.node.Link("up")
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		if list, err := f.node.NL.FilterList(up, parent); err == nil {
			n += len(list)
		}
	}
	if f.attach == packetlb.Clsact { // and the kernel may have nothing else
		return n
	}
	f.node.Must(f.node.Do(func() error {
		for _, at := range []ciliumebpf.AttachType{ciliumebpf.AttachTCXIngress, ciliumebpf.AttachTCXEgress} {
			list, err := link.QueryPrograms(link.QueryOptions{Target: up.Attrs().Index, Attach: at})
			if err != nil {
				return err
			}
			n += len(list.Programs)
		}
		return nil
	}))
	return n
}

func (f *field) counters() map[string]uint64 {
	f.t.Helper()
	all, err := f.lb.Counters()
	if err != nil {
		f.t.Fatal(err)
	}
	for name, n := range all {
		if n == 0 {
			delete(all, name)
		}
	}
	return all
}
