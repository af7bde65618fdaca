package proxytest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/proxy"
)

// Backend is what is under test.
type Backend interface {
	Set(proxy.Model) error
	Sweep(now time.Time) (more bool, err error)
	Traffic() (map[string]proxy.Traffic, error)
}

// Mode is a way to translate services.
type Mode struct {
	Name string
	// Open is what a process does at its start, on a thread in the node's network namespace. Called again, it is a restart: the backend before
	// sets nothing more.
	Open func(*Rig) Backend
	// Remove takes away what the mode made, and Left says what is left of it; both on a thread in the node's network namespace.
	Remove func(*Rig) error
	Left   func(*Rig) (string, error)
	// Changes is how many changes are made under load.
	Changes int
	// What the mode cannot do, and says so.
	Lacks map[proxy.Feature]bool
	// KeepsSource says that backends on the node see a client outside by its own address although no policy asks for it.
	KeepsSource bool
	// Cgroup is where clients must run; "" anywhere.
	Cgroup string
}

type run struct {
	*Rig
	mode Mode
	b    Backend
}

// Suite is what every mode does, less what it lacks.
func Suite(t *testing.T, mode Mode) {
	r := &run{Rig: New(t), mode: mode}
	r.Cgroup = mode.Cgroup
	r.Announce("192.0.2.50", "fd02::50")
	r.open()
	for _, step := range []struct {
		name string
		do   func(*run)
	}{
		// Before anything is sent back out where it came in: the kernel grants a client so many refusals and redirects together.
		{"no endpoints refuses at once", (*run).refuses},
		{"all backends answer", (*run).allAnswer},
		{"a pod reaches itself", (*run).itself},
		{"traffic is counted", (*run).traffic},
		{"affinity", (*run).affinity},
		{"external policy Local", (*run).externalLocal},
		{"source ranges", (*run).sourceRanges},
		{"flows end with their backend", (*run).flowsEnd},
		{"an answer under way while its endpoint goes", (*run).answersLate},
		{"an address changes hands", (*run).changesHands},
		{"nothing fails while services change", (*run).underChange},
		{"a service that goes", (*run).serviceGoes},
		{"any state to any other", (*run).converges},
		{"removal", (*run).removal},
	} {
		t.Run(step.name, func(t *testing.T) {
			parent := r.T
			r.T = t
			defer func() { r.T = parent }()
			step.do(r)
		})
	}
}

func (r *run) open() {
	r.Must(r.Node.Do(func() error {
		r.b = r.mode.Open(r.Rig)
		return nil
	}))
}

func (r *run) set(m proxy.Model) {
	r.T.Helper()
	r.Must(r.Node.Do(func() error { return r.b.Set(m) }))
}

func (r *run) lacks(f proxy.Feature) bool { return r.mode.Lacks[f] }

func (r *run) allAnswer() {
	r.set(Service(nil, 1, 2, 3))
	type from struct {
		name  string
		ns    *netnstest.NS
		addrs []string
	}
	node := from{"the node", r.Node, []string{VIP + ":80", "[" + VIP6 + "]:80", "192.0.2.1:30080", "192.0.2.50:80", "[fd02::1]:30080"}}
	if !r.lacks(proxy.LoopbackNodePorts) {
		node.addrs = append(node.addrs, "127.0.0.1:30080", "[::1]:30080")
	} else if out := r.AskInVain(r.Node, "tcp", "127.0.0.1:30080"); len(out.Failed) != 1 {
		r.T.Errorf("a node port at 127.0.0.1: %+v, want an error, as the mode lacks it", out)
	}
	for _, f := range []from{
		node,
		{"a pod", r.Pods[0], []string{VIP + ":80", "[" + VIP6 + "]:80", "192.0.2.1:30080", "[fd02::50]:80"}},
		{"outside", r.Outside, []string{"192.0.2.1:30080", "[fd02::1]:30080", "192.0.2.50:80", "[fd02::50]:80"}},
	} {
		for _, network := range []string{"tcp", "udp"} {
			for _, addr := range f.addrs {
				out := r.Ask(f.ns, network, addr, 40)
				if len(out.Who) != 3 || len(out.Failed) > 0 {
					r.T.Errorf("%s %s %s: %+v: want three answering", f.name, network, addr, out)
				}
				kept := out.Saw["192.0.2.9"] + out.Saw["fd02::9"]
				switch here := 40 - out.Who["10.10.0.3"] - out.Who["fd10::3"]; {
				case f.name != "outside":
				case r.mode.KeepsSource && kept < here: // all three are linked to this node: each answer comes back by it
					r.T.Errorf("%s %s: a backend here saw another address than the client's: %+v", network, addr, out)
				case !r.mode.KeepsSource && kept != 0:
					r.T.Errorf("%s %s: a backend saw the client's own address: the answer may take another way: %+v", network, addr, out)
				}
			}
		}
	}
}

