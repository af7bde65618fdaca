package cgroups

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestContainerID(t *testing.T) {
	for dir, want := range map[string]string{"0a1b": "0a1b", "cri-containerd-0a1b.scope": "0a1b"} {
		if got := containerID(dir); got != want {
			t.Errorf("%s is the cgroup of %q, want %q", dir, got, want)
		}
	}
}

// removeAll ends what a test left under prefix in every tree. The kernel needs a moment with a process that was killed.
func removeAll(t *testing.T, c *Cgroups, prefix string) {
	t.Helper()
	for _, h := range c.cfg.Hierarchies {
		err := c.removeTree(filepath.Join(h.Dir, prefix))
		for end := time.Now().Add(10 * time.Second); errors.Is(err, syscall.EBUSY) && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
			err = c.removeTree(filepath.Join(h.Dir, prefix))
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// What a pod holds is read from its cgroup, whatever the runtime does; and what is reserved for others is bounded.
func TestKernelUsage(t *testing.T) {
	needRoot(t)
	trees, err := Discover()
	if err != nil {
		t.Fatal(err)
	}
	prefix := "orlop-test-usage-" + time.Now().Format("150405.000000")
	c, err := New(Config{Hierarchies: trees, Prefix: prefix}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeAll(t, c, prefix) })
	p := pod(v1.ResourceRequirements{Requests: list("500m", "64Mi")})
	if all, each, err := c.PodUsage(p); err != nil || all != (Usage{}) || len(each) != 0 {
		t.Errorf("a pod without a cgroup holds %+v %v, %v", all, each, err)
	}
	if err := c.EnsurePod(p); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "read x; x=$(head -c 8000000 /dev/zero | tr '\\0' x); echo; read x") // it takes its memory in the cgroup
	orders, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer orders.Close()
	ready, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for _, h := range trees {
		if !h.has("memory") && !h.has("pids") {
			continue
		}
		dir := filepath.Join(h.Dir, c.PodPath(p), "0a1b")
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		if err := write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := orders.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	all, each, err := c.PodUsage(p)
	if err != nil || all.Pids != 1 || all.Memory < 4_000_000 || each["0a1b"].Pids != all.Pids {
		t.Errorf("the pod holds %+v, its container %+v, %v", all, each, err)
	}
	if err := c.Bound("/"+prefix, list("1", "1Gi")); err != nil {
		t.Error(err)
	}
	if _, b, err := c.look("/" + prefix); err != nil || b.Memory != 1<<30 {
		t.Errorf("bounds %+v, %v, want 1Gi of memory", b, err)
	}
	if err := c.Bound("/orlop-test-no-such", list("1", "1Gi")); err == nil {
		t.Error("a cgroup that is not there was bounded")
	}
	if _, b, err := c.Machine(); err != nil || b.Memory < 0 {
		t.Errorf("the top of the trees: %+v, %v", b, err)
	}
}

// Kills for want of memory are counted where the kernel counts those of a whole tree.
func TestKilled(t *testing.T) {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}
	v1Tree, v2Tree := Hierarchy{Dir: t.TempDir(), Controllers: []string{"memory"}}, Hierarchy{Dir: t.TempDir(), Unified: true, Controllers: []string{"memory"}}
	for _, tt := range []struct {
		tree  Hierarchy
		known bool
	}{{v1Tree, false}, {v2Tree, true}} {
		c, err := New(Config{Hierarchies: []Hierarchy{tt.tree}, Driver: Cgroupfs}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if n, known, err := c.Killed(p); n != 0 || known != tt.known || err != nil {
			t.Errorf("without a cgroup: %d, %t, %v", n, known, err)
		}
		dir := filepath.Join(tt.tree.Dir, c.PodPath(p))
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "memory.events"), []byte("low 0\nhigh 1\nmax 7\noom 3\noom_kill 2\noom_group_kill 1\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
		if n, known, err := c.Killed(p); known != tt.known || err != nil || known && n != 2 {
			t.Errorf("unified %t: %d, %t, %v", tt.tree.Unified, n, known, err)
		}
	}
}
