package ebpf

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

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
	t                           *testing.T
	client, router, node, other *netnstest.NS
	pods                        []*netnstest.NS
	pins, cgroup, attach        string
	svc                         *socklb.LB
	lb                          *packetlb.LB
	b                           *Backend
}

func newField(t *testing.T, attach string) *field {
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
		at, at6 := fmt.Sprintf("10.1.%d.%d:8080", i/2, last), fmt.Sprintf("[fd10:%d::%d]:8080", i/2, last)
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
		if f.lb, err = packetlb.Open(packetlb.Config{PinDir: f.pins, Attach: f.attach}); err != nil {
			return err
		}
		return f.lb.SetMasquerade(nodes)
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.b = New(f.svc, proxy.Everywhere)
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
	err := f.node.Do(func() error {
		var list []packetlb.Device
		for _, name := range []string{"up", "orl1", "orl2"} {
			list = append(list, packetlb.Device{Index: f.node.Link(name).Attrs().Index, Name: name, Pod: strings.HasPrefix(name, "orl")})
		}
		return f.lb.SetDevices(list)
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

func TestKernelPacketsNodePort(t *testing.T) {
	f := newField(t, "")
	f.set(published(nil, 1))
	got := f.client.Ask("tcp", "192.0.2.1:30080", 5)
	if got.Who["10.1.0.2"] != 5 || got.Saw["198.51.100.9"] != 5 {
		t.Errorf("a backend here: %+v %v", got, f.counters())
	}
	f.set(published(nil, 3))
	got = f.client.Ask("tcp", "192.0.2.1:30080", 5)
	if got.Who["10.1.1.2"] != 5 || got.Saw["192.0.2.1"] != 5 {
		t.Errorf("a backend elsewhere: %+v %v", got, f.counters())
	}
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
