package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/cni/nat"
)

// Beside a proxy that has its ports, an agent without the pods' network serves, binds nothing twice, and takes the ports when they are free.
func TestKernelProxyAloneBesideAnother(t *testing.T) {
	t.Setenv("ORLOP_TEST_CNI", "no")
	ns, outside, dir, _ := hosted(t)
	var other http.Server
	other.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "the other's", http.StatusTeapot) })
	err := ns.Do(func() error {
		for _, addr := range []string{":10256", "127.0.0.1:10249"} {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				return err
			}
			go func() { _ = other.Serve(l) }()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	startAgent(t, ns, dir)
	waitFor(t, "healthy agent at its own port", func() bool { return answer(ns, "127.0.0.1:10253", "/healthz") == http.StatusOK })
	for _, addr := range []string{"127.0.0.1:10256", "127.0.0.1:10249"} {
		if code := answer(ns, addr, "/healthz"); code != http.StatusTeapot {
			t.Errorf("%s is answered with %d, not by the other", addr, code)
		}
	}
	if code := answer(outside, "192.0.2.1:30080", "/"); code != http.StatusOK {
		t.Errorf("the service's node port answers a client outside with %d", code)
	}
	rep, err := askAgent(t.Context(), filepath.Join(dir, "run"), "default/web")
	if err != nil || len(rep.Services) != 1 || rep.Services[0].wrong() != "" || len(rep.Services[0].Kernel) != 3 || len(rep.Services[0].Kernel[0].Backends) != 1 {
		t.Errorf("the agent says of its services: %+v, %v", rep, err)
	}
	for _, path := range []string{"bin/orlop-cni", "net.d/10-orlop.conflist"} {
		if _, err := os.Lstat(filepath.Join(dir, path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if n := routesTo(t, ns, "10.244.1.0/24"); n != 0 || slices.Contains(nftTables(t, ns), "orlop") {
		t.Errorf("%d routes, tables %v", n, nftTables(t, ns))
	}
	other.Close()
	waitFor(t, "the agent at the other's ports", func() bool {
		return answer(ns, "127.0.0.1:10256", "/healthz") == http.StatusOK && answer(ns, "127.0.0.1:10249", "/metrics") == http.StatusOK
	})
}

// An agent without a proxy lets go of the services that one with it left, and keeps the pods' network.
func TestKernelNetworkAlone(t *testing.T) {
	t.Setenv("ORLOP_TEST_EXTERNAL", externalNft)
	ns, _, dir, _ := hosted(t)
	agent := startAgent(t, ns, dir)
	conflist := filepath.Join(dir, "net.d", "10-orlop.conflist")
	waitFor(t, "conflist", func() bool { _, err := os.Stat(conflist); return err == nil })
	before, err := os.ReadFile(conflist)
	if err != nil || !slices.Contains(nftTables(t, ns), "orlop-services") {
		t.Fatalf("%v, tables %v", err, nftTables(t, ns))
	}
	_ = agent.Process.Kill()
	_ = agent.Wait()

	t.Setenv("ORLOP_TEST_PROXY", "no")
	startAgent(t, ns, dir)
	waitFor(t, "healthy agent", func() bool { return answer(ns, "127.0.0.1:10253", "/healthz") == http.StatusOK })
	waitFor(t, "conflist that has bridged packets seen", func() bool { now, _ := os.ReadFile(conflist); return len(now) > 0 && string(now) != string(before) })
	if list := nftTables(t, ns); !slices.Equal(list, []string{"orlop"}) {
		t.Errorf("tables %v", list)
	}
	if pins, err := filepath.Glob(filepath.Join(dir, "bpf", "orlop", "*")); err != nil || len(pins) > 0 {
		t.Errorf("pins %v, %v", pins, err)
	}
	if n := routesTo(t, ns, "10.244.1.0/24"); n != 1 {
		t.Errorf("%d routes to the other node's pods", n)
	}
}

// answer is the status of a request from the node, 0 for none.
func answer(ns *netnstest.NS, addr, path string) (code int) {
	_ = ns.Do(func() error {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err = fmt.Fprintf(c, "GET %s HTTP/1.0\r\n\r\n", path); err == nil {
			_, err = fmt.Fscanf(c, "HTTP/1.0 %d", &code)
		}
		return err
	})
	return code
}

// Somebody flushed the node's rules while no agent worked. The next one brings back the host ports of pods that run.
func TestKernelHostPortsAreBackAfterAFlush(t *testing.T) {
	ns, outside, dir, _ := hosted(t)
	o := options{}.in(dir)
	agent := startAgent(t, ns, dir)
	conflist := filepath.Join(dir, "net.d", "10-orlop.conflist")
	waitFor(t, "conflist", func() bool { _, err := os.Stat(conflist); return err == nil })
	pod := netnstest.New(t)
	addPod(t, ns, o, pod, "pod", 8089)
	pod.Serve("10.244.0.2:80")
	answers := func() bool {
		c := false
		_ = outside.Do(func() error {
			conn, err := net.DialTimeout("tcp", "192.0.2.1:8089", time.Second)
			if c = err == nil; c {
				conn.Close()
			}
			return nil
		})
		return c
	}
	if !answers() {
		t.Fatal("the host port does not answer")
	}
	_ = agent.Process.Kill()
	_ = agent.Wait()
	if err := ns.Do(func() error { return nat.New(networkName).Remove() }); err != nil {
		t.Fatal(err)
	}
	if answers() {
		t.Fatal("the host port answers without rules")
	}
	startAgent(t, ns, dir)
	waitFor(t, "the host port again", answers)
}
