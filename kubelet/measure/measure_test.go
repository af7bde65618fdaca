package measure

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/orlop-io/orlop/kubelet/eviction"
)

func write(t *testing.T, path string, size int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestVolumes(t *testing.T) {
	pod, elsewhere := t.TempDir(), t.TempDir()
	write(t, filepath.Join(elsewhere, "big"), 1<<20)
	volumes := filepath.Join(pod, "volumes")
	write(t, filepath.Join(volumes, "kubernetes.io~empty-dir", "a", "x"), 64<<10)
	write(t, filepath.Join(volumes, "kubernetes.io~empty-dir", "a", "sub", "y"), 4<<10)
	write(t, filepath.Join(volumes, "kubernetes.io~configmap", "c", "key"), 10)
	write(t, filepath.Join(volumes, "kubernetes.io~csi", "theirs", "file"), 1<<20)
	write(t, filepath.Join(volumes, "notes"), 10)
	for name, target := range map[string]string{"out": elsewhere, "file": filepath.Join(elsewhere, "big"), "up": "../../.."} {
		if err := os.Symlink(target, filepath.Join(volumes, "kubernetes.io~empty-dir", "a", name)); err != nil {
			t.Fatal(err)
		}
	}
	before, err := Volumes(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if len(before) != 2 || before["a"].Bytes < 68<<10 || before["a"].Bytes > 128<<10 || before["a"].Inodes != 7 || before["c"].Inodes != 2 {
		t.Errorf("%+v, want a with 68 KiB in 7 inodes, c with 2, and nothing of links or others", before)
	}
	// A file of two names takes its room once.
	if err := os.Link(filepath.Join(volumes, "kubernetes.io~empty-dir", "a", "x"), filepath.Join(volumes, "kubernetes.io~empty-dir", "a", "x2")); err != nil {
		t.Fatal(err)
	}
	after, err := Volumes(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("a hard link counts: %s", d)
	}
	if none, err := Volumes(t.Context(), filepath.Join(pod, "absent")); err != nil || len(none) != 0 {
		t.Errorf("a pod without a directory: %v, %v", none, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Volumes(ended, pod); !errors.Is(err, context.Canceled) {
		t.Errorf("it does not stop when told to: %v", err)
	}
}

func TestLogs(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "c", "0.log"), 8<<10)
	write(t, filepath.Join(dir, "c", "0.log.20260101-000000.gz"), 8<<10)
	got, err := Logs(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if u := got["c"]; len(got) != 1 || u.Inodes != 3 || u.Bytes < 16<<10 {
		t.Errorf("%+v", got)
	}
}

// A node whose page cache is full of files in use is not short of memory (kubernetes/kubernetes#43916).
func TestActiveCacheIsNotLost(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		name string
		info map[string]int64
		want int64
	}{
		{"a full cache, in use", map[string]int64{"MemFree": 50 * mib, "Inactive(file)": 10 * mib, "MemAvailable": 4000 * mib}, 4000 * mib},
		{"an old cache", map[string]int64{"MemFree": 50 * mib, "Inactive(file)": 100 * mib, "MemAvailable": 120 * mib}, 150 * mib},
		{"processes hold all", map[string]int64{"MemFree": 30 * mib, "Inactive(file)": 5 * mib, "MemAvailable": 20 * mib}, 35 * mib},
	} {
		if got := available(tt.info); got != tt.want {
			t.Errorf("%s: %d MiB, want %d", tt.name, got/mib, tt.want/mib)
		}
	}
	info, err := Memory()
	if err != nil || available(info) <= 0 || available(info) > info["MemTotal"] {
		t.Errorf("of this machine's %d bytes %d are available, %v", info["MemTotal"], available(info), err)
	}
}

func TestSpace(t *testing.T) {
	out := eviction.Observations{}
	if err := space(t.TempDir(), out, eviction.NodeFsAvailable, eviction.NodeFsInodes); err != nil {
		t.Fatal(err)
	}
	if o := out[eviction.NodeFsAvailable]; o.Capacity <= 0 || o.Available > o.Capacity {
		t.Errorf("%+v", out)
	}
	if space(filepath.Join(t.TempDir(), "absent"), out, eviction.NodeFsAvailable, eviction.NodeFsInodes) == nil {
		t.Error("a directory that is not there has a file system")
	}
	most, err := MaxPids()
	if err != nil || most < 1000 {
		t.Errorf("at most %d processes, %v", most, err)
	}
}