// A pod that asks for a service it is a backend of reaches itself, too.
func (r *run) itself() {
	r.set(Service(nil, 1))
	for _, addr := range []string{VIP + ":80", "[" + VIP6 + "]:80"} {
		if out := r.Ask(r.Pods[0], "tcp", addr, 3); len(out.Who) != 1 || len(out.Failed) > 0 {
			r.T.Errorf("%s: %+v", addr, out)
		}
	}
	if out := r.Ask(r.Pods[1], "tcp", VIP+":80", 3); !r.lacks(proxy.ClientAddresses) && out.Saw["10.10.0.2"] != 3 {
		r.T.Errorf("%+v: want the backend to see the pod that asked", out)
	}
}

// What clients met is counted by the service's port, of both families and protocols together.
func (r *run) traffic() {
	now := func() (t proxy.Traffic) {
		r.Must(r.Node.Do(func() error {
			all, err := r.b.Traffic()
			t = all["default/web:http"]
			return err
		}))
		return t
	}
	r.set(Service(nil, 1))
	before := now()
	for network, addr := range map[string]string{"tcp": VIP + ":80", "udp": "[" + VIP6 + "]:80"} {
		r.Ask(r.Pods[1], network, addr, 5)
	}
	r.Ask(r.Outside, "tcp", "192.0.2.1:30080", 5)
	got := now().Minus(before)
	if got.Connections != 15 || got.Failures != 0 {
		r.T.Errorf("%+v, want 15 connections", got)
	}
	if r.lacks(proxy.PacketCounts) != (got.PacketsIn == 0) {
		r.T.Errorf("%+v, and packets are lacking: %t", got, r.lacks(proxy.PacketCounts))
	}
	r.set(Service(nil))
	before = now()
	r.Ask(r.Pods[1], "tcp", VIP+":80", 3)
	if got := now().Minus(before); got.Connections != 0 || (got.Failures == 0) != r.lacks(proxy.RefusalCounts) {
		r.T.Errorf("without endpoints %+v, and their failures are lacking: %t", got, r.lacks(proxy.RefusalCounts))
	}
	// Nothing is lost with an endpoint that goes, nor when there are none for a while, and nobody needs to look meanwhile.
	for _, pods := range [][]int{{2}, {1, 2}, {}, {3}, {1}} {
		r.set(Service(nil, pods...))
		r.Ask(r.Pods[1], "tcp", VIP+":80", 5)
	}
	if got := now().Minus(before); got.Connections != 20 || (got.Failures < 8) != r.lacks(proxy.RefusalCounts) {
		r.T.Errorf("over changes %+v, want 20 connections", got)
	}
}

func (r *run) refuses() {
	r.set(Service(nil))
	for name, ns := range map[string]*netnstest.NS{"node": r.Node, "pod": r.Pods[0]} {
		for _, network := range []string{"tcp", "udp"} {
			for _, addr := range []string{VIP + ":80", "[" + VIP6 + "]:80", "192.0.2.1:30080"} {
				start := time.Now()
				out := r.Ask(ns, network, addr, 3)
				refused := out.Failed[syscall.ECONNREFUSED.Error()]
				if network == "udp" {
					refused += out.Failed[syscall.EPERM.Error()] // what the kernel says when it refuses a datagram of its own sockets
				}
				if refused != 3 || time.Since(start) > time.Second {
					r.T.Errorf("%s %s %s: failed %v in %s", name, network, addr, out.Failed, time.Since(start))
				}
			}
		}
	}
	if out := r.Ask(r.Outside, "tcp", "192.0.2.1:30080", 2); out.Failed[syscall.ECONNREFUSED.Error()] != 2 {
		r.T.Errorf("from outside: %+v", out)
	}
	r.set(Service(nil, 1)) // and it is over as soon as there is one
	if out := r.Ask(r.Pods[0], "udp", VIP+":80", 3); out.Who["10.10.0.1"] != 3 {
		r.T.Errorf("with one again: %+v", out)
	}
}

