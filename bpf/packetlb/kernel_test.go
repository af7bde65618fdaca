package packetlb

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/socklb"
)

// bench runs packets through the programs, without a device, over maps that have a service of each kind.
type bench struct {
	t    *testing.T
	lb   *LB
	svc  *socklb.LB
	objs objectTestObjects
	ns   *netnstest.NS // where packets are run; nil: here
}

const (
	here, there     = "10.1.0.2:8080", "10.1.1.2:8080" // backends on this node and on another
	here6, there6   = "[fd10::2]:8080", "[fd11::2]:8080"
	client, client6 = "203.0.113.7:40000", "[fd03::7]:40000"
	node, node6     = "192.0.2.1", "fd02::1"
)

func newBench(t *testing.T) *bench {
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
	pins := filepath.Join(netnstest.BPFFS(t), "orlop")
	b := &bench{t: t}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	b.svc, err = socklb.Open(socklb.Config{PinDir: pins, Cgroup: root}) // attached to nothing
	must(err)
	must(netnstest.New(t).Do(func() (err error) {
		b.lb, err = Open(Config{PinDir: pins, Attach: TCX, Flows: 1 << 15})
		return err
	}))
	spec, err := loadObjectTest()
	must(err)
	must(b.lb.load(spec, &b.objs))
	t.Cleanup(func() {
		b.objs.Close()
		b.lb.Close()
		b.svc.Close()
		if err := socklb.Remove(pins); err != nil {
			t.Error(err)
		}
	})
	return b
}

// reset has the maps hold services 1 to 6 and what the node is, and nothing else.
func (b *bench) reset() {
	b.t.Helper()
	must := func(err error) {
		b.t.Helper()
		if err != nil {
			b.t.Fatal(err)
		}
	}
	must(clearMap[objectTuple, objectFlow](b.lb.objs.Flows))
	must(clearMap[objectVisitor, objectVisit](b.lb.objs.Visits))
	must(clearMap[objectFragment, objectPorts](b.lb.objs.Fragments))
	all, err := b.svc.Frontends()
	must(err)
	for f := range all {
		must(b.svc.DeleteFrontend(f))
	}
	nodes := []netip.Addr{netip.MustParseAddr(node), netip.MustParseAddr(node6)}
	must(b.svc.SetNodes(append(nodes, netip.MustParseAddr("192.0.2.2")), nodes))
	must(b.lb.SetMasquerade(nodes))
	for i, list := range [][]string{{here}, {there}, nil, {here6}, {there6}, {here, there}} {
		b.service(uint32(i+1), list...)
	}
	must(b.lb.objs.Asked.Put(uint32(0), uint32(0)))
	must(b.lb.objs.Served.Put(uint32(0), uint32(0)))
	must(b.lb.setPods(nil))
	must(b.lb.SetPast(nil, false))
	must(clearMap[objectPair, objectPeer](b.lb.objs.Pairs))
	must(b.lb.SetPairs(nil, false))
	must(b.lb.SetTunnel(nil))
	must(clearMap[uint32, objectLink](b.lb.objs.Links))
	b.at(1000)
}

