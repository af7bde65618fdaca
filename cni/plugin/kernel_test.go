package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/orlop-io/orlop/cni/plugintest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// omitted stands for a key that a configuration does not have.
const omitted = "\x00"

// bench is a node and the built plugin, driven as a runtime drives it.
type bench struct {
	t    *testing.T
	node *netnstest.NS
	bin  string
	conf map[string]any
	path string // CNI_PATH
}

func TestMain(m *testing.M) { plugintest.Main(m) }

func newBench(t *testing.T) *bench {
	t.Helper()
	netnstest.RequireRoot(t)
	bin := plugintest.Program(t)
	b := &bench{t: t, node: netnstest.New(t), bin: bin, path: "/opt/cni/bin"}
	b.conf = map[string]any{
		"cniVersion": "1.1.0", "name": "test", "type": "orlop-cni", "podCIDRs": []string{"10.77.0.0/24"},
		"stateDir": t.TempDir(), "bridgeNetfilter": "off",
	}
	return b
}

type result struct {
	CNIVersion string
	Interfaces []struct{ Name, Mac, Sandbox string }
	IPs        []struct{ Address, Gateway string }
}

// run calls a verb; extra goes over the configuration.
func (b *bench) run(verb, id, path string, extra map[string]any) ([]byte, error) {
	var out, errOut bytes.Buffer
	cmd := b.command(verb, id, path, extra)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := b.node.Start(cmd); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return out.Bytes(), fmt.Errorf("%s %s: %w: %s%s", verb, id, err, out.String(), errOut.String())
	}
	return out.Bytes(), nil
}

func (b *bench) must(verb, id, path string, extra map[string]any) []byte {
	b.t.Helper()
	out, err := b.run(verb, id, path, extra)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *bench) add(id string, pod *netnstest.NS, extra map[string]any) (net.IP, []byte) {
	b.t.Helper()
	out := b.must("ADD", id, pod.Path(), extra)
	var r result
	if err := json.Unmarshal(out, &r); err != nil || len(r.IPs) == 0 {
		b.t.Fatalf("result %s: %v", out, err)
	}
	ip, _, err := net.ParseCIDR(r.IPs[0].Address)
	if err != nil {
		b.t.Fatal(err)
	}
	return ip, out
}

// links counts the node's ends of pods' links that are in use; what DEL left to a living namespace is not.
func (b *bench) links() int {
	b.t.Helper()
	ls, err := b.node.NL.LinkList()
	if err != nil {
		b.t.Fatal(err)
	}
	n := 0
	for _, l := range ls {
		if l.Type() == "veth" && strings.HasPrefix(l.Attrs().Name, hostPrefix) && l.Attrs().MasterIndex != 0 {
			n++
		}
	}
	return n
}

func (b *bench) leases() int {
	b.t.Helper()
	fs, err := filepath.Glob(filepath.Join(b.conf["stateDir"].(string), "test", "*", "addrs", "*"))
	if err != nil {
		b.t.Fatal(err)
	}
	return len(fs)
}

