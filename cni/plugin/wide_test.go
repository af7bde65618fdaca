package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/orlop-io/orlop/cni/nat"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ofBridge is a configuration as the plugins bridge and host-local have it, with another type.
func (b *bench) ofBridge(more string) {
	b.t.Helper()
	text := `{"cniVersion": "1.1.0", "name": "test", "type": "orlop-cni", "isGateway": true, "ipam": {"type": "host-local",
		"ranges": [[{"subnet": "10.77.0.0/24", "rangeStart": "10.77.0.20", "rangeEnd": "10.77.0.40", "gateway": "10.77.0.254"}], [{"subnet": "fd77::/64"}]],
		"routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.128/25", "gw": "10.77.0.253", "mtu": 1300}, {"dst": "::/0"}]}` + more + `}`
	b.conf = map[string]any{}
	if err := json.Unmarshal([]byte(text), &b.conf); err != nil {
		b.t.Fatal(err)
	}
	b.conf["ipam"].(map[string]any)["dataDir"] = b.t.TempDir()
	b.conf["stateDir"] = b.conf["ipam"].(map[string]any)["dataDir"]
}

func TestKernelKeysOfBridgeAndHostLocal(t *testing.T) {
	b := newBench(t)
	b.ofBridge(`, "mtu": 1400, "hairpinMode": true, "portIsolation": true, "dns": {"nameservers": ["10.77.0.254"]},
		"sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "1"}, "capabilities": {"ips": true, "mac": true, "dns": true, "aliases": true}`)
	pod, other := netnstest.New(t), netnstest.New(t)
	out := b.must("ADD", "c1", pod.Path(), map[string]any{"runtimeConfig": map[string]any{
		"ips": []string{"10.77.0.33/24"}, "mac": "02:11:22:33:44:55", "aliases": []string{"db"}, "dns": map[string]any{"searches": []string{"a.example"}}}})
	var r struct {
		Interfaces []struct {
			Name, Mac string
			Mtu       int
		}
		IPs    []struct{ Address, Gateway string }
		Routes []struct {
			Dst, GW string
			MTU     int
		}
		DNS struct{ Nameservers, Search []string }
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%s %s %d; %v; %v; %v", r.Interfaces[0].Name, r.Interfaces[2].Mac, r.Interfaces[2].Mtu, r.IPs, r.Routes, r.DNS)
	want := "cni0 02:11:22:33:44:55 1400; [{10.77.0.33/24 10.77.0.254} {fd77::2/64 fd77::1}]; " +
		"[{0.0.0.0/0  0} {192.0.2.128/25 10.77.0.253 1300} {::/0  0}]; {[10.77.0.254] [a.example]}"
	if got != want {
		t.Error(cmp.Diff(want, got))
	}
	b.must("CHECK", "c1", pod.Path(), map[string]any{"prevResult": json.RawMessage(out)})
	if _, err := b.run("ADD", "c2", other.Path(), map[string]any{"runtimeConfig": map[string]any{"ips": []string{"10.77.0.33"}}}); err == nil || !strings.Contains(err.Error(), "held by container c1") || !strings.Contains(err.Error(), `"code": 11`) {
		t.Errorf("a taken address was asked for: %v", err)
	}
	if _, err := b.run("ADD", "c2", other.Path(), map[string]any{"runtimeConfig": map[string]any{"ips": []string{"10.78.0.33"}}}); err == nil || !strings.Contains(err.Error(), `"code": 7`) {
		t.Errorf("an address of no range was asked for: %v", err)
	}
	ip, _ := b.add("c2", other, nil)
	if ip.String() != "10.77.0.34" {
		t.Errorf("the next address is %s", ip)
	}
	serve(t, other, ":80")
	serve(t, b.node, ":81")
	wantAnswer(t, other, "", "10.77.0.254:81", "10.77.0.34")
	if _, err := ask(pod, "", "10.77.0.34:80"); err == nil {
		t.Error("isolated ports reach each other")
	}
	list, err := exec.Command(b.bin, "ipam", "-dir", b.conf["stateDir"].(string), "list").CombinedOutput()
	if err != nil || !strings.Contains(string(list), "10.77.0.33,fd77::2") || !strings.Contains(string(list), "db") {
		t.Errorf("list: %v\n%s", err, list)
	}
	b.must("DEL", "c1", pod.Path(), nil)
	b.must("DEL", "c2", other.Path(), nil)
	b.wantNothing("DEL")
}

// As with the plugin bridge, forceAddress replaces what cannot stay: another network of IPv4, and of IPv6 one that overlaps.
func TestKernelForceAddress(t *testing.T) {
	b := newBench(t)
	b.ofBridge(`, "forceAddress": true`)
	b.node.Bridge("cni0", "10.99.0.1/24", "fd99::1/64", "fd77::9/60")
	b.add("c1", netnstest.New(t), nil)
	if got, want := b.addresses("cni0"), []string{"10.77.0.254/24", "fd77::1/64", "fd99::1/64"}; !slices.Equal(got, want) {
		t.Errorf("cni0 has %v, want %v", got, want)
	}
}

func TestKernelWhatTheKernelLacksIsRefusedByName(t *testing.T) {
	b := newBench(t)
	b.ofBridge(`, "vlan": 7`)
	b.conf["isGateway"] = false
	if hasVLANs(t) {
		t.Skip("this kernel has VLANs on bridges")
	}
	_, err := b.run("ADD", "c1", netnstest.New(t).Path(), nil)
	if err == nil {
		t.Fatal("not refused")
	}
	if !strings.Contains(err.Error(), "vlan") || !strings.Contains(err.Error(), "CONFIG_BRIDGE_VLAN_FILTERING") {
		t.Errorf("got %v", err)
	}
	b.wantNothing("refused ADD")
	if _, err := b.run("STATUS", "", "", nil); err == nil || !strings.Contains(err.Error(), `"code": 50`) || !strings.Contains(err.Error(), "CONFIG_BRIDGE_VLAN_FILTERING") {
		t.Errorf("STATUS: %v", err)
	}
}

func TestKernelMacSpoofCheck(t *testing.T) {
	b := newBench(t)
	b.conf["macspoofchk"] = true
	pod := netnstest.New(t)
	ip, _ := b.add("c1", pod, nil)
	serve(t, b.node, ":81")
	wantAnswer(t, pod, "", "10.77.0.1:81", ip.String())
	eth, err := pod.NL.LinkByName("eth0")
	if err == nil {
		err = pod.NL.LinkSetHardwareAddr(eth, net.HardwareAddr{2, 0, 0, 0, 0, 9})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ask(pod, "", "10.77.0.1:81"); err == nil {
		t.Error("frames with another address pass")
	}
	b.must("DEL", "c1", pod.Path(), nil)
	b.wantNothing("DEL")
}

// The limits hold within a factor of two, on 300 kB at 1 MB a second.
func TestKernelBandwidth(t *testing.T) {
	b := newBench(t)
	pod := netnstest.New(t)
	extra := map[string]any{"runtimeConfig": map[string]any{"bandwidth": map[string]any{"ingressRate": 8_000_000, "egressRate": 8_000_000}}}
	ip, out := b.add("c1", pod, extra)
	b.must("CHECK", "c1", pod.Path(), map[string]any{"runtimeConfig": extra["runtimeConfig"], "prevResult": json.RawMessage(out)})
	for name, way := range map[string][2]*netnstest.NS{"to the container": {b.node, pod}, "from the container": {pod, b.node}} {
		addr := map[*netnstest.NS]string{pod: ip.String(), b.node: "10.77.0.1"}[way[1]] + ":90"
		took := send(t, way[0], way[1], addr, 300_000)
		// 64 to 100 kB go at once.
		if took < 150*time.Millisecond || took > 3*time.Second {
			t.Errorf("300 kB %s took %s", name, took)
		}
	}
	b.must("DEL", "c1", pod.Path(), extra)
	b.wantNothing("DEL")
}

func send(t *testing.T, from, to *netnstest.NS, addr string, bytes int) time.Duration {
	t.Helper()
	received := make(chan int, 1)
	err := to.Do(func() error {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		go func() {
			defer l.Close()
			n := 0
			if c, err := l.Accept(); err == nil {
				buf := make([]byte, 64<<10)
				for {
					m, err := c.Read(buf)
					if n += m; err != nil {
						break
					}
				}
				c.Close()
			}
			received <- n
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	err = from.Do(func() error {
		c, err := net.DialTimeout("tcp", addr, 3*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(make([]byte, bytes))
		return err
	})
	if n := <-received; err != nil || n != bytes {
		t.Fatalf("%d bytes arrived, %v", n, err)
	}
	return time.Since(began)
}

// Another IPAM plugin is called as the specification says: here one that always gives the same address, and notes what it is asked.
func TestKernelDelegatesIPAM(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\necho $CNI_COMMAND >>%s/asked\necho own${GOMAXPROCS} >%[1]s/own\ncat >/dev/null\n"+
		`[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.1.0","ips":[{"address":"10.99.0.7/24","gateway":"10.99.0.1"}],"routes":[{"dst":"0.0.0.0/0"}]}'`+"\n", dir)
	if err := os.WriteFile(filepath.Join(dir, "fixed"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	b.path = dir
	delete(b.conf, "podCIDRs")
	b.conf["ipam"], b.conf["isGateway"], b.conf["ipMasq"] = map[string]any{"type": "fixed"}, true, true
	pod := netnstest.New(t)
	ports := map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80}}}}
	ip, out := b.add("c1", pod, ports)
	if ip.String() != "10.99.0.7" {
		t.Errorf("got %s", ip)
	}
	host := b.outside()
	serve(t, pod, ":80")
	wantAnswer(t, host, "", "192.0.2.1:8080", "192.0.2.2")
	ports["prevResult"] = json.RawMessage(out)
	b.must("CHECK", "c1", pod.Path(), ports)
	b.must("STATUS", "", "", nil)
	b.must("DEL", "c1", pod.Path(), ports)
	b.must("GC", "", "", nil)
	asked, err := os.ReadFile(filepath.Join(dir, "asked"))
	if got := strings.ReplaceAll(string(asked), "\n", " "); err != nil || got != "ADD CHECK STATUS DEL GC " {
		t.Errorf("asked %s, %v", got, err)
	}
	if own, err := os.ReadFile(filepath.Join(dir, "own")); err != nil || string(own) != "own\n" {
		t.Errorf("GOMAXPROCS of the plugin itself is given to the IPAM plugin: %s, %v", own, err)
	}
	b.wantNothing("DEL")
	b.conf["ipam"] = map[string]any{"type": "absent"}
	if _, err := b.run("ADD", "c1", netnstest.New(t).Path(), nil); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("a missing IPAM plugin: %v", err)
	}
	b.wantNothing("failed ADD")
}

// Another IPAM plugin may give containers of a network addresses of many subnets, and name no gateway: as with bridge that is the subnet's first
// address. The rules are for all of them.
func TestKernelSubnetsOfAnotherIPAM(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	script := "#!/bin/sh\ncat >/dev/null\n" +
		`[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.1.0","ips":[{"address":"10.'${CNI_CONTAINERID#c}'.0.7/24"}]}'` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "apart"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	b.path = dir
	delete(b.conf, "podCIDRs")
	b.conf["ipam"], b.conf["isDefaultGateway"], b.conf["ipMasq"] = map[string]any{"type": "apart"}, true, true
	host := b.outside()
	serve(t, host, ":90")
	pods := map[string]*netnstest.NS{"c98": netnstest.New(t), "c99": netnstest.New(t)}
	for _, id := range []string{"c98", "c99", "c98"} { // again: the kernel keeps its rules
		b.add(id, pods[id], nil)
		wantAnswer(t, pods[id], "", "192.0.2.2:90", "192.0.2.1")
		for _, other := range []string{"c98", "c99"} {
			if lease, ok, err := b.store().Lookup(ipam.Attachment{ContainerID: other, IfName: "eth0"}); err != nil || lease.Torn {
				t.Fatal(lease, err)
			} else if ok {
				wantAnswer(t, pods[other], "", "192.0.2.2:90", "192.0.2.1")
			}
		}
		if id == "c98" {
			b.must("DEL", id, pods[id].Path(), nil)
		}
	}
}

// So do containers for which the runtime brings ranges.
func TestKernelRangesOfTheRuntime(t *testing.T) {
	b := newBench(t)
	b.conf["ipMasq"], b.conf["capabilities"] = true, map[string]bool{"ipRanges": true}
	host := b.outside()
	serve(t, host, ":90")
	pod := netnstest.New(t)
	more := map[string]any{"runtimeConfig": map[string]any{"ipRanges": [][]map[string]string{{{"subnet": "10.78.0.0/24"}}}}}
	if ip, _ := b.add("c1", pod, more); ip.String() != "10.78.0.2" {
		t.Errorf("got %s", ip)
	}
	wantAnswer(t, pod, "", "192.0.2.2:90", "192.0.2.1")
	b.add("c2", netnstest.New(t), nil)
	wantAnswer(t, pod, "10.78.0.2", "192.0.2.2:90", "192.0.2.1")
	b.must("DEL", "c1", pod.Path(), more)
	b.must("DEL", "c2", "", nil)
	b.wantNothing("DEL")
}

// CHECK names what somebody changed of what ADD made, and is content when it is put back.
func TestKernelCheckNamesWhatIsWrong(t *testing.T) {
	b := newBench(t)
	b.conf["podCIDRs"], b.conf["ipMasq"] = []string{"10.77.0.0/24", "fd77::/64"}, true
	pod := netnstest.New(t)
	_, out := b.add("c1", pod, nil)
	prev := map[string]any{"prevResult": json.RawMessage(out)}
	host := hostName(ipam.Attachment{ContainerID: "c1", IfName: "eth0"})
	gateway := func(addr string) *netlink.Addr {
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		a.Flags = unix.IFA_F_NODAD
		return a
	}
	mac := func(last byte) func() error {
		return func() error {
			return pod.NL.LinkSetHardwareAddr(pod.Link("eth0"), net.HardwareAddr{0x0a, 0x58, 10, 77, 0, last})
		}
	}
	forward := func(key, value string) func() error {
		return func() error {
			return b.node.Do(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) })
		}
	}
	for _, tt := range []struct {
		want        string
		spoil, mend func() error
	}{
		{host + " is down", func() error { return b.node.NL.LinkSetDown(b.node.Link(host)) }, func() error { return b.node.NL.LinkSetUp(b.node.Link(host)) }},
		{"bridge orlop0 is down", func() error { return b.node.NL.LinkSetDown(b.node.Link("orlop0")) }, func() error {
			// The kernel took IPv6's addresses away with it.
			return errors.Join(b.node.NL.LinkSetUp(b.node.Link("orlop0")), b.node.NL.AddrReplace(b.node.Link("orlop0"), gateway("fd77::1/64")))
		}},
		{"orlop0 lacks address 10.77.0.1/24", func() error { return b.node.NL.AddrDel(b.node.Link("orlop0"), gateway("10.77.0.1/24")) },
			func() error { return b.node.NL.AddrAdd(b.node.Link("orlop0"), gateway("10.77.0.1/24")) }},
		{"orlop0 lacks address fd77::1/64", func() error { return b.node.NL.AddrDel(b.node.Link("orlop0"), gateway("fd77::1/64")) },
			func() error { return b.node.NL.AddrAdd(b.node.Link("orlop0"), gateway("fd77::1/64")) }},
		{"eth0 in the container has hardware address 0a:58:0a:4d:00:63, not 0a:58:0a:4d:00:02", mac(99), mac(2)},
		{"nftables table orlop-test has no rules", func() error { return b.node.Do(func() error { return nat.New("test").Remove() }) }, func() error {
			b.add("c2", netnstest.New(t), nil)
			return nil
		}},
		{"sysctl net.ipv4.ip_forward is 0, not 1", forward("ipv4/ip_forward", "0"), forward("ipv4/ip_forward", "1")},
		{"sysctl net.ipv6.conf.all.forwarding is 0, not 1", forward("ipv6/conf/all/forwarding", "0"), forward("ipv6/conf/all/forwarding", "1")},
	} {
		if err := tt.spoil(); err != nil {
			t.Fatalf("%s: %v", tt.want, err)
		}
		if _, err := b.run("CHECK", "c1", pod.Path(), prev); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), `"code": 102`) {
			t.Errorf("got %v, want %s", err, tt.want)
		}
		if err := tt.mend(); err != nil {
			t.Fatalf("mend %s: %v", tt.want, err)
		}
		if _, err := b.run("CHECK", "c1", pod.Path(), prev); err != nil {
			t.Errorf("after %s was mended: %v", tt.want, err)
		}
	}
}

