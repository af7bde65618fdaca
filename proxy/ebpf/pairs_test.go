package ebpf

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

// pairs has connections with the other node's pods go past the node's stack, or begin no more that do.
func (f *field) pairs(on bool) {
	f.t.Helper()
	f.past(true)
	f.node.Must(f.node.Do(func() error {
		return f.lb.SetPairs([]netip.Prefix{netip.MustParsePrefix("10.1.1.0/24"), netip.MustParsePrefix("fd10:1::/64")}, on)
	}))
}

// Pods of two nodes connect to each other past the stack, whoever begins; the rest of what they send goes by it.
func TestKernelPairsOfPods(t *testing.T) {
	each(t, func(t *testing.T, f *field) {
		f.set(published(nil, 1, 2))
		f.pairs(true)
		rules(f.node, closed)
		pod1, pod3 := f.pods[0], f.pods[2]
		for _, way := range []struct {
			from *netnstest.NS
			to   string
			saw  string
		}{
			{pod1, "10.1.1.2:8080", "10.1.0.2"}, {pod1, "[fd10:1::2]:8080", "fd10::2"}, {pod3, "10.1.0.2:8080", "10.1.1.2"}, {pod3, "[fd10::2]:8080", "fd10:1::2"},
		} {
			if got := way.from.Ask("tcp", way.to, 10); len(got.Failed) > 0 || got.Saw[way.saw] != 10 {
				t.Errorf("tcp to %s: %+v, want %s seen; %v", way.to, got, way.saw, f.counters())
			}
		}
		if got := pod1.Ask("udp", "10.1.1.2:8080", 1); len(got.Failed) == 0 {
			t.Errorf("datagrams to 10.1.1.2 have gone past the node's rules: %+v", got)
		}
		if got := pod1.Ask("tcp", "198.51.100.9:1", 1); got.Failed[syscall.ECONNREFUSED.Error()] != 0 { // the client is no pod
			t.Errorf("a client outside was reached past the node's rules: %+v", got)
		}
	})
}

// talkers connects namespaces to addresses that send back what they get, and returns what has each connection carry so many bytes, both ways.
func (f *field) talkers(to map[*netnstest.NS]string) func(when string, size int) {
	f.t.Helper()
	all := map[string]net.Conn{}
	for ns, addr := range to {
		ns.Must(ns.Do(func() error {
			c, err := net.DialTimeout("tcp", addr, 3*time.Second)
			if err == nil {
				all[addr] = c
				f.t.Cleanup(func() { c.Close() })
			}
			return err
		}))
	}
	return func(when string, size int) {
		f.t.Helper()
		out := bytes.Repeat([]byte(when), size/len(when)+1)
		for addr, c := range all {
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			written := make(chan error, 1)
			go func() {
				_, err := c.Write(out)
				written <- err
			}()
			in := make([]byte, len(out))
			_, err := io.ReadFull(c, in)
			if err = errors.Join(err, <-written); err != nil || !bytes.Equal(in, out) {
				f.t.Fatalf("%s: what %s sends back of %d bytes: %v; %v", when, addr, len(out), err, f.counters())
			}
		}
	}
}

// narrow has the nodes' network take shorter packets. What is too long is the stack's, which says so.
func (f *field) narrow() {
	f.node.SetMTU("up", 1300)
	f.other.SetMTU("up", 1300)
}

// Connections stay on their way, with bulk both ways, while the way of others changes and the agent restarts; and the kernel goes on to find out whether the next hop is
// who it was.
func TestKernelPairsStayOnTheirWay(t *testing.T) {
	f := newField(t, "")
	f.set(published(nil, 1))
	f.pods[2].Echoes("10.1.1.2:9090")
	f.pods[0].Echoes("10.1.0.2:9090")
	f.pairs(true)
	talk := f.talkers(map[*netnstest.NS]string{f.pods[0]: "10.1.1.2:9090", f.pods[2]: "10.1.0.2:9090"})
	rules(f.node, closed)
	talk("past the stack", 1<<20)
	f.open()
	talk("while the agent is away", 1<<20)
	f.set(published(nil, 1))
	f.pairs(false)
	talk("while others go by the stack", 1<<20)
	rules(f.node, "delete table inet closed\n")
	next := func() *netlink.Neigh {
		t.Helper()
		list, err := f.node.NL.NeighList(f.node.Link("up").Attrs().Index, netlink.FAMILY_V4)
		f.node.Must(err)
		for _, n := range list {
			if n.IP.Equal(net.IPv4(192, 0, 2, 2)) {
				return &n
			}
		}
		t.Fatal("the next hop is not known")
		return nil
	}
	n := next()
	n.State = netlink.NUD_STALE
	f.node.Must(f.node.NL.NeighSet(n))
	talk("by a neighbour that has not been heard of for long", 1<<10)
	if n := next(); n.State == netlink.NUD_STALE {
		t.Errorf("nobody asks whether the next hop still is who it was: %v", n)
	}
	f.narrow()
	talk("through a narrow link", 1<<20)
}