// serve answers each connection in ns with the address it comes from.
func serve(t *testing.T, ns *netnstest.NS, addr string) {
	t.Helper()
	err := ns.Do(func() error {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
				c.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func ask(ns *netnstest.NS, local, addr string) (string, error) {
	var answer []byte
	err := ns.Do(func() error {
		d := net.Dialer{Timeout: 3 * time.Second}
		if local != "" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(local)}
		}
		c, err := d.Dial("tcp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		answer, err = io.ReadAll(c)
		return err
	})
	return string(answer), err
}

func wantAnswer(t *testing.T, ns *netnstest.NS, local, addr, want string) {
	t.Helper()
	if got, err := ask(ns, local, addr); err != nil || got != want {
		t.Errorf("ask %s: got %q, %v; want %q", addr, got, err, want)
	}
}

func TestKernelPodsSeeEachOthersAddress(t *testing.T) {
	b := newBench(t)
	p1, p2 := netnstest.New(t), netnstest.New(t)
	ip1, out := b.add("c1", p1, nil)
	ip2, _ := b.add("c2", p2, nil)
	serve(t, p2, ":80")
	serve(t, b.node, ":81")
	wantAnswer(t, p1, "", ip2.String()+":80", ip1.String())
	wantAnswer(t, b.node, "", ip2.String()+":80", "10.77.0.1")
	wantAnswer(t, p1, "", "10.77.0.1:81", ip1.String())

	var prev any
	if err := json.Unmarshal(out, &prev); err != nil {
		t.Fatal(err)
	}
	b.must("CHECK", "c1", p1.Path(), map[string]any{"prevResult": prev})
	if _, err := b.run("ADD", "c1", p1.Path(), nil); err == nil || !strings.Contains(err.Error(), "exists in the container") {
		t.Errorf("second ADD: %v", err)
	}
	for range 2 {
		b.must("DEL", "c1", p1.Path(), nil)
	}
	if _, err := b.run("CHECK", "c1", p1.Path(), map[string]any{"prevResult": prev}); err == nil {
		t.Error("CHECK passes after DEL")
	}
	if b.links() != 1 || b.leases() != 1 {
		t.Errorf("%d links, %d leases after DEL of one of two", b.links(), b.leases())
	}
	b.must("DEL", "c2", "/proc/1/no-such-namespace", nil)
	if b.leases() != 0 {
		t.Errorf("%d leases after DEL without a namespace", b.leases())
	}
}

// settled waits for a link's own address of IPv6, by which its neighbours are asked for, less long than the kernel looks for another that has it.
func (b *bench) settled(name string) {
	b.t.Helper()
	var list []netlink.Addr
	for end := time.Now().Add(900 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		var err error
		if list, err = b.node.NL.AddrList(b.node.Link(name), netlink.FAMILY_V6); err != nil {
			b.t.Fatal(err)
		}
		for _, a := range list {
			if a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
				return
			}
		}
	}
	b.t.Errorf("%s has no address of the link that is ready: %v", name, list)
}

func TestKernelBothFamilies(t *testing.T) {
	b := newBench(t)
	b.conf["podCIDRs"], b.conf["ipMasq"] = []string{"10.77.0.0/24", "fd77::/64"}, true
	out := b.outside()
	p1, p2 := netnstest.New(t), netnstest.New(t)
	b.add("c1", p1, nil)
	b.settled("orlop0")
	b.add("c2", p2, map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80}}}})
	serve(t, p2, "[::]:80")
	serve(t, out, "[::]:90")
	for _, ns := range []*netnstest.NS{b.node, out} {
		l, err := ns.NL.LinkByName("up0")
		if err != nil {
			t.Fatal(err)
		}
		a := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(map[bool]string{true: "fd88::1", false: "fd88::2"}[ns == b.node]), Mask: net.CIDRMask(64, 128)}, Flags: syscall.IFA_F_NODAD}
		if err := ns.NL.AddrAdd(l, a); err != nil {
			t.Fatal(err)
		}
	}
	wantAnswer(t, p1, "", "[fd77::3]:80", "fd77::2")
	wantAnswer(t, p1, "", "10.77.0.3:80", "10.77.0.2")
	wantAnswer(t, p1, "", "[fd88::2]:90", "fd88::1")
	wantAnswer(t, out, "", "[fd88::1]:8080", "fd88::2")
	wantAnswer(t, p1, "", "[fd88::1]:8080", "fd77::1")
	b.must("DEL", "c1", p1.Path(), nil)
	b.must("DEL", "c2", p2.Path(), nil)
	if b.links() != 0 || b.leases() != 0 {
		t.Errorf("%d links, %d leases", b.links(), b.leases())
	}
}

func TestKernelOlderResults(t *testing.T) {
	b := newBench(t)
	for _, v := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		out := b.must("ADD", "c"+v, netnstest.New(t).Path(), map[string]any{"cniVersion": v})
		var r result
		if err := json.Unmarshal(out, &r); err != nil || r.CNIVersion != v || len(r.Interfaces) != 3 {
			t.Errorf("%s: %s, %v", v, out, err)
		}
	}
}

func TestKernelRulesFollowTheConfiguration(t *testing.T) {
	b := newBench(t)
	b.conf["ipMasq"] = true
	out := b.outside()
	pod := netnstest.New(t)
	ip, _ := b.add("c1", pod, nil)
	serve(t, out, ":90")
	wantAnswer(t, pod, "", "192.0.2.2:90", "192.0.2.1")
	// The next ADD brings a configuration in which the outside is direct: the rules change for all pods.
	route := &netlink.Route{Dst: &net.IPNet{IP: net.IPv4(10, 77, 0, 0), Mask: net.CIDRMask(24, 32)}, Gw: net.IPv4(192, 0, 2, 1)}
	if err := out.NL.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	b.add("c2", netnstest.New(t), map[string]any{"directCIDRs": []string{"192.0.2.0/24"}})
	wantAnswer(t, pod, "", "192.0.2.2:90", ip.String())
}

