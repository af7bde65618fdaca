package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/userspace"
)

// Each mode takes over from the one before, whose last trace goes; --cleanup takes away what the last one made, refuses while it works, and does
// nothing where there is nothing.
func TestKernelModesFollowOneAnother(t *testing.T) {
	ns, outside, dir, cgroup := hosted(t)
	for _, mode := range []string{modeEBPF, modeIptables, modeUserspace, modeNftables, modeIptables, modeEBPF, modeUserspace} {
		t.Setenv("ORLOP_TEST_MODE", mode)
		t.Setenv("ORLOP_TEST_EXTERNAL", externalNft)
		o := options{}.in(dir)
		agent := startAgent(t, ns, dir)
		waitFor(t, "healthy agent in mode "+mode, func() bool { return answer(ns, "127.0.0.1:10253", "/healthz") == http.StatusOK })
		want := map[string]bool{modeEBPF: mode == modeEBPF, modeNftables: mode == modeNftables || mode == modeEBPF, modeIptables: mode == modeIptables, modeUserspace: mode == modeUserspace}
		if got := traces(t, ns, o); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("in mode %s there are traces of %v, want %v", mode, got, want)
		}
		if code := answer(outside, "192.0.2.1:30080", "/"); code != http.StatusOK {
			t.Errorf("in mode %s the node port answers a client outside with %d", mode, code)
		}
		asks(t, ns, cgroup, "http://10.96.0.9/", mode)
		if body := get(t, ns, "127.0.0.1:10249", "/proxyMode"); body != mode {
			t.Errorf("/proxyMode says %q in mode %s", body, mode)
		}
		seen := 0 // the cluster address from inside, the node port from inside and outside
		if mode == modeEBPF || mode == modeNftables {
			seen = 3
		}
		rep, err := askAgent(t.Context(), filepath.Join(dir, "run"), "default/web")
		if err != nil || len(rep.Services) != 1 || rep.Services[0].wrong() != "" || len(rep.Services[0].Kernel) != seen {
			t.Errorf("in mode %s the agent says of its services: %+v, %v; want %d addresses in the kernel", mode, rep, err, seen)
		}
		var said bytes.Buffer
		if err := ns.Do(func() error { return cleanup(o, true, false, &said) }); err == nil || !strings.Contains(err.Error(), "an agent works on this node") {
			t.Errorf("--cleanup while the agent works: %v", err)
		}
		_ = agent.Process.Signal(syscall.SIGTERM)
		_ = agent.Wait()
	}
	o := options{}.in(dir)
	for i := range 2 {
		var said bytes.Buffer
		if err := ns.Do(func() error { return cleanup(o, true, true, &said) }); err != nil {
			t.Fatal(err)
		}
		if got := traces(t, ns, o); slices.Contains([]bool{got[modeEBPF], got[modeNftables], got[modeIptables], got[modeUserspace]}, true) {
			t.Errorf("--cleanup leaves %v", got)
		}
		if (said.Len() > 0) != (i == 0) {
			t.Errorf("--cleanup, time %d, says %q", i+1, said.String())
		}
	}
	if !slices.Contains(nftTables(t, ns), "orlop") {
		t.Error("--cleanup has taken away the pods' network")
	}
}

