package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func localPathAct(t *testing.T, dir string, args ...string) error {
	t.Helper()
	cmd := localPath()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(append([]string{"--dir=" + dir}, args...))
	return cmd.ExecuteContext(t.Context())
}

func TestLocalPathMakesAndRemoves(t *testing.T) {
	base, outside := t.TempDir(), t.TempDir()
	kept := filepath.Join(outside, "kept")
	if err := os.WriteFile(kept, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second run finds the work done
		if err := localPathAct(t, base, "make", "pvc-1"); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(base, "pvc-1")
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o777 {
		t.Fatalf("made %v (%v)", info, err)
	}
	if info, err := os.Stat(base); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("the folder of all is %v (%v)", info, err)
	}
	deep := filepath.Join(dir, "a", "b", "c")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Symlink(outside, filepath.Join(dir, "out")), os.Symlink(kept, filepath.Join(deep, "file")), os.Symlink("/nowhere", filepath.Join(dir, "a", "broken")),
		os.WriteFile(filepath.Join(deep, "data"), []byte("x"), 0o400), unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
		os.Mkdir(filepath.Join(base, "pvc-2"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := localPathAct(t, base, "remove", "pvc-1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	for _, path := range []string{kept, filepath.Join(base, "pvc-2")} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("taken along: %v", err)
		}
	}
}

// A volume that is recycled loses what it holds, and nothing that links in it lead to.
func TestLocalPathEmpties(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	kept := filepath.Join(outside, "kept")
	for _, err := range []error{
		os.WriteFile(kept, []byte("x"), 0o600), os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755), os.WriteFile(filepath.Join(dir, ".hidden"), []byte("x"), 0o400),
		os.WriteFile(filepath.Join(dir, "a", "b", "data"), []byte("x"), 0o400), os.Symlink(outside, filepath.Join(dir, "out")), os.Symlink(kept, filepath.Join(dir, "a", "file")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // a second run finds the work done
		if err := localPathAct(t, dir, "empty"); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left: %v (%v)", left, err)
		}
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	if err := localPathAct(t, filepath.Join(dir, "none"), "empty"); err == nil || !strings.Contains(err.Error(), "empty volume") {
		t.Errorf("a folder that is not there: %v", err)
	}
	if err := localPathAct(t, dir, "empty", "pvc-1"); err == nil {
		t.Error("a name was taken, and not looked at")
	}
}

func TestLocalPathStaysInside(t *testing.T) {
	base, outside := t.TempDir(), t.TempDir()
	for _, name := range []string{"..", ".", "a/b", "../x", "", "/", "A", "-x", ".removed"} {
		for _, act := range []string{"make", "remove"} {
			if err := localPathAct(t, base, act, "--", name); err == nil || !strings.Contains(err.Error(), "not the name") {
				t.Errorf("%s %q: %v", act, name, err)
			}
		}
	}
	// A link in the place of a directory is not followed: it is refused, or goes itself.
	if err := os.Symlink(outside, filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	if err := localPathAct(t, base, "make", "link"); err == nil {
		t.Error("a link was taken for a directory")
	}
	if err := localPathAct(t, base, "remove", "link"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case strings.Contains(os.Getenv("ORLOP_REQUIRE"), "kernel"):
		t.Fatal("mounts need root")
	default:
		t.Skip("mounts need root")
	}
}

// What is mounted in a volume's directory is somebody else's.
func TestKernelLocalPathStopsAtMounts(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	inner := filepath.Join(base, "pvc-1", "inner")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", inner, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(inner, "kept")
	defer func() {
		if err := unix.Unmount(inner, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := localPathAct(t, base, "remove", "pvc-1"); err == nil || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("removed across a mount: %v", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
}

// A file system without room is told by its error, and nothing half made stays.
func TestKernelLocalPathOnAFullDisk(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, "size=64k,nr_inodes=3"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(base, 0); err != nil {
			t.Error(err)
		}
	}()
	for _, name := range []string{"pvc-1", "pvc-2"} {
		if err := localPathAct(t, base, "make", name); err != nil {
			t.Fatal(err)
		}
	}
	if err := localPathAct(t, base, "make", "pvc-3"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("full: %v", err)
	}
	if err := localPathAct(t, base, "remove", "pvc-1"); err != nil {
		t.Fatal(err)
	}
	if err := localPathAct(t, base, "make", "pvc-3"); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}
