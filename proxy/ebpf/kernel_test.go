package ebpf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/proxy"
)

// order is what a client process does: a socket belongs to the cgroup of the process that makes it, so clients are this
// test binary, started again in the cgroup under test.
type order struct {
	Network  string // with -hold at its end one socket that stays; tcp, udp (connected), udp-any (one unconnected socket); tcp-bind and udp-bind listen there
	Addr     string
	Times    int
	UntilEOF bool // go on until stdin ends
	// Of a socket that stays: the device and the IPv4 address it is bound to.
	Device, From string
}

type outcome struct {
	Answers map[string]int
	Errors  map[string]int
	Peers   map[string]int
	Slowest time.Duration
}

func TestMain(m *testing.M) {
	if text := os.Getenv("ORLOP_TEST_ORDER"); text != "" {
		var o order
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		if err := json.NewEncoder(os.Stdout).Encode(o.do()); err != nil {
			os.Exit(2)
		}
		os.Exit(0)
	}
	if text := os.Getenv("ORLOP_TEST_GROWTH"); text != "" {
		if err := growth(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func (o order) do() outcome {
	if strings.HasSuffix(o.Network, "-hold") {
		return o.hold()
	}
	out := outcome{map[string]int{}, map[string]int{}, map[string]int{}, 0}
	if o.Network == "cost" {
		if err := costs(o.Times, strings.Fields(o.Addr), out.Answers); err != nil {
			out.Errors[err.Error()]++
		}
		return out
	}
	done := make(chan struct{})
	if o.UntilEOF {
		o.Times = 1 << 30
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			close(done)
		}()
	}
	var any net.PacketConn
	if o.Network == "udp-any" {
		any, _ = net.ListenPacket("udp", ":0")
	}
	for range o.Times {
		select {
		case <-done:
			return out
		default:
		}
		start := time.Now()
		answer, peer, err := o.once(any)
		out.Slowest = max(out.Slowest, time.Since(start))
		if err != nil {
			var no syscall.Errno
			if errors.As(err, &no) {
				err = no
			}
			out.Errors[err.Error()]++
			continue
		}
		out.Answers[answer]++
		out.Peers[peer]++
	}
	return out
}

func (o order) once(any net.PacketConn) (answer, peer string, err error) {
	switch o.Network {
	case "tcp-bind":
		l, err := net.Listen("tcp", o.Addr)
		if err == nil {
			err = l.Close()
		}
		return "bound", "", err
	case "udp-bind":
		l, err := net.ListenPacket("udp", o.Addr)
		if err == nil {
			err = l.Close()
		}
		return "bound", "", err
	}
	buf := make([]byte, 100)
	if any != nil {
		to, err := net.ResolveUDPAddr("udp", o.Addr)
		if err != nil {
			return "", "", err
		}
		if _, err := any.WriteTo([]byte("?"), to); err != nil {
			return "", "", err
		}
		_ = any.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, from, err := any.ReadFrom(buf)
		if err != nil {
			return "", "", err
		}
		return string(buf[:n]), from.String(), nil
	}
	c, err := net.DialTimeout(o.Network, o.Addr, 2*time.Second)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte("?")); err != nil {
		return "", "", err
	}
	n, err := c.Read(buf)
	return string(buf[:n]), peerOf(c), err
}

// peerOf asks the kernel: Go remembers what was dialled.
func peerOf(c net.Conn) string {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err.Error()
	}
	var peer string
	_ = raw.Control(func(fd uintptr) {
		sa, err := syscall.Getpeername(int(fd))
		switch sa := sa.(type) {
		case *syscall.SockaddrInet4:
			peer = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
		case *syscall.SockaddrInet6:
			peer = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)).String()
		default:
			peer = fmt.Sprint(err)
		}
	})
	return peer
}

// rig is a node with a cgroup, three backends at 10.10.0.1 to 3 and fd10::1 to 3, port 8080, each answering with its address.
type rig struct {
	t      testing.TB
	node   *netnstest.NS
	cgroup string
	pins   string
	lb     *socklb.LB
	b      *Backend
	// Of maps, when they are made; 0 as always.
	entries, limit uint32
}

const (
	vip  = "10.96.0.50"
	vip6 = "fd96::50"
)

func newRig(t testing.TB) *rig { return newRigOf(t, 0, 0) }

