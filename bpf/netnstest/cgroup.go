package netnstest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Cgroup makes a cgroup2 folder that goes when the test ends; what runs in it must have ended by then.
func Cgroup(t testing.TB, root string) string {
	t.Helper()
	RequireRoot(t)
	dir := filepath.Join(root, fmt.Sprintf("orlop-test-%d-%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "_")))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// StartIn starts a program in the namespace and, from its first instruction, in a cgroup: a socket belongs to the cgroup it is made in.
func (n *NS) StartIn(cgroup string, cmd *exec.Cmd) error {
	f, err := os.Open(cgroup)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	return n.Start(cmd)
}

// BPFFS mounts a BPF file system that goes when the test ends.
func BPFFS(t testing.TB) string {
	t.Helper()
	RequireRoot(t)
	dir := t.TempDir()
	if err := syscall.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
