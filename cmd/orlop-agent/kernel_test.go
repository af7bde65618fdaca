package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/cni/plugin"
)

// The agent under test is this binary, started again on a node of the test: a network namespace and a cgroup. It sees a cluster
// of two nodes with one service.
const agentDir, clientURL = "ORLOP_TEST_AGENT_DIR", "ORLOP_TEST_CLIENT_URL"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(agentDir) != "":
		os.Exit(agentMain(os.Getenv(agentDir)))
	case os.Getenv("CNI_COMMAND") != "": // the plugin that the agent installed, which is this binary, too
		if err := plugin.Funcs().Run(plugin.Call{Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}, plugin.Versions()); err != nil {
			_ = err.Print()
			os.Exit(1)
		}
		os.Exit(0)
	case os.Getenv(clientURL) != "":
		os.Exit(clientMain(os.Getenv(clientURL)))
	}
	os.Exit(m.Run())
}

func (o options) in(dir string) options {
	o.pinDir, o.binDir, o.confDir = filepath.Join(dir, "bpf", "orlop"), filepath.Join(dir, "bin"), filepath.Join(dir, "net.d")
	o.stateDir, o.runDir, o.binary = filepath.Join(dir, "cni", "orlop"), filepath.Join(dir, "run"), os.Args[0]
	o.cni, o.proxy, o.procSys, o.probes = os.Getenv("ORLOP_TEST_CNI") != "no", os.Getenv("ORLOP_TEST_PROXY") != "no", cmp.Or(os.Getenv("ORLOP_TEST_PROC"), "/proc/sys"), "127.0.0.1:10253"
	o.dataDir = filepath.Join(dir, "data")
	o.overlayWhen, o.vni, o.vxlanPort = "auto", 1, 4789
	o.healthz, o.metrics, o.bridge, o.node = "127.0.0.1:10256", "127.0.0.1:10249", "orlop0", "a"
	o.cgroupRoot, o.proxyMode = os.Getenv("ORLOP_TEST_CGROUP"), os.Getenv("ORLOP_TEST_MODE")
	o.proxyExternal = os.Getenv("ORLOP_TEST_EXTERNAL")
	o.podRedirect = cmp.Or(os.Getenv("ORLOP_TEST_REDIRECT"), redirectAuto)
	o.sockets, o.socketOptOut, o.netnsDir = cmp.Or(os.Getenv("ORLOP_TEST_SOCKETS"), socketsAll), []string{optOut}, filepath.Join(dir, "netns")
	return o
}

func agentMain(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ready, port := true, int32(8080)
	client := fake.NewClientset(
		node("a", "10.244.0.0/24", "192.0.2.1"), node("b", "10.244.1.0/24", "192.0.2.2"),
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
			Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080}}},
		},
		&discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		})
	if os.Getenv("ORLOP_TEST_AWAY") != "" {
		client.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("the API server is away")
		})
	}
	if addr := os.Getenv("ORLOP_TEST_OPT_OUT"); addr != "" {
		_ = client.Tracker().Add(optingOut("mesh", addr))
	}
	if os.Getenv("ORLOP_TEST_CHANGES") != "" {
		go changeNode(ctx, client, dir)
	}
	err := work(ctx, options{}.in(dir), client, nil, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// clientMain asks until its stdin ends and says how often that went well and not.
func clientMain(url string) int {
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(done)
	}()
	c := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	good, bad := 0, 0
	for {
		resp, err := c.Get(url)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			bad++
		} else {
			resp.Body.Close()
			good++
		}
		select {
		case <-done:
			fmt.Println(good, bad)
			return 0
		default:
		}
	}
}

func TestKernelAgentSurvivesKillsAndCleansUp(t *testing.T) {
	for _, way := range [][2]string{{modeEBPF, externalTCX}, {modeEBPF, externalClsact}, {modeEBPF, externalNft}, {modeNftables, ""}, {modeIptables, ""}} {
		t.Run(way[0]+" "+way[1], func(t *testing.T) {
			t.Setenv("ORLOP_TEST_MODE", way[0])
			t.Setenv("ORLOP_TEST_EXTERNAL", way[1])
			survivesKillsAndCleansUp(t)
		})
	}
}

