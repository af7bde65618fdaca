package ebpf

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/packetlb"
	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/nft"
)

// What a client outside waits for, and what a pod does that asks one beside it and has nothing to do with services: a backend's address is asked directly, over the node all the same, or as a node port that nftables, TCX or clsact translates. Client and servers
// share a processor, so that a time is what a transaction costs; kinds and ways take turns in each round, and a median of medians counts.
func BenchmarkKernelNodePort(b *testing.B) {
	if b.N > 1 {
		b.Skip("one run has all rounds: -benchtime 1x")
	}
	const rounds = 9
	ways, backends := []string{"direct", externalNft, packetlb.TCX, packetlb.Clsact}, []string{"here", "elsewhere", beside}
	f := newField(b, "")
	f.router.Route("10.1.0.0/24", "192.0.2.1")
	f.router.Route("10.1.1.0/24", "192.0.2.1")
	serveBench(f.pods[0], "10.1.0.2:7070")
	serveBench(f.pods[2], "10.1.1.2:7070")
	took := map[string][]time.Duration{}
	for range rounds {
		for _, backend := range backends {
			for _, way := range ways {
				direct := f.by(way, backend)
				addr, from := netip.MustParseAddrPort("192.0.2.1:30080"), f.client
				if backend == beside {
					from = f.pods[1]
				}
				if way == "direct" || backend == beside {
					addr = direct
				}
				for kind, run := range transactions {
					p50 := f.measure(from, addr, run)
					took[fmt.Sprint(backend, " ", kind, " ", way)] = append(took[fmt.Sprint(backend, " ", kind, " ", way)], p50)
				}
			}
		}
	}
	var table strings.Builder
	table.WriteString("\n| backend | transaction | " + strings.Join(ways, " | ") + " |\n|---|---|" + strings.Repeat("---|", len(ways)) + "\n")
	for _, backend := range backends {
		for _, kind := range []string{"connect", "request", "datagram"} {
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
	beside      = "of a pod beside it" // its address
)

func us(d time.Duration) float64 { return float64(d) / 1000 }

func median(list []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(list))
	return s[len(s)/2]
}

// by puts a way in charge of the node's packets, alone, and returns the backend's own address.
func (f *field) by(way, backend string) netip.AddrPort {
	f.t.Helper()
	at := map[string]netip.AddrPort{"here": netip.MustParseAddrPort("10.1.0.2:7070"), "elsewhere": netip.MustParseAddrPort("10.1.1.2:7070"), beside: netip.MustParseAddrPort("10.1.0.2:7070")}[backend]
	m := published(func(g *proxy.Group) {
		if g.Frontends[0].Addr.Is4() {
			g.Backends, g.Here = []netip.AddrPort{at}, nil
			if backend != "elsewhere" {
				g.Here = []netip.Addr{at.Addr()}
			}
		}
	}, 1)
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
	}
	return at
}

// transactions are what a client does once, over a socket that is there or by a new one; it returns how often it can.
var transactions = map[string]func(to unix.Sockaddr, until time.Time) []time.Duration{
	"connect": func(to unix.Sockaddr, until time.Time) (out []time.Duration) {
		for start := time.Now(); len(out) == 0 || start.Before(until); start = time.Now() {
			fd := must1(unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0))
			must(unix.Connect(fd, to))
			exchange(fd, last)
			must1(unix.Read(fd, make([]byte, 1))) // the server has closed
			must(unix.Close(fd))
			out = append(out, time.Since(start))
		}
		return out
	},
	"request":  func(to unix.Sockaddr, until time.Time) []time.Duration { return over(unix.SOCK_STREAM, to, until) },
	"datagram": func(to unix.Sockaddr, until time.Time) []time.Duration { return over(unix.SOCK_DGRAM, to, until) },
}

func over(kind int, to unix.Sockaddr, until time.Time) (out []time.Duration) {
	fd := must1(unix.Socket(unix.AF_INET, kind, 0))
	defer unix.Close(fd)
	must(unix.Connect(fd, to))
	for start := time.Now(); len(out) == 0 || start.Before(until); start = time.Now() {
		exchange(fd, more)
		out = append(out, time.Since(start))
	}
	return out
}

// What a client asks: that the server closes after its answer, and so has what TCP keeps of a connection for a minute, or not.
const (
	more = iota
	last
)

func exchange(fd int, what byte) {
	b := []byte{what}
	must1(unix.Write(fd, b))
	must1(unix.Read(fd, b))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func must1(n int, err error) int {
	must(err)
	return n
}

// pinned runs fn on a thread of its own, on the last processor.
func pinned(ns *netnstest.NS, fn func()) error {
	return ns.Do(func() error {
		var set unix.CPUSet
		set.Set(runtime.NumCPU() - 1)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return err
		}
		fn()
		return nil
	})
}

func (f *field) measure(from *netnstest.NS, at netip.AddrPort, run func(unix.Sockaddr, time.Time) []time.Duration) time.Duration {
	f.t.Helper()
	var all []time.Duration
	from.Must(pinned(from, func() {
		all = run(&unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}, time.Now().Add(200*time.Millisecond))
	}))
	return median(all)
}

// serveBench answers a byte with a byte, on threads that end with the process.
func serveBench(ns *netnstest.NS, addr string) {
	at := netip.MustParseAddrPort(addr)
	sa := &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
	listen := func(kind int) (fd int) {
		ns.Must(ns.Do(func() error {
			fd = must1(unix.Socket(unix.AF_INET, kind, 0))
			must(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
			return unix.Bind(fd, sa)
		}))
		return fd
	}
	stream, datagram := listen(unix.SOCK_STREAM), listen(unix.SOCK_DGRAM)
	ns.Must(unix.Listen(stream, 128))
	go pinned(ns, func() {
		for {
			fd, _, err := unix.Accept(stream)
			if err != nil {
				return
			}
			b := make([]byte, 1)
			for {
				n, err := unix.Read(fd, b)
				if err != nil || n == 0 {
					break
				}
				if _, err := unix.Write(fd, b); err != nil || b[0] == last {
					break
				}
			}
			unix.Close(fd)
		}
	})
	go pinned(ns, func() {
		b := make([]byte, 1)
		for {
			_, from, err := unix.Recvfrom(datagram, b, 0)
			if err != nil {
				return
			}
			if err := unix.Sendto(datagram, b, 0, from); err != nil {
				return
			}
		}
	})
}