func (r *run) affinity() {
	stay := func(g *proxy.Group) { g.Affinity = time.Hour }
	for _, addr := range []string{VIP + ":80", "[" + VIP6 + "]:80"} {
		for _, network := range []string{"tcp", "udp"} {
			r.set(Service(stay)) // ends the flows of earlier steps: a datagram from the port of one would follow it
			r.set(Service(stay, 1, 2, 3))
			out := r.Ask(r.Pods[0], network, addr, 30)
			if len(out.Who) != 1 || len(out.Failed) > 0 {
				r.T.Fatalf("%s %s: %+v, want one backend", network, addr, out)
			}
			var chosen int
			for a := range out.Who {
				_, err := fmt.Sscanf(a[strings.LastIndexAny(a, ".:")+1:], "%d", &chosen)
				r.Must(err)
			}
			left := []int{chosen%3 + 1, (chosen+1)%3 + 1}
			if left[0] > left[1] {
				left[0], left[1] = left[1], left[0]
			}
			r.set(Service(stay, left...)) // without the chosen one
			before := r.Ask(r.Pods[0], network, addr, 30)
			if len(before.Who) != 1 || len(before.Failed) > 0 {
				r.T.Fatalf("%s %s: %+v after the chosen backend went: want one of the others to stay with", network, addr, before)
			}
			if !r.lacks(proxy.LastingAffinity) {
				r.open() // a restart forgets nothing
			}
			r.set(Service(stay, 1, 2, 3))
			after := r.Ask(r.Pods[0], network, addr, 30)
			for a := range before.Who {
				if after.Who[a] != 30 {
					r.T.Errorf("%s %s: %+v, want %s to go on", network, addr, after, a)
				}
			}
		}
	}
	r.set(Service(nil, 1, 2, 3)) // and it is over when it is not asked for any more
	if out := r.Ask(r.Pods[0], "tcp", VIP+":80", 40); len(out.Who) != 3 {
		r.T.Errorf("without affinity: %+v, want three answering", out)
	}
}

// Local: a client outside is seen as itself, by backends here only; with none here its packets are dropped, not refused.
func (r *run) externalLocal() {
	if r.lacks(proxy.ExternalLocal) {
		r.T.Skip("refused by name: proxy's TestLimits asserts it")
	}
	r.set(Local(1))
	for _, addr := range []string{"192.0.2.1:30080", "[fd02::1]:30080"} {
		out := r.Ask(r.Outside, "tcp", addr, 10)
		if len(out.Who) != 1 || out.Saw["192.0.2.9"]+out.Saw["fd02::9"] != 10 {
			r.T.Errorf("%s: %+v", addr, out)
		}
		if out := r.Ask(r.Pods[0], "tcp", addr, 40); len(out.Who) != 3 || len(out.Failed) > 0 {
			r.T.Errorf("%s from a pod: %+v, want all", addr, out)
		}
	}
	r.set(Local())
	if out := r.AskInVain(r.Outside, "tcp", "192.0.2.1:30080"); out.Failed[os.ErrDeadlineExceeded.Error()] != 1 {
		r.T.Errorf("with no backend here: %+v, want silence", out)
	}
	if out := r.Ask(r.Node, "tcp", "192.0.2.1:30080", 40); len(out.Who) != 3 {
		r.T.Errorf("from the node: %+v, want all", out)
	}
}

func (r *run) sourceRanges() {
	ranges := func(list ...string) proxy.Model { // who may ask is asked of clients outside only
		m := Service(nil, 1)
		for name, g := range Service(nil, 1) {
			limited := *g
			limited.Frontends = []proxy.Frontend{m[name].Frontends[1]}
			limited.Frontends[0].Scope = proxy.Outside
			for _, s := range list {
				limited.Sources = append(limited.Sources, netip.MustParsePrefix(s))
			}
			m[name].Frontends[1].Scope = proxy.Inside
			m[name+"/balancer"] = &limited
		}
		return m
	}
	for _, tt := range []struct {
		ranges []string
		v4, v6 bool
	}{
		{[]string{"192.0.2.0/24", "192.0.2.0/28", "192.0.2.0/24"}, true, false}, // one within another, one twice
		{[]string{"203.0.113.0/24", "fd02::9/128"}, false, true},
		{[]string{"0.0.0.0/0", "::/0"}, true, true},
	} {
		r.set(ranges(tt.ranges...))
		for addr, want := range map[string]bool{"192.0.2.50:80": tt.v4, "[fd02::50]:80": tt.v6} {
			ask := func() Outcome { return r.Ask(r.Outside, "tcp", addr, 1) }
			if !want {
				ask = func() Outcome { return r.AskInVain(r.Outside, "tcp", addr) }
			}
			if out := ask(); (len(out.Who) == 1) != want {
				r.T.Errorf("%v: %s: %+v", tt.ranges, addr, out)
			}
		}
	}
	r.set(ranges("203.0.113.0/24"))
	if out := r.AskInVain(r.Outside, "udp", "192.0.2.50:80"); len(out.Who) != 0 {
		r.T.Errorf("by UDP: %+v", out)
	}
	if out := r.Ask(r.Pods[0], "tcp", "192.0.2.50:80", 1); len(out.Who) != 1 {
		r.T.Error("a pod is refused: ranges are for clients outside")
	}
}