func clearMap[K, V any](m *ebpf.Map) error {
	var keys []K
	var k K
	var v V
	it := m.Iterate()
	for it.Next(&k, &v) {
		keys = append(keys, k)
	}
	for _, k := range keys {
		if err := m.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return it.Err()
}

// service makes a generation of that number, for a service of that number.
func (b *bench) service(id uint32, list ...string) {
	b.t.Helper()
	var eps []socklb.Backend
	for _, s := range list {
		eps = append(eps, socklb.Backend{AddrPort: ap(s), Here: s == here || s == here6})
		if err := b.svc.PutMember(id, ap(s), socklb.Chosen); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := b.svc.PutBackends(id, eps); err != nil {
		b.t.Fatal(err)
	}
}

// lead makes a frontend lead to a service, for both protocols.
func (b *bench) lead(at string, outside bool, e socklb.Entry) {
	b.t.Helper()
	a := ap(at)
	e.Generation = e.Service
	for _, proto := range []uint8{tcp, udp} {
		if err := b.svc.PutFrontend(socklb.Frontend{Addr: a.Addr(), Port: a.Port(), Protocol: proto, Outside: outside}, e); err != nil {
			b.t.Fatal(err)
		}
	}
}

// run gives a frame to a program and returns what became of it and why.
func (b *bench) run(prog *ebpf.Program, in []byte) (out []byte, action int32, why string) {
	b.t.Helper()
	before, err := b.lb.Counters()
	if err != nil {
		b.t.Fatal(err)
	}
	opts := &ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256)}
	var ret uint32
	run := func() (err error) {
		ret, err = prog.Run(opts)
		return err
	}
	if b.ns != nil {
		err = b.ns.Do(run)
	} else {
		err = run()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	after, err := b.lb.Counters()
	if err != nil {
		b.t.Fatal(err)
	}
	for name, n := range after {
		for range n - before[name] {
			why += name
		}
	}
	return opts.DataOut, int32(ret), why
}

// step is a packet through a program.
type step struct {
	prog string // outside, pod, out
	in   []byte
	want string // as shown; "drop", or "" for unchanged
	why  string
}

func (b *bench) steps(t *testing.T, list ...step) {
	t.Helper()
	for i, s := range list {
		prog := map[string]*ebpf.Program{"outside": b.objs.FromOutsideNow, "pod": b.objs.FromPodNow, "out": b.objs.ToDeviceNow, "to pod": b.objs.ToPodNow}[s.prog]
		out, action, why := b.run(prog, s.in)
		got := "drop"
		if action == -1 {
			got = show(t, out)
		} else if action == 7 {
			got = "past " + show(t, out)
		}
		want := s.want
		if want == "" {
			want = show(t, s.in)
		}
		if got != want || why != s.why {
			t.Errorf("step %d: %s %s became %s because of %s,\nwant %s because of %s", i, s.prog, show(t, s.in), got, why, want, s.why)
		}
	}
}

// Each case has the programs and maps to itself; loading them is what takes time.
func TestKernelPacketByPacket(t *testing.T) {
	b := newBench(t)
	for name, run := range map[string]func(*testing.T, *bench){
		"backend here": backendHere, "backend elsewhere": backendElsewhere, "lost parts come back": lostPartsComeBack,
		"two frontends, one backend": twoFrontendsOneBackend, "backend leaves": backendLeaves, "what is not ours": whatIsNotOurs,
		"refusals": refusals, "no port": noPort,
		"errors": icmpErrors, "fragments": fragmented, "affinity": stays, "all backends": spread, "pods": fromPods, "what passes by": passesBy, "past the stack": pastTheStack, "pairs of pods": pairsOfPods, "past the tunnel": pairsPastTheTunnel, "unchanged UDP sums": noSums,
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			b.reset()
			run(t, b)
		})
	}
	b.t = t
	all, err := b.lb.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range all {
		if n == 0 && name != "no_room" && name != "not_written" { // the kernel is out of memory then
			t.Errorf("no case for %s", name)
		}
	}
}

// from and to are a packet of a protocol between two places.
func (b *bench) pkt(proto uint8, from, to string, change ...func(*pkt)) []byte {
	p := pkt{src: ap(from), dst: ap(to), proto: proto, flags: ack, data: "data"}
	for _, f := range change {
		f(&p)
	}
	return frame(p.ip())
}

func begins(p *pkt) { p.flags = syn }
func ends(p *pkt)   { p.flags = fin | ack }

const (
	port, port6         = node + ":30080", "[" + node6 + "]:30080"
	balancer, balancer6 = "203.0.113.50:80", "[fd03::50]:80"
)

// families is a client, a node port, backends here and there, and the node, in IPv4 and IPv6.
var families = []struct {
	client, port, here, there, node, wild string
	near, far                             uint32 // services
}{
	{client, port, here, there, node, "0.0.0.0:30080", 1, 2},
	{client6, port6, here6, there6, "[" + node6 + "]", "[::]:30080", 4, 5},
}

func backendHere(t *testing.T, b *bench) {
	for _, f := range families {
		b.lead(f.wild, true, socklb.Entry{Service: f.near, Count: 1})
		for _, proto := range []uint8{tcp, udp} {
			b.steps(t,
				step{"out", b.pkt(proto, f.here, f.client), "", "not_service"},
				step{"outside", b.pkt(proto, f.client, f.port, begins), f.client + " > " + f.here, "started"},
				step{"out", b.pkt(proto, f.here, f.client), f.port + " > " + f.client, "reply"},
				step{"outside", b.pkt(proto, f.client, f.port), f.client + " > " + f.here, "request"},
				step{"outside", b.pkt(proto, f.client, f.port, func(p *pkt) { p.data = "odd" }), f.client + " > " + f.here, "request"},
				step{"outside", b.pkt(proto, f.here, f.client), "", "not_service"}, // answers come by the stack
			)
		}
	}
}