func newRigOf(t testing.TB, entries, limit uint32) *rig {
	t.Helper()
	netnstest.RequireRoot(t)
	r := &rig{t: t, node: netnstest.New(t), cgroup: cgroup(t), entries: entries, limit: limit}
	r.pins = filepath.Join(netnstest.BPFFS(t), "orlop")
	t.Cleanup(func() {
		if r.lb != nil {
			r.lb.Close()
		}
		if err := socklb.Remove(r.pins); err != nil {
			t.Error(err)
		}
	})
	for i := range 3 {
		for _, s := range []string{fmt.Sprintf("10.10.0.%d/32", i+1), fmt.Sprintf("fd10::%d/128", i+1)} {
			r.node.Addrs("lo", s) // waits for the route, which the kernel may make later
			r.serve(netip.AddrPortFrom(netip.MustParsePrefix(s).Addr(), 8080))
		}
	}
	r.node.Addrs("lo", "192.0.2.1/32")
	r.open()
	return r
}

func cgroup(t testing.TB) string {
	t.Helper()
	netnstest.RequireRoot(t)
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	root, err := socklb.CgroupRoot(string(info))
	if err != nil {
		t.Fatal(err)
	}
	return netnstest.Cgroup(t, root)
}

// open is what a process does at its start; called again, it is a restart.
func (r *rig) open() {
	r.t.Helper()
	if r.lb != nil {
		r.lb.Close()
	}
	var cookie uint64
	err := r.node.Do(func() (err error) {
		cookie, err = socklb.NetnsCookie()
		return err
	})
	if err == nil {
		r.lb, err = socklb.Open(socklb.Config{PinDir: r.pins, Cgroup: r.cgroup, NodeNetns: cookie, Entries: r.entries, Limit: r.limit})
	}
	if err == nil {
		err = r.lb.SetNodes([]netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.b = New(r.lb, proxy.Inside)
}

func (r *rig) serve(at netip.AddrPort) {
	r.t.Helper()
	name := []byte(at.Addr().String())
	err := r.node.Do(func() error {
		l, err := net.Listen("tcp", at.String())
		if err != nil {
			return err
		}
		p, err := net.ListenPacket("udp", at.String())
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
					buf := make([]byte, 10)
					for {
						if _, err := c.Read(buf); err != nil {
							return
						}
						if _, err := c.Write(name); err != nil {
							return
						}
					}
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
				_, _ = p.WriteTo(name, from)
			}
		}()
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) set(m proxy.Model) {
	r.t.Helper()
	if err := r.b.Set(m); err != nil {
		r.t.Fatal(err)
	}
}

// client starts a client in the cgroup of the node; finish ends it and returns what it met.
func (r *rig) client(ns *netnstest.NS, o order) (finish func() outcome) {
	r.t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{"ORLOP_TEST_ORDER=" + string(text), "GODEBUG=multipathtcp=0"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = ns.StartIn(r.cgroup, cmd)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return func() outcome {
		r.t.Helper()
		stdin.Close()
		var got outcome
		if err := cmd.Wait(); err != nil {
			r.t.Fatal(err)
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			r.t.Fatalf("client said %q: %v", out.String(), err)
		}
		return got
	}
}

func (r *rig) ask(o order) outcome {
	r.t.Helper()
	return r.client(r.node, o)()
}

func backends(last ...int) (v4, v6 []netip.AddrPort) {
	for _, i := range last {
		v4 = append(v4, netip.MustParseAddrPort(fmt.Sprintf("10.10.0.%d:8080", i)))
		v6 = append(v6, netip.MustParseAddrPort(fmt.Sprintf("[fd10::%d]:8080", i)))
	}
	return v4, v6
}

// service is a model of one dual-stack service with TCP and UDP port 80 and node port 30080.
func service(affinity time.Duration, last ...int) proxy.Model {
	m := proxy.Model{}
	v4, v6 := backends(last...)
	for _, p := range []proxy.Protocol{proxy.TCP, proxy.UDP} {
		m[fmt.Sprint("4/", p)] = &proxy.Group{Backends: v4, Affinity: affinity, Frontends: []proxy.Frontend{
			{Addr: netip.MustParseAddr(vip), Port: 80, Protocol: p, Scope: proxy.Everywhere}, {Addr: netip.IPv4Unspecified(), Port: 30080, Protocol: p, Scope: proxy.Everywhere}}}
		m[fmt.Sprint("6/", p)] = &proxy.Group{Backends: v6, Affinity: affinity, Frontends: []proxy.Frontend{
			{Addr: netip.MustParseAddr(vip6), Port: 80, Protocol: p, Scope: proxy.Everywhere}, {Addr: netip.IPv6Unspecified(), Port: 30080, Protocol: p, Scope: proxy.Everywhere}}}
	}
	return m
}

func TestKernelAllBackendsAnswer(t *testing.T) {
	r := newRig(t)
	r.set(service(0, 1, 2, 3))
	for _, o := range []order{
		{Network: "tcp", Addr: vip + ":80"},
		{Network: "tcp", Addr: "[" + vip6 + "]:80"},
		{Network: "udp", Addr: vip + ":80"},
		{Network: "udp", Addr: "[" + vip6 + "]:80"},
		{Network: "tcp", Addr: "192.0.2.1:30080"},
		{Network: "tcp", Addr: "127.0.0.1:30080"},
		{Network: "tcp", Addr: "[::1]:30080"},
		{Network: "udp", Addr: "127.0.0.1:30080"},
		{Network: "udp", Addr: "[::1]:30080"},
		{Network: "udp", Addr: "192.0.2.1:30080"},
	} {
		t.Run(o.Network+" "+o.Addr, func(t *testing.T) {
			r.t = t
			o.Times = 60
			got := r.ask(o)
			if len(got.Answers) != 3 || len(got.Errors) != 0 || got.Peers[o.Addr] != 60 {
				t.Errorf("got %+v, want three answering and the peer to be what was asked for", got)
			}
		})
	}
}

func TestKernelUnconnectedUDPStaysWithItsBackend(t *testing.T) {
	r := newRig(t)
	r.set(service(0, 1, 2, 3))
	o := order{Network: "udp-any", Addr: vip + ":80", UntilEOF: true}
	finish := r.client(r.node, o)
	time.Sleep(100 * time.Millisecond)
	r.set(service(0, 1, 2, 3)) // new generations of the same
	time.Sleep(100 * time.Millisecond)
	got := finish()
	if len(got.Answers) != 1 || len(got.Errors) != 0 || len(got.Peers) != 1 {
		t.Fatalf("got %+v, want one backend and one peer", got)
	}
	for peer := range got.Peers {
		if !strings.HasSuffix(peer, vip+":80") && !strings.Contains(peer, "ffff:"+vip) {
			t.Errorf("the answer comes from %s", peer)
		}
	}
}

func TestKernelUnconnectedUDPLeavesABackendThatGoes(t *testing.T) {
	r := newRig(t)
	r.set(service(0, 1))
	finish := r.client(r.node, order{Network: "udp-any", Addr: vip + ":80", UntilEOF: true})
	time.Sleep(100 * time.Millisecond)
	r.set(service(0, 2))
	time.Sleep(100 * time.Millisecond)
	r.set(service(0, 3))
	time.Sleep(100 * time.Millisecond)
	if got := finish(); len(got.Answers) != 3 || len(got.Errors) != 0 || len(got.Peers) != 1 {
		t.Fatalf("got %+v, want one backend after the other, and one peer", got)
	}
}

func TestKernelNoEndpointsRefusesAtOnce(t *testing.T) {
	r := newRig(t)
	r.set(service(0))
	for _, network := range []string{"tcp", "udp"} {
		got := r.ask(order{Network: network, Addr: vip + ":80", Times: 5})
		if got.Errors[syscall.ECONNREFUSED.Error()] != 5 || got.Slowest > time.Second {
			t.Errorf("%s: got %+v", network, got)
		}
	}
}

func TestKernelAffinity(t *testing.T) {
	r := newRig(t)
	r.set(service(time.Hour, 1, 2, 3))
	got := r.ask(order{Network: "tcp", Addr: vip + ":80", Times: 30})
	if len(got.Answers) != 1 || len(got.Errors) != 0 {
		t.Fatalf("got %+v, want one backend", got)
	}
	var first int
	for a := range got.Answers {
		fmt.Sscanf(a, "10.10.0.%d", &first)
	}
	r.set(service(time.Hour, first%3+1)) // without the chosen one
	got = r.ask(order{Network: "tcp", Addr: vip + ":80", Times: 30})
	if len(got.Answers) != 1 || got.Answers[fmt.Sprintf("10.10.0.%d", first%3+1)] != 30 {
		t.Fatalf("got %+v after the chosen backend went", got)
	}
}

// Node ports are nobody else's on the node, and free in pods.
func TestKernelNodePortsAreReserved(t *testing.T) {
	r := newRig(t)
	r.set(service(0, 1))
	for addr, taken := range map[string]bool{
		"0.0.0.0:30080": true, ":30080": true, "[::]:30080": true, "127.0.0.1:30080": true, "192.0.2.1:30080": true, "[::1]:30080": true,
		"10.10.0.1:30080": false, "0.0.0.0:30081": false, "0.0.0.0:0": false,
	} {
		for _, network := range []string{"tcp-bind", "udp-bind"} {
			got := r.ask(order{Network: network, Addr: addr, Times: 1})
			if taken != (got.Errors[syscall.EADDRINUSE.Error()] == 1) || !taken && got.Answers["bound"] != 1 {
				t.Errorf("%s at %s: %+v", network, addr, got)
			}
		}
	}
	if got := r.client(netnstest.New(t), order{Network: "tcp-bind", Addr: ":30080", Times: 1})(); got.Answers["bound"] != 1 {
		t.Errorf("in a pod: %+v", got)
	}
}

// A node port is asked at the addresses that nodes have, as they come and go.
func TestKernelNodePortsFollowAddresses(t *testing.T) {
	r := newRig(t)
	r.set(service(0, 1))
	r.node.Addrs("lo", "192.0.2.7/32", "fd02::7/128")
	for _, there := range []bool{false, true, false} {
		all := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		if there {
			all = append(all, netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("fd02::7"))
		}
		if err := r.lb.SetNodes(all, nil); err != nil {
			t.Fatal(err)
		}
		for _, network := range []string{"tcp", "udp"} {
			for _, at := range []string{"192.0.2.7:30080", "[fd02::7]:30080"} {
				got := r.ask(order{Network: network, Addr: at, Times: 1})
				if there != (len(got.Answers) == 1) || there != (got.Errors[syscall.ECONNREFUSED.Error()] == 0) {
					t.Errorf("%s %s, which nodes have: %v: %+v", network, at, there, got)
				}
			}
			if got := r.ask(order{Network: network, Addr: "192.0.2.1:30080", Times: 1}); len(got.Answers) != 1 {
				t.Errorf("at the address that stays: %+v", got)
			}
		}
	}
}

// Sockets that are bound to a device of a pod are translated as others are. One that is bound to a loopback address reaches no endpoint from there, and hears so
// at once, as if it had asked the endpoint itself.
func TestKernelBoundSockets(t *testing.T) {
	r := newRig(t)
	pod := netnstest.New(t)
	r.node.Join("pod", "", pod, "eth0")
	r.node.Forward()
	r.node.Addrs("pod", "10.20.0.1/24", "fd20::1/64")
	pod.Addrs("eth0", "10.20.0.2/24", "fd20::2/64")
	pod.Route("default", "10.20.0.1")
	pod.Route("default", "fd20::1")
	r.set(service(0, 1))
	for _, addr := range []string{vip + ":80", "[" + vip6 + "]:80", "[::ffff:" + vip + "]:80"} {
		for _, network := range []string{"tcp", "udp", "mptcp"} {
			for _, device := range []string{"", "eth0"} {
				finish := r.client(pod, order{Network: network + "-hold", Addr: addr, Device: device, Times: 3})
				if got := finish(); len(got.Errors) != 0 || got.Answers["10.10.0.1"]+got.Answers["fd10::1"] != 3 {
					t.Errorf("%s %s by device %q: %+v", network, addr, device, got)
				}
			}
		}
	}
	for addr, want := range map[string]error{vip + ":80": syscall.EINVAL, "127.0.0.1:30080": syscall.EINVAL, "10.10.0.1:8080": syscall.EINVAL} {
		for _, network := range []string{"tcp", "udp"} {
			start := time.Now()
			got := r.client(pod, order{Network: network + "-hold", Addr: addr, From: "127.0.0.1", Times: 1})()
			if addr == "127.0.0.1:30080" { // a pod's own, where nobody listens
				want = syscall.ECONNREFUSED
			}
			if got.Errors[want.Error()] != 1 || time.Since(start) > time.Second {
				t.Errorf("%s %s from 127.0.0.1: %+v, want %v", network, addr, got, want)
			}
		}
	}
}

// A pod's 127.0.0.1 is its own; node ports there are the node's only.
func TestKernelLoopbackOfAPodIsItsOwn(t *testing.T) {
	r := newRig(t)
	r.set(service(0, 1))
	got := r.client(netnstest.New(t), order{Network: "tcp", Addr: "127.0.0.1:30080", Times: 1})()
	if got.Errors[syscall.ECONNREFUSED.Error()] != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestKernelNothingFailsWhileServicesAndProgramsChange(t *testing.T) {
	r := newRig(t)
	r.set(service(0, 1, 2))
	tcp := r.client(r.node, order{Network: "tcp", Addr: vip + ":80", UntilEOF: true})
	udp := r.client(r.node, order{Network: "udp-any", Addr: vip + ":80", UntilEOF: true})
	for i := range 300 {
		r.set(service(0, i%3+1, (i+1)%3+1))
		if _, err := r.b.Sweep(time.Now()); err != nil {
			t.Fatal(err)
		}
		if i%10 == 9 { // a restart: nothing is removed, everything is replaced
			r.open()
			r.set(service(0, i%3+1, (i+1)%3+1))
		}
		time.Sleep(5 * time.Millisecond)
	}
	for name, got := range map[string]outcome{"tcp": tcp(), "udp": udp()} {
		n := 0
		for _, c := range got.Answers {
			n += c
		}
		if len(got.Errors) != 0 || n < 1000 {
			t.Errorf("%s: %d answers, errors %v", name, n, got.Errors)
		}
		t.Logf("%s: %d answers, slowest %s", name, n, got.Slowest)
	}
}

func TestKernelRestartKeepsAndCleans(t *testing.T) {
	r := newRig(t)
	m := service(0, 1, 2)
	m["gone"] = &proxy.Group{Frontends: []proxy.Frontend{{Addr: netip.MustParseAddr("10.96.0.51"), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}}, Backends: m["4/TCP"].Backends}
	r.set(m)
	before, err := r.lb.Frontends()
	if err != nil {
		t.Fatal(err)
	}
	r.lb.Close() // the process ends; what it made goes on
	got := r.ask(order{Network: "tcp", Addr: vip + ":80", Times: 10})
	if len(got.Errors) != 0 {
		t.Fatalf("without a process: %+v", got)
	}
	r.open()
	r.set(service(0, 1, 2))
	after, err := r.lb.Frontends()
	if err != nil {
		t.Fatal(err)
	}
	for f, e := range before {
		if f.Addr == netip.MustParseAddr("10.96.0.51") {
			delete(before, f)
		} else if after[f] != e {
			t.Errorf("%s was %+v, is %+v: nothing had changed", f, e, after[f])
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d frontends, want %d", len(after), len(before))
	}
	for more := true; more; {
		if more, err = r.b.Sweep(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	gens, err := r.lb.Generations()
	if err != nil || len(gens) != 4 {
		t.Errorf("generations %v, %v", gens, err)
	}
	members, err := r.lb.Members()
	if err != nil || len(members) != 4 {
		t.Errorf("members %v, %v", members, err)
	}
}

// An address that goes from one group to another is never without one.
func TestKernelFrontendChangesHands(t *testing.T) {
	r := newRig(t)
	v4, _ := backends(1, 2, 3)
	f := []proxy.Frontend{{Addr: netip.MustParseAddr(vip), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}}
	r.set(proxy.Model{"a": {Frontends: f, Backends: v4[:1]}})
	finish := r.client(r.node, order{Network: "tcp", Addr: vip + ":80", UntilEOF: true})
	for i := range 100 {
		r.set(proxy.Model{string(rune('b' + i%20)): {Frontends: f, Backends: v4[i%3 : i%3+1]}})
		time.Sleep(2 * time.Millisecond)
	}
	if got := finish(); len(got.Errors) != 0 || len(got.Answers) != 3 {
		t.Errorf("got %+v", got)
	}
	if fs, err := r.lb.Frontends(); err != nil || len(fs) != 1 {
		t.Errorf("frontends %v, %v", fs, err)
	}
}