func TestKernelLoopback(t *testing.T) {
	b := newBench(t)
	name := filepath.Join(t.TempDir(), "loopback")
	if err := os.Symlink(b.bin, name); err != nil {
		t.Fatal(err)
	}
	b.bin = name
	pod := netnstest.New(t)
	lo, err := pod.NL.LinkByName("lo")
	if err == nil {
		err = pod.NL.LinkSetDown(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"ADD", "CHECK", "DEL", "DEL"} {
		if out, err := b.run(verb, "c1", pod.Path(), nil); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	if lo, err = pod.NL.LinkByName("lo"); err != nil || lo.Attrs().Flags&net.FlagUp == 0 {
		t.Errorf("lo is down, %v", err)
	}
	if b.leases() != 0 || b.links() != 0 {
		t.Error("loopback made more than it should")
	}
}

// DEL leaves the pair, down and off the bridge, to its namespace. One that lives on can have an interface of the same name again, from the
// same container or another, and GC takes what is left.
func TestKernelADDAgainInTheSameNamespace(t *testing.T) {
	b := newBench(t)
	b.outside()
	pod := netnstest.New(t)
	for i, id := range []string{"c1", "c1", "c2", "c1"} {
		ip, _ := b.add(id, pod, nil)
		serve(t, b.node, fmt.Sprint("10.77.0.1:", 100+i))
		wantAnswer(t, pod, "", fmt.Sprint("10.77.0.1:", 100+i), ip.String())
		b.must("DEL", id, pod.Path(), nil)
		if l, err := pod.NL.LinkByName("eth0"); err == nil {
			t.Fatalf("the container keeps %s", l.Attrs().Name)
		}
		if b.links() != 0 || b.leases() != 0 {
			t.Fatalf("%d links in use, %d leases", b.links(), b.leases())
		}
	}
	if n := b.allLinks(); n != 2 {
		t.Errorf("%d pairs of two containers wait for their namespace", n)
	}
	b.must("GC", "", "", nil)
	if n := b.allLinks(); n != 0 {
		t.Errorf("%d links after GC", n)
	}
}

// A link that DEL left goes with its namespace, and a later DEL forgets it; an ADD deletes it if the namespace has lived on for long.
func TestKernelLinksThatDELLeft(t *testing.T) {
	b := newBench(t)
	name := func(id string) string { return hostName(ipam.Attachment{ContainerID: id, IfName: "eth0"}) }
	leave := func(t *testing.T, id string) {
		pod := netnstest.New(t)
		b.must("ADD", id, pod.Path(), nil)
		b.must("DEL", id, pod.Path(), nil)
	}
	leave(t, "lives-on")
	t.Run("ends", func(t *testing.T) { leave(t, "ends") })
	gone := func() bool { _, err := b.node.NL.LinkByName(name("ends")); return err != nil }
	for i := 0; !gone() && i < 500; i++ {
		time.Sleep(10 * time.Millisecond)
	}
	b.wantNotes(0, name("lives-on"), name("ends"))
	leave(t, "soon-after")
	b.wantNotes(2*time.Second, name("lives-on"), name("ends"), name("soon-after"))
	leave(t, "later")
	b.wantNotes(12*time.Second, name("lives-on"), name("soon-after"), name("later"))
	before := b.allLinks()
	b.must("ADD", "last", netnstest.New(t).Path(), nil)
	if n := b.allLinks(); n != before { // one more, one less: deleting takes long
		t.Errorf("%d links after an ADD, %d before", n, before)
	}
}

// wantNotes says what DELs have noted, and then makes that older.
func (b *bench) wantNotes(older time.Duration, want ...string) {
	b.t.Helper()
	paths, err := filepath.Glob(filepath.Join(b.conf["stateDir"].(string), "test", "*", "notes", "*"))
	if err != nil {
		b.t.Fatal(err)
	}
	var got []string
	for _, p := range paths {
		got = append(got, filepath.Base(p))
		when := time.Now().Add(-older)
		if err := os.Chtimes(p, when, when); err != nil {
			b.t.Fatal(err)
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		b.t.Errorf("noted are %v, not %v", got, want)
	}
}

// allLinks counts the plugin's links, in use or not.
func (b *bench) allLinks() int {
	b.t.Helper()
	ls, err := b.node.NL.LinkList()
	if err != nil {
		b.t.Fatal(err)
	}
	n := 0
	for _, l := range ls {
		if l.Type() == "veth" && strings.HasPrefix(l.Attrs().Name, hostPrefix) || strings.HasPrefix(l.Attrs().Name, limitPrefix) {
			n++
		}
	}
	return n
}

func TestKernelExhaustionLeavesNothing(t *testing.T) {
	b := newBench(t)
	b.conf["podCIDRs"] = []string{"10.77.0.0/29"}
	for i := range 5 {
		b.must("ADD", fmt.Sprint("c", i), netnstest.New(t).Path(), nil)
	}
	if _, err := b.run("ADD", "c9", netnstest.New(t).Path(), nil); err == nil || !strings.Contains(err.Error(), "no free address") || !strings.Contains(err.Error(), `"code": 11`) {
		t.Errorf("sixth ADD: %v", err)
	}
	if _, err := b.run("STATUS", "", "", nil); err == nil || !strings.Contains(err.Error(), `"code": 50`) {
		t.Errorf("STATUS when exhausted: %v", err)
	}
	if b.links() != 5 || b.leases() != 5 {
		t.Errorf("%d links, %d leases", b.links(), b.leases())
	}
	b.must("GC", "", "", map[string]any{"cni.dev/valid-attachments": []map[string]string{{"containerID": "c3", "ifname": "eth0"}}})
	if b.links() != 1 || b.leases() != 1 {
		t.Errorf("%d links, %d leases after GC", b.links(), b.leases())
	}
	b.must("STATUS", "", "", nil)
}

// The specification's 1.1.0 calls the list attachments, its library gives it by both names, and without one GC does not take away everything.
func TestKernelGCNeedsTheList(t *testing.T) {
	b := newBench(t)
	for i := range 3 {
		b.add(fmt.Sprint("c", i), netnstest.New(t), nil)
	}
	if _, err := b.run("GC", "", "", map[string]any{"cni.dev/valid-attachments": omitted}); err == nil || !strings.Contains(err.Error(), `"code": 7`) || !strings.Contains(err.Error(), "cni.dev/valid-attachments") {
		t.Errorf("GC without a list: %v", err)
	}
	if b.links() != 3 || b.leases() != 3 {
		t.Errorf("GC without a list left %d links, %d leases", b.links(), b.leases())
	}
	only := func(id string) []map[string]string { return []map[string]string{{"containerID": id, "ifname": "eth0"}} }
	b.must("GC", "", "", map[string]any{"cni.dev/valid-attachments": append(only("c1"), only("c2")...), "cni.dev/attachments": append(only("c1"), only("c2")...)})
	if b.links() != 2 || b.leases() != 2 {
		t.Errorf("%d links, %d leases of two", b.links(), b.leases())
	}
	b.must("GC", "", "", map[string]any{"cni.dev/valid-attachments": omitted, "cni.dev/attachments": only("c1")})
	if b.links() != 1 || b.leases() != 1 {
		t.Errorf("%d links, %d leases of one", b.links(), b.leases())
	}
	b.must("GC", "", "", map[string]any{"cni.dev/valid-attachments": nil}) // as a library writes an empty list
	b.wantNothing("GC")
}

// Two networks may share a bridge, as they do when neither names one. What one of them does not know is not garbage for that.
func TestKernelGCKeepsWhatIsOfAnotherNetwork(t *testing.T) {
	b := newBench(t)
	b.conf["macspoofchk"] = true
	limited := map[string]any{"runtimeConfig": map[string]any{"bandwidth": map[string]any{"ingressRate": 8_000_000, "egressRate": 8_000_000}}}
	other := map[string]any{"name": "other", "podCIDRs": []string{"fd78::/64"}, "stateDir": t.TempDir(), "runtimeConfig": limited["runtimeConfig"]}
	b.add("c1", netnstest.New(t), limited)
	pod := netnstest.New(t)
	out := b.must("ADD", "c2", pod.Path(), other)
	// What is left of a container whose lease somebody removed: its link went with its namespace.
	if err := b.node.NL.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: limitPrefix + "0123456789ab"}}); err != nil {
		t.Fatal(err)
	}
	b.must("GC", "", "", nil)
	b.wantNames(hostName(ipam.Attachment{ContainerID: "c2", IfName: "eth0"}), limiter(hostName(ipam.Attachment{ContainerID: "c2", IfName: "eth0"})))
	other["prevResult"] = json.RawMessage(out)
	b.must("CHECK", "c2", pod.Path(), other)
	delete(other, "prevResult")
	b.must("GC", "", "", other)
	b.wantNames()
}

