package packetlb

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

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
		b.lb, err = Open(Config{PinDir: pins, Attach: TCX})
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
	nodes := []netip.Addr{netip.MustParseAddr(node), netip.MustParseAddr(node6)}
	must(b.svc.SetNodes(append(nodes, netip.MustParseAddr("192.0.2.2")), nodes))
	must(b.lb.SetMasquerade(nodes))
	for i, list := range [][]string{{here}, {there}, nil, {here6}, {there6}, {here, there}} {
		b.service(uint32(i+1), list...)
	}
	return b
}

// service makes a generation of that number, for a service of that number.
func (b *bench) service(id uint32, list ...string) {
	b.t.Helper()
	var eps []socklb.Backend
	for _, s := range list {
		eps = append(eps, socklb.Backend{AddrPort: ap(s), Here: s == here || s == here6})
		if err := b.svc.PutMember(id, ap(s)); err != nil {
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
	ret, err := prog.Run(opts)
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
		prog := map[string]*ebpf.Program{"outside": b.objs.FromOutsideNow, "pod": b.objs.FromPodNow, "out": b.objs.ToDeviceNow}[s.prog]
		out, action, why := b.run(prog, s.in)
		got := "drop"
		if action == -1 {
			got = show(t, out)
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

func TestKernelNodePortHere(t *testing.T) {
	b := newBench(t)
	b.lead("0.0.0.0:30080", true, socklb.Entry{Service: 1, Count: 1})
	for _, proto := range []uint8{tcp, udp} {
		ask := pkt{src: ap(client), dst: ap(node + ":30080"), proto: proto, flags: syn, data: "x"}
		b.steps(t,
			step{"outside", frame(ask.ip()), client + " > " + here, "started"},
			step{"out", frame(pkt{src: ap(here), dst: ap(client), proto: proto, flags: syn | ack}.ip()), node + ":30080 > " + client, "reply"},
			step{"outside", frame(pkt{src: ap(client), dst: ap(node + ":30080"), proto: proto, flags: ack, data: "odd"}.ip()), client + " > " + here, "request"},
		)
	}
}
