package ebpf

import (
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
	"github.com/orlop-io/orlop/bpf/packetlb"
	"github.com/orlop-io/orlop/bpf/podnet"
	"github.com/orlop-io/orlop/proxy"
)

// past has packets from outside go straight into pods, or, for flows that begin, by the node's stack.
func (f *field) past(on bool) {
	f.t.Helper()
	dir := f.t.TempDir()
	for i, pod := range f.pods {
		f.node.Must(os.Symlink(pod.Path(), filepath.Join(dir, fmt.Sprint(i))))
	}
	f.node.Must(f.node.Do(func() error {
		devices, err := f.lb.Sync([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd10::/64")})
		if err != nil {
			return err
		}
		found, err := podnet.NewLister(podnet.Config{Folders: []string{dir}, Proc: "/proc"}).List(true)
		if err != nil {
			return err
		}
		shapes, err := f.lb.Shapes()
		if err != nil {
			return err
		}
		peers, why := packetlb.PeersOf(found, shapes, devices, func(packetlb.Shape, packetlb.Shape) bool { return true })
		if len(peers) != 4 {
			return fmt.Errorf("%d addresses of pods, not 4: %v %v", len(peers), peers, why)
		}
		return f.lb.SetPast(peers, on)
	}))
}

// rules loads nftables rules in a namespace.
func rules(ns *netnstest.NS, text string) {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	ns.Must(ns.Start(cmd))
	ns.Must(cmd.Wait())
}

// closed is a node that forwards nothing, so that what passes has gone past its stack; and what did go by it would lose its source.
const closed = `table inet closed {
 chain forward {
  type filter hook forward priority 0; policy drop;
 }
 chain post {
  type nat hook postrouting priority 100;
  masquerade
 }
}
`

// Clients outside reach pods of the node past its stack, and are seen by their own address, at every kind of service.
func TestKernelPastTheStack(t *testing.T) {
	each(t, func(t *testing.T, f *field) {
		f.announce()
		f.set(published(nil, 1, 2))
		f.past(true)
		rules(f.node, closed)
		for _, network := range []string{"tcp", "udp"} {
			for _, addr := range []string{"192.0.2.1:30080", "[fd02::1]:30080", "203.0.113.50:80", "[fd03::50]:80"} {
				if got := f.client.Ask(network, addr, 20); len(got.Who) != 2 || len(got.Failed) > 0 || got.Saw[clientAddr]+got.Saw[clientAddr6] != 20 {
					t.Errorf("%s %s: %+v %v", network, addr, got, f.counters())
				}
			}
		}
		// A pod that is made anew at the same address while nobody looks is reached by the stack.
		f.node.Must(f.node.NL.LinkDel(f.node.Link("orl1")))
		again := netnstest.New(t)
		again.Sysctl("ipv6/conf/default/accept_dad", "0")
		f.node.Join("orl7", "orlop0", again, "eth0")
		again.Addrs("eth0", "10.1.0.2/24")
		again.Route("default", "10.1.0.1")
		again.Serve("10.1.0.2:8080")
		rules(f.node, "delete table inet closed\n")
		again.Meet("10.1.0.1:1") // its question has the node know the new link's address, as a pod's announcement does
		f.set(published(nil, 1))
		if got := f.client.Ask("tcp", "192.0.2.1:30080", 5); got.Who["10.1.0.2"] != 5 {
			t.Errorf("the new pod: %+v %v", got, f.counters())
		}
	})
}

// Connections live on whichever way they have begun, while the way of others changes and the agent restarts.
func TestKernelFlowsStayOnTheirWay(t *testing.T) {
	f := newField(t, "")
	f.pods[0].Echoes("10.1.0.2:9090")
	m := published(nil, 1)
	for _, g := range m {
		for i, b := range g.Backends {
			g.Backends[i] = netip.AddrPortFrom(b.Addr(), 9090)
		}
	}
	f.set(m)
	rules(f.node, "table inet post {\n chain post {\n type nat hook postrouting priority 100;\n oifname \"up\" ip saddr 10.1.0.0/24 masquerade\n }\n}\n")
	var all []net.Conn
	dial := func() {
		t.Helper()
		for _, network := range []string{"tcp", "udp"} {
			f.client.Must(f.client.Do(func() error {
				c, err := net.Dial(network, "192.0.2.1:30080")
				if err == nil {
					all = append(all, c)
					t.Cleanup(func() { c.Close() })
				}
				return err
			}))
		}
	}
	talk := func(when string) {
		t.Helper()
		for i, c := range all {
			text := fmt.Sprint(when, i)
			buf := make([]byte, len(text))
			_ = c.SetDeadline(time.Now().Add(3 * time.Second))
			if _, err := c.Write([]byte(text)); err != nil {
				t.Fatalf("%s: connection %d: %v", when, i, err)
			}
			if _, err := io.ReadFull(c, buf); err != nil || string(buf) != text {
				t.Fatalf("%s: connection %d: %q, %v %v", when, i, buf, err, f.counters())
			}
		}
	}
	dial()
	talk("by the stack")
	f.past(true)
	talk("beside others past it")
	dial()
	talk("past it")
	f.open()
	talk("while the agent is away")
	f.set(m)
	f.past(false)
	talk("while others go by it")
	dial()
	talk("by it, too")
	time.Sleep(1100 * time.Millisecond) // parts of flows are written again
	talk("a second later")
}

// Pods ask each other, and themselves, as before.
func TestKernelPodsBesidesThoseReachedPastTheStack(t *testing.T) {
	f := newField(t, "")
	f.set(published(nil, 1))
	f.past(true)
	if got := f.client.Ask("tcp", "192.0.2.1:30080", 5); got.Who["10.1.0.2"] != 5 {
		t.Fatalf("%+v", got)
	}
	for pod, saw := range []string{"192.0.2.1", "10.1.0.3"} {
		if got := f.pods[pod].Ask("tcp", vip+":80", 5); got.Who["10.1.0.2"] != 5 || got.Saw[saw] != 5 {
			t.Errorf("pod %d: %+v, want %s seen", pod, got, saw)
		}
	}
	f.set(published(func(g *proxy.Group) { // where nobody listens: what the pod says of it finds the client
		for i, b := range g.Backends {
			g.Backends[i] = netip.AddrPortFrom(b.Addr(), 9)
		}
	}, 1))
	for _, network := range []string{"tcp", "udp"} {
		for _, at := range []string{"192.0.2.1:30080", "[fd02::1]:30080"} {
			if got := f.client.Ask(network, at, 1); got.Failed[syscall.ECONNREFUSED.Error()] != 1 {
				t.Errorf("%s %s: %+v, want refusal: %v", network, at, got, f.counters())
			}
		}
	}
	f.router.Route("10.1.0.0/24", "192.0.2.1")
	if got := f.client.Ask("tcp", "10.1.0.2:8080", 5); got.Who["10.1.0.2"] != 5 {
		t.Errorf("by its own address: %+v", got)
	}
}
