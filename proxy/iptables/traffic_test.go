package iptables

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/proxytest"
)

func TestLine(t *testing.T) {
	for _, tt := range []struct {
		line string
		want rule
		no   bool // is told of
		not  bool // counts
	}{
		{line: `[12:720] -A KUBE-SEP-UIQK3OSOSTRHRPBX -p tcp -j DNAT --to-destination 10.244.1.2:8080`, want: rule{chain{nat, "KUBE-SEP-UIQK3OSOSTRHRPBX"}, "", 12}},
		{line: `[12:720] -A KUBE-DNAT-UIQK3OSOSTRHRPBX -p tcp -m tcp -j DNAT --to-destination [fd00::2]:8080`, want: rule{chain{nat, "KUBE-DNAT-UIQK3OSOSTRHRPBX"}, "", 12}},
		{line: `[3:180] -A KUBE-REFUSE-CDGGSHYLG3RE2FKL -p tcp -j REJECT --reject-with tcp-reset`, want: rule{chain{nat, "KUBE-REFUSE-CDGGSHYLG3RE2FKL"}, "", 3}},
		{line: `[18446744073709551615:1] -A KUBE-DROP-CDGGSHYLG3RE2FKL -j DROP`, want: rule{chain{nat, "KUBE-DROP-CDGGSHYLG3RE2FKL"}, "", 1<<64 - 1}},
		{line: `[1:60] -A KUBE-SEP-UIQK3OSOSTRHRPBX -s 10.244.1.2/32 -j KUBE-MARK-MASQ`, not: true, // a pod that asks itself: the next rule counts it
			want: rule{chain{nat, "KUBE-SEP-UIQK3OSOSTRHRPBX"}, "KUBE-MARK-MASQ", 1}},
		{line: `[1:60] -A KUBE-SEP-UIQK3OSOSTRHRPBX -m recent --set --name KUBE-SEP-UIQK3OSOSTRHRPBX -j KUBE-DNAT-UIQK3OSOSTRHRPBX`, not: true,
			want: rule{chain{nat, "KUBE-SEP-UIQK3OSOSTRHRPBX"}, "KUBE-DNAT-UIQK3OSOSTRHRPBX", 1}},
		{line: `[1:60] -A KUBE-SVC-CDGGSHYLG3RE2FKL -m comment --comment "a -> b" -j KUBE-SEP-UIQK3OSOSTRHRPBX`, not: true, want: rule{chain{nat, "KUBE-SVC-CDGGSHYLG3RE2FKL"}, "KUBE-SEP-UIQK3OSOSTRHRPBX", 1}},
		{line: `[9:9] -A DOCKER -j DROP`, not: true, want: rule{chain{nat, "DOCKER"}, "", 9}},
		{line: `[9:9] -A POSTROUTING -j KUBE-POSTROUTING`, not: true, want: rule{chain{nat, "POSTROUTING"}, "KUBE-POSTROUTING", 9}},
		{line: `# Completed on`, no: true},
		{line: `[`, no: true},
		{line: `[x:0] -A DOCKER -j DROP`, no: true},
	} {
		var got []rule
		visitor{rule: func(r rule) { got = append(got, r) }}.line(nat, tt.line)
		if (len(got) == 0) != tt.no || len(got) == 1 && (got[0] != tt.want || got[0].counts() == tt.not) {
			t.Errorf("%s: %+v", tt.line, got)
		}
	}
}

