package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// clusterStatus is what `orlop status -o json` prints, as far as tests need it.
type clusterStatus struct {
	Server  string
	Healthy bool
	Problem string
	Hosts   []struct {
		Name                string
		Pid                 int
		Running, NodeReady  bool
		Containerd, Kubelet struct{ Pid int }
	}
}

func (o orlop) status(t *testing.T, cluster string) (s clusterStatus) {
	t.Helper()
	out := o.must(t, "status", "--name", cluster, "-o", "json")
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("status -o json: %v:\n%s", err, out)
	}
	return s
}

func execInHost(t *testing.T, o orlop) {
	if out := o.must(t, "exec", "--name", "trace", "trace-2", "--", "hostname"); strings.TrimSpace(out) != "trace-2" {
		t.Errorf("hostname prints %q", out)
	}
	if out := o.must(t, "exec", "trace-2", "cat", "/proc/self/cgroup"); strings.Contains(out, "orlop-trace") {
		t.Errorf("the host's cgroup is not its root:\n%s", out)
	}
	for script, want := range map[string]int{"exit 9": 9, "kill -9 $$": 137} {
		if _, code := o.run("exec", "trace-2", "--", "sh", "-c", script); code != want {
			t.Errorf("%s: exit code %d, want %d", script, code, want)
		}
	}
	if out, code := o.runWith(strings.NewReader("to be read"), "exec", "trace-2", "--", "cat"); code != 0 || out != "to be read" {
		t.Errorf("standard input comes back as %q, exit code %d", out, code)
	}
	if out, code := o.run("exec", "trace-2", "--", "no-such-command"); code == 0 || !strings.Contains(out, "no-such-command") {
		t.Errorf("a command that is not there: exit code %d:\n%s", code, out)
	}
}

// shellInHost uses a shell on a terminal, which script makes.
func shellInHost(t *testing.T, o orlop) {
	cmd := o.command(nil)
	shell := exec.Command("script", "-qec", cmd.Path+" shell trace-2", "/dev/null")
	shell.Env, shell.Stdin = cmd.Env, strings.NewReader("tty; hostname\nexit 7\n")
	out, err := shell.CombinedOutput()
	if shell.ProcessState.ExitCode() != 7 || !strings.Contains(string(out), "/dev/pts/") || !strings.Contains(string(out), "trace-2") {
		t.Errorf("%v, want exit code 7:\n%s", err, out)
	}
}

func loadImages(t *testing.T, o orlop) {
	img, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	conf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	conf.Architecture, conf.OS = "amd64", "linux"
	if img, err = mutate.ConfigFile(img, conf); err != nil {
		t.Fatal(err)
	}
	var docker bytes.Buffer
	for _, ref := range []string{"example.com/from-file:1", "example.com/from-input:1"} {
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		docker.Reset()
		if err := tarball.Write(tag, img, &docker); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(ref, "input") {
			if out, code := o.runWith(&docker, "load", "--name", "trace", "-"); code != 0 {
				t.Errorf("load -: exit code %d: %s", code, out)
			}
			continue
		}
		path := filepath.Join(t.TempDir(), "image.tar")
		if err := os.WriteFile(path, docker.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		o.must(t, "load", "--name", "trace", path)
	}
	o.must(t, "load", "--name", "trace", filepath.Join(o.bin, "images", "pause.tar")) // an OCI archive
	for _, host := range []string{"trace-1", "trace-2"} {
		out := o.must(t, "exec", host, "--", "ctr", "-n", "k8s.io", "images", "ls", "-q")
		for _, want := range []string{"example.com/from-file:1", "example.com/from-input:1", "localhost/pause:"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s has no %s, but\n%s", host, want, out)
			}
		}
	}
	if out, code := o.runWith(strings.NewReader("no archive"), "load", "--name", "trace", "-"); code != 1 {
		t.Errorf("load of no archive: exit code %d:\n%s", code, out)
	}
}