// traces says which modes have left something.
func traces(t *testing.T, ns *netnstest.NS, o options) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	_, err := os.Lstat(o.pinDir)
	out[modeEBPF] = err == nil
	out[modeNftables] = slices.Contains(nftTables(t, ns), "orlop-services")
	err = ns.Do(func() error {
		for _, name := range []string{"iptables-nft-save", "iptables-legacy-save", "ip6tables-nft-save", "ip6tables-legacy-save"} {
			text, err := exec.Command(name).Output()
			if err != nil {
				return err
			}
			out[modeIptables] = out[modeIptables] || strings.Contains(string(text), "KUBE-")
		}
		routes, err := userspace.Routes()
		out[modeUserspace] = len(routes) > 0
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// asks asks once from the node's cgroup.
func asks(t *testing.T, ns *netnstest.NS, cgroup, url, mode string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	var out bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = []string{clientURL + "=" + url}, strings.NewReader(""), &out, &out
	var good, bad int
	if err := errors.Join(ns.StartIn(cgroup, cmd), cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(out.String(), &good, &bad); err != nil || good == 0 || bad > 0 {
		t.Errorf("in mode %s a client on the node: %s", mode, out.String())
	}
}

func get(t *testing.T, ns *netnstest.NS, addr, path string) string {
	t.Helper()
	var body []byte
	err := ns.Do(func() error {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.0\r\n\r\n", path); err != nil {
			return err
		}
		body, err = io.ReadAll(c)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(body), "\r\n\r\n")
	return text
}

// A former kube-proxy's rules go only when that is asked for, of its chains none but its own.
func TestKernelRemovesKubeProxysRules(t *testing.T) {
	ns, _, dir, _ := hosted(t)
	o := options{}.in(dir)
	const rules = `*mangle
:KUBE-PROXY-CANARY - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
:MINE - [0:0]
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -j MINE
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-NPX46M4PTMTKRN6Y
-A KUBE-SVC-NPX46M4PTMTKRN6Y -j KUBE-SEP-AAAAAAAAAAAAAAAA
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -j KUBE-FORWARD
-A INPUT -j KUBE-FIREWALL
COMMIT
`
	text := func() (all string) {
		t.Helper()
		err := ns.Do(func() error {
			for _, name := range []string{"iptables-nft-save", "iptables-legacy-save"} {
				out, err := exec.Command(name).Output()
				if err != nil {
					return err
				}
				all += string(out)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all + fmt.Sprint(nftTables(t, ns))
	}
	for _, args := range [][]string{{"iptables-nft-restore", "--noflush"}, {"iptables-legacy-restore", "--noflush"}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdin, cmd.Stderr = strings.NewReader(rules), os.Stderr
		if err := errors.Join(ns.Start(cmd), cmd.Wait()); err != nil {
			t.Fatal(err)
		}
	}
	table := exec.Command("nft", "add table ip kube-proxy; add table ip6 kube-proxy")
	if err := errors.Join(ns.Start(table), table.Wait()); err != nil {
		t.Fatal(err)
	}
	before := text()
	if err := ns.Do(func() error { return cleanup(o, true, false, io.Discard) }); err != nil {
		t.Fatal(err)
	}
	if text() != before {
		t.Errorf("--cleanup alone has changed another's rules:\n%s", text())
	}
	t.Setenv("ORLOP_TEST_MODE", modeIptables) // whose chains have the same names
	var err error
	if nsErr := ns.Do(func() error {
		_, err = openServices(options{}.in(dir), slog.New(slog.DiscardHandler))
		return nil
	}); nsErr != nil || err == nil || !strings.Contains(err.Error(), "--remove-kube-proxy-rules") {
		t.Errorf("mode iptables beside a kube-proxy's chains: %v", err)
	}
	for i := range 2 {
		var said bytes.Buffer
		if err := ns.Do(func() error { return cleanup(o, false, true, &said) }); err != nil {
			t.Fatal(err)
		}
		if (said.Len() > 0) != (i == 0) {
			t.Errorf("time %d it says %q", i+1, said.String())
		}
	}
	after := text()
	for _, gone := range []string{"KUBE-SERVICES", "KUBE-SVC-", "KUBE-SEP-", "KUBE-PROXY-CANARY", "KUBE-FORWARD", "kube-proxy"} {
		if strings.Contains(after, gone) {
			t.Errorf("%s is still there", gone)
		}
	}
	for _, stays := range []string{"KUBE-KUBELET-CANARY", "-j KUBE-FIREWALL", "-j MINE"} {
		if strings.Count(after, stays) != strings.Count(before, stays) {
			t.Errorf("%s is gone", stays)
		}
	}
}

// A Service that is refused has an Event with the reason, and a metric counts it.
func TestRefusedServicesAreTold(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "u1"}}
	client := fake.NewClientset(svc)
	r := newRefusals(slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.run(t.Context(), client, func(namespace, name string) *corev1.Service {
			if namespace != "ns" || name != "web" {
				t.Errorf("looks for %s/%s", namespace, name)
			}
			return svc
		}, "a")
	}()
	i := slices.IndexFunc(proxy.Limits(), func(l proxy.Limit) bool { return l.Feature == proxy.ExternalLocal })
	limit := proxy.Limits()[i]
	r.service("ns/web", []proxy.Limit{limit})
	r.unserved("ns/web:http", netip.MustParseAddrPort("10.96.0.9:80"), errors.New("listen at 10.96.0.9:80 for ns/web:http: address already in use"))
	var events []eventsv1.Event
	for end := time.Now().Add(10 * time.Second); len(events) < 2 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		list, err := client.EventsV1().Events("ns").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		events = list.Items
	}
	if len(events) != 2 {
		t.Fatalf("%d events", len(events))
	}
	for _, e := range events {
		ok := strings.Contains(e.Note, "externalTrafficPolicy Local: refused") || strings.Contains(e.Note, "already in use")
		if !ok || e.Regarding.UID != "u1" || e.Regarding.Kind != "Service" || e.Reason != "ServiceRefused" || e.Type != corev1.EventTypeWarning {
			t.Errorf("%+v", e)
		}
	}
	count := func() int {
		reg := prometheus.NewRegistry()
		reg.MustRegister(r)
		all, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range all {
			n += len(f.Metric)
		}
		return n
	}
	if count() != 2 {
		t.Errorf("%d metrics, want one for each reason", count())
	}
	r.service("ns/web", nil)
	r.unserved("ns/web:http", netip.MustParseAddrPort("10.96.0.9:80"), nil)
	if count() != 0 {
		t.Errorf("%d metrics when all is well", count())
	}
}

// The page for users has each limit, as the code says it.
func TestDocsHaveTheLimits(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "proxy.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range proxy.Limits() {
		row := fmt.Sprintf("| %s | %s | %s |", l.Feature, modesOf(l), l.Instead)
		if !strings.Contains(string(page), row) {
			t.Errorf("docs/proxy.md has not: %s", row)
		}
	}
}
