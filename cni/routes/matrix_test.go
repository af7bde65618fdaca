package routes

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/cni/nat"
	"github.com/orlop-io/orlop/cni/plugintest"
)

func TestMain(m *testing.M) { plugintest.Main(m) }

var allPods = []netip.Prefix{prefix("10.244.0.0/16"), prefix("fd00:244::/32")}

// end is a place that packets come from and go to.
type end struct {
	name  string
	ns    *netnstest.NS
	node  *labNode // that it is on, or is; nil outside
	pod   bool
	addrs []netip.Addr
}

// addPod runs the plugin, as a runtime does where the agent wrote the configuration.
func (n *labNode) addPod(routeMTU int) end {
	t := n.lab.t
	t.Helper()
	bin := plugintest.Program(t)
	pod := n.lab.namespace()
	conf, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "orlop", "type": "orlop-cni", "bridge": "orlop0", "podCIDRs": n.node.Pods, "ipMasq": true,
		"directCIDRs": allPods, "bridgeNetfilter": "off", "mtu": 1500, "routeMTU": routeMTU, "stateDir": t.TempDir(),
	})
	must(t, err)
	var out bytes.Buffer
	cmd := exec.Command(bin)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(conf), &out, &out
	cmd.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + n.node.Name, "CNI_NETNS=" + pod.Path(), "CNI_IFNAME=eth0", "CNI_PATH=/"}
	must(t, n.Start(cmd))
	if err := cmd.Wait(); err != nil {
		t.Fatalf("ADD: %v: %s", err, out.String())
	}
	var result struct{ IPs []struct{ Address string } }
	must(t, json.Unmarshal(out.Bytes(), &result))
	e := end{name: "pod of " + n.node.Name, ns: pod, node: n, pod: true}
	for _, ip := range result.IPs {
		e.addrs = append(e.addrs, prefix(ip.Address).Addr())
	}
	return e
}

// populate gives each node a pod and the rules that the agent makes, and has everybody answer.
func (l *lab) populate(routeMTU int) []end {
	l.t.Helper()
	var nodes []netip.Addr
	for _, n := range l.nodes {
		nodes = append(nodes, n.node.Addrs...)
	}
	var ends []end
	for _, n := range l.nodes {
		ends = append(ends, n.addPod(routeMTU), end{name: n.node.Name, ns: n.NS, node: n, addrs: n.node.Addrs})
		table := nat.New("orlop")
		must(l.t, n.Do(func() error {
			_, err := table.Ensure(nat.Config{Bridge: "orlop0", Subnets: n.node.Pods, Masquerade: true, Direct: allPods})
			return err
		}), n.Do(func() error { return table.SetNodes(nodes) }))
	}
	ends = append(ends, end{name: "outside", ns: l.outside, addrs: []netip.Addr{addr("203.0.113.1"), addr("2001:db8:113::1")}})
	for _, e := range ends {
		serve(l.t, e.ns, e.addrs)
	}
	return ends
}

// seenAs is the address that to must see of from.
func seenAs(from, to end, v4 bool) netip.Addr {
	pick := func(addrs []netip.Addr) netip.Addr { return Node{Addrs: addrs}.addr(v4) }
	switch {
	case from.pod && to.node != nil:
		return pick(from.addrs) // pods and nodes see pods as they are
	case from.pod:
		return pick(from.node.node.Addrs) // the outside sees the node
	case to.pod && from.node == to.node:
		return pick([]netip.Addr{from.node.node.Pods[0].Addr().Next(), from.node.node.Pods[1].Addr().Next()}) // the bridge
	}
	return pick(from.addrs)
}

// all sends everything from everywhere a packet may go to everywhere, and says what came out otherwise.
// With learning the first packet that is too long may be lost: it is what tells the sender.
func (l *lab) all(ends []end, learning bool) {
	l.t.Helper()
	start, count := time.Now(), 0
	for _, from := range ends {
		for _, to := range ends {
			if from.node == nil || !from.pod && !to.pod { // nobody is behind a NAT, and nodes are the lab's business
				continue
			}
			for _, a := range to.addrs {
				want := seenAs(from, to, a.Is4())
				if !want.IsValid() {
					continue
				}
				for _, try := range []struct {
					network string
					size    int
				}{{"tcp", 10}, {"tcp", 256 << 10}, {"udp", 100}, {"udp", 1472}, {"udp", 8000}} {
					count++
					seen, err := ask(from.ns, try.network, a, try.size)
					if err != nil && learning && try.size > 1400 {
						seen, err = ask(from.ns, try.network, a, try.size)
					}
					if err != nil || seen != want.String() {
						l.t.Errorf("%s to %s, %s, %d bytes: seen as %q, want %s, %v", from.name, to.name, try.network, try.size, seen, want, err)
					}
				}
				for _, size := range []int{56, 1472, 3000} {
					count++
					err := ping(from.ns, a, size)
					if err != nil && learning && size > 1400 {
						err = ping(from.ns, a, size)
					}
					if err != nil {
						l.t.Errorf("%s to %s, %d bytes of ICMP: %v", from.name, to.name, size, err)
					}
				}
			}
		}
	}
	l.t.Logf("%d exchanges in %s", count, time.Since(start).Round(time.Millisecond))
}

