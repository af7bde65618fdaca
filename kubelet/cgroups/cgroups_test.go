package cgroups

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func list(cpu, memory string) v1.ResourceList {
	out := v1.ResourceList{}
	if cpu != "" {
		out[v1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		out[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return out
}

func pod(resources ...v1.ResourceRequirements) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "1-2-3"}}
	for _, r := range resources {
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Resources: r})
	}
	return p
}

func TestPodFiles(t *testing.T) {
	cfg := Config{CPUQuota: true, CPUPeriod: 100 * time.Millisecond, PodPids: 50}
	guaranteed := v1.ResourceRequirements{Requests: list("500m", "64Mi"), Limits: list("500m", "64Mi")}
	for _, tt := range []struct {
		name   string
		pod    *v1.Pod
		v1, v2 string
	}{
		{"best effort", pod(v1.ResourceRequirements{}),
			"cpu.shares=2 cpu.cfs_period_us=100000 cpu.cfs_quota_us=-1 memory.limit_in_bytes=-1 pids.max=50",
			"cpu.weight=1 cpu.max=max_100000 memory.max=max pids.max=50"},
		{"guaranteed", pod(guaranteed, guaranteed),
			"cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=100000 memory.limit_in_bytes=134217728 pids.max=50",
			"cpu.weight=100 cpu.max=100000_100000 memory.max=134217728 pids.max=50"},
		{"one container without bounds unbinds the pod", pod(guaranteed, v1.ResourceRequirements{Requests: list("250m", "")}),
			"cpu.shares=768 cpu.cfs_period_us=100000 cpu.cfs_quota_us=-1 memory.limit_in_bytes=-1 pids.max=50",
			"cpu.weight=80 cpu.max=max_100000 memory.max=max pids.max=50"},
		{"the smallest quota", pod(v1.ResourceRequirements{Requests: list("1m", "1Mi"), Limits: list("1m", "1Mi")}),
			"cpu.shares=2 cpu.cfs_period_us=100000 cpu.cfs_quota_us=1000 memory.limit_in_bytes=1048576 pids.max=50",
			"cpu.weight=1 cpu.max=1000_100000 memory.max=1048576 pids.max=50"},
	} {
		l := podLimits(tt.pod, cfg)
		if diff := cmp.Diff(tt.v1, text(l.filesV1())); diff != "" {
			t.Errorf("%s, v1: -want +got:\n%s", tt.name, diff)
		}
		if diff := cmp.Diff(tt.v2, text(l.filesV2())); diff != "" {
			t.Errorf("%s, v2: -want +got:\n%s", tt.name, diff)
		}
	}
}

func text(files []file) string {
	var out []string
	for _, f := range files {
		out = append(out, f.Name+"="+strings.ReplaceAll(f.Value, " ", "_"))
	}
	return strings.Join(out, " ")
}

func TestNames(t *testing.T) {
	for _, tt := range []struct {
		class        v1.PodQOSClass
		driver       Driver
		path, parent string
	}{
		{v1.PodQOSGuaranteed, Cgroupfs, "/a/kubepods/pod1-2-3", "/a/kubepods/pod1-2-3"},
		{v1.PodQOSBestEffort, Cgroupfs, "/a/kubepods/besteffort/pod1-2-3", "/a/kubepods/besteffort/pod1-2-3"},
		{v1.PodQOSBurstable, Systemd, "/a.slice/a-kubepods.slice/a-kubepods-burstable.slice/a-kubepods-burstable-pod1_2_3.slice", "a-kubepods-burstable-pod1_2_3.slice"},
	} {
		n := podName(rootName("/a"), tt.class, "1-2-3")
		if n.path(tt.driver) != tt.path || n.parent(tt.driver) != tt.parent {
			t.Errorf("want %s and %s, got %s and %s", tt.path, tt.parent, n.path(tt.driver), n.parent(tt.driver))
		}
		if got := podUID(filepath.Base(tt.path), tt.driver); got != "1-2-3" {
			t.Errorf("%s: want the pod's UID back, got %q", tt.path, got)
		}
	}
	if got := podUID("burstable", Cgroupfs); got != "" {
		t.Errorf("a class is no pod, got %q", got)
	}
}

func TestWeightAndBack(t *testing.T) {
	for _, n := range []uint64{2, 10, 102, 512, 1024, 8192, 262144} {
		if back := sharesOf(weight(n)); float64(back) < float64(n)*0.9-4 || float64(back) > float64(n)*1.1+4 {
			t.Errorf("%d shares became %d and then %d", n, weight(n), back)
		}
	}
}