// A backend elsewhere sees the node, by a port that is the flow's alone, and its answers come back to the client.
func backendElsewhere(t *testing.T, b *bench) {
	for _, f := range families {
		b.lead(f.wild, true, socklb.Entry{Service: f.far, Count: 1})
		for _, proto := range []uint8{tcp, udp} {
			b.steps(t, step{"outside", b.pkt(proto, f.client, f.port, begins), f.client + " > " + f.there, "started"})
			out, _, why := b.run(b.objs.ToDeviceNow, b.pkt(proto, f.client, f.there, begins))
			from, to, _ := strings.Cut(show(t, out), " > ")
			if own := ap(from); why != "masqueraded" || own.Addr().String() != strings.Trim(f.node, "[]") || own.Port() < 1024 || own.Port() > 29999 || to != f.there {
				t.Fatalf("%s became %s > %s because of %s", f.client, from, to, why)
			}
			b.steps(t,
				step{"outside", b.pkt(proto, f.there, from), f.there + " > " + f.client, "unmasqueraded"},
				step{"out", b.pkt(proto, f.there, f.client), f.port + " > " + f.client, "reply"},
				step{"outside", b.pkt(proto, f.client, f.port), f.client + " > " + f.there, "request"},
				step{"out", b.pkt(proto, f.client, f.there, ends), from + " > " + f.there, "masqueraded"},
			)
		}
	}
}

