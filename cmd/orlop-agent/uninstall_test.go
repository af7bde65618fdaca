package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

// A node that has somebody else's links, routes, rules and files is after uninstall what it was before the agent came.
func TestKernelUninstallLeavesTheNodeAsItWas(t *testing.T) {
	for _, way := range [][2]string{{modeEBPF, ""}, {modeEBPF, externalClsact}, {modeNftables, ""}, {modeIptables, ""}, {modeUserspace, ""}} {
		t.Run(way[0]+" "+way[1], func(t *testing.T) {
			t.Setenv("ORLOP_TEST_MODE", way[0])
			t.Setenv("ORLOP_TEST_EXTERNAL", way[1])
			leavesTheNodeAsItWas(t)
		})
	}
}

func leavesTheNodeAsItWas(t *testing.T) {
	ns, _, dir, _ := hosted(t)
	others(t, ns, dir)
	o := options{}.in(dir)
	before := snapshot(t, ns, dir)

	agent := startAgent(t, ns, dir)
	conflist := filepath.Join(dir, "net.d", "10-orlop.conflist")
	waitFor(t, "conflist", func() bool { _, err := os.Stat(conflist); return err == nil })
	for i := range 2 {
		addPod(t, ns, o, netnstest.New(t), fmt.Sprintf("pod%d", i), 8080+i)
	}
	waitFor(t, "route to the other node's pods", func() bool { return routesTo(t, ns, "10.244.1.0/24") == 1 })
	during := snapshot(t, ns, dir)
	for part, was := range before { // or the comparison afterwards shows nothing
		if slices.Equal(was, during[part]) && part != "rules" {
			t.Errorf("the agent has not changed the node's %s", part)
		}
	}

	var said bytes.Buffer
	remove := func(dry bool) error {
		said.Reset()
		return ns.Do(func() error { return uninstall(t.Context(), o, dry, &said) })
	}
	if err := remove(false); err == nil || !strings.Contains(err.Error(), "an agent works on this node") {
		t.Errorf("while the agent works: %v", err)
	}
	if d := cmp.Diff(during, snapshot(t, ns, dir)); d != "" {
		t.Errorf("what was refused has changed the node:\n%s", d)
	}
	_ = agent.Process.Signal(syscall.SIGTERM)
	if err := agent.Wait(); err != nil {
		t.Errorf("end: %v", err)
	}
	during = snapshot(t, ns, dir) // it has taken its socket away
	if err := remove(true); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(during, snapshot(t, ns, dir)); d != "" {
		t.Errorf("--dry-run has changed the node:\n%s", d)
	}
	would := said.String()
	if err := remove(false); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.ReplaceAll(would, "would ", ""), said.String()); d != "" {
		t.Errorf("--dry-run said otherwise:\n%s", d)
	}
	if d := cmp.Diff(before, snapshot(t, ns, dir)); d != "" {
		t.Errorf("left after uninstall (-before +after):\n%s\nit said:\n%s", d, said.String())
	}
	if err := remove(false); err != nil || said.String() != "nothing of orlop-agent is on this node\n" {
		t.Errorf("once more: %v, %s", err, said.String())
	}
}

// others gives the node what a node has: another plugin's bridge with a pod of it, a pod of another network that our plugin serves, routes, a routing
// rule, netfilter's rules, and files.
func others(t *testing.T, ns *netnstest.NS, dir string) {
	t.Helper()
	link := func(l netlink.Link) netlink.Link {
		t.Helper()
		if err := ns.NL.LinkAdd(l); err != nil {
			t.Fatal(err)
		}
		made, err := ns.NL.LinkByName(l.Attrs().Name)
		if err == nil {
			err = ns.NL.LinkSetUp(made)
		}
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	bridge := link(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}})
	for _, name := range []string{"veth12345678", "orl0123456789"} {
		pod := netlink.NewVeth(netlink.LinkAttrs{Name: name, MasterIndex: bridge.Attrs().Index})
		pod.PeerName = "p" + name[:8]
		link(pod)
	}
	_, dst, _ := net.ParseCIDR("10.9.0.0/16")
	rule := netlink.NewRule()
	rule.Table, rule.Priority, rule.Dst = 100, 1000, dst
	err := errors.Join(
		ns.NL.RouteAdd(&netlink.Route{Dst: dst, Gw: net.IPv4(192, 0, 2, 254), Protocol: 99, Table: 100}), ns.NL.RuleAdd(rule),
		os.MkdirAll(filepath.Join(dir, "bin"), 0o755), os.MkdirAll(filepath.Join(dir, "net.d"), 0o755),
		os.WriteFile(filepath.Join(dir, "bin", "bridge"), []byte("theirs"), 0o755),
		os.WriteFile(filepath.Join(dir, "net.d", "87-theirs.conflist"), []byte("{}"), 0o644),
	)
	if err != nil {
		t.Fatal(err)
	}
	rules := exec.Command("nft", "-f", "-")
	rules.Stdin = strings.NewReader("table ip kube-proxy {\n chain services { type nat hook output priority -100;\n ip daddr 10.96.0.9 tcp dport 80 dnat to 192.0.2.1:8080\n }\n}\n" +
		"table inet orlop-other {\n}\n")
	rules.Stderr = os.Stderr
	if err := errors.Join(ns.Start(rules), rules.Wait()); err != nil {
		t.Fatal(err)
	}
}

