package cgroups

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

func TestContainerID(t *testing.T) {
	for dir, want := range map[string]string{"0a1b": "0a1b", "cri-containerd-0a1b.scope": "0a1b"} {
		if got := containerID(dir); got != want {
			t.Errorf("%s is the cgroup of %q, want %q", dir, got, want)
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
	t.Cleanup(func() {
		for _, h := range trees {
			if err := c.removeTree(filepath.Join(h.Dir, prefix)); err != nil {
				t.Error(err)
			}
		}
	})
	p := pod(v1.ResourceRequirements{Requests: list("500m", "64Mi")})
	if all, each, err := c.PodUsage(p); err != nil || all != (Usage{}) || len(each) != 0 {
		t.Errorf("a pod without a cgroup holds %+v %v, %v", all, each, err)
	}
	if err := c.EnsurePod(p); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "x=$(head -c 8000000 /dev/zero | tr '\\0' x); read y")
	wait, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer wait.Close()
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
	var all Usage
	var each map[string]Usage
	for range 100 { // the shell may have used its memory before it was moved: its children count
		if all, each, err = c.PodUsage(p); err != nil || all.Pids > 0 && all.Memory > 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil || all.Pids < 1 || all.Memory < 1<<12 || each["0a1b"].Pids != all.Pids {
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
