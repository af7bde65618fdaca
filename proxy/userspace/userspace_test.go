package userspace

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/orlop-io/orlop/proxy"
)

func TestTurnsAndStays(t *testing.T) {
	a, b, c := netip.MustParseAddrPort("10.1.0.1:80"), netip.MustParseAddrPort("10.1.0.2:80"), netip.MustParseAddrPort("10.1.0.3:80")
	one, two := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")
	now := time.Unix(0, 0)
	s := &state{}
	pick := func(g *proxy.Group, client netip.Addr, not netip.AddrPort) netip.AddrPort {
		got, _ := (&target{g, s}).pick(client, not, now)
		return got
	}
	none := netip.AddrPort{}
	turns := &proxy.Group{Backends: []netip.AddrPort{a, b, c}}
	var got []netip.AddrPort
	for range 4 {
		got = append(got, pick(turns, one, none))
	}
	if d := cmp.Diff([]netip.AddrPort{a, b, c, a}, got, cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		t.Error("in turn:", d)
	}
	stays := &proxy.Group{Backends: []netip.AddrPort{a, b, c}, Affinity: time.Minute}
	first := pick(stays, one, none)
	if other := pick(stays, two, none); other == first || pick(stays, one, none) != first || pick(stays, two, none) != other {
		t.Errorf("clients do not stay: %s, %s", first, other)
	}
	if next := pick(stays, one, first); next == first || pick(stays, one, none) != next {
		t.Errorf("after %s has failed the client goes to %s and does not stay", first, next)
	}
	gone := pick(stays, two, none)
	left := &proxy.Group{Backends: slices.DeleteFunc(slices.Clone(stays.Backends), func(x netip.AddrPort) bool { return x == gone }), Affinity: time.Minute}
	if next := pick(left, two, none); next == gone || pick(stays, two, none) != next {
		t.Errorf("the client of a backend that came back does not stay where it has been meanwhile: %s, %s", gone, next)
	}
	now = now.Add(2 * time.Minute)
	s.forget(now)
	if len(s.clients) != 0 {
		t.Errorf("%d clients remembered after their time", len(s.clients))
	}
	if _, ok := (&target{&proxy.Group{}, s}).pick(one, none, now); ok {
		t.Error("a group without backends has one")
	}
}

func TestSessionsEndAsConntrackEndsThem(t *testing.T) {
	at := func(d time.Duration) time.Time { return time.Unix(1000, 0).Add(d) }
	for _, tt := range []struct {
		name     string
		s        session
		now      time.Duration
		wantOver bool
	}{
		{"no answer yet", session{began: at(0), last: at(0)}, 29 * time.Second, false},
		{"no answer", session{began: at(0), last: at(0)}, 31 * time.Second, true},
		{"one answer", session{began: at(0), last: at(time.Millisecond), answered: true}, 31 * time.Second, true},
		{"a talk", session{began: at(0), last: at(3 * time.Second), answered: true}, 100 * time.Second, false},
		{"a talk that is over", session{began: at(0), last: at(3 * time.Second), answered: true}, 124 * time.Second, true},
	} {
		if got := tt.s.over(at(tt.now)); got != tt.wantOver {
			t.Errorf("%s: over is %v", tt.name, got)
		}
	}
}

func TestCaptured(t *testing.T) {
	got := captured([]netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
		[]netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("10.100.0.1"), netip.MustParseAddr("192.0.2.50"), netip.MustParseAddr("fd96::1")})
	want := map[netip.Prefix]bool{netip.MustParsePrefix("10.96.0.0/12"): true, netip.MustParsePrefix("192.0.2.50/32"): true, netip.MustParsePrefix("fd96::1/128"): true}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); d != "" {
		t.Error(d)
	}
	if len(captured([]netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}, nil)) != 0 {
		t.Error("a range is captured without a service in it")
	}
}

// start runs a backend whose services are at 127.0.0.1, which needs no rights.
func start(t *testing.T, unserved func(string, netip.AddrPort, error)) *Backend {
	t.Helper()
	b, err := Open(Config{Log: slog.New(slog.DiscardHandler), Unserved: unserved})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return b
}

