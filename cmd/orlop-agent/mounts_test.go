package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

// On a node without a BPF file system the init container's command mounts one, leaves one that is there alone, and uninstall takes its own away.
func TestKernelMounts(t *testing.T) {
	netnstest.RequireRoot(t)
	done := make(chan struct{})
	go func() { // on a thread of its own, which dies with its mount namespace
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_FS); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Error(err)
			return
		}
		dir := t.TempDir()
		o := options{pinDir: filepath.Join(dir, "bpf", "orlop"), runDir: filepath.Join(dir, "run"), bridge: "orlop0", binDir: dir, confDir: dir, stateDir: filepath.Join(dir, "none"), dataDir: filepath.Join(dir, "none")}
		if err := os.Mkdir(filepath.Dir(o.pinDir), 0o755); err != nil {
			t.Error(err)
			return
		}
		for range 2 {
			if err := mounts(o); err != nil {
				t.Error(err)
			}
		}
		if is, err := isType(filepath.Dir(o.pinDir), unix.BPF_FS_MAGIC); !is || err != nil {
			t.Errorf("a BPF file system is there: %t, %v", is, err)
		}
		info, err := os.ReadFile("/proc/thread-self/mountinfo")
		if n := strings.Count(string(info), filepath.Dir(o.pinDir)+" "); n != 1 || err != nil {
			t.Errorf("%d mounts, %v", n, err)
		}
		var said bytes.Buffer
		if err := uninstall(t.Context(), o, false, &said); err != nil {
			t.Error(err)
		}
		if is, _ := isType(filepath.Dir(o.pinDir), unix.BPF_FS_MAGIC); is {
			t.Errorf("the BPF file system is still there; uninstall said:\n%s", said.String())
		}
		if left, _ := exec.Command("find", dir).Output(); strings.Count(string(left), "\n") != 2 {
			t.Errorf("left:\n%s", left)
		}
	}()
	<-done
}