// What the ledger holds is what rules have counted over all times that they were written, whenever it was read.
func TestLedger(t *testing.T) {
	key := portKey{"default/web:http", proxy.TCP}
	a, b, none := chain{nat, endpoints + "A"}, chain{nat, endpoints + "B"}, chain{filter, refusing + "X"}
	rules := layout{a: {"-j DNAT a"}, b: {"-j DNAT b"}, none: {"-j REJECT"}}
	var l ledger
	have, kernel := layout{}, map[string]uint64{}
	// What the service has now; no chains at all: it is gone.
	write := func(chains ...chain) {
		units := map[portKey]*unit{}
		if len(chains) > 0 {
			units[key] = &unit{key: key, own: layout{}}
		}
		want := layout{}
		for _, c := range chains {
			units[key].own[c], want[c] = rules[c], rules[c]
		}
		l.keep(have, want, units)
		for c := range rules {
			_, was := have[c]
			if _, is := want[c]; !is || !was {
				delete(kernel, c.name)
			}
		}
		l.wrote(have, want, units)
		have = want
	}
	list := func() (map[string]uint64, error) { return kernel, nil }
	check := func(step string, connections, failures uint64) {
		t.Helper()
		if err := l.read(list); err != nil {
			t.Error(err)
		}
		got := map[string]proxy.Traffic{}
		l.sum(got)
		want := map[string]proxy.Traffic{}
		if connections+failures > 0 {
			want[key.port] = proxy.Traffic{Connections: connections, Failures: failures}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", step, d)
		}
	}
	kernel[a.name] = 7 // of an earlier process
	write(a)
	check("begun", 0, 0)
	kernel[a.name] = 5
	write(b) // and nobody has read
	kernel[b.name] = 2
	if have[a] == nil {
		t.Error("a chain goes that has not been read")
	}
	check("an endpoint went", 7, 0)
	write(a, b) // it comes again before its chain has gone
	kernel[a.name]++
	write(none)
	kernel[none.name] = 3
	check("there are none", 8, 3)
	if !l.settled() {
		t.Error("chains that have been read do not go")
	}
	write(none)
	if have[a] != nil || have[b] != nil || l.settled() || len(l.chains) != 1 || len(l.idle) != 0 {
		t.Errorf("have %v, %+v, idle %v: want chains that have been read to go", have, l.chains, l.idle)
	}
	write(a)
	kernel[a.name] = 1
	check("one again", 9, 3)
	kernel[a.name], kernel[none.name] = 0, 0 // iptables -Z
	check("set to nothing", 9, 3)
	kernel[a.name] = 1
	check("and counted since", 10, 3)
	if err := l.read(func() (map[string]uint64, error) {
		have = layout{} // somebody has flushed all
		write(a)        // while this is read
		return map[string]uint64{a.name: 2}, nil
	}); err != nil {
		t.Error(err)
	}
	kernel[a.name] = 3
	check("a reading from before", 13, 3)
	write()
	check("the service went", 0, 0)
	if len(l.chains)+len(l.idle)+len(l.ports) > 0 {
		t.Errorf("left of a service that went: %+v", l.chains)
	}
}

func TestKernelTraffic(t *testing.T) {
	for _, flavour := range []Flavour{NFT, Legacy} {
		t.Run(string(flavour), func(t *testing.T) { counted(t, flavour) })
	}
}