// addPod has the installed plugin give a pod a network, with a host port and limits.
func addPod(t *testing.T, ns *netnstest.NS, o options, pod *netnstest.NS, id string, hostPort int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(o.confDir, "10-orlop.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Name    string
		Plugins []map[string]any
	}
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	conf := list.Plugins[0]
	conf["name"], conf["cniVersion"] = list.Name, "1.0.0"
	conf["runtimeConfig"] = map[string]any{
		"portMappings": []any{map[string]any{"hostPort": hostPort, "containerPort": 80, "protocol": "tcp"}},
		"bandwidth":    map[string]any{"ingressRate": 8e6, "ingressBurst": 8e6, "egressRate": 8e6, "egressBurst": 8e6},
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(o.binDir, "orlop-cni"))
	cmd.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + id, "CNI_IFNAME=eth0", "CNI_NETNS=" + pod.Path(), "CNI_PATH=" + o.binDir}
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &out
	if err := errors.Join(ns.Start(cmd), cmd.Wait()); err != nil {
		t.Fatalf("ADD %s: %v: %s", id, err, out.String())
	}
}

// byItself says of an address that the kernel gives it to a link a moment after that is up.
func byItself(ip net.IP) bool { return ip.IsLinkLocalUnicast() || ip.IsMulticast() }

// expires is the clock of an element, and how much has passed by a rule.
var expires = regexp.MustCompile(` expires \w+|counter packets \d+ bytes \d+`)

// snapshot is all of a node that anybody could have changed, in parts.
func snapshot(t *testing.T, ns *netnstest.NS, dir string) map[string][]string {
	t.Helper()
	s := map[string][]string{}
	links, err := ns.NL.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		addrs, err := ns.NL.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		qdiscs, err := ns.NL.QdiscList(l)
		if err != nil {
			t.Fatal(err)
		}
		addrs = slices.DeleteFunc(addrs, func(a netlink.Addr) bool { return byItself(a.IP) })
		a := l.Attrs()
		s["links"] = append(s["links"], fmt.Sprint(a.Index, a.Name, l.Type(), a.MTU, a.HardwareAddr, a.MasterIndex, a.Promisc, addrs, qdiscs))
	}
	all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	routes, err := ns.NL.RouteListFiltered(netlink.FAMILY_ALL, all, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Dst != nil && byItself(r.Dst.IP) {
			continue
		}
		s["routes"] = append(s["routes"], r.String())
	}
	rules, err := ns.NL.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		s["rules"] = append(s["rules"], r.String())
	}
	err = ns.Do(func() error {
		s["sysctls"], err = sysctls()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"nft", "list", "ruleset"}, {"iptables-legacy-save"}, {"ip6tables-legacy-save"}} {
		cmd := exec.Command(args[0], args[1:]...)
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := ns.Start(cmd); err == nil && cmd.Wait() == nil { // a program that is not here cannot have shown anything before
			for line := range strings.Lines(out.String()) {
				if !strings.HasPrefix(line, "#") {
					s["netfilter"] = append(s["netfilter"], expires.ReplaceAllString(line, ""))
				}
			}
		}
	}
	resolved, err := filepath.EvalSymlinks(filepath.Join(dir, "bpf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{dir, resolved} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			s["files"] = append(s["files"], path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for part := range s {
		slices.Sort(s[part])
	}
	return s
}

// sysctls are those of the network namespace of the thread that calls, but for what counts.
func sysctls() (out []string, err error) {
	err = filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "nf_conntrack_count") {
			return err
		}
		if b, err := os.ReadFile(path); err == nil { // some can only be written
			out = append(out, path+" = "+strings.TrimSpace(string(b)))
		}
		return nil
	})
	return out, err
}