// What DEL takes away needs no room: it is how room is made. ADD and STATUS say that there is none.
func TestKernelFullDisk(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,nr_inodes=32"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	b.conf["stateDir"] = dir
	pod, other := netnstest.New(t), netnstest.New(t)
	b.add("c1", pod, nil)
	b.must("STATUS", "", "", nil)
	var err error
	for i := 0; err == nil; i++ { // no file can be made
		err = os.WriteFile(filepath.Join(dir, fmt.Sprint("full", i)), nil, 0o600)
	}
	if _, err := b.run("STATUS", "", "", nil); err == nil || !strings.Contains(err.Error(), `"code": 50`) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("STATUS: %v", err)
	}
	if _, err := b.run("ADD", "c2", other.Path(), nil); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("ADD: %v", err)
	}
	if _, err := other.NL.LinkByName("eth0"); err == nil {
		t.Error("ADD that failed left a link")
	}
	b.must("DEL", "c1", pod.Path(), nil)
	b.must("DEL", "c2", other.Path(), nil)
	b.wantNothing("DEL")
	if left, err := b.node.NL.LinkByName(hostName(ipam.Attachment{ContainerID: "c1", IfName: "eth0"})); err == nil {
		t.Errorf("%v is left, and no note says so", left.Attrs().Name)
	}
	b.must("GC", "", "", nil)
}