func serving(front netip.AddrPort, proto proxy.Protocol, backends ...netip.AddrPort) proxy.Model {
	return proxy.Model{"a": {Port: "ns/a", Frontends: []proxy.Frontend{{Addr: front.Addr(), Port: front.Port(), Protocol: proto, Scope: proxy.Inside}}, Backends: backends}}
}

// free is an address that nobody listens at.
func free(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// backendTCP serves each connection with f.
func backendTCP(t *testing.T, f func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c.(*net.TCPConn))
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func say(text string) func(*net.TCPConn) {
	return func(c *net.TCPConn) { _, _ = io.WriteString(c, text) }
}

func ask(t *testing.T, at netip.AddrPort) string {
	t.Helper()
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func set(t *testing.T, b *Backend, m proxy.Model) {
	t.Helper()
	if err := b.Set(m); err != nil {
		t.Fatal(err)
	}
}

// Backends take turns; one that does not answer is passed over, and the client does not notice.
func TestConnectionsTakeTurns(t *testing.T) {
	b, at := start(t, nil), free(t)
	set(t, b, serving(at, proxy.TCP, backendTCP(t, say("1")), backendTCP(t, say("2")), free(t)))
	var got []string
	for range 6 {
		got = append(got, ask(t, at))
	}
	if d := cmp.Diff("1 2 1 2 1 2", strings.Join(got, " ")); d != "" {
		t.Error(d)
	}
	set(t, b, serving(at, proxy.TCP, free(t)))
	if got := ask(t, at); !strings.Contains(got, "reset") {
		t.Errorf("with no backend that answers %q, want a reset", got)
	}
	set(t, b, serving(at, proxy.TCP))
	if got := ask(t, at); !strings.Contains(got, "refused") {
		t.Errorf("with no backend %q, want refused", got)
	}
}

// A client that has said all still gets the answer; one that breaks off breaks the connection to the backend.
func TestHalfClosedAndBroken(t *testing.T) {
	broken := make(chan error, 1)
	backend := backendTCP(t, func(c *net.TCPConn) {
		all, err := io.ReadAll(c)
		if err != nil {
			broken <- err
			return
		}
		fmt.Fprintf(c, "got %d", len(all))
	})
	b, at := start(t, nil), free(t)
	set(t, b, serving(at, proxy.TCP, backend))
	dial := func() *net.TCPConn {
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.TCPConn)
	}
	c := dial()
	if _, err := c.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(c); string(all) != "got 1048576" || err != nil {
		t.Errorf("%q, %v after closing one half", all, err)
	}
	c = dial()
	if _, err := c.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // so that it is not the dialling that is broken off
	_ = c.SetLinger(0)
	c.Close()
	select {
	case <-broken:
	case <-time.After(10 * time.Second):
		t.Error("the backend does not learn that its client broke off")
	}
}

// What is established goes on when its backend is taken from the service: it ends when the backend does.
func TestConnectionsDrain(t *testing.T) {
	backend := backendTCP(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	b, at := start(t, nil), free(t)
	set(t, b, serving(at, proxy.TCP, backend))
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echo := func() {
		t.Helper()
		buf := make([]byte, 1)
		if _, err := c.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
	}
	echo()
	set(t, b, serving(at, proxy.TCP))
	echo()
}

func backendUDP(t *testing.T, name string) netip.AddrPort {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo([]byte(name), from)
		}
	}()
	return p.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestDatagrams(t *testing.T) {
	b, at := start(t, nil), free(t)
	var ahead atomic.Int64
	b.now = func() time.Time { return time.Unix(ahead.Load(), 0) }
	one, two := backendUDP(t, "1"), backendUDP(t, "2")
	set(t, b, serving(at, proxy.UDP, one, two))
	dial := func() func() string {
		c, err := net.Dial("udp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return func() string {
			buf := make([]byte, 100)
			_, _ = c.Write([]byte("?"))
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			n, err := c.Read(buf)
			if err != nil {
				return err.Error()
			}
			return string(buf[:n])
		}
	}
	a, c := dial(), dial()
	if got := a() + a() + c() + c(); got != "1122" {
		t.Errorf("%s answered, want a client to stay with its backend and the next to get the other", got)
	}
	count := func() (n int) {
		b.loop.do(func() { n = len(b.sessions.byClient) })
		return n
	}
	set(t, b, serving(at, proxy.UDP, two))
	if got := a() + c(); got != "22" || count() != 2 {
		t.Errorf("%s answered, %d sessions, after the first backend went", got, count())
	}
	ahead.Store(40)
	if got := dial()(); got != "2" || count() != 1 {
		t.Errorf("%s answered, %d sessions, want the two that were silent to be over", got, count())
	}
	set(t, b, serving(at, proxy.UDP))
	if got := a(); !strings.Contains(got, "refused") || count() != 0 {
		t.Errorf("%s, %d sessions with no backend", got, count())
	}
}

// A port that a process of the node has taken is told by name, does not stop the others, and is served once it is free.
func TestPortThatIsTaken(t *testing.T) {
	var mu sync.Mutex
	told := []string{}
	b := start(t, func(port string, _ netip.AddrPort, err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, fmt.Sprint(port, " ", err == nil))
	})
	var ahead atomic.Int64
	b.now = func() time.Time { return time.Unix(ahead.Load(), 0) }
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at, other := taken.Addr().(*net.TCPAddr).AddrPort(), free(t)
	m := serving(at, proxy.TCP, backendTCP(t, say("1")))
	m["b"] = serving(other, proxy.TCP, backendTCP(t, say("2")))["a"]
	set(t, b, m)
	if got := ask(t, other); got != "2" {
		t.Errorf("another service: %q", got)
	}
	if served, unserved := b.Listening(); served != 1 || unserved != 1 {
		t.Errorf("%d served, %d not", served, unserved)
	}
	taken.Close()
	if more, _ := b.Sweep(b.now()); !more {
		t.Error("it is not tried again")
	}
	ahead.Store(60)
	set(t, b, m)
	if got := ask(t, at); got != "1" {
		t.Errorf("once it is free: %q", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if d := cmp.Diff([]string{"ns/a false", "ns/a true"}, told); d != "" {
		t.Error(d)
	}
}

// A service that nobody asks costs a socket and no goroutine.
func TestIdleServicesCostNoGoroutines(t *testing.T) {
	b := start(t, nil)
	before := runtime.NumGoroutine()
	set(t, b, manyAt(200, 20000))
	if n := runtime.NumGoroutine() - before; n > 5 {
		t.Errorf("%d goroutines for 200 services", n)
	}
}

func manyAt(n, port int) proxy.Model {
	m := proxy.Model{}
	for i := range n {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 100, byte(i >> 8), byte(i)}), uint16(port))
		m[fmt.Sprint(i)] = serving(at, proxy.TCP, netip.MustParseAddrPort("127.0.0.1:1"))["a"]
	}
	return m
}

// BenchmarkIdleFrontends says what an address costs that nobody asks: time of the first Set, heap, and memory of the kernel's sockets.
func BenchmarkIdleFrontends(b *testing.B) {
	const n = 10000
	for b.Loop() {
		back, err := Open(Config{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		m := manyAt(n, 20001)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		slab := slabOf(b)
		begin := time.Now()
		if err := back.Set(m); err != nil {
			b.Fatal(err)
		}
		took := time.Since(begin)
		runtime.GC()
		runtime.ReadMemStats(&after)
		if served, _ := back.Listening(); served != n {
			b.Fatalf("%d served", served)
		}
		b.ReportMetric(float64(took.Microseconds())/n, "us/frontend")
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B-heap/frontend")
		b.ReportMetric(float64(slabOf(b)-slab)/n, "B-kernel/frontend")
		back.Close()
	}
}

// slabOf is the kernel's own memory in bytes.
func slabOf(b *testing.B) int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "Slab: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	return 0
}