// TestKernelMatrix: pods, nodes and the outside reach each other by both families, TCP, UDP and ICMP, with packets of all sizes, and see the
// address that they should.
func TestKernelMatrix(t *testing.T) {
	always := DefaultOverlay()
	always.When = Always
	for _, tt := range []struct {
		name     string
		lans     []int
		o        Overlay
		routeMTU int
		families int // of nodes' addresses: 4 and 6, or one
	}{
		{"two on a link, one behind routers", []int{0, 0, 1}, DefaultOverlay(), 1450, 46},
		{"pods from before the overlay", []int{0, 0, 1}, DefaultOverlay(), 0, 46},
		{"an overlay on one link", []int{0, 0, 0}, always, 1450, 46},
		{"an overlay over IPv6", []int{0, 0, 1}, always, 1430, 6},
		{"an overlay over IPv4 alone", []int{0, 0, 1}, DefaultOverlay(), 1450, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, tt.lans...)
			for _, n := range l.nodes {
				switch tt.families {
				case 4:
					n.node.Addrs = n.node.Addrs[:1]
				case 6:
					n.node.Addrs = n.node.Addrs[1:]
				}
			}
			l.run(tt.o)
			l.converge("nodes", tt.o)
			l.all(l.populate(tt.routeMTU), tt.routeMTU == 0)
		})
	}
}

// TestKernelSmallLinkInTheMiddle: a link between routers takes less than nodes know. The agent finds out, nodes tell pods, and no packet is
// cut on its way, by either family inside or outside.
func TestKernelSmallLinkInTheMiddle(t *testing.T) {
	for _, outside := range []int{4, 6} {
		t.Run(fmt.Sprintf("over IPv%d", outside), func(t *testing.T) {
			l := newLab(t, 0, 1)
			for _, r := range l.routers {
				l.mtu(r, "core", 1400)
			}
			mtu := 1400 - overhead4
			if outside == 6 {
				mtu = 1400 - overhead6
				for _, n := range l.nodes {
					n.node.Addrs = n.node.Addrs[1:]
				}
			}
			l.run(DefaultOverlay())
			ends := l.populate(1450)
			from, to := ends[0], ends[2]
			for _, pods := range to.node.node.Pods {
				l.within(fmt.Sprintf("the way to %s", pods), func() error {
					s, err := l.nodes[0].k.State()
					if r, ok := s[Route{Dst: pods}.key()].(Route); err != nil || !ok || r.MTU != mtu {
						return fmt.Errorf("%s, want mtu %d, %w", r, mtu, err)
					}
					return nil
				})
			}
			for _, a := range to.addrs {
				if seen, err := ask(from.ns, "tcp", a, 1<<20); err != nil || seen != seenAs(from, to, a.Is4()).String() {
					t.Errorf("a MiB to %s: %q, %v", a, seen, err)
				}
				for size := range 3 { // the first of a size may be lost: it is what tells the sender
					_, err := ask(from.ns, "udp", a, 1390)
					if err != nil && size > 0 {
						t.Errorf("a datagram of 1390 bytes to %s: %v", a, err)
					}
				}
			}
			if n := l.fragments(); n > 0 {
				t.Errorf("routers made %d fragments", n)
			}
			for _, r := range l.routers {
				l.mtu(r, "core", 1360)
			}
			for _, a := range to.addrs { // nobody has looked yet; over IPv4 packets go in pieces meanwhile
				if seen, err := ask(from.ns, "tcp", a, 1<<20); err != nil || seen != seenAs(from, to, a.Is4()).String() {
					t.Errorf("a MiB to %s, when the way has just become smaller: %q, %v", a, seen, err)
				}
			}
		})
	}
}

// fragments counts those that the routers made of IPv4 packets.
func (l *lab) fragments() (n int) {
	for _, r := range l.routers {
		must(l.t, r.Do(func() error {
			b, err := os.ReadFile("/proc/thread-self/net/snmp")
			if err != nil {
				return err
			}
			var names []string
			for line := range strings.Lines(string(b)) {
				f := strings.Fields(line)
				if f[0] != "Ip:" {
					continue
				}
				for i, name := range names {
					var v int
					if _, err := fmt.Sscan(f[i], &v); err == nil && name == "FragCreates" {
						n += v
					}
				}
				names = f
			}
			return nil
		}))
	}
	return n
}