func TestHierarchies(t *testing.T) {
	got := hierarchies([]*mountinfo.Info{
		{Mountpoint: "/c/cpu", FSType: "cgroup", VFSOptions: "rw,cpuacct,cpu"},
		{Mountpoint: "/hidden/cpu", FSType: "cgroup", VFSOptions: "rw,cpu,cpuacct"},
		{Mountpoint: "/c/systemd", FSType: "cgroup", VFSOptions: "rw,xattr,name=systemd"},
		{Mountpoint: "/c/unified", FSType: "cgroup2", VFSOptions: "rw"},
	})
	want := []Hierarchy{
		{Dir: "/c/systemd", Controllers: []string{"name=systemd"}},
		{Dir: "/c/unified", Unified: true},
		{Dir: "/hidden/cpu", Controllers: []string{"cpu", "cpuacct"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestKernelPodLife makes pods' cgroups below one of its own in every tree that is mounted, and removes them with a
// process inside.
func TestKernelPodLife(t *testing.T) {
	needRoot(t)
	trees, err := Discover()
	if err != nil {
		t.Fatal(err)
	}
	prefix := "orlop-test-" + filepath.Base(t.TempDir()) + "-" + time.Now().Format("150405.000000")
	c, err := New(Config{Hierarchies: trees, Prefix: prefix, CPUQuota: true, PodPids: 77}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeAll(t, c, prefix) })
	p := pod(v1.ResourceRequirements{Requests: list("500m", "64Mi"), Limits: list("500m", "64Mi")})
	for range 2 { // the second time must find all as it should be
		if err := c.EnsureRoot(list("1", "512Mi")); err != nil {
			t.Fatal(err)
		}
		if err := c.EnsurePod(p); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range trees {
		name := "cpu.shares"
		want := "512"
		if h.Unified {
			name, want = "cpu.weight", "59"
		}
		if !h.has("cpu") {
			continue
		}
		got, err := os.ReadFile(filepath.Join(h.Dir, c.PodPath(p), name))
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: want %s, got %q, %v", name, want, got, err)
		}
	}
	weighs(t, c, trees, "2")
	for uid, cpu := range map[types.UID]string{"4": "500m", "5": "250m"} {
		b := pod(v1.ResourceRequirements{Requests: list(cpu, "")})
		b.UID = uid
		if err := c.EnsurePod(b); err != nil {
			t.Fatal(err)
		}
	}
	weighs(t, c, trees, "768")
	if err := errors.Join(c.RemovePod(t.Context(), "4"), c.RemovePod(t.Context(), "5")); err != nil {
		t.Fatal(err)
	}
	weighs(t, c, trees, "2")
	enter(t, trees, c.PodPath(p)+"/inner")
	if got, err := c.Pods(); err != nil || !cmp.Equal(got, []types.UID{"1-2-3"}) {
		t.Errorf("want the pod listed, got %v, %v", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 2 { // gone is success
		if err := c.RemovePod(ctx, p.UID); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := c.Pods(); err != nil || len(got) != 0 {
		t.Errorf("want no pod left, got %v, %v", got, err)
	}
}

// weighs checks what the burstable pods weigh together, where that is told without rounding.
func weighs(t *testing.T, c *Cgroups, trees []Hierarchy, want string) {
	t.Helper()
	for _, h := range trees {
		if !h.has("cpu") || h.Unified {
			continue
		}
		got, err := os.ReadFile(filepath.Join(h.Dir, c.RootPath(), "burstable", "cpu.shares"))
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("burstable: want %s, got %q, %v", want, got, err)
		}
	}
}

// enter puts a process into a cgroup of every tree.
func enter(t *testing.T, trees []Hierarchy, path string) {
	t.Helper()
	sleep := exec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = sleep.Wait() }() // it is killed
	for _, h := range trees {
		dir := filepath.Join(h.Dir, path)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if h.has("cpuset") && !h.Unified {
			if err := inheritCPUs(dir); err != nil {
				t.Fatal(err)
			}
		}
		if err := write(filepath.Join(dir, "cgroup.procs"), itoa(sleep.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
}

func itoa(n int) string { return number(false, int64(n), "") }

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if strings.Contains(os.Getenv("ORLOP_REQUIRE"), "kernel") {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}