// A client of UDP that never pauses goes on to another backend when its own is gone, and gets one when there was none.
func (r *run) flowsEnd() {
	if r.lacks(proxy.ConnectedUDP) {
		r.T.Skip("a limit of the mode")
	}
	r.set(Service(nil, 1))
	var c net.Conn
	r.Must(r.Pods[1].Do(func() (err error) {
		c, err = net.Dial("udp", VIP+":80")
		return err
	}))
	defer c.Close()
	answer := func(tries int) string {
		buf := make([]byte, 100)
		for range tries {
			_, _ = c.Write([]byte("?"))
			_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if n, err := c.Read(buf); err == nil {
				return string(buf[:n])
			}
		}
		return "nothing"
	}
	for _, pods := range [][]int{{1}, {2}, {3}, {}, {1}} {
		r.set(Service(nil, pods...))
		for old := make([]byte, 100); ; { // what was answered late, to an earlier question, says nothing of now
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, err := c.Read(old); err != nil {
				break
			}
		}
		want, tries := "nothing", 5
		if len(pods) > 0 {
			tries = 20
			want = fmt.Sprintf("10.10.0.%d<", pods[0])
		}
		if got := answer(tries); !strings.HasPrefix(got, want) {
			r.T.Errorf("backends %v: %s answered, want %s", pods, got, want)
		}
	}
}

// An address that goes from one group to another is never without one; one that two groups want is the first one's.
func (r *run) changesHands() {
	group := func(i int) *proxy.Group {
		return &proxy.Group{
			Frontends: []proxy.Frontend{{Addr: netip.MustParseAddr(VIP), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}},
			Backends:  []netip.AddrPort{netip.MustParseAddrPort(fmt.Sprintf("10.10.0.%d:8080", i))},
		}
	}
	want := func(step, a string) {
		r.T.Helper()
		if out := r.Ask(r.Node, "tcp", VIP+":80", 3); out.Who[a] != 3 {
			r.T.Errorf("%s: %+v, want %s", step, out, a)
		}
	}
	first, second := group(1), group(2)
	r.set(proxy.Model{"a": first})
	want("one group", "10.10.0.1")
	r.set(proxy.Model{"a": first, "b": second})
	want("two want it", "10.10.0.1")
	r.set(proxy.Model{"b": second})
	want("the first let go", "10.10.0.2")
	r.set(proxy.Model{"c": group(3)})
	want("another at once", "10.10.0.3")
}

func (r *run) underChange() {
	r.set(Service(nil, 1, 2))
	finish := r.Client(r.Pods[0], "tcp", VIP+":80")
	var slowest time.Duration
	for i := range r.mode.Changes {
		list := [][]int{{1, 2}, {2, 3}, {1, 3}, {1, 2, 3}}[i%4]
		start := time.Now()
		r.set(Service(nil, list...))
		_, err := r.b.Sweep(time.Now())
		r.Must(err)
		slowest = max(slowest, time.Since(start))
		if i%10 == 9 && !r.lacks(proxy.Restart) {
			r.open()
		}
		time.Sleep(3 * time.Millisecond)
	}
	out, n := finish(), 0
	for _, times := range out.Who {
		n += times
	}
	if len(out.Failed) > 0 || n < r.mode.Changes {
		r.T.Errorf("%d answers, failures %v", n, out.Failed)
	}
	r.T.Logf("%d answers, slowest change %s", n, slowest)
}

// What goes is not answered any more, nor is what an earlier process knew of and this one does not.
func (r *run) serviceGoes() {
	more := Service(nil, 1, 2)
	more["gone"] = &proxy.Group{Port: "default/gone", Affinity: time.Minute,
		Frontends: []proxy.Frontend{{Addr: netip.MustParseAddr("10.96.0.51"), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}},
		Backends:  more["4/TCP"].Backends, Here: more["4/TCP"].Here,
	}
	for _, restart := range []bool{false, true} {
		r.set(more)
		if out := r.Ask(r.Node, "tcp", "10.96.0.51:80", 1); len(out.Who) != 1 {
			r.T.Fatalf("a second service: %+v", out)
		}
		if restart {
			if r.lacks(proxy.Restart) {
				continue
			}
			r.open()
		}
		r.set(Service(nil, 1, 2))
		if out := r.AskInVain(r.Node, "tcp", "10.96.0.51:80"); len(out.Who) != 0 {
			r.T.Errorf("a service that is gone, after a restart %v: %+v", restart, out)
		}
		if out := r.Ask(r.Node, "tcp", VIP+":80", 3); len(out.Failed) != 0 {
			r.T.Errorf("the one that stays: %+v", out)
		}
	}
}

func (r *run) removal() {
	r.set(Service(nil, 1))
	for range 2 { // twice is no error
		r.Must(r.Node.Do(func() error { return r.mode.Remove(r.Rig) }))
		r.Must(r.Node.Do(func() error {
			left, err := r.mode.Left(r.Rig)
			if left != "" {
				r.T.Errorf("left: %s", left)
			}
			return err
		}))
	}
}