// A bridge follows its network to other ranges. It does not change sides: of two networks that name no bridge the second is refused as long as the first has
// containers, unless it says that it takes the bridge.
func TestKernelBridgeOfAnotherNetwork(t *testing.T) {
	b := newBench(t)
	pod := netnstest.New(t)
	ip, _ := b.add("c1", pod, nil)
	serve(t, b.node, ":81")
	second := map[string]any{"name": "second", "podCIDRs": []string{"10.78.0.0/24"}}
	_, err := b.run("ADD", "c2", netnstest.New(t).Path(), second)
	if err == nil || !strings.Contains(err.Error(), "10.77.0.1/24") || !strings.Contains(err.Error(), "network test") {
		t.Errorf("ADD to the bridge of another network: %v", err)
	}
	wantAnswer(t, pod, "", "10.77.0.1:81", ip.String())
	b.must("DEL", "c1", pod.Path(), nil)
	b.must("ADD", "c2", netnstest.New(t).Path(), second)
	b.must("ADD", "c1", netnstest.New(t).Path(), map[string]any{"forceAddress": true})
	b.must("ADD", "c3", netnstest.New(t).Path(), map[string]any{"podCIDRs": []string{"10.79.0.0/24"}}) // its own
}

// wantNames compares the links of containers on the node.
func (b *bench) wantNames(want ...string) {
	b.t.Helper()
	ls, err := b.node.NL.LinkList()
	if err != nil {
		b.t.Fatal(err)
	}
	var got []string
	for _, l := range ls {
		if name := l.Attrs().Name; strings.HasPrefix(name, limitPrefix) || strings.HasPrefix(name, hostPrefix) && l.Type() == "veth" {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		b.t.Errorf("links %v, want %v", got, want)
	}
}

func TestKernelConcurrentADDAndDEL(t *testing.T) {
	b := newBench(t)
	const n = 24
	pods := make([]*netnstest.NS, n)
	for i := range pods {
		pods[i] = netnstest.New(t)
	}
	var wg sync.WaitGroup
	for i, p := range pods {
		wg.Go(func() {
			if _, err := b.run("ADD", fmt.Sprint("c", i), p.Path(), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if b.links() != n || b.leases() != n {
		t.Errorf("%d links, %d leases", b.links(), b.leases())
	}
	for i, p := range pods {
		wg.Go(func() {
			if _, err := b.run("DEL", fmt.Sprint("c", i), p.Path(), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if b.links() != 0 || b.leases() != 0 {
		t.Errorf("%d links, %d leases after DEL", b.links(), b.leases())
	}
}

func (b *bench) command(verb, id, path string, extra map[string]any) *exec.Cmd {
	conf := map[string]any{}
	if verb == "GC" {
		conf["cni.dev/valid-attachments"] = []map[string]string{}
	}
	for _, m := range []map[string]any{b.conf, extra} {
		for k, v := range m {
			conf[k] = v
			if s, ok := v.(string); ok && s == omitted {
				delete(conf, k)
			}
		}
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		b.t.Fatal(err)
	}
	cmd := exec.Command(b.bin)
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + path, "CNI_IFNAME=eth0", "CNI_PATH=" + b.path}
	cmd.Stdin = bytes.NewReader(stdin)
	return cmd
}

// outside joins a host to the node by a wire, 192.0.2.2 to the node's 192.0.2.1.
func (b *bench) outside() *netnstest.NS {
	b.t.Helper()
	o := netnstest.New(b.t)
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: "up0"})
	veth.PeerName, veth.PeerNamespace = "up0", netlink.NsFd(o.FD())
	if err := b.node.NL.LinkAdd(veth); err != nil {
		b.t.Fatal(err)
	}
	for i, ns := range []*netnstest.NS{b.node, o} {
		l, err := ns.NL.LinkByName("up0")
		if err != nil {
			b.t.Fatal(err)
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, byte(i+1)), Mask: net.CIDRMask(24, 32)}}
		if err := ns.NL.AddrAdd(l, addr); err != nil {
			b.t.Fatal(err)
		}
		if err := ns.NL.LinkSetUp(l); err != nil {
			b.t.Fatal(err)
		}
	}
	return o
}

func TestKernelMasqueradeAndHostPorts(t *testing.T) {
	b := newBench(t)
	b.conf["ipMasq"], b.conf["directCIDRs"] = true, []string{"10.77.0.0/16"}
	out := b.outside()
	p1, p2 := netnstest.New(t), netnstest.New(t)
	ip1, _ := b.add("c1", p1, nil)
	ip2, res := b.add("c2", p2, map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{
		{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}, {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}}}})
	serve(t, p2, ":80")
	serve(t, out, ":90")
	wantAnswer(t, p1, "", "192.0.2.2:90", "192.0.2.1")       // the outside sees the node
	wantAnswer(t, p1, "", ip2.String()+":80", ip1.String())  // a pod sees the pod
	wantAnswer(t, out, "", "192.0.2.1:8080", "192.0.2.2")    // the pod sees the outside
	wantAnswer(t, p1, "", "192.0.2.1:8080", "10.77.0.1")     // over the bridge and back
	wantAnswer(t, p2, "", "192.0.2.1:8080", "10.77.0.1")     // itself
	wantAnswer(t, b.node, "", "192.0.2.1:8080", "192.0.2.1") // from the node
	wantAnswer(t, b.node, "", "127.0.0.1:8080", "10.77.0.1") // from the node, by loopback
	wantAnswer(t, b.node, "", "127.0.0.1:8081", "10.77.0.1") // only by loopback
	if got, err := ask(out, "", "192.0.2.1:8081"); err == nil {
		t.Errorf("a host port of 127.0.0.1 answers the outside: %s", got)
	}
	var prev any
	if err := json.Unmarshal(res, &prev); err != nil {
		t.Fatal(err)
	}
	if _, err := b.run("ADD", "c3", netnstest.New(t).Path(), map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{
		{"hostPort": 8080, "containerPort": 81, "protocol": "tcp"}}}}); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("a host port was given twice: %v", err)
	}
	wantAnswer(t, out, "", "192.0.2.1:8080", "192.0.2.2")
	if b.links() != 2 || b.leases() != 2 {
		t.Errorf("%d links, %d leases", b.links(), b.leases())
	}
	b.must("DEL", "c2", p2.Path(), nil)
	if got, err := ask(out, "", "192.0.2.1:8080"); err == nil {
		t.Errorf("the host port of a deleted pod answers: %s", got)
	}
	b.must("ADD", "c3", netnstest.New(t).Path(), map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{
		{"hostPort": 8080, "containerPort": 81, "protocol": "tcp"}}}})
}

