package nft

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/nftables"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/proxytest"
)

// What this backend does as every other is tested in package proxy/modes.

// rig is a node with a backend.
type rig struct {
	*proxytest.Rig
	b *Backend
}

func newRig(t *testing.T, only proxy.Scope) *rig {
	t.Helper()
	r := &rig{Rig: proxytest.New(t)}
	r.open(only)
	return r
}

// open is what a process does at its start; called again, it is a restart.
func (r *rig) open(only proxy.Scope) {
	r.b = New(only)
	r.b.SetNode(proxytest.NodeOf())
}

func (r *rig) set(m proxy.Model) {
	r.T.Helper()
	r.Must(r.Node.Do(func() error { return r.b.Set(m) }))
}

// elements is all that the tables hold.
func (r *rig) elements() map[place]bool {
	r.T.Helper()
	out := map[place]bool{}
	r.Must(r.Node.Do(func() error {
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

// A restart writes nothing that is there, and removes what is not wanted any more.
func TestKernelRestartKeepsAndCleans(t *testing.T) {
	r := newRig(t, proxy.Everywhere)
	more := proxytest.Service(nil, 1, 2)
	more["gone"] = &proxy.Group{
		Frontends: []proxy.Frontend{{Addr: netip.MustParseAddr("10.96.0.51"), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}},
		Backends:  more["4/TCP"].Backends, Here: more["4/TCP"].Here, Affinity: time.Minute,
	}
	r.set(proxytest.Service(nil, 1, 2))
	want := r.elements()
	r.set(more)
	r.open(proxy.Everywhere)
	r.set(proxytest.Service(nil, 1, 2))
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
	r.set(proxytest.Service(nil, 1))
	r.Must(r.Node.Do(Remove))
	r.Must(r.Node.Do(Remove)) // twice is no error
	r.noTables("remove")
	r.open(proxy.Everywhere)
	r.set(proxytest.Service(nil, 1))
	r.open(proxy.Outside) // as when sockets are translated from now on, and no service is for outside
	r.set(proxy.Model{"4/TCP": {
		Frontends: []proxy.Frontend{{Addr: netip.MustParseAddr(proxytest.VIP), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}},
	}})
	r.noTables("services that are all for inside")
}

func (r *rig) noTables(after string) {
	r.T.Helper()
	r.Must(r.Node.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		if len(tables) > 0 {
			r.T.Errorf("%s leaves %d tables", after, len(tables))
		}
		return err
	}))
}

// Beside a backend in sockets only packets from outside are this one's.
func TestKernelOnlyOutside(t *testing.T) {
	r := newRig(t, proxy.Outside)
	r.set(proxytest.Service(nil, 1, 2, 3))
	if out := r.Ask(r.Outside, "tcp", "192.0.2.1:30080", 30); len(out.Who) != 3 || len(out.Failed) > 0 {
		t.Errorf("from outside: %+v", out)
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
	r.set(proxytest.Service(nil, 1, 2, 3))
	r.set(proxytest.Service(func(g *proxy.Group) {
		g.Affinity = time.Minute
		g.Sources = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		g.KeepSource = true
	}, 1, 2))
	r.Ask(r.Pods[0], "tcp", proxytest.VIP+":80", 1)
	var out bytes.Buffer
	cmd := exec.Command("nft", "list", "ruleset")
	cmd.Stdout, cmd.Stderr = &out, &out
	r.Must(r.Node.Start(cmd))
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

func TestKernelProbeLeavesNothing(t *testing.T) {
	r := &rig{Rig: &proxytest.Rig{T: t, Node: netnstest.New(t)}}
	r.Must(r.Node.Do(Probe))
	r.noTables("a probe")
}

// Each packet is counted once, each way, with its length, whoever asks and wherever the endpoint is, and whatever the process before counted.
func TestKernelPackets(t *testing.T) {
	r := newRig(t, proxy.Everywhere)
	r.set(proxytest.Service(nil, 1))
	ask := func(ns *netnstest.NS, addr string) {
		t.Helper()
		if out := r.Ask(ns, "udp", addr, 5); len(out.Failed) > 0 {
			t.Fatalf("%s: %+v", addr, out)
		}
	}
	counted := func() (out proxy.Traffic) {
		t.Helper()
		r.Must(r.Node.Do(func() error {
			all, err := r.b.Traffic()
			out = all["default/web:http"]
			return err
		}))
		return out
	}
	ask(r.Pods[0], proxytest.VIP+":80")
	if got := counted(); got != (proxy.Traffic{Connections: 5}) {
		t.Errorf("%+v: packets are counted that nobody wants counted", got)
	}
	counting := func() {
		r.b = New(proxy.Everywhere)
		r.b.CountPackets()
		r.b.SetNode(proxytest.NodeOf())
	}
	counting()
	r.set(proxytest.Service(nil, 1))
	before := counted()
	const question = 20 + 8 + 1 // headers of IP and UDP, and a byte
	if before != (proxy.Traffic{Connections: 5, PacketsIn: 5, BytesIn: 5 * question}) {
		t.Errorf("%+v: want what was counted to stay", before)
	}
	want := func(step string, times, length uint64) {
		t.Helper()
		now := counted()
		got := now.Minus(before)
		before = now
		if got.Connections != times || got.PacketsIn != times || got.PacketsOut != times || got.BytesIn != times*length || got.BytesOut <= times*length || got.BytesOut > times*100 {
			t.Errorf("%s: %+v", step, got)
		}
	}
	for name, ns := range map[string]*netnstest.NS{"a pod": r.Pods[1], "itself": r.Pods[0], "the node": r.Node} {
		ask(ns, proxytest.VIP+":80")
		want(name, 5, question)
	}
	ask(r.Pods[1], "["+proxytest.VIP6+"]:80")
	want("IPv6", 5, question+20)
	r.set(proxytest.Service(nil, 3))
	ask(r.Outside, "192.0.2.1:30080")
	want("from outside to another node", 5, question)
	here := proxytest.Service(nil)
	here["4/UDP"].Backends, here["4/UDP"].Here = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:7070")}, []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	r.set(here)
	stop := r.echo("192.0.2.1:7070")
	ask(r.Node, proxytest.VIP+":80")
	stop()
	want("from the node to itself", 5, question)
	if out := r.Ask(r.Pods[1], "udp", "10.10.0.1:8080", 5); len(out.Failed) > 0 || counted() != before {
		t.Errorf("%+v: what asks no service is counted", counted())
	}
	r.set(proxytest.Service(nil, 1))
	r.Ask(r.Pods[1], "tcp", proxytest.VIP+":80", 5)
	if got := counted().Minus(before); got.Connections != 5 || got.PacketsIn < 15 || got.PacketsOut < 10 || got.BytesIn < 15*40 {
		t.Errorf("TCP: %+v", got)
	}
	before = counted()
	counting() // a restart
	r.set(proxytest.Service(nil, 1))
	if got := counted(); got != before {
		t.Errorf("after a restart %+v, want %+v", got, before)
	}
	var out bytes.Buffer
	cmd := exec.Command("nft", "list", "ruleset")
	cmd.Stdout, cmd.Stderr = &out, &out
	r.Must(r.Node.Start(cmd))
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "ct direction reply") {
		t.Errorf("nft list ruleset: %v: %s", err, out.String())
	}
	r.open(proxy.Everywhere) // without it again
	r.set(proxytest.Service(nil, 1))
	ask(r.Pods[1], proxytest.VIP+":80")
	if got := counted().Minus(before); got.PacketsIn != 0 || got.Connections != 5 {
		t.Errorf("%+v: packets are counted that nobody wants counted any more", got)
	}
}

// echo answers datagrams on the node until stop is called.
func (r *rig) echo(at string) (stop func()) {
	var c net.PacketConn
	r.Must(r.Node.Do(func() (err error) {
		c, err = net.ListenPacket("udp", at)
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 10)
		for {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte("here"), from)
		}
	}()
	return func() { c.Close(); <-done }
}

// What the tables lead to is read from the kernel, whatever was asked for.
func TestKernelHeldIsWhatTheTablesLeadTo(t *testing.T) {
	ns := netnstest.New(t)
	addr, at := netip.MustParseAddr, netip.MustParseAddrPort
	node := proxy.Node{NodePorts: []netip.Addr{addr("192.0.2.1"), addr("fd02::1")}}
	front := func(a string, port uint16, scope proxy.Scope) proxy.Frontend {
		return proxy.Frontend{Addr: addr(a), Port: port, Protocol: proxy.TCP, Scope: scope}
	}
	one, two, six := at("10.1.0.2:8080"), at("10.1.1.2:8081"), at("[fd10::2]:8080")
	model := proxy.Model{
		"web":   {Frontends: []proxy.Frontend{front("10.96.0.9", 80, proxy.Inside), front("0.0.0.0", 30080, proxy.Everywhere)}, Backends: []netip.AddrPort{one, two}},
		"web/6": {Frontends: []proxy.Frontend{front("fd96::9", 80, proxy.Inside), front("::", 30080, proxy.Outside)}, Backends: []netip.AddrPort{six}},
		"none":  {Frontends: []proxy.Frontend{front("10.96.0.10", 80, proxy.Inside)}},
		"stays": {Frontends: []proxy.Frontend{front("10.96.0.11", 80, proxy.Inside)}, Backends: []netip.AddrPort{one}, Affinity: time.Minute},
	}
	want := map[proxy.Frontend]Held{
		front("10.96.0.9", 80, proxy.Inside): {Backends: []netip.AddrPort{one, two}}, front("192.0.2.1", 30080, proxy.Inside): {Backends: []netip.AddrPort{one, two}},
		front("192.0.2.1", 30080, proxy.Outside): {Backends: []netip.AddrPort{one, two}}, front("fd96::9", 80, proxy.Inside): {Backends: []netip.AddrPort{six}},
		front("fd02::1", 30080, proxy.Outside): {Backends: []netip.AddrPort{six}}, front("10.96.0.10", 80, proxy.Inside): {}, front("10.96.0.11", 80, proxy.Inside): {Stays: true},
	}
	err := ns.Do(func() error {
		b := New(proxy.Everywhere)
		b.SetNode(node)
		if held, err := b.Held(); err != nil || len(held) > 0 {
			t.Errorf("with no table: %v, %v", held, err)
		}
		if err := b.Set(model); err != nil {
			return err
		}
		held, err := b.Held()
		if err != nil {
			return err
		}
		if d := cmp.Diff(want, held, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()); d != "" {
			t.Error(d)
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tab := &nftables.Table{Name: Table, Family: ipv4.table}
		conn.FlushSet(ipv4.sets(tab)[inside.pick])
		conn.FlushSet(ipv4.sets(tab)[inside.backends])
		if err := conn.Flush(); err != nil {
			return err
		}
		held, err = b.Held() // somebody has taken these away
		if _, there := held[front("10.96.0.9", 80, proxy.Inside)]; there || len(held[front("192.0.2.1", 30080, proxy.Outside)].Backends) != 2 {
			t.Errorf("after somebody has emptied maps: %v", held)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