func counted(t *testing.T, flavour Flavour) {
	r := proxytest.New(t)
	r.Announce("192.0.2.50")
	// So few ports that two connections from one would be met: conntrack takes them for one, and one is counted.
	r.Must(r.Node.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40015"), 0o644)
	}))
	var b *Backend
	program := "iptables-" + string(flavour)
	run := func(args ...string) {
		t.Helper()
		r.Must(r.Node.Do(func() error {
			out, err := exec.Command(program, args...).CombinedOutput()
			if err != nil {
				t.Errorf("%s %v: %s", program, args, out)
			}
			return err
		}))
	}
	run("-t", "mangle", "-N", "KUBE-KUBELET-CANARY")
	open := func() {
		r.Must(r.Node.Do(func() (err error) {
			if b, err = Open(Config{Log: slog.New(slog.DiscardHandler)}); err == nil && b.Flavour() != flavour {
				t.Fatalf("uses flavour %s", b.Flavour())
			}
			b.SetNode(proxytest.NodeOf())
			return err
		}))
	}
	set := func(m proxy.Model) {
		t.Helper()
		r.Must(r.Node.Do(func() error { return b.Set(m) }))
	}
	want := func(step string, connections, failures uint64) {
		t.Helper()
		r.Must(r.Node.Do(func() error {
			all, err := b.Traffic()
			if d := cmp.Diff(proxy.Traffic{Connections: connections, Failures: failures}, all["default/web:http"]); d != "" {
				t.Errorf("%s: %s", step, d)
			}
			return err
		}))
	}
	ask := func(ns *netnstest.NS, network, addr string, times, answers int) {
		t.Helper()
		out, got := r.Ask(ns, network, addr, times), 0
		for _, n := range out.Who {
			got += n
		}
		if got != answers {
			t.Errorf("%s %s, asked %d times: %d answers, want %d: %+v", network, addr, times, got, answers, out)
		}
	}
	stay := func(g *proxy.Group) { g.Affinity = time.Hour }
	open()
	set(proxytest.Service(nil, 1, 2))
	ask(r.Pods[0], "tcp", proxytest.VIP+":80", 10, 10)
	ask(r.Node, "udp", "["+proxytest.VIP6+"]:80", 10, 10)
	ask(r.Outside, "tcp", "192.0.2.1:30080", 10, 10)
	want("two endpoints", 30, 0)
	other := proxytest.Service(nil, 3)
	set(proxytest.Service(nil, 2))
	ask(r.Pods[0], "tcp", proxytest.VIP+":80", 10, 10)
	set(proxytest.Service(nil))
	ask(r.Pods[0], "tcp", proxytest.VIP+":80", 10, 0)
	set(other)
	ask(r.Pods[0], "tcp", proxytest.VIP+":80", 10, 10)
	want("endpoints went and came", 50, 10)
	set(proxytest.Service(stay, 1, 2))
	ask(r.Pods[0], "tcp", proxytest.VIP+":80", 10, 10)
	set(proxytest.Service(stay))
	ask(r.Pods[0], "tcp", proxytest.VIP+":80", 1, 0)
	set(proxytest.Service(stay, 1, 2))
	ask(r.Pods[0], "tcp", proxytest.VIP+":80", 10, 10)
	want("with affinity", 70, 11)
	set(proxytest.Local())
	r.AskInVain(r.Outside, "udp", "192.0.2.1:30080")
	want("dropped", 70, 12)
	for _, table := range []string{nat, filter} {
		run("-t", table, "-F")
	}
	for _, s := range b.sides {
		s.checked = s.checked.Add(-check)
	}
	set(other)
	want("flushed", 70, 12)
	ask(r.Pods[0], "tcp", proxytest.VIP+":80", 10, 10)
	want("since", 80, 12)
	// A second service, as every change that writes the chains which services share.
	other["second"] = &proxy.Group{Port: "default/second", Backends: other["4/TCP"].Backends, Frontends: []proxy.Frontend{{Addr: other["4/TCP"].Frontends[0].Addr.Next(), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}}}
	set(other)
	want("a service came", 80, 12)
	delete(other, "second")
	set(other)
	set(proxy.Model{})
	want("the service went", 0, 0)
	set(other)
	want("and came again", 0, 0)
	open() // a restart
	set(other)
	ask(r.Pods[0], "tcp", proxytest.VIP+":80", 3, 3)
	want("after a restart", 3, 0)
	run("-t", "mangle", "-F")
	r.Must(r.Node.Do(func() error { return Remove("") }))
}

// BenchmarkKernelTraffic is how long a reading takes, by how many Services there are, of two endpoints each.
func BenchmarkKernelTraffic(b *testing.B) {
	for _, flavour := range []Flavour{NFT, Legacy} {
		for _, n := range []int{1000, 10000} {
			b.Run(fmt.Sprint(flavour, "/", n), func(b *testing.B) {
				ns, model := netnstest.New(b), proxy.Model{}
				for i := range n {
					at := func(net byte) netip.Addr { return netip.AddrFrom4([4]byte{net, byte(i >> 16), byte(i >> 8), byte(i)}) }
					port := fmt.Sprintf("default/s%d:http", i)
					model[port] = &proxy.Group{
						Port: port, Frontends: []proxy.Frontend{{Addr: at(10), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}},
						Backends: []netip.AddrPort{netip.AddrPortFrom(at(11), 80), netip.AddrPortFrom(at(12), 80)},
					}
				}
				ns.Must(ns.Do(func() error {
					if out, err := exec.Command("iptables-"+string(flavour), "-t", mangle, "-N", "KUBE-KUBELET-CANARY").CombinedOutput(); err != nil {
						return fmt.Errorf("%w: %s", err, out)
					}
					t, err := Open(Config{Log: slog.New(slog.DiscardHandler)})
					if err == nil {
						err = t.Set(model)
					}
					for b.Loop() && err == nil {
						_, err = t.Traffic()
					}
					return err
				}))
			})
		}
	}
}