// A file that ADD reads may be gone when DEL comes.
func TestKernelResolvConfThatIsGone(t *testing.T) {
	b := newBench(t)
	b.ofBridge("")
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver 192.0.2.53\nsearch a.example b.example\nsearch c.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.conf["ipam"].(map[string]any)["resolvConf"] = file
	pod := netnstest.New(t)
	out := b.must("ADD", "c1", pod.Path(), nil)
	if !strings.Contains(string(out), `"dns":{"nameservers":["192.0.2.53"],"search":["a.example","b.example","c.example"]}`) {
		t.Errorf("result %s", out)
	}
	b.must("STATUS", "", "", nil)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := b.run("STATUS", "", "", nil); err == nil || !strings.Contains(err.Error(), `"code": 50`) || !strings.Contains(err.Error(), "resolvConf") {
		t.Errorf("STATUS: %v", err)
	}
	if _, err := b.run("ADD", "c2", netnstest.New(t).Path(), nil); err == nil || !strings.Contains(err.Error(), `"code": 7`) || !strings.Contains(err.Error(), "resolvConf") {
		t.Errorf("ADD: %v", err)
	}
	b.must("CHECK", "c1", pod.Path(), map[string]any{"prevResult": json.RawMessage(out)})
	b.must("DEL", "c1", pod.Path(), nil)
	b.wantNothing("DEL")
}