func survivesKillsAndCleansUp(t *testing.T) {
	ns, outside, dir, cgroup := hosted(t)

	agent := startAgent(t, ns, dir)
	conflist := filepath.Join(dir, "net.d", "10-orlop.conflist")
	waitFor(t, "conflist", func() bool { _, err := os.Stat(conflist); return err == nil })
	var out bytes.Buffer
	client := exec.Command(os.Args[0])
	client.Env, client.Stdout, client.Stderr = []string{clientURL + "=http://10.96.0.9/"}, &out, os.Stderr
	stdin, err := client.StdinPipe()
	if err == nil {
		err = ns.StartIn(cgroup, client)
	}
	if err != nil {
		t.Fatal(err)
	}
	var outerOut bytes.Buffer // of a client on another machine, which no hook in sockets sees
	outer := exec.Command(os.Args[0])
	outer.Env, outer.Stdout, outer.Stderr = []string{clientURL + "=http://192.0.2.1:30080/"}, &outerOut, os.Stderr
	outerIn, err := outer.StdinPipe()
	if err == nil {
		err = outside.Start(outer)
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		time.Sleep(200 * time.Millisecond)
		_ = agent.Process.Kill()
		_ = agent.Wait()
		time.Sleep(100 * time.Millisecond)
		agent = startAgent(t, ns, dir)
		waitFor(t, "healthy agent", func() bool { return healthy(ns) })
	}
	stdin.Close()
	outerIn.Close()
	if err := errors.Join(client.Wait(), outer.Wait()); err != nil {
		t.Fatal(err)
	}
	for from, text := range map[string]string{"the node": out.String(), "outside": outerOut.String()} {
		var good, bad int
		if _, err := fmt.Sscan(text, &good, &bad); err != nil || bad != 0 || good < 100 {
			t.Errorf("from %s %d requests went well, %d did not, %v", from, good, bad, err)
		}
	}
	waitFor(t, "route to the other node's pods", func() bool { return routesTo(t, ns, "10.244.1.0/24") == 1 })

	_ = agent.Process.Signal(syscall.SIGTERM)
	if err := agent.Wait(); err != nil {
		t.Errorf("end: %v", err)
	}
	if err := ns.Do(func() error { return uninstall(context.Background(), options{}.in(dir), false, io.Discard) }); err != nil {
		t.Fatal(err)
	}
	tables := nftTables(t, ns)
	if len(tables) > 0 {
		t.Errorf("left after uninstall: nftables %v", tables)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil || len(left) != 2 || routesTo(t, ns, "10.244.1.0/24") != 0 { // two files that every BPF file system has
		t.Errorf("left after uninstall: %v, %v", left, err)
	}
}

// hosted is a node of the test with an uplink and a folder for all that the agent writes.
func hosted(t *testing.T) (ns, outside *netnstest.NS, dir, cgroup string) {
	t.Helper()
	ns, outside, dir = netnstest.New(t), netnstest.New(t), t.TempDir()
	if err := os.Symlink(netnstest.BPFFS(t), filepath.Join(dir, "bpf")); err != nil {
		t.Fatal(err)
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	root, err := socklb.CgroupRoot(string(info))
	if err != nil {
		t.Fatal(err)
	}
	cgroup = netnstest.Cgroup(t, root)
	t.Setenv("ORLOP_TEST_CGROUP", cgroup)
	uplink(t, ns, outside)
	return ns, outside, dir, cgroup
}

func startAgent(t *testing.T, ns *netnstest.NS, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), agentDir+"="+dir)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return cmd
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

func healthy(ns *netnstest.NS) bool {
	return answer(ns, "127.0.0.1:10256", "/healthz") == http.StatusOK
}

// nftTables are the names of the tables of all families.
func nftTables(t *testing.T, ns *netnstest.NS) (names []string) {
	t.Helper()
	err := ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		list, err := conn.ListTables()
		for _, table := range list {
			names = append(names, table.Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func routesTo(t *testing.T, ns *netnstest.NS, dst string) (n int) {
	t.Helper()
	list, err := ns.NL.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if r.Dst != nil && r.Dst.String() == dst {
			n++
		}
	}
	return n
}

// uplink gives the node 192.0.2.1 on a link to outside, the way to everywhere, and a server at port 8080.
func uplink(t *testing.T, ns, outside *netnstest.NS) {
	t.Helper()
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: "up0"})
	veth.PeerName, veth.PeerNamespace = "up1", netlink.NsFd(outside.FD())
	if err := ns.NL.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	for name, nl := range map[string]*netlink.Handle{"up0": ns.NL, "up1": outside.NL} {
		last := byte(1)
		if name == "up1" {
			last = 254
		}
		l, err := nl.LinkByName(name)
		if err == nil {
			err = nl.LinkSetUp(l)
		}
		if err == nil {
			err = nl.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, last), Mask: net.CIDRMask(24, 32)}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := ns.NL.RouteAdd(&netlink.Route{Gw: net.IPv4(192, 0, 2, 254)}); err != nil {
		t.Fatal(err)
	}
	err := ns.Do(func() error {
		l, err := net.Listen("tcp", "192.0.2.1:8080")
		if err != nil {
			return err
		}
		s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
		t.Cleanup(func() { s.Close() })
		go func() { _ = s.Serve(l) }()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
