package localcluster

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/orlop-io/orlop/cmd/localcluster/control"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
)

// TestMain lets the test binary stand in for orlop, whose hidden commands hosts are made of.
func TestMain(m *testing.M) {
	hidden := map[string]func(context.Context, []string) error{
		SuperviseCommand: Supervise, ForwardCommand: Forward, echoCommand: echo,
	}
	if len(os.Args) > 1 && hidden[os.Args[1]] != nil {
		if err := hidden[os.Args[1]](context.Background(), os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func needKernel(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if strings.Contains(os.Getenv("ORLOP_REQUIRE"), "kernel") {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
}

// machine lists all that a cluster might leave behind, one thing a line.
func machine(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, c := range []string{"ip -o link", "ip -o addr", "ip route"} {
		out, err := exec.Command("sh", "-c", c).Output()
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		for l := range strings.Lines(string(out)) {
			all = append(all, c+": "+strings.TrimSpace(l))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(mounts)) {
		all = append(all, "mount "+strings.Fields(l)[4])
	}
	for _, pattern := range []string{"/sys/fs/cgroup/orlop*", "/sys/fs/cgroup/*/orlop*", "/run/orlop*", "/run/orlop/*", "/run/containerd*",
		"/var/lib/orlop*", "/var/lib/orlop/*", "/var/log/orlop*", "/etc/kubernetes*", "/etc/cni*", "/opt/*", "/var/lib/*", "/var/log/*"} {
		found, _ := filepath.Glob(pattern)
		all = append(all, found...)
	}
	sort.Strings(all)
	return all
}

// testCluster prepares the state of a cluster that this process may boot.
func testCluster(t *testing.T, hosts int) *layout.Cluster {
	t.Helper()
	needKernel(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("test%d", os.Getpid())
	c := &layout.Cluster{
		Name: name, Version: "test", Exe: exe, Hosts: layout.HostList(name, hosts), Offline: true, APIPort: mustFreePort(t),
		PodCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/12"),
	}
	t.Cleanup(func() {
		if err := Down(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	if err := claim(c); err != nil {
		t.Fatal(err)
	}
	if err := locked(func() error { return ensureGround(c) }); err != nil {
		t.Fatal(err)
	}
	return c
}

func inHost(t *testing.T, c *layout.Cluster, host int, script string) string {
	t.Helper()
	var out strings.Builder
	err := control.Run(t.Context(), layout.Socket(c.Name, c.Hosts[host].Name), io.Writer(&out), "sh", "-c", script)
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return strings.TrimSpace(out.String())
}

func TestKernelHostsLeaveNoTrace(t *testing.T) {
	needKernel(t)
	before := machine(t)
	c := testCluster(t, 2)
	boot := func(ctx context.Context, h layout.Host) error { return bootHost(ctx, c, h) }
	if err := eachHost(t.Context(), c.Hosts, boot); err != nil {
		t.Fatal(err)
	}
	if got := inHost(t, c, 0, "hostname; cat /proc/self/cgroup | cut -d: -f3 | sort -u; ls /var/lib/etcd /run/orlop 2>/dev/null | grep -v : || true"); got != c.Hosts[0].Name+"\n/system" {
		t.Errorf("a host sees %q", got)
	}
	// A refusal comes from the other host itself: the fabric carries packets both ways.
	conn, err := control.DialIn(t.Context(), layout.Socket(c.Name, c.Hosts[0].Name), "tcp", c.Hosts[1].Addr.String()+":9")
	if err == nil {
		conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("dialling the second host from the first: %v, want a refusal", err)
	}
	if out := inHost(t, c, 1, "ctr version | grep -c Version"); out != "2" {
		t.Errorf("ctr in the host answers %q", out)
	}
	first := inHost(t, c, 1, "cat /proc/sys/kernel/random/boot_id; touch /run/gone /etc/kubernetes/stays")
	if err := Stop(t.Context(), c.Name, "2"); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Ask(t.Context(), layout.Socket(c.Name, c.Hosts[1].Name)); err == nil {
		t.Error("a stopped host answers")
	}
	if err := Start(t.Context(), c.Name, c.Hosts[1].Name); err != nil {
		t.Fatal(err)
	}
	if again := inHost(t, c, 1, "cat /proc/sys/kernel/random/boot_id; ls /run/gone 2>/dev/null; ls /etc/kubernetes"); again == first+"\nstays" || !strings.HasSuffix(again, "\nstays") || strings.Contains(again, "gone") {
		t.Errorf("after a reboot the host shows %q", again)
	}
	own := map[string]bool{inHost(t, c, 0, "readlink /proc/self/ns/net"): true, inHost(t, c, 1, "readlink /proc/self/ns/net"): true}
	if len(own) != 2 {
		t.Errorf("two hosts have the network namespaces %v", own)
	}
	if err := Down(t.Context(), c.Name); err != nil {
		t.Fatal(err)
	}
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, l := range links {
		if ns, err := os.Readlink(l); err == nil && own[ns] {
			t.Errorf("%s is still %s", l, ns)
		}
	}
	compare(t, before)
}

// compare allows the kernel some time to take namespaces down.
func compare(t *testing.T, before []string) {
	t.Helper()
	var diff string
	for range 50 {
		if diff = cmp.Diff(before, machine(t)); diff == "" {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("left behind:\n%s", diff)
}

func TestKernelSupervisorRestartsContainerd(t *testing.T) {
	c := testCluster(t, 1)
	if err := bootHost(t.Context(), c, c.Hosts[0]); err != nil {
		t.Fatal(err)
	}
	socket := layout.Socket(c.Name, c.Hosts[0].Name)
	st, err := control.Ask(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	inHost(t, c, 0, fmt.Sprintf("kill -9 %d", st.Containerd.Pid))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = poll(ctx, 10*time.Millisecond, func() (bool, error) {
		now, err := control.Ask(ctx, socket)
		return now.Containerd.Ready && now.Containerd.Restarts == 1 && now.Containerd.Pid != st.Containerd.Pid, err
	})
	if err != nil {
		t.Fatal("containerd is not back:", err)
	}
}

func TestKernelDownAfterCrashes(t *testing.T) {
	needKernel(t)
	before := machine(t)
	c := testCluster(t, 1)
	if err := bootHost(t.Context(), c, c.Hosts[0]); err != nil {
		t.Fatal(err)
	}
	st, err := control.Ask(t.Context(), layout.Socket(c.Name, c.Hosts[0].Name))
	if err != nil {
		t.Fatal(err)
	}
	inHost(t, c, 0, "for d in /sys/fs/cgroup/*/; do mkdir -p $d/kubepods/burstable; done; setsid sleep 1000 >/dev/null 2>&1 </dev/null &")
	// The supervisor dies, containerd goes on alone; the state file is lost too.
	if err := syscall.Kill(st.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(layout.StateFile(c.Name)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // twice: the second finds nothing, and says nothing
		if err := Down(t.Context(), c.Name); err != nil {
			t.Fatal(err)
		}
	}
	compare(t, before)
}

// A host or forwarder that an interrupted up has just started must not come to life after down.
func TestKernelNobodyEntersARemovedCluster(t *testing.T) {
	c := testCluster(t, 1)
	dir, err := lockDir(layout.StateDir(c.Name)) // as down holds it
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	late, err := spawn(c, c.Hosts[0].Name, "supervisor.log", SuperviseCommand, c.Name, c.Hosts[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if late.gone() {
			t.Fatal("the host did not wait for the lock")
		}
	}
	if err := os.RemoveAll(layout.StateDir(c.Name)); err != nil {
		t.Fatal(err)
	}
	dir.Close()
	select {
	case <-late:
	case <-time.After(10 * time.Second):
		t.Fatal("the host goes on")
	}
	for _, pattern := range []string{"/sys/fs/cgroup/orlop-", "/sys/fs/cgroup/*/orlop-"} {
		if found, _ := filepath.Glob(pattern + c.Name); len(found) > 0 {
			t.Errorf("it made %v", found)
		}
	}
}

func TestKernelRoutedHosts(t *testing.T) {
	needKernel(t)
	c := testCluster(t, 2)
	c.Routed = true
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	boot := func(ctx context.Context, h layout.Host) error { return bootHost(ctx, c, h) }
	if err := eachHost(t.Context(), c.Hosts, boot); err != nil {
		t.Fatal(err)
	}
	conn, err := control.DialIn(t.Context(), layout.Socket(c.Name, c.Hosts[0].Name), "tcp", c.Hosts[1].Addr.String()+":9")
	if err == nil {
		conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("dialling the second host from the first: %v, want a refusal", err)
	}
	if out := inHost(t, c, 0, "ip route get "+c.Hosts[1].Addr.String()); !strings.Contains(out, "via "+layout.Gateway().String()) {
		t.Errorf("the way to the second host: %s", out)
	}
}
