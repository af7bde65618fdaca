package ebpf

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/packetlb"
	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/nft"
	"github.com/orlop-io/orlop/proxy/proxytest"
)

// What a client outside waits for, and what a pod and a client do that have nothing to do with services: a backend's address is asked directly, over the node all the same, or as a node port that nftables, TCX or clsact translates. Client and servers
// share a processor, so that a time is what a transaction costs; kinds and ways take turns in each round, and a median of medians counts.
// ORLOP_BENCH_SERVICES chooses how many Services with a node port there are, besides 1.
func BenchmarkKernelNodePort(b *testing.B) {
	if b.N > 1 {
		b.Skip("one run has all rounds: -benchtime 1x")
	}
	for _, text := range strings.Split(cmp.Or(os.Getenv("ORLOP_BENCH_SERVICES"), "1"), ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(text, func(b *testing.B) { nodePorts(b, n) })
	}
}

func nodePorts(b *testing.B, services int) {
	const rounds = 9
	kinds := []string{"connect", "request", "datagram"}
	ways, backends := []string{"direct", externalNft, packetlb.TCX, packetlb.Clsact, pastTCX}, []string{"here", "elsewhere", beside, past}
	if services > 1 { // a load of so many takes a while, and what has nothing to do with Services is told by one
		ways, backends = ways[:3], backends[:2]
	}
	f := newField(b, "")
	f.others = others(services - 1)
	f.router.Route("10.1.0.0/24", "192.0.2.1")
	f.router.Route("10.1.1.0/24", "192.0.2.1")
	proxytest.ServeBytes(f.pods[0], "10.1.0.2:7070")
	proxytest.ServeBytes(f.pods[2], "10.1.1.2:7070")
	took := map[string][]time.Duration{}
	for range rounds {
		for _, backend := range backends {
			for _, way := range ways {
				direct := f.by(way, backend)
				addr, from := netip.MustParseAddrPort("192.0.2.1:30080"), f.client
				if backend == beside {
					from = f.pods[1]
				}
				if way == "direct" || backend == beside || backend == past {
					addr = direct
				}
				for _, kind := range kinds {
					p50 := f.measure(from, addr, proxytest.Transactions()[kind])
					took[fmt.Sprint(backend, " ", kind, " ", way)] = append(took[fmt.Sprint(backend, " ", kind, " ", way)], p50)
				}
			}
		}
	}
	var table strings.Builder
	table.WriteString("\n| backend | transaction | " + strings.Join(ways, " | ") + " |\n|---|---|" + strings.Repeat("---|", len(ways)) + "\n")
	for _, backend := range backends {
		for _, kind := range kinds {
			base := median(took[fmt.Sprint(backend, " ", kind, " direct")])
			table.WriteString("| " + backend + " | " + kind)
			for _, way := range ways {
				list := took[fmt.Sprint(backend, " ", kind, " ", way)]
				m := median(list)
				fmt.Fprintf(&table, " | %.1f µs (%.1f-%.1f) %.2fx", us(m), us(slices.Min(list)), us(slices.Max(list)), float64(m)/float64(base))
			}
			table.WriteString(" |\n")
		}
	}
	b.Log(table.String())
}

const (
	externalNft = "nft"
	pastTCX     = "past the stack"                      // by TCX
	beside      = "of a pod beside it"                  // its address
	past        = "of a client outside, by its address" // whatever the node does to services
)

// others are n Services with a cluster address, a balancer's, and a node port where there is one left, of two endpoints on other nodes.
func others(n int) proxy.Model {
	m := proxy.Model{}
	for i := range n {
		at := func(first, last byte) netip.Addr {
			return netip.AddrFrom4([4]byte{first, last + byte(i>>16), byte(i >> 8), byte(i)})
		}
		g := &proxy.Group{
			Frontends: []proxy.Frontend{{Addr: at(10, 100), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}, {Addr: at(198, 18), Port: 80, Protocol: proxy.TCP, Scope: proxy.Everywhere}},
			Backends:  []netip.AddrPort{netip.AddrPortFrom(at(10, 110), 80), netip.AddrPortFrom(at(10, 111), 80)},
		}
		if port := 30100 + i; port < 32768 {
			g.Frontends = append(g.Frontends, proxy.Frontend{Addr: netip.IPv4Unspecified(), Port: uint16(port), Protocol: proxy.TCP, Scope: proxy.Everywhere})
		}
		m[fmt.Sprint("other", i)] = g
	}
	return m
}

func us(d time.Duration) float64 { return float64(d) / 1000 }

func median(list []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(list))
	return s[len(s)/2]
}

// by puts a way in charge of the node's packets, alone, and returns the backend's own address.
func (f *field) by(way, backend string) netip.AddrPort {
	f.t.Helper()
	at := map[string]netip.AddrPort{"here": netip.MustParseAddrPort("10.1.0.2:7070"), "elsewhere": netip.MustParseAddrPort("10.1.1.2:7070"), beside: netip.MustParseAddrPort("10.1.0.2:7070"), past: netip.MustParseAddrPort("10.1.0.2:7070")}[backend]
	m := published(func(g *proxy.Group) {
		if g.Frontends[0].Addr.Is4() {
			g.Backends, g.Here = []netip.AddrPort{at}, nil
			if backend != "elsewhere" {
				g.Here = []netip.Addr{at.Addr()}
			}
		}
	}, 1)
	maps.Copy(m, f.others)
	if len(f.others) > 0 { // what this process and the kernel clear away after so many is not what a client waits for
		defer time.Sleep(time.Second)
		defer runtime.GC()
	}
	f.node.Must(f.node.Do(func() error { return packetlb.Remove(f.pins) }))
	f.node.Must(f.node.Do(nft.Remove))
	switch way {
	case externalNft:
		f.node.Must(f.node.Do(func() error {
			n := nft.New(proxy.Outside)
			n.SetNode(proxy.Node{Inside: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}, NodePorts: []netip.Addr{netip.MustParseAddr("192.0.2.1")}})
			return n.Set(m)
		}))
	case packetlb.TCX, packetlb.Clsact:
		f.attach = way
		f.open()
		f.set(m)
	case pastTCX:
		f.attach = packetlb.TCX
		f.open()
		f.set(m)
		f.past(true)
	}
	return at
}

func (f *field) measure(from *netnstest.NS, at netip.AddrPort, run func(unix.Sockaddr, time.Time) []time.Duration) time.Duration {
	f.t.Helper()
	var all []time.Duration
	from.Must(proxytest.Pinned(from, func() {
		all = run(&unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}, time.Now().Add(200*time.Millisecond))
	}))
	return median(all)
}
