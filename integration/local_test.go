package integration

import (
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

// command prepares the program in an environment of the test's own.
func (o orlop) command(env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(o.bin, "orlop"), args...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "KUBECONFIG=") && !strings.HasPrefix(kv, "HOME=") && !strings.HasPrefix(kv, "SUDO_") && !strings.HasPrefix(kv, "ORLOP_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(append(cmd.Env, "HOME="+o.home), env...)
	return cmd
}

// run returns what the program printed, both streams, and its exit code.
func (o orlop) run(args ...string) (string, int) { return o.runWith(nil, args...) }

func (o orlop) runWith(stdin io.Reader, args ...string) (string, int) {
	cmd := o.command(nil, args...)
	cmd.Stdin = stdin
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
	for _, name := range ourClusters() {
		o.must(t, "down", "--name", name)
		t.Cleanup(func() { o.run("down", "--name", name) })
	}
	before := machine(t)
	port := freePort(t)
	out := o.must(t, "up", "--name", "trace", "--nodes", "2", "--publish", fmt.Sprintf("%d:30080", port), "--wait", "90s")
	if !strings.Contains(out, "[control-plane]") {
		t.Errorf("without a terminal up prints no [step] lines:\n%s", out)
	}
	t.Run("a second up of the name exits 1", func(t *testing.T) {
		if out, code := o.run("up", "--name", "trace"); code != 1 || !strings.Contains(out, "orlop down --name trace") {
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
		if s := o.status(t, "trace"); !s.Healthy || len(s.Hosts) != 2 || s.Hosts[1].Name != "trace-2" || !s.Hosts[1].NodeReady {
			t.Errorf("status says %+v", s)
		}
	})
	t.Run("exec", func(t *testing.T) { execInHost(t, o) })
	t.Run("shell", func(t *testing.T) { shellInHost(t, o) })
	t.Run("etcdctl", func(t *testing.T) {
		if out := o.must(t, "etcdctl", "--name", "trace", "get", "/registry", "--prefix", "--keys-only"); !strings.Contains(out, "/registry/pods/kube-system/etcd-trace-1") {
			t.Errorf("etcdctl prints\n%.2000s", out)
		}
	})
	t.Run("completion", func(t *testing.T) {
		for _, shell := range []string{"bash", "zsh", "fish"} {
			if out := o.must(t, "completion", shell); !strings.Contains(out, "orlop") {
				t.Errorf("completion %s prints\n%s", shell, out)
			}
		}
		if out := o.must(t, "__complete", "shell", "trace-"); !strings.Contains(out, "trace-2\n") {
			t.Errorf("hosts are not completed:\n%s", out)
		}
	})
	t.Run("load brings images to every host", func(t *testing.T) { loadImages(t, o) })
	t.Run("programs are the cluster's own", func(t *testing.T) {
		for _, h := range o.status(t, "trace").Hosts {
			exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", h.Kubelet.Pid))
			if err != nil || exe != "/var/lib/orlop/trace/bin/orlop-kubelet" {
				t.Errorf("the kubelet of %s runs from %s, %v", h.Name, exe, err)
			}
		}
	})
	t.Run("a published port reaches its NodePort", func(t *testing.T) { publishedPort(t, o, port) })
	t.Run("demo", func(t *testing.T) {
		if out := o.must(t, "demo", "--name", "trace"); strings.Count(out, "web-") < 5 {
			t.Errorf("demo prints\n%s", out)
		}
	})
	t.Run("a cluster beside it", func(t *testing.T) { secondCluster(t, o) })
	t.Run("a host stopped and started", func(t *testing.T) { stopAndStart(t, o) })
	t.Run("a killed forwarder comes back", func(t *testing.T) { killForwarder(t, o) })

	bpf := bpfOf("trace")
	if !slices.ContainsFunc(bpf, func(s string) bool { return strings.HasPrefix(s, "prog") }) {
		t.Errorf("the cluster's BPF programs are not seen, but only %q", bpf)
	}
	// Down must not need anything of what it removes.
	kill9(t, o.status(t, "trace").Hosts[1].Pid)
	if len(otherClusters()) == 0 {
		o.must(t, "down", "--all")
	} else {
		o.must(t, "down", "--name", "trace") // not those of others
	}
	noTrace(t, before, bpf...)
	if left := foldersBelow(o.home, 3); len(left) > 1 {
		t.Errorf("left in the home folder: %q", left[1:])
	}
	o.must(t, "down", "--name", "trace") // twice is as good as once
}

func publishedPort(t *testing.T, o orlop, port int) {
	o.must(t, "kubectl", "--name", "trace", "create", "service", "nodeport", "web", "--tcp=80:8080", "--node-port=30080")
	version := strings.Fields(o.must(t, "version"))
	o.must(t, "kubectl", "--name", "trace", "run", "web", "--labels=app=web", "--image=localhost/agnhost:"+version[len(version)-1], "--", "netexec")
	defer o.run("kubectl", "--name", "trace", "delete", "service/web", "pod/web", "--now")
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
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	_, port, _ := net.SplitHostPort(busy.Addr().String())
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"unknown flag":            {[]string{"up", "--no-such-flag"}, 2, "no-such-flag"},
		"two control planes":      {[]string{"up", "--name", "ha", "--control-planes", "3"}, 2, "control-planes"},
		"bad name":                {[]string{"up", "--name", "Not A Name"}, 2, "name"},
		"preflight":               {[]string{"up", "--name", "bad", "--publish", port + ":30080"}, 3, port},
		"no command":              {[]string{"exec", "nobody-1", "--"}, 2, ""},
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