// What a map that forgets has lost of a flow is written again within a second.
func lostPartsComeBack(t *testing.T, b *bench) {
	b.lead("0.0.0.0:30080", true, socklb.Entry{Service: 2, Count: 1})
	b.steps(t, step{"outside", b.pkt(tcp, client, port, begins), client + " > " + there, "started"})
	before, _, _ := b.run(b.objs.ToDeviceNow, b.pkt(tcp, client, there))
	own, _, _ := strings.Cut(show(t, before), " > ")
	var k objectTuple
	var v objectFlow
	for it := b.lb.objs.Flows.Iterate(); it.Next(&k, &v); {
		if v.Part != uint8(objectPartPART_REQUEST) {
			if err := b.lb.objs.Flows.Delete(&k); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.steps(t, step{"out", b.pkt(tcp, there, client), "", "not_service"})
	b.at(1001)
	b.steps(t,
		step{"outside", b.pkt(tcp, client, port), client + " > " + there, "request"},
		step{"out", b.pkt(tcp, client, there), own + " > " + there, "masqueraded"},
		step{"outside", b.pkt(tcp, there, own), there + " > " + client, "unmasqueraded"},
		step{"out", b.pkt(tcp, there, client), port + " > " + client, "reply"},
	)
}

// at sets the clock of the programs, in seconds.
func (b *bench) at(now uint32) {
	b.t.Helper()
	if err := b.objs.Now.Set(now); err != nil {
		b.t.Fatal(err)
	}
}

// Two addresses of one backend, asked from one port: the backend knows the second flow by another port, or could not tell them apart.
func twoFrontendsOneBackend(t *testing.T, b *bench) {
	b.lead("0.0.0.0:30080", true, socklb.Entry{Service: 1, Count: 1})
	b.lead(balancer, true, socklb.Entry{Service: 1, Count: 1})
	b.steps(t, step{"outside", b.pkt(tcp, client, port, begins), client + " > " + here, "started"})
	out, _, _ := b.run(b.objs.FromOutsideNow, b.pkt(tcp, client, balancer, begins))
	second, to, _ := strings.Cut(show(t, out), " > ")
	if second == client || to != here || ap(second).Addr() != ap(client).Addr() {
		t.Fatalf("the second flow is %s > %s", second, to)
	}
	b.steps(t,
		step{"out", b.pkt(tcp, here, client), port + " > " + client, "reply"},
		step{"out", b.pkt(tcp, here, second), balancer + " > " + client, "reply"},
		step{"outside", b.pkt(tcp, client, balancer), second + " > " + here, "request"},
		// Once the first has ended, and a while has gone, its port is free for the second.
		step{"out", b.pkt(tcp, here, client, ends), port + " > " + client, "reply"},
	)
	b.at(1011)
	b.steps(t, step{"outside", b.pkt(tcp, "203.0.113.7:40000", balancer, begins), second + " > " + here, "request"})
}

// Datagrams and new connections leave a backend that has left; a connection that is there keeps it.
func backendLeaves(t *testing.T, b *bench) {
	b.lead("0.0.0.0:30080", true, socklb.Entry{Service: 1, Count: 1})
	for _, proto := range []uint8{tcp, udp} {
		b.steps(t, step{"outside", b.pkt(proto, client, port, begins), client + " > " + here, "started"})
	}
	const next = "10.1.0.9:8080"
	if err := errors.Join(b.svc.DeleteMember(1, ap(here)), b.svc.PutMember(1, ap(next), socklb.Chosen),
		b.svc.PutBackends(100, []socklb.Backend{{AddrPort: ap(next), Here: true}})); err != nil {
		t.Fatal(err)
	}
	for _, proto := range []uint8{tcp, udp} {
		err := b.svc.PutFrontend(socklb.Frontend{Addr: netip.IPv4Unspecified(), Port: 30080, Protocol: proto, Outside: true}, socklb.Entry{Generation: 100, Service: 1, Count: 1})
		if err != nil {
			t.Fatal(err)
		}
	}
	b.steps(t,
		step{"outside", b.pkt(tcp, client, port), client + " > " + here, "request"},
		step{"outside", b.pkt(udp, client, port), client + " > " + next, "started"},
		step{"out", b.pkt(udp, next, client), port + " > " + client, "reply"},
		step{"outside", b.pkt(tcp, client, port, begins), client + " > " + next, "started"},
		step{"outside", b.pkt(tcp, client, port), client + " > " + next, "request"},
	)
	// A connection whose backend is gone is reset by the node's stack, as often as its client asks; datagrams have gone elsewhere.
	b.steps(t, step{"outside", b.pkt(tcp, "203.0.113.8:40000", port, begins), "203.0.113.8:40000 > " + next, "started"})
	b.at(1001)
	if err := b.svc.PutMember(1, ap(next), socklb.Leaving); err != nil {
		t.Fatal(err)
	}
	b.steps(t, step{"outside", b.pkt(tcp, "203.0.113.8:40000", port), "203.0.113.8:40000 > " + next, "request"})
	if err := b.svc.PutMember(1, ap(next), socklb.Gone); err != nil {
		t.Fatal(err)
	}
	b.steps(t, step{"outside", b.pkt(tcp, "203.0.113.8:40000", port), "203.0.113.8:40000 > " + next, "request"}) // of the same second
	b.at(1002)
	for range 2 {
		b.steps(t,
			step{"outside", b.pkt(tcp, "203.0.113.8:40000", port), "203.0.113.8:40000 > " + node + ":0", "refused"},
			step{"out", b.pkt(tcp, node+":0", "203.0.113.8:40000"), port + " > 203.0.113.8:40000", "reply"},
		)
	}
	b.at(1000)
	for _, proto := range []uint8{tcp, udp} { // the service goes
		if err := errors.Join(b.svc.DeleteMember(1, ap(next)),
			b.svc.DeleteFrontend(socklb.Frontend{Addr: netip.IPv4Unspecified(), Port: 30080, Protocol: proto, Outside: true})); err != nil {
			t.Fatal(err)
		}
	}
	b.steps(t, step{"outside", b.pkt(udp, client, port), "", "not_service"}, step{"outside", b.pkt(tcp, client, port), client + " > " + next, "request"})
}

func whatIsNotOurs(t *testing.T, b *bench) {
	b.lead("0.0.0.0:30080", true, socklb.Entry{Service: 1, Count: 1})
	b.lead("10.96.0.9:80", false, socklb.Entry{Service: 1, Count: 1})
	arp := append(make([]byte, 12), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	sctp := frame(ip(ap(client).Addr(), ap(port).Addr(), 132, make([]byte, 12), pkt{}))
	short := frame(ip(ap(client).Addr(), ap(port).Addr(), tcp, make([]byte, 7), pkt{}))
	echo := frame(ip(ap(client).Addr(), ap(port).Addr(), 1, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}, pkt{}))
	for name, tt := range map[string]step{
		"ARP":                                {"outside", arp, "", "not_service"},
		"SCTP":                               {"outside", sctp, "", "not_service"},
		"ping":                               {"outside", echo, "", "not_service"},
		"a header that is cut off":           {"outside", short, "", "malformed"},
		"a port of no service":               {"outside", b.pkt(tcp, client, node+":22", begins), "", "not_service"},
		"the node port of another node":      {"outside", b.pkt(tcp, client, "192.0.2.2:30080", begins), "", "not_service"},
		"a cluster IP from outside":          {"outside", b.pkt(tcp, client, "10.96.0.9:80", begins), "", "not_service"},
		"a balancer's address from a pod":    {"pod", b.pkt(tcp, "10.1.0.2:5000", "203.0.113.50:80", begins), "", "not_service"},
		"a pod's packet without a beginning": {"pod", b.pkt(tcp, "10.1.0.2:5000", "10.96.0.9:80"), "", "not_service"},
		"a cluster IP on the way out":        {"out", b.pkt(tcp, client, "10.96.0.9:80", begins), "", "not_service"},
	} {
		prog := map[string]*ebpf.Program{"outside": b.objs.FromOutsideNow, "pod": b.objs.FromPodNow, "out": b.objs.ToDeviceNow}[tt.prog]
		if out, action, why := b.run(prog, tt.in); action != -1 || why != tt.why || !bytes.Equal(out[:len(tt.in)], tt.in) {
			t.Errorf("%s: action %d because of %s, changed: %v", name, action, why, !bytes.Equal(out[:len(tt.in)], tt.in))
		}
	}
}

func refusals(t *testing.T, b *bench) {
	b.lead("0.0.0.0:30080", true, socklb.Entry{Service: 3})
	b.lead(balancer, true, socklb.Entry{Service: 3, KeepSource: true})
	b.lead("203.0.113.51:80", true, socklb.Entry{Service: 1, Count: 1, Limited: true})
	b.lead("203.0.113.52:80", true, socklb.Entry{Service: 99, Count: 1})
	b.lead("203.0.113.53:80", true, socklb.Entry{Service: 2, Count: 1})
	if err := b.svc.PutSource(1, netip.MustParsePrefix("198.51.100.0/24")); err != nil {
		t.Fatal(err)
	}
	for _, proto := range []uint8{tcp, udp} {
		b.steps(t,
			// The node refuses at its port 0, and the client hears it from the service.
			step{"outside", b.pkt(proto, client, port, begins), client + " > " + node + ":0", "refused"},
			step{"out", b.pkt(proto, node+":0", client), port + " > " + client, "reply"},
			step{"outside", b.pkt(proto, client, balancer, begins), "drop", "no_endpoint_here"},
			step{"outside", b.pkt(proto, client, "203.0.113.51:80", begins), "drop", "source"},
			step{"outside", b.pkt(proto, "198.51.100.1:40000", "203.0.113.51:80", begins), "198.51.100.1:40000 > " + here, "started"},
			step{"outside", b.pkt(proto, client, "203.0.113.52:80", begins), "drop", "lost_slot"},
		)
	}
	b.steps(t, step{"out", icmpError(netip.MustParseAddr(node), pkt{src: ap(client), dst: ap(node + ":0"), proto: udp}, 3, 3, 0),
		"192.0.2.1 > 203.0.113.7 icmp 3/3 (" + client + " > " + port + ")", "icmp"})
	if err := b.lb.SetMasquerade(nil); err != nil {
		t.Fatal(err)
	}
	b.steps(t,
		step{"outside", b.pkt(tcp, client, "203.0.113.53:80", begins), "drop", "no_address"},
		step{"outside", b.pkt(tcp, "203.0.113.8:40000", port, begins), "drop", "no_address"},
	)
}

// Ports run out at one backend alone, and then the flow is dropped, and counted.
func noPort(t *testing.T, b *bench) {
	b.lead("0.0.0.0:30080", true, socklb.Entry{Service: 2, Count: 1})
	var k objectTuple
	v := objectFlow{Seen: 1000, Part: uint8(objectPartPART_UNMASQUERADE)}
	k.Saddr, k.Daddr, k.Sport, k.Proto = words(ap(there).Addr()), words(netip.MustParseAddr(node)), 8080>>8|8080&0xff<<8, tcp
	for p := 1024; p < 30000; p++ {
		k.Dport = uint16(p>>8 | p&0xff<<8)
		if err := b.lb.objs.Flows.Put(&k, &v); err != nil {
			t.Fatal(err)
		}
	}
	b.steps(t,
		step{"outside", b.pkt(tcp, client, port, begins), "drop", "no_port"},
		step{"outside", b.pkt(udp, client, port), client + " > " + there, "started"},
	)
	b.at(1000 + 86400 + 1) // they were idle for a day
	b.steps(t, step{"outside", b.pkt(tcp, client, port, begins), client + " > " + there, "started"})
}

// Whoever sent what an error quotes finds it as it sent it, or the path's MTU would never be found.
func icmpErrors(t *testing.T, b *bench) {
	for _, f := range families {
		b.lead(f.wild, true, socklb.Entry{Service: f.near, Count: 1})
		router := netip.MustParseAddr("198.51.100.254")
		typ, code, gone := byte(3), byte(4), byte(3)
		if f.client == client6 {
			router, typ, code, gone = netip.MustParseAddr("fd98::254"), 2, 0, 1
		}
		plain := func(a netip.AddrPort) string { return a.Addr().String() }
		for _, proto := range []uint8{tcp, udp} {
			b.lead(f.wild, true, socklb.Entry{Service: f.near, Count: 1})
			b.steps(t, step{"outside", b.pkt(proto, f.client, f.port, begins), f.client + " > " + f.here, "started"})
			answer := pkt{src: ap(f.port), dst: ap(f.client), proto: proto, data: "an answer that is too long"}
			ask := pkt{src: ap(f.client), dst: ap(f.here), proto: proto, data: "a question"}
			head := 20
			if f.client == client6 {
				head = 40
			}
			for _, cut := range []int{0, head + 8} {
				b.steps(t,
					// A router on the way to the client, about what the backend has sent.
					step{"outside", icmpError(router, answer, typ, code, cut),
						fmt.Sprintf("%s > %s icmp %d/%d (%s > %s)", router, plain(ap(f.here)), typ, code, f.here, f.client), "icmp"},
					// The backend, or this node, about what the client has sent.
					step{"out", icmpError(ap(f.here).Addr(), ask, gone, 3, cut),
						fmt.Sprintf("%s > %s icmp %d/%d (%s > %s)", plain(ap(f.port)), plain(ap(f.client)), gone, 3, f.client, f.port), "icmp"},
					step{"out", icmpError(router, ask, typ, code, cut),
						fmt.Sprintf("%s > %s icmp %d/%d (%s > %s)", router, plain(ap(f.client)), typ, code, f.client, f.port), "icmp"},
				)
			}
			// A flow that is masqueraded: a router on the way to the backend, about what the node seems to have sent.
			b.lead(f.wild, true, socklb.Entry{Service: f.far, Count: 1})
			from := strings.Replace(f.client, ":40000", ":40001", 1)
			b.steps(t, step{"outside", b.pkt(proto, from, f.port, begins), from + " > " + f.there, "started"})
			out, _, _ := b.run(b.objs.ToDeviceNow, b.pkt(proto, from, f.there))
			own, _, _ := strings.Cut(show(t, out), " > ")
			sent := pkt{src: ap(own), dst: ap(f.there), proto: proto, data: "a question"}
			b.steps(t,
				step{"outside", icmpError(router, sent, typ, code, 0),
					fmt.Sprintf("%s > %s icmp %d/%d (%s > %s)", router, plain(ap(from)), typ, code, from, f.there), "icmp"},
				step{"out", icmpError(router, pkt{src: ap(from), dst: ap(f.there), proto: proto}, typ, code, 0),
					fmt.Sprintf("%s > %s icmp %d/%d (%s > %s)", router, plain(ap(from)), typ, code, from, f.port), "icmp"},
				step{"out", icmpError(router, pkt{src: ap(f.there), dst: ap(from), proto: proto}, typ, code, 0),
					fmt.Sprintf("%s > %s icmp %d/%d (%s > %s)", router, plain(ap(f.there)), typ, code, f.there, own), "icmp"},
			)
		}
		b.steps(t, step{"outside", icmpError(router, pkt{src: ap(f.port), dst: ap(strings.Replace(f.client, "4000", "4100", 1)), proto: tcp}, typ, code, 0), "", "not_service"})
	}
	ask := pkt{src: ap(client), dst: ap(here), proto: tcp}
	b.steps(t, step{"out", icmpError(netip.MustParseAddr(node), ask, 5, 1, 0), "drop", "redirect"})
}

// Fragments go where their first went; one that comes before it is left alone, and counted.
func fragmented(t *testing.T, b *bench) {
	for _, f := range families {
		b.lead(f.wild, true, socklb.Entry{Service: f.near, Count: 1})
		ask := pkt{src: ap(f.client), dst: ap(f.port), proto: udp, data: strings.Repeat("long", 20), id: 77, frag: true}
		part := func(p pkt, at int, more bool) []byte {
			p.at, p.more = at, more
			return frame(p.ip())
		}
		client, here := ap(f.client).Addr().String(), ap(f.here).Addr().String()
		b.steps(t,
			step{"outside", part(ask, 16, true), "", "lone_fragment"},
			step{"outside", part(ask, 0, true), f.client + " > " + f.here + " +0", "started"},
			step{"outside", part(ask, 16, true), client + " > " + here + " +16", "fragment"},
			step{"outside", part(ask, 32, false), client + " > " + here + " +32", "fragment"},
		)
		answer := pkt{src: ap(f.here), dst: ap(f.client), proto: udp, data: strings.Repeat("long", 20), id: 78, frag: true}
		b.steps(t,
			step{"out", part(answer, 0, true), f.port + " > " + f.client + " +0", "reply"},
			step{"out", part(answer, 16, true), ap(f.port).Addr().String() + " > " + client + " +16", "fragment"},
		)
		b.wholeAfterFragments(t, ask, f.here)
	}
}

// wholeAfterFragments puts a translated datagram together and checks its sum.
func (b *bench) wholeAfterFragments(t *testing.T, p pkt, to string) {
	var whole []byte
	for at := 0; at < 88; at += 16 {
		p.at, p.more = at, at+16 < 88
		out, _, _ := b.run(b.objs.FromOutsideNow, frame(p.ip()))
		in := frame(p.ip())
		head := len(in) - min(16, 88-at)
		whole = append(whole, out[head:len(in)]...)
	}
	if folded(sum(whole, pseudo(p.src.Addr(), ap(to).Addr(), udp, len(whole)))) != 0 {
		t.Errorf("the datagram to %s has a wrong sum", to)
	}
}

func stays(t *testing.T, b *bench) {
	b.lead("0.0.0.0:30080", true, socklb.Entry{Service: 6, Count: 2, Affinity: 100 * time.Second})
	to := func(from string) string {
		out, _, _ := b.run(b.objs.FromOutsideNow, b.pkt(tcp, from, port, begins))
		_, to, _ := strings.Cut(show(t, out), " > ")
		return to
	}
	first := to(client)
	for p := range 20 {
		b.at(1000 + uint32(p)*50) // each within the timeout of the one before
		if got := to(fmt.Sprintf("203.0.113.7:%d", 41000+p)); got != first {
			t.Fatalf("the client went to %s, then to %s", first, got)
		}
	}
	// It stays although the hash now says otherwise: only the timeout, or the backend's end, frees it.
	other := map[string]string{here: there, there: here}[first]
	if err := b.svc.PutBackends(6, []socklb.Backend{{AddrPort: ap(other), Here: other == here}, {AddrPort: ap(other), Here: other == here}}); err != nil {
		t.Fatal(err)
	}
	if got := to("203.0.113.7:42000"); got != first {
		t.Errorf("the client went to %s although it had been at %s", got, first)
	}
	b.at(5000)
	if got := to("203.0.113.7:42001"); got != other {
		t.Errorf("after the timeout the client went to %s", got)
	}
}

// Without a table backends take turns by a hash, with one as it says; the same client meets the same backend again.
func spread(t *testing.T, b *bench) {
	table := make([]uint16, 61)
	for i := range table {
		table[i] = uint16(i % 2)
	}
	if err := b.svc.PutTable(6, table); err != nil {
		t.Fatal(err)
	}
	for _, size := range []uint32{0, 61} {
		b.lead("0.0.0.0:30080", true, socklb.Entry{Service: 6, Count: 2, Table: size})
		count := map[string]int{}
		chosen := map[int]string{}
		for round := range 2 {
			for p := range 300 {
				out, _, _ := b.run(b.objs.FromOutsideNow, b.pkt(tcp, fmt.Sprintf("203.0.113.7:%d", 40000+p), port, begins))
				_, to, _ := strings.Cut(show(t, out), " > ")
				if count[to]++; round == 0 {
					chosen[p] = to
				} else if chosen[p] != to {
					t.Fatalf("port %d went to %s, then to %s", 40000+p, chosen[p], to)
				}
			}
			if err := clearMap[objectTuple, objectFlow](b.lb.objs.Flows); err != nil {
				t.Fatal(err)
			}
		}
		if count[here]+count[there] != 600 || count[here] < 200 || count[there] < 200 {
			t.Errorf("table of %d: %v", size, count)
		}
	}
}

// Packets from pods ask for what is inside, keep their source, and come back; a pod that gets itself sees the node.
func fromPods(t *testing.T, b *bench) {
	const pod, vip = "10.1.0.7:5000", "10.96.0.9:80"
	b.lead(vip, false, socklb.Entry{Service: 2, Count: 1})
	b.lead("0.0.0.0:30080", false, socklb.Entry{Service: 1, Count: 1})
	for _, proto := range []uint8{tcp, udp} {
		b.steps(t, // nobody has asked
			step{"pod", b.pkt(proto, pod, there), "", "not_service"},
			step{"to pod", b.pkt(proto, there, pod), "", "not_service"},
		)
	}
	for _, proto := range []uint8{tcp, udp} {
		b.steps(t,
			step{"pod", b.pkt(proto, pod, vip, begins), pod + " > " + there, "started"},
			step{"to pod", b.pkt(proto, there, pod), vip + " > " + pod, "reply"},
			step{"pod", b.pkt(proto, pod, "192.0.2.2:30080", begins), pod + " > " + here, "started"},
			step{"pod", b.pkt(proto, "10.1.0.2:5000", port, begins), "10.1.0.2:5000 > " + here, "started"},
		)
		out, _, why := b.run(b.objs.ToPodNow, b.pkt(proto, "10.1.0.2:5000", here))
		own, _, _ := strings.Cut(show(t, out), " > ")
		if why != "masqueraded" || !strings.HasPrefix(own, node) {
			t.Errorf("a pod sees itself as %s because of %s", own, why)
		}
		b.steps(t,
			step{"pod", b.pkt(proto, here, own), here + " > 10.1.0.2:5000", "unmasqueraded"},
			step{"to pod", b.pkt(proto, here, "10.1.0.2:5000"), port + " > 10.1.0.2:5000", "reply"},
		)
	}
}

// What is for pods, and while nobody has asked what the node itself says and hears, is not looked at. Once somebody has, all but what is for pods is.
func passesBy(t *testing.T, b *bench) {
	b.lead("0.0.0.0:30080", true, socklb.Entry{Service: 1, Count: 1})
	b.lead("[::]:30080", true, socklb.Entry{Service: 4, Count: 1})
	if err := b.lb.setPods([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd10::/64")}); err != nil {
		t.Fatal(err)
	}
	looked := func(want bool, name string, program *ebpf.Program, packet []byte) {
		t.Helper()
		// Nothing is led there: a program that looks leaves the packet as it is, too. What was looked at is in its memory.
		var work []objectTestWork
		if err := b.objs.Works.Put(uint32(0), make([]objectTestWork, ebpf.MustPossibleCPU())); err != nil {
			t.Fatal(err)
		}
		b.run(program, packet)
		if err := b.objs.Works.Lookup(uint32(0), &work); err != nil {
			t.Fatal(err)
		}
		got := false
		for _, w := range work {
			got = got || w.P.L3 != 0
		}
		if got != want {
			t.Errorf("%s: looked at is %v", name, got)
		}
	}
	quiet := func(want bool) {
		t.Helper()
		for _, proto := range []uint8{tcp, udp} {
			looked(false, "to a pod", b.objs.FromOutsideNow, b.pkt(proto, client, here, begins))
			looked(false, "from pod to pod", b.objs.FromPodNow, b.pkt(proto, "10.1.0.7:5000", here, begins))
			looked(true, "from pod to elsewhere", b.objs.FromPodNow, b.pkt(proto, "10.1.0.7:5000", there, begins))
			looked(false, "to a pod, IPv6", b.objs.FromOutsideNow, b.pkt(proto, client6, here6, begins))
			looked(!want, "from a pod", b.objs.ToDeviceNow, b.pkt(proto, here, client))
			looked(true, "to a balancer's address", b.objs.FromOutsideNow, b.pkt(proto, client, balancer))
		}
		looked(!want, "of the node's connection", b.objs.FromOutsideNow, b.pkt(tcp, client, node+":50000"))
		looked(!want, "of the node's connection, IPv6", b.objs.FromOutsideNow, b.pkt(tcp, client6, "["+node6+"]:50000"))
		looked(true, "to the node, to begin", b.objs.FromOutsideNow, b.pkt(tcp, client, port, begins))
	}
	quiet(true) // and with it the first flow has begun
	quiet(false)
	b.steps(t, step{"out", b.pkt(tcp, here, client), port + " > " + client, "reply"})
	// The node is asked at an address among those of pods.
	if err := errors.Join(b.lb.SetMasquerade([]netip.Addr{netip.MustParseAddr("10.1.0.1")}), b.lb.setPods([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")})); err != nil {
		t.Fatal(err)
	}
	looked(true, "to what may be the node", b.objs.FromOutsideNow, b.pkt(tcp, client, "10.1.0.1:30080", begins))
}

// A UDP datagram without a checksum, which IPv4 allows, stays without; one behind IP options is found.
func noSums(t *testing.T, b *bench) {
	b.lead("0.0.0.0:30080", true, socklb.Entry{Service: 1, Count: 1})
	in := b.pkt(udp, client, port, func(p *pkt) { p.noUDPSum = true })
	out, _, _ := b.run(b.objs.FromOutsideNow, in)
	if out[14+20+6] != 0 || out[14+20+7] != 0 || show(t, out) != client+" > "+here {
		t.Errorf("%s: sum %x", show(t, out), out[40:42])
	}
	b.steps(t, step{"outside", b.pkt(tcp, client, port, begins, func(p *pkt) { p.options = 8 }), client + " > " + here, "started"})
}
