package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// orlop runs the built program with a home folder of the test's own.
type orlop struct {
	bin, home string
}

func newOrlop(t *testing.T) orlop {
	t.Helper()
	if os.Geteuid() != 0 {
		if strings.Contains(os.Getenv("ORLOP_REQUIRE"), "kernel") {
			t.Fatal("a local cluster needs root")
		}
		t.Skip("a local cluster needs root")
	}
	bin := os.Getenv("ORLOP_BIN") // another build than the checkout's
	if bin == "" {
		var err error
		if bin, err = filepath.Abs("../bin"); err != nil {
			t.Fatal(err)
		}
	}
	return orlop{bin: bin, home: t.TempDir()}
}

// run returns what the program printed, both streams, and its exit code.
func (o orlop) run(args ...string) (string, int) {
	cmd := exec.Command(filepath.Join(o.bin, "orlop"), args...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "KUBECONFIG=") && !strings.HasPrefix(kv, "HOME=") && !strings.HasPrefix(kv, "SUDO_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "HOME="+o.home)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return string(out), 0
	case errors.As(err, &exit):
		return string(out), exit.ExitCode()
	default:
		return err.Error(), -1
	}
}

func (o orlop) must(t *testing.T, args ...string) string {
	t.Helper()
	out, code := o.run(args...)
	if code != 0 {
		t.Fatalf("orlop %s: exit code %d:\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// TestLocalCluster starts a cluster as a user does, uses every command on it,
// and wants no trace of it when it is down.
func TestLocalCluster(t *testing.T) {
	o := newOrlop(t)
	o.must(t, "down", "--name", "trace")
	before := machine(t)
	t.Cleanup(func() { o.run("down", "--name", "trace") })

	port := freePort(t)
	out := o.must(t, "up", "--name", "trace", "--nodes", "2", "--publish", fmt.Sprintf("%d:30080", port), "--wait", "4m")
	if !strings.Contains(out, "[") {
		t.Errorf("without a terminal up prints no [step] lines:\n%s", out)
	}
	t.Run("a second up of the name exits 1", func(t *testing.T) {
		if out, code := o.run("up", "--name", "trace"); code != 1 {
			t.Errorf("exit code %d:\n%s", code, out)
		}
	})
	t.Run("make's up finds the cluster and exits 0", func(t *testing.T) { o.must(t, "up", "--name", "trace", "--reuse") })
	t.Run("kubeconfig", func(t *testing.T) {
		content, err := os.ReadFile(filepath.Join(o.home, ".kube", "config"))
		if err != nil || !strings.Contains(string(content), "current-context: orlop-trace") {
			t.Errorf("%v:\n%s", err, content)
		}
		if out := o.must(t, "kubeconfig", "--name", "trace"); !strings.Contains(out, "server: https://127.0.0.1:") {
			t.Errorf("orlop kubeconfig prints\n%s", out)
		}
	})
	t.Run("list and status", func(t *testing.T) {
		if out := o.must(t, "list"); !strings.Contains(out, "trace") {
			t.Errorf("list prints\n%s", out)
		}
		out := o.must(t, "status", "--name", "trace", "-o", "json")
		if !json.Valid([]byte(out)) || !strings.Contains(out, "trace-2") {
			t.Errorf("status prints\n%s", out)
		}
	})
	t.Run("exec runs in the host", func(t *testing.T) {
		if out := o.must(t, "exec", "--name", "trace", "trace-2", "--", "hostname"); strings.TrimSpace(out) != "trace-2" {
			t.Errorf("hostname prints %q", out)
		}
		if out := o.must(t, "exec", "--name", "trace", "trace-2", "--", "cat", "/proc/self/cgroup"); strings.Contains(out, "orlop-trace") {
			t.Errorf("the host's cgroup is not its root:\n%s", out)
		}
		if _, code := o.run("exec", "--name", "trace", "trace-2", "--", "sh", "-c", "exit 9"); code != 9 {
			t.Errorf("the command's exit code 9 comes back as %d", code)
		}
	})
	t.Run("load brings images to every host", func(t *testing.T) {
		o.must(t, "load", "--name", "trace", filepath.Join(o.bin, "images", "pause.tar"))
		archive, err := os.Open(filepath.Join(o.bin, "images", "pause.tar"))
		if err != nil {
			t.Fatal(err)
		}
		defer archive.Close()
		cmd := exec.Command(filepath.Join(o.bin, "orlop"), "load", "--name", "trace", "-")
		cmd.Stdin = archive
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("a published port reaches its NodePort", func(t *testing.T) { publishedPort(t, o, port) })
	t.Run("demo", func(t *testing.T) {
		if out := o.must(t, "demo", "--name", "trace"); strings.Count(out, "web-") < 5 {
			t.Errorf("demo prints\n%s", out)
		}
	})

	o.must(t, "down", "--name", "trace")
	after := machine(t)
	for what := range before {
		for _, line := range difference(after[what], before[what]) {
			t.Errorf("down left a trace in %s: %s", what, line)
		}
	}
	if content, err := os.ReadFile(filepath.Join(o.home, ".kube", "config")); err == nil && strings.Contains(string(content), "trace") {
		t.Errorf("down left the kubeconfig\n%s", content)
	}
	o.must(t, "down", "--name", "trace") // twice is as good as once
}

func publishedPort(t *testing.T, o orlop, port int) {
	o.must(t, "kubectl", "--context", "orlop-trace", "create", "service", "nodeport", "web", "--tcp=80:8080", "--node-port=30080")
	version := strings.Fields(o.must(t, "version"))
	o.must(t, "kubectl", "--context", "orlop-trace", "run", "web", "--labels=app=web", "--image=localhost/agnhost:"+version[len(version)-1], "--", "netexec")
	defer o.run("kubectl", "--context", "orlop-trace", "delete", "service/web", "pod/web", "--now")
	var last error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/hostname", port))
		if last = err; err != nil {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if last = err; err == nil && string(body) == "web" {
			return
		}
	}
	t.Errorf("nobody answers at the published port: %v", last)
}

func TestRefusals(t *testing.T) {
	o := newOrlop(t)
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"unknown flag":            {[]string{"up", "--no-such-flag"}, 2, "no-such-flag"},
		"two control planes":      {[]string{"up", "--name", "ha", "--control-planes", "3"}, 2, "control-planes"},
		"bad name":                {[]string{"up", "--name", "Not A Name"}, 2, "name"},
		"bad range":               {[]string{"up", "--name", "bad", "--pod-cidr", "10.244.0.0/30"}, 2, "pod-cidr"},
		"no such cluster":         {[]string{"exec", "--name", "nobody", "nobody-1", "--", "true"}, 1, "nobody"},
		"status of no cluster":    {[]string{"status", "--name", "nobody"}, 1, "nobody"},
		"init without an address": {[]string{"init", "--apiserver-advertise-address", "127.0.0.1"}, 2, "apiserver-advertise-address"},
		"join without a pin":      {[]string{"join", "192.0.2.1:6443", "--token", "abcdef.0123456789abcdef"}, 2, "discovery-token-ca-cert-hash"},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := o.run(tt.args...)
			if code != tt.code || !strings.Contains(out, tt.want) {
				t.Errorf("exit code %d, want %d, and %q in:\n%s", code, tt.code, tt.want, out)
			}
		})
	}
	if entries, _ := os.ReadDir("/var/lib/orlop"); slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == "ha" || e.Name() == "bad" }) {
		t.Error("a refused up left state")
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// machine is what a cluster could leave behind, by kind.
func machine(t *testing.T) map[string][]string {
	t.Helper()
	state := map[string][]string{}
	command := func(kind string, argv ...string) {
		out, err := exec.Command(argv[0], argv[1:]...).Output()
		if err != nil {
			t.Fatalf("%s: %v", strings.Join(argv, " "), err)
		}
		state[kind] = strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	command("network namespaces", "ip", "netns", "list")
	command("links", "sh", "-c", "ip -o link | cut -d: -f2")
	command("listening ports", "sh", "-c", "ss -Hltn | awk '{print $4}'")
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	state["mounts"] = strings.Split(strings.TrimSpace(string(mounts)), "\n")
	state["cgroups"] = foldersBelow("/sys/fs/cgroup", 6)
	state["run and lib"] = append(foldersBelow("/run", 2), foldersBelow("/var/lib", 2)...)
	state["pins"] = foldersBelow("/sys/fs/bpf", 3)
	for _, dir := range []string{"/etc/kubernetes", "/etc/cni", "/opt/cni", "/var/log/pods", "/var/log/containers"} {
		state["run and lib"] = append(state["run and lib"], foldersBelow(dir, 2)...)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		comm, err := os.ReadFile(p)
		name := strings.TrimSpace(string(comm))
		for _, ours := range []string{"orlop", "containerd", "pause", "etcd", "kube-", "coredns", "testimage"} {
			if err == nil && strings.HasPrefix(name, ours) {
				state["processes"] = append(state["processes"], name+" "+filepath.Dir(p))
			}
		}
	}
	return state
}

func foldersBelow(root string, depth int) []string {
	var out []string
	filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir
		}
		if strings.Count(strings.TrimPrefix(path, root), "/") > depth {
			return fs.SkipDir
		}
		if d.IsDir() {
			out = append(out, path)
		}
		return nil
	})
	return out
}

// difference is what a has and b has not.
func difference(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}
