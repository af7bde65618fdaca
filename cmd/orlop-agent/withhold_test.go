package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

func TestCannotServe(t *testing.T) {
	cidr := []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}
	for _, tt := range []struct {
		name   string
		unseen error
		cidrs  []netip.Prefix
		kind   string
		want   string
	}{
		{"all is well, and no bridge yet", nil, cidr, "", ""},
		{"all is well", nil, cidr, "bridge", ""},
		{"no range", nil, nil, "bridge", "no pod CIDR"},
		{"the bridge's name is another link's", nil, cidr, "dummy", "orlop0 is a dummy"},
		{"folders that no runtime sees", errors.New("not mounted"), cidr, "bridge", "not mounted"},
	} {
		a := &agent{o: options{bridge: "orlop0"}, unseen: tt.unseen}
		got := a.cannotServe(&cluster{podCIDRs: tt.cidrs}, tt.kind)
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// changeNode takes node a's range from it at one signal and gives it another at the next, and writes down the node's condition before it.
func changeNode(ctx context.Context, client kubernetes.Interface, dir string) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGHUP)
	for {
		var got os.Signal
		select {
		case <-ctx.Done():
			return
		case got = <-signals:
		}
		n, err := client.CoreV1().Nodes().Get(ctx, "a", metav1.GetOptions{})
		if err != nil {
			panic(err)
		}
		said := "none"
		for _, c := range n.Status.Conditions {
			said = string(c.Status) + " " + c.Message
		}
		switch got {
		case syscall.SIGHUP:
			if err := os.WriteFile(filepath.Join(dir, "condition"), []byte(said), 0o600); err != nil {
				panic(err)
			}
			continue
		case syscall.SIGUSR1:
			n.Spec.PodCIDR, n.Spec.PodCIDRs = "", nil
		case syscall.SIGUSR2:
			n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.244.9.0/24", []string{"10.244.9.0/24"}
		}
		if _, err := client.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{}); err != nil {
			panic(err)
		}
	}
}

// A node whose range is taken from it keeps its configuration, so that its pods can go, but gets no new ones: ADD is refused, and the scheduler
// told.
func TestKernelRangeThatVanishes(t *testing.T) {
	netnstest.RequireRoot(t)
	t.Setenv("ORLOP_TEST_CHANGES", "yes")
	t.Setenv("ORLOP_TEST_PROXY", "no")
	ns, _, dir, _ := hosted(t)
	agent := startAgent(t, ns, dir)
	conflist := filepath.Join(dir, "net.d", "10-orlop.conflist")
	written := func(part string) func() bool {
		return func() bool { b, err := os.ReadFile(conflist); return err == nil && strings.Contains(string(b), part) }
	}
	condition := func(want string) func() bool {
		return func() bool {
			_ = agent.Process.Signal(syscall.SIGHUP)
			b, err := os.ReadFile(filepath.Join(dir, "condition"))
			return err == nil && strings.HasPrefix(string(b), want)
		}
	}
	call := func(verb, id string, pod *netnstest.NS) (string, error) {
		conf, err := os.ReadFile(conflist)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(dir, "bin", "orlop-cni"))
		cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_IFNAME=eth0", "CNI_NETNS=" + pod.Path(), "CNI_PATH=/nowhere"}
		cmd.Stdin = strings.NewReader(onlyPlugin(t, conf))
		var out strings.Builder
		cmd.Stdout = &out
		if err := ns.Start(cmd); err != nil {
			t.Fatal(err)
		}
		err = cmd.Wait()
		return out.String(), err
	}
	waitFor(t, "conflist", written(`"podCIDRs"`))
	first, second := netnstest.New(t), netnstest.New(t)
	if out, err := call("ADD", "c1", first); err != nil {
		t.Fatalf("ADD: %v: %s", err, out)
	}

	_ = agent.Process.Signal(syscall.SIGUSR1)
	waitFor(t, "conflist without a range", written(`"podCIDRsFile"`))
	waitFor(t, "condition NetworkUnavailable", condition("True this node has no pod CIDR"))
	if out, err := call("ADD", "c2", second); err == nil || !strings.Contains(out, `"code": 11`) {
		t.Errorf("ADD without a range: %v: %s", err, out)
	}
	if out, err := call("DEL", "c1", first); err != nil {
		t.Errorf("DEL without a range: %v: %s", err, out)
	}

	_ = agent.Process.Signal(syscall.SIGUSR2)
	waitFor(t, "conflist with another range", written("10.244.9.0/24"))
	waitFor(t, "condition NetworkUnavailable False", condition("False"))
	if out, err := call("ADD", "c2", second); err != nil || !strings.Contains(out, "10.244.9.2/24") {
		t.Errorf("ADD with another range: %v: %s", err, out)
	}
}

// onlyPlugin is what a runtime hands to the plugin of a list.
func onlyPlugin(t *testing.T, list []byte) string {
	t.Helper()
	var l struct {
		Name    string
		Plugins []map[string]any
	}
	if err := json.Unmarshal(list, &l); err != nil || len(l.Plugins) != 1 {
		t.Fatalf("conflist %s: %v", list, err)
	}
	l.Plugins[0]["name"], l.Plugins[0]["cniVersion"] = l.Name, "1.0.0"
	b, err := json.Marshal(l.Plugins[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