// What old calls and netlink say of a bridge is the same; they are not for other links.
func TestKernelBridgeByOldCalls(t *testing.T) {
	netnstest.RequireRoot(t)
	ns := netnstest.New(t)
	ns.Bridge("br0", "10.0.0.1/24")
	ns.Must(ns.NL.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0", MTU: 1400}, PeerName: "v1"}))
	err := ns.Do(func() error {
		sock, err := openSocket()
		if err != nil {
			return err
		}
		defer sock.close()
		for _, promiscuous := range []bool{false, true} {
			br, err := sock.link("br0")
			if err != nil {
				return err
			}
			if promiscuous {
				if err := sock.tell(nil, setFlags(br.index, unix.IFF_PROMISC, unix.IFF_PROMISC)); err != nil {
					return err
				}
				if br, err = sock.link("br0"); err != nil {
					return err
				}
			}
			br.flags &= 0xffff // the rest is of a later time
			if got := sock.bridge("br0"); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", br) {
				t.Errorf("got %+v, want %+v", got, br)
			}
		}
		for _, name := range []string{"v0", "lo", "nothing", "../all"} {
			if got := sock.bridge(name); got != nil {
				t.Errorf("%s: got %+v", name, got)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// However busy the process is, no goroutine finds itself in another namespace while one opens sockets there.
func TestKernelVisitsAreNoticedByNobody(t *testing.T) {
	netnstest.RequireRoot(t)
	pod := netnstest.New(t)
	pod.Bridge("visited")
	ns, err := os.Open(pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	home := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
			t.Error(err)
		}
		return st.Ino
	}
	want := home()
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for ctx.Err() == nil {
				if got := home(); got != want {
					t.Errorf("a thread is in namespace %d, not %d", got, want)
					return
				}
				runtime.GC() // which interrupts all goroutines
			}
		})
	}
	for range 300 {
		sock, err := socketIn(int(ns.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		if l, err := sock.link("visited"); l == nil || err != nil {
			t.Fatalf("the socket is not in the other namespace: %v", err)
		}
		sock.close()
		if got := home(); got != want {
			t.Fatalf("came back to namespace %d, not %d", got, want)
		}
	}
	stop()
	others.Wait()
	if _, err := socketIn(int(os.Stdin.Fd())); err == nil {
		t.Error("entered what is no namespace")
	}
}