func TestKernelAfterAnotherPluginInTheChain(t *testing.T) {
	b := newBench(t)
	prev := `{"cniVersion":"1.1.0","interfaces":[{"name":"net1"}],"ips":[{"address":"10.5.0.2/24","interface":0}],"dns":{"nameservers":["10.5.0.1"]}}`
	out := b.must("ADD", "c1", netnstest.New(t).Path(), map[string]any{"prevResult": json.RawMessage(prev)})
	var r struct {
		Interfaces []struct{ Name string }
		IPs        []struct {
			Address   string
			Interface int
		}
		DNS struct{ Nameservers []string }
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(len(r.Interfaces), r.IPs, r.DNS); got != "4 [{10.5.0.2/24 0} {10.77.0.2/24 3}] {[10.5.0.1]}" {
		t.Error(got)
	}
}

func TestKernelPodCIDRsFromAFile(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "node.json")
	delete(b.conf, "podCIDRs")
	b.conf["podCIDRsFile"] = file
	pod := netnstest.New(t)
	if _, err := b.run("ADD", "c1", pod.Path(), nil); err == nil || !strings.Contains(err.Error(), `"code": 11`) {
		t.Errorf("ADD without a CIDR: %v", err)
	}
	if _, err := b.run("STATUS", "", "", nil); err == nil || !strings.Contains(err.Error(), `"code": 50`) {
		t.Errorf("STATUS without a CIDR: %v", err)
	}
	b.must("DEL", "c1", pod.Path(), nil)
	if err := os.WriteFile(file, []byte(`{"podCIDRs": ["10.77.3.0/24"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.must("STATUS", "", "", nil)
	if ip, _ := b.add("c1", pod, nil); ip.String() != "10.77.3.2" {
		t.Errorf("got %s", ip)
	}
	// The file changes under a living container: its DEL still finds what it has.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	b.must("DEL", "c1", pod.Path(), nil)
	b.wantNothing("DEL")
}

func TestKernelHostPortsOfUDPAndBothFamilies(t *testing.T) {
	b := newBench(t)
	b.conf["podCIDRs"] = []string{"10.77.0.0/24", "fd77::/64"}
	out := b.outside()
	for _, version := range []string{"c1", "c2"} { // the second gets the first's clients, although their flows are known
		pod := netnstest.New(t)
		extra := map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{
			{"hostPort": 5353, "containerPort": 53, "protocol": "udp"}, {"hostPort": 5354, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"}}}}
		b.must("ADD", version, pod.Path(), extra)
		serveUDP(t, pod, ":53", version)
		for _, port := range []int{5353, 5354} {
			if got := askUDP(t, out, 7000+port, fmt.Sprint("192.0.2.1:", port)); got != version {
				t.Errorf("port %d: %q answers, not %s", port, got, version)
			}
		}
		b.must("DEL", version, pod.Path(), extra)
	}
	_, err := b.run("ADD", "c3", netnstest.New(t).Path(), map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{
		{"hostPort": 80, "containerPort": 80, "hostIP": "::1"}}}})
	if err == nil || !strings.Contains(err.Error(), "hostIP ::1") {
		t.Errorf("::1: %v", err)
	}
	b.wantNothing("DEL")
}

func serveUDP(t *testing.T, ns *netnstest.NS, addr, answer string) {
	t.Helper()
	err := ns.Do(func() error {
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 100)
			for {
				_, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = c.WriteTo([]byte(answer), from)
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// askUDP asks from the same port each time, so that it is the same flow to the kernel.
func askUDP(t *testing.T, ns *netnstest.NS, port int, addr string) (answer string) {
	t.Helper()
	err := ns.Do(func() error {
		c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{Port: port}}).Dial("udp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		buf := make([]byte, 100)
		for range 5 {
			if _, err := c.Write([]byte("?")); err != nil {
				continue // an ICMP error of the one before
			}
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			if n, err := c.Read(buf); err == nil {
				answer = string(buf[:n])
				return nil
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// A container may publish thousands of ports, as for media. If one of them is taken it is named, and none is left.
func TestKernelManyHostPorts(t *testing.T) {
	b := newBench(t)
	b.conf["podCIDRs"] = []string{"10.77.0.0/24", "fd77::/64"}
	ports := func(from, n int) map[string]any {
		var out []map[string]any
		for i := range n {
			out = append(out, map[string]any{"hostPort": from + i, "containerPort": 10000 + i, "protocol": "udp"})
		}
		return map[string]any{"runtimeConfig": map[string]any{"portMappings": out}}
	}
	var all []nat.HostPort // asked for one by one: a list of a map that has grown a moment ago may lack some
	for i := range 3000 {
		for _, ip := range []string{"10.77.0.2", "fd77::2"} {
			pod := netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(10000+i))
			all = append(all, nat.HostPort{Protocol: nat.UDP, Port: uint16(20000 + i), Pod: pod})
		}
	}
	published := func() {
		t.Helper()
		err := b.node.Do(func() error {
			got, err := nat.New("test").There(all)
			if len(got) != len(all) {
				t.Errorf("%d host ports, want %d", len(got), len(all))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	pod, other := netnstest.New(t), netnstest.New(t)
	_, out := b.add("c1", pod, ports(20000, 3000))
	published()
	check := ports(20000, 3000)
	check["prevResult"] = json.RawMessage(out)
	b.must("CHECK", "c1", pod.Path(), check)
	_, err := b.run("ADD", "c2", other.Path(), ports(18000, 2500)) // the last 500 are taken
	if err == nil || !strings.Contains(err.Error(), "host port 20") || !strings.Contains(err.Error(), "is taken by 10.77.0.2") && !strings.Contains(err.Error(), "is taken by fd77::2") || len(err.Error()) > 300 {
		t.Errorf("got %v", err)
	}
	published()
	b.must("DEL", "c1", pod.Path(), ports(20000, 3000))
	b.wantNothing("DEL")
}

// Somebody flushes the node's rules, as a restart of a firewall does. With the next container those of the others are back.
func TestKernelRulesThatSomebodyFlushed(t *testing.T) {
	b := newBench(t)
	b.conf["ipMasq"], b.conf["macspoofchk"] = true, true
	host := b.outside()
	port := func(n int) map[string]any {
		return map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{{"hostPort": n, "containerPort": 80, "protocol": "tcp"}}}}
	}
	var pods []*netnstest.NS
	for i := range 3 {
		pods = append(pods, netnstest.New(t))
		b.add(fmt.Sprint("c", i), pods[i], port(8080+i))
		serve(t, pods[i], ":80")
	}
	b.must("DEL", "c2", pods[2].Path(), port(8082))
	if err := b.node.Do(func() error { return nat.New("test").Remove() }); err != nil {
		t.Fatal(err)
	}
	list := func() string {
		t.Helper()
		var out []string
		err := b.node.Do(func() error {
			ports, err := nat.New("test").Published()
			guards, gerr := nat.New("test").Guards()
			for _, p := range ports {
				out = append(out, fmt.Sprint(p.Port, " to ", p.Pod.Addr()))
			}
			for _, g := range guards {
				out = append(out, g.MAC.String())
			}
			return errors.Join(err, gerr)
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(out)
		return strings.Join(out, ", ")
	}
	pod := netnstest.New(t)
	b.add("c3", pod, nil)
	if got, want := list(), "0a:58:0a:4d:00:02, 0a:58:0a:4d:00:03, 0a:58:0a:4d:00:05, 8080 to 10.77.0.2, 8081 to 10.77.0.3"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	wantAnswer(t, host, "", "192.0.2.1:8080", "192.0.2.2")
	for id, ns := range map[string]*netnstest.NS{"c0": pods[0], "c1": pods[1], "c3": pod} {
		b.must("DEL", id, ns.Path(), nil)
	}
	b.wantNothing("DEL")
}

func TestKernel200AtOnce(t *testing.T) {
	b := newBench(t)
	const n = 200
	pods := make([]*netnstest.NS, n)
	for i := range pods {
		pods[i] = netnstest.New(t)
	}
	all := func(verb string) {
		var wg sync.WaitGroup
		for i, p := range pods {
			wg.Go(func() {
				if _, err := b.run(verb, fmt.Sprint("c", i), p.Path(), nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	all("ADD")
	seen := map[string]bool{}
	for _, p := range pods {
		l, err := p.NL.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		addrs, err := p.NL.AddrList(l, netlink.FAMILY_V4)
		if err != nil || len(addrs) != 1 {
			t.Fatalf("%v, %v", addrs, err)
		}
		seen[addrs[0].IP.String()] = true
	}
	if len(seen) != n || b.links() != n || b.leases() != n {
		t.Errorf("%d addresses, %d links, %d leases", len(seen), b.links(), b.leases())
	}
	all("DEL")
	b.wantNothing("DEL")
}

// What host-local gave before is listed, and is garbage like the rest when the runtime does not know the container.
func TestKernelLeasesOfHostLocal(t *testing.T) {
	b := newBench(t)
	b.ofBridge("")
	dir := filepath.Join(b.conf["stateDir"].(string), "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for addr, holder := range map[string]string{"10.77.0.20": "old1\r\neth0", "10.77.0.21": "old2\r\neth0", "10.77.0.22": "older", "fd77::2": "old1\r\neth0"} {
		if err := os.WriteFile(filepath.Join(dir, addr), []byte(holder), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.add("c1", netnstest.New(t), nil)
	list := func() string {
		out, err := exec.Command(b.bin, "ipam", "-dir", b.conf["stateDir"].(string), "list").CombinedOutput()
		if err != nil {
			t.Fatalf("list: %v\n%s", err, out)
		}
		var rows []string
		for line := range strings.Lines(string(out)) {
			rows = append(rows, strings.Join(strings.Fields(line)[1:min(4, len(strings.Fields(line)))], " "))
		}
		return strings.Join(rows[1:], "; ")
	}
	if got, want := list(), "10.77.0.20 old1 eth0; 10.77.0.21 old2 eth0; 10.77.0.22 older (host-local); 10.77.0.23,fd77::3 c1 eth0; fd77::2 old1 eth0"; got != want {
		t.Errorf("list: %s, want %s", got, want)
	}
	b.must("GC", "", "", map[string]any{"cni.dev/valid-attachments": []map[string]string{{"containerID": "c1", "ifname": "eth0"}, {"containerID": "old2", "ifname": "eth0"}, {"containerID": "old1", "ifname": "eth1"}}})
	if got, want := list(), "10.77.0.21 old2 eth0; 10.77.0.23,fd77::3 c1 eth0"; got != want {
		t.Errorf("after GC: %s, want %s", got, want)
	}
}

func TestKernelVerifyAndRepair(t *testing.T) {
	b := newBench(t)
	pod := netnstest.New(t)
	b.must("ADD", "c1", pod.Path(), map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80}}}})
	ask := func(what string) (string, error) {
		cmd := exec.Command(b.bin, "ipam", "-dir", b.conf["stateDir"].(string), what)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := b.node.Start(cmd); err != nil {
			t.Fatal(err)
		}
		err := cmd.Wait()
		return out.String(), err
	}
	if out, err := ask("verify"); err != nil || !strings.Contains(out, "all is well") {
		t.Errorf("%v %s", err, out)
	}
	leases, err := filepath.Glob(filepath.Join(b.conf["stateDir"].(string), "test", "*", "leases", "*"))
	if err != nil || len(leases) != 1 {
		t.Fatal(leases, err)
	}
	if err := os.Remove(leases[0]); err != nil {
		t.Fatal(err)
	}
	if out, err := ask("verify"); err == nil || !strings.Contains(out, "taken by no lease") || !strings.Contains(out, "host port 8080") {
		t.Errorf("%v %s", err, out)
	}
	if out, err := ask("repair"); err != nil {
		t.Errorf("%v %s", err, out)
	}
	if out, err := ask("verify"); err != nil {
		t.Errorf("after repair: %v %s", err, out)
	}
}