// secondCluster is made under sudo by another user, offline, and asked as JSON.
func secondCluster(t *testing.T, o orlop) {
	u, err := user.Lookup("backup") // any user of a stock Debian will do
	if err != nil {
		t.Fatal(err)
	}
	cmd := o.command([]string{"SUDO_UID=" + u.Uid, "SUDO_GID=" + u.Gid}, "up", "--name", "trace-b", "--nodes", "1", "--offline", "-o", "json")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("up: %v:\n%s", err, out)
	}
	var made struct {
		Name, Server, Context, Kubeconfig string
		Phases                            []struct{ Name string }
	}
	path := filepath.Join(u.HomeDir, ".kube", "config")
	if err := json.Unmarshal(out, &made); err != nil || made.Context != "orlop-trace-b" || made.Kubeconfig != path || len(made.Phases) < 4 {
		t.Errorf("up -o json: %v:\n%s", err, out)
	}
	for _, p := range []string{path, filepath.Dir(path)} {
		st, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if uid := st.Sys().(*syscall.Stat_t).Uid; strconv.Itoa(int(uid)) != u.Uid {
			t.Errorf("%s belongs to user %d, not to %s", p, uid, u.Username)
		}
	}
	for cluster, want := range map[string]bool{"trace": true, "trace-b": false} {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", o.status(t, cluster).Hosts[0].Containerd.Pid))
		if err != nil || bytes.Contains(env, []byte("HTTPS_PROXY=")) != want {
			t.Errorf("cluster %s pulls through a proxy: %t, %v, want %t", cluster, !want, err, want)
		}
	}
	for _, cluster := range []string{"trace", "trace-b"} {
		if out := o.must(t, "kubectl", "--name", cluster, "get", "nodes", "-o", "name"); !strings.Contains(out, "node/"+cluster+"-1\n") {
			t.Errorf("cluster %s has the nodes\n%s", cluster, out)
		}
	}
	if out, code := o.run("--help"); code != 0 {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	o.must(t, "down", "--name", "trace-b")
	if _, err := os.Stat(filepath.Dir(path)); !os.IsNotExist(err) {
		t.Errorf("down left %s: %v", filepath.Dir(path), err)
	}
	if s := o.status(t, "trace"); !s.Healthy {
		t.Errorf("when the other went away: %s", s.Problem)
	}
}

func stopAndStart(t *testing.T, o orlop) {
	o.must(t, "stop", "trace-2")
	if s := o.status(t, "trace"); s.Healthy || s.Hosts[1].Running || !s.Hosts[0].Running {
		t.Errorf("with a host stopped status says %+v", s)
	}
	if out, code := o.run("exec", "trace-2", "--", "true"); code != 1 || !strings.Contains(out, "orlop start trace-2") {
		t.Errorf("exec on a stopped host: exit code %d:\n%s", code, out)
	}
	o.must(t, "start", "trace-2")
	o.must(t, "up", "--name", "trace", "--reuse") // waits until all is well
	// A dead supervisor is a dead host; starting it boots it anew.
	kill9(t, o.status(t, "trace").Hosts[1].Pid)
	o.must(t, "start", "trace-2")
	if s := o.status(t, "trace"); !s.Hosts[1].Running {
		t.Errorf("after its supervisor was killed and it was started: %+v", s.Hosts[1])
	}
	o.must(t, "up", "--name", "trace", "--reuse")
}

// killForwarder kills the one who serves, then the one who keeps him, and wants every connection answered.
func killForwarder(t *testing.T, o orlop) {
	server := strings.TrimPrefix(o.status(t, "trace").Server, "https://")
	ask := func() {
		t.Helper()
		c, err := net.DialTimeout("tcp", server, time.Second)
		if err != nil {
			t.Fatalf("a connection is refused: %v", err)
		}
		c.Close()
		o.must(t, "kubectl", "--name", "trace", "version")
	}
	for range 2 {
		_, serving := forwarders(t)
		kill9(t, serving)
		ask()
		if _, now := forwarders(t); now == serving {
			t.Errorf("process %d serves still", now)
		}
	}
	keeper, serving := forwarders(t)
	kill9(t, keeper)
	ask()
	kill9(t, serving)
	if s := o.status(t, "trace"); s.Healthy || !strings.Contains(s.Problem, "forwarder") {
		t.Errorf("with both killed status says %q", s.Problem)
	}
	o.must(t, "start", "trace-1")
	ask()
}

// forwarders are the process that keeps the forwarder of cluster trace, and the one that serves.
func forwarders(t *testing.T) (keeper, serving int) {
	t.Helper()
	for range 100 {
		for pid := range processes() {
			line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
			if len(args) < 3 || args[1] != "host-forward" || args[2] != "trace" {
				continue
			}
			id, _ := strconv.Atoi(pid)
			if len(args) == 3 {
				keeper = id
			} else {
				serving = id
			}
		}
		if serving != 0 {
			return keeper, serving
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("nobody forwards")
	return 0, 0
}
