package socklb

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

const (
	tcp, udp  = 6, 17
	nodeNetns = 70
	podNetns  = 71
	connect   = uint32(objectTestCallCALL_CONNECT)
	send      = uint32(objectTestCallCALL_SEND)
)

// court asks the decisions of programs on sockets' addresses, for sockets that a test describes, over maps that have these services:
//
//	1 at 10.96.0.1:80 and node port 30080 of IPv4: 10.0.0.1, 10.0.0.2; 10.0.0.3 is leaving it
//	2 at [fd96::1]:80 and node port 30081 of IPv6: fd00::1
//	3 at 10.96.0.3:80: none
//	4 at 10.96.0.4:80: 10.0.0.4, 10.0.0.5, with affinity of a minute
//	5 at 10.96.0.5:80: two, of which the second has no slot; 6 at 10.96.0.6:80: one that has none
//	7 to 11 at 10.96.0.7:80 to 10.96.0.11:80: one each, 10.0.0.7 to 10.0.0.11
//	12 at 10.96.0.12:80, from outside only
type court struct {
	t    *testing.T
	lb   *LB
	objs objectTestObjects
}

func newCourt(t *testing.T) *court {
	t.Helper()
	netnstest.RequireRoot(t)
	pins := filepath.Join(netnstest.BPFFS(t), "orlop")
	c := &court{t: t, lb: openTest(t, pins, 64)}
	spec, err := loadObjectTest()
	c.must(err)
	c.must(spec.Variables[objectTestVarNodeNetns].Set(uint64(nodeNetns)))
	c.must(spec.LoadAndAssign(&c.objs, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: Maps(pins)}}))
	t.Cleanup(func() { c.objs.Close() })
	c.must(c.lb.SetNodes([]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd02::1")}, nil))
	c.service(1, 0, []string{"10.96.0.1:80", "0.0.0.0:30080"}, "10.0.0.1:8080", "10.0.0.2:8080")
	c.must(c.lb.PutMember(1, ap("10.0.0.3:8080"), Leaving))
	c.service(2, 0, []string{"[fd96::1]:80", "[::]:30081"}, "[fd00::1]:8080")
	c.service(3, 0, []string{"10.96.0.3:80"})
	c.service(4, time.Minute, []string{"10.96.0.4:80"}, "10.0.0.4:8080", "10.0.0.5:8080")
	c.service(5, 0, nil, "10.0.0.6:8080")
	c.frontend("10.96.0.5:80", false, Entry{Generation: 5, Service: 5, Count: 2})
	c.frontend("10.96.0.6:80", false, Entry{Generation: 6, Service: 6, Count: 1})
	for i := uint32(7); i <= 11; i++ {
		c.service(i, 0, []string{fmt.Sprintf("10.96.0.%d:80", i)}, fmt.Sprintf("10.0.0.%d:8080", i))
	}
	c.service(12, 0, nil, "10.0.0.12:8080")
	c.frontend("10.96.0.12:80", true, Entry{Generation: 12, Service: 12, Count: 1})
	return c
}

func (c *court) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// service has a generation of its own number.
func (c *court) service(id uint32, affinity time.Duration, at []string, list ...string) {
	c.t.Helper()
	var to []Backend
	for _, s := range list {
		to = append(to, Backend{AddrPort: ap(s)})
		c.must(c.lb.PutMember(id, ap(s), Chosen))
	}
	c.must(c.lb.PutBackends(id, to))
	for _, s := range at {
		c.frontend(s, false, Entry{Generation: id, Service: id, Count: uint32(len(to)), Affinity: affinity})
	}
}

func (c *court) frontend(at string, outside bool, e Entry) {
	c.t.Helper()
	for _, proto := range []uint8{tcp, udp} {
		c.must(c.lb.PutFrontend(Frontend{Addr: ap(at).Addr(), Port: ap(at).Port(), Protocol: proto, Outside: outside}, e))
	}
}

// socket is one that asks, and what it remembers from one question to the next.
type socket struct {
	protocol, call uint32
	netns          uint64
	memory         objectTestQuestion
}

// run gives a question to a program, and returns it as it is then.
func (c *court) run(p *ebpf.Program, q objectTestQuestion, to string) objectTestQuestion {
	c.t.Helper()
	q.To = *endpointOf(ap(to))
	c.must(c.objs.Asked.Set(&q))
	_, err := p.Run(&ebpf.RunOptions{})
	c.must(err)
	c.must(c.objs.Asked.Get(&q))
	return q
}

// ask returns where a call leads and why; to is empty where it is refused. The program counts just that reason.
func (c *court) ask(s *socket, to string, rnd uint32, now time.Duration) (got, why string) {
	c.t.Helper()
	before, err := c.lb.Counters()
	c.must(err)
	q := s.memory
	q.Netns, q.Protocol, q.Call, q.Rnd, q.Now = s.netns, s.protocol, s.call, rnd, uint64(now)
	q = c.run(c.objs.Ask, q, to)
	s.memory = q
	after, err := c.lb.Counters()
	c.must(err)
	why = reasonNames()[q.Why]
	for name, n := range after {
		if counted := n - before[name]; counted != 0 && name != why || counted != 1 && name == why {
			c.t.Errorf("asked for %s: %s is counted %d times, want %s once", to, name, counted, why)
		}
	}
	if q.GoesOn == 0 {
		return "", why
	}
	return netip.AddrPortFrom(addr(q.To.Addr), swap(q.To.Port)).String(), why
}

// peer is whom a socket is told that an endpoint is.
func (c *court) peer(s *socket, endpoint string) string {
	c.t.Helper()
	q := c.run(c.objs.Answer, s.memory, endpoint)
	return netip.AddrPortFrom(addr(q.To.Addr), swap(q.To.Port)).String()
}

// Every reason that a call can be decided for, by every way there is to it.
func TestKernelDecisionsOfSockets(t *testing.T) {
	c := newCourt(t)
	for _, tt := range []struct {
		name      string
		s         socket
		to        string
		rnd       uint32
		want, why string
	}{
		{"the first endpoint by chance", socket{protocol: tcp, netns: podNetns}, "10.96.0.1:80", 0, "10.0.0.1:8080", "translated"},
		{"the second", socket{protocol: tcp, netns: podNetns}, "10.96.0.1:80", 1, "10.0.0.2:8080", "translated"},
		{"chance is divided among as many as there are", socket{protocol: udp, call: send, netns: podNetns}, "10.96.0.1:80", 0xffffffff, "10.0.0.2:8080", "translated"},
		{"IPv6", socket{protocol: udp, netns: podNetns}, "[fd96::1]:80", 7, "[fd00::1]:8080", "translated"},
		{"another port", socket{protocol: tcp, netns: podNetns}, "10.96.0.1:81", 0, "10.96.0.1:81", "not_service"},
		{"another address", socket{protocol: tcp, netns: podNetns}, "10.96.0.2:80", 0, "10.96.0.2:80", "not_service"},
		{"another protocol", socket{protocol: 132, netns: podNetns}, "10.96.0.1:80", 0, "10.96.0.1:80", "not_service"},
		{"an address for clients outside", socket{protocol: tcp, netns: podNetns}, "10.96.0.12:80", 0, "10.96.0.12:80", "not_service"},
		{"a node port", socket{protocol: tcp, netns: podNetns}, "192.0.2.1:30080", 1, "10.0.0.2:8080", "translated"},
		{"a node port of IPv6", socket{protocol: udp, netns: podNetns}, "[fd02::1]:30081", 0, "[fd00::1]:8080", "translated"},
		{"a node port at no node's address", socket{protocol: tcp, netns: podNetns}, "192.0.2.2:30080", 0, "192.0.2.2:30080", "not_service"},
		{"a node port of the other family", socket{protocol: tcp, netns: podNetns}, "192.0.2.1:30081", 0, "192.0.2.1:30081", "not_service"},
		{"a node port at 127.0.0.1 on the node", socket{protocol: tcp, netns: nodeNetns}, "127.0.0.1:30080", 0, "10.0.0.1:8080", "translated"},
		{"a node port at 127.1.2.3 on the node", socket{protocol: udp, call: send, netns: nodeNetns}, "127.1.2.3:30080", 0, "10.0.0.1:8080", "translated"},
		{"a node port at ::1 on the node", socket{protocol: tcp, netns: nodeNetns}, "[::1]:30081", 0, "[fd00::1]:8080", "translated"},
		{"a pod's own 127.0.0.1", socket{protocol: tcp, netns: podNetns}, "127.0.0.1:30080", 0, "127.0.0.1:30080", "not_service"},
		{"no endpoint", socket{protocol: tcp, netns: podNetns}, "10.96.0.3:80", 0, "", "no_endpoint"},
		{"no endpoint for a datagram", socket{protocol: udp, call: send, netns: podNetns}, "10.96.0.3:80", 0, "", "no_endpoint"},
		{"a slot that is not there leads to the first", socket{protocol: tcp, netns: podNetns}, "10.96.0.5:80", 1, "10.0.0.6:8080", "translated"},
		{"no slot is there", socket{protocol: tcp, netns: podNetns}, "10.96.0.6:80", 0, "", "lost_slot"},
	} {
		if got, why := c.ask(&tt.s, tt.to, tt.rnd, 0); got != tt.want || why != tt.why {
			t.Errorf("%s: %q, %s; want %q, %s", tt.name, got, why, tt.want, tt.why)
		}
	}
}

// A client stays with its endpoint while that is a member and its time has not run out; each pod is a client.
func TestKernelDecisionsOfAffinity(t *testing.T) {
	c := newCourt(t)
	const at, first, second = "10.96.0.4:80", "10.0.0.4:8080", "10.0.0.5:8080"
	for i, tt := range []struct {
		netns     uint64
		now       time.Duration
		rnd       uint32
		before    func() error
		want, why string
	}{
		{podNetns, 10 * time.Second, 0, nil, first, "translated"},
		{podNetns, 69 * time.Second, 1, nil, first, "affinity"},
		{podNetns, 128 * time.Second, 1, nil, first, "affinity"}, // a minute from when it asked last
		{podNetns + 1, 128 * time.Second, 1, nil, second, "translated"},
		{podNetns, 189 * time.Second, 1, nil, second, "translated"},
		{podNetns, 190 * time.Second, 0, nil, second, "affinity"},
		{podNetns, 191 * time.Second, 0, func() error { return c.lb.PutMember(4, ap(second), Leaving) }, first, "translated"},
		{podNetns, 192 * time.Second, 1, func() error { return c.lb.DeleteMember(4, ap(first)) }, second, "translated"},
	} {
		if tt.before != nil {
			c.must(tt.before())
		}
		s := socket{protocol: tcp, netns: tt.netns}
		if got, why := c.ask(&s, at, tt.rnd, tt.now); got != tt.want || why != tt.why {
			t.Errorf("step %d: %q, %s; want %q, %s", i, got, why, tt.want, tt.why)
		}
	}
}

// A socket that does not connect stays with the endpoint that took its first datagram, and hears answers from whom it asked.
func TestKernelDecisionsOfMemory(t *testing.T) {
	c := newCourt(t)
	s := &socket{protocol: udp, call: send, netns: podNetns}
	expect := func(name, to string, rnd uint32, want, why string) {
		t.Helper()
		if got, gotWhy := c.ask(s, to, rnd, 0); got != want || gotWhy != why {
			t.Errorf("%s: %q, %s; want %q, %s", name, got, gotWhy, want, why)
		}
	}
	peers := func(name string, want map[string]string) {
		t.Helper()
		for endpoint, vip := range want {
			if got := c.peer(s, endpoint); got != vip {
				t.Errorf("%s: the answer of %s is %s's, want %s's", name, endpoint, got, vip)
			}
		}
	}
	peers("nothing asked", map[string]string{"10.0.0.1:8080": "10.0.0.1:8080"})
	expect("the first", "10.96.0.1:80", 0, "10.0.0.1:8080", "translated")
	expect("the next", "10.96.0.1:80", 1, "10.0.0.1:8080", "sticky")
	peers("one service", map[string]string{"10.0.0.1:8080": "10.96.0.1:80", "10.0.0.2:8080": "10.0.0.2:8080"})
	c.must(c.lb.PutMember(1, ap("10.0.0.1:8080"), Leaving))
	expect("its endpoint leaves", "10.96.0.1:80", 1, "10.0.0.2:8080", "translated")
	peers("its endpoint leaves", map[string]string{"10.0.0.2:8080": "10.96.0.1:80", "10.0.0.1:8080": "10.0.0.1:8080"})
	for i := 7; i <= 9; i++ { // as many as are remembered
		expect("more services", fmt.Sprintf("10.96.0.%d:80", i), 0, fmt.Sprintf("10.0.0.%d:8080", i), "translated")
	}
	peers("four services", map[string]string{"10.0.0.2:8080": "10.96.0.1:80", "10.0.0.7:8080": "10.96.0.7:80", "10.0.0.9:8080": "10.96.0.9:80"})
	expect("the oldest goes", "10.96.0.10:80", 0, "10.0.0.10:8080", "translated")
	peers("five services", map[string]string{"10.0.0.2:8080": "10.0.0.2:8080", "10.0.0.10:8080": "10.96.0.10:80", "10.0.0.7:8080": "10.96.0.7:80"})
	// One that connects to an endpoint itself hears it by its own name.
	s.call = connect
	expect("an endpoint itself", "10.0.0.7:8080", 0, "10.0.0.7:8080", "not_service")
	peers("an endpoint itself", map[string]string{"10.0.0.7:8080": "10.0.0.7:8080", "10.0.0.9:8080": "10.96.0.9:80"})
	// One that connects chooses anew.
	expect("to connect", "10.96.0.9:80", 0, "10.0.0.9:8080", "translated")
}

// Sockets of network namespaces that are set apart are left as they are, but never the node's own.
func TestKernelDecisionsOfThoseApart(t *testing.T) {
	c := newCourt(t)
	for _, tt := range []struct {
		name   string
		apart  Apart
		served []uint64
	}{
		{"none", Apart{}, []uint64{nodeNetns, podNetns, podNetns + 1}},
		{"one, and the node", Apart{Netns: []uint64{podNetns, nodeNetns}}, []uint64{nodeNetns, podNetns + 1}},
		{"all pods", Apart{Pods: true}, []uint64{nodeNetns}},
	} {
		c.must(c.lb.SetApart(tt.apart))
		for _, netns := range []uint64{nodeNetns, podNetns, podNetns + 1} {
			want := "not_service"
			if slices.Contains(tt.served, netns) {
				want = "translated"
			}
			s := socket{protocol: tcp, netns: netns}
			if _, why := c.ask(&s, "10.96.0.1:80", 0, 0); why != want {
				t.Errorf("%s: a socket in %d: %s, want %s", tt.name, netns, why, want)
			}
		}
	}
}

// What is counted of a service: a connection where an endpoint is chosen, a failure where none is, and nothing of a datagram that goes where the one before went.
func TestKernelDecisionsAreCounted(t *testing.T) {
	c := newCourt(t)
	s := &socket{protocol: udp, call: send, netns: podNetns}
	for range 3 {
		c.ask(s, "10.96.0.1:80", 0, 0)
		c.ask(&socket{protocol: tcp, netns: podNetns}, "10.96.0.3:80", 0, 0)
		c.ask(&socket{protocol: tcp, netns: podNetns}, "10.96.0.4:80", 0, 0)
		c.ask(&socket{protocol: tcp, netns: podNetns}, "10.96.0.6:80", 0, 0)
	}
	got, err := c.lb.Traffic()
	c.must(err)
	for service, want := range map[uint32][2]uint64{1: {1, 0}, 3: {0, 3}, 4: {3, 0}, 6: {0, 3}} {
		if g := got[service]; g.Connections != want[0] || g.Failures != want[1] {
			t.Errorf("service %d: %+v, want %v connections and failures", service, g, want)
		}
	}
	if len(got) != 4 {
		t.Errorf("%v, want four services", got)
	}
}

// Who may bind where: a node port is nobody else's on the node.
func TestKernelDecisionsOfBinds(t *testing.T) {
	c := newCourt(t)
	for _, tt := range []struct {
		netns    uint64
		protocol uint32
		at       string
		free     bool
	}{
		{nodeNetns, tcp, "0.0.0.0:30080", false}, {nodeNetns, udp, "192.0.2.1:30080", false}, {nodeNetns, tcp, "127.0.0.1:30080", false}, {nodeNetns, tcp, "[::]:30080", false},
		{nodeNetns, tcp, "[::]:30081", false}, {nodeNetns, udp, "[::1]:30081", false}, {nodeNetns, tcp, "[fd02::1]:30081", false},
		{nodeNetns, tcp, "0.0.0.0:30081", true}, // of the other family
		{nodeNetns, tcp, "[fd02::1]:30080", true},
		{nodeNetns, tcp, "192.0.2.2:30080", true}, // no node port is asked there
		{nodeNetns, tcp, "0.0.0.0:80", true}, {nodeNetns, 132, "0.0.0.0:30080", true},
		{podNetns, tcp, "0.0.0.0:30080", true},
	} {
		q := c.run(c.objs.Bind, objectTestQuestion{Netns: tt.netns, Protocol: tt.protocol}, tt.at)
		if (q.GoesOn == 1) != tt.free {
			t.Errorf("protocol %d at %s in %d: free %v, want %v", tt.protocol, tt.at, tt.netns, q.GoesOn == 1, tt.free)
		}
	}
}
