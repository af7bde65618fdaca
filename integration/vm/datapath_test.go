package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/orlop-io/orlop/integration/debianvm"
)

// What only other kernels have, in the kernel tier's own tests. Those that repeat something thousands of times take too long here.
var onThisKernel = []struct{ pkg, skip string }{
	{"bpf/packetlb", "^$"}, {"bpf/socklb", "^$"}, {"cni/nat", "^$"}, {"cni/routes", "^$"},
	{"cni/plugin", "Leak|Kill|AtOnce|Concurrent|ManyHostPorts"},
}

// The data path's tests hold on Debian's kernel, which is older than others and has VLANs on bridges.
func TestDataPath(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("installing a Debian into a folder needs root")
	}
	bin := binaries(t)
	files := map[string]string{"/opt/orlop/orlop-cni": filepath.Join(bin, "orlop-cni")}
	dir := t.TempDir()
	for _, p := range onThisKernel {
		file := filepath.Join(dir, filepath.Base(p.pkg)+".test")
		build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", file, "./"+p.pkg)
		build.Dir, build.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the tests of %s: %v\n%s", p.pkg, err, out)
		}
		files["/opt/orlop/"+p.pkg+".test"] = file
	}
	w := &world{}
	w.start(t, debianvm.Config{Name: "kernel", Cache: filepath.Join(bin, "debian"), Dir: t.TempDir(), MemoryMiB: 2048, CPUs: 2, Files: files})
	for _, p := range onThisKernel {
		t.Run(p.pkg, func(t *testing.T) {
			t.Log(w.must(t, "ORLOP_BIN=/opt/orlop ORLOP_REQUIRE=kernel /opt/orlop/"+p.pkg+".test -test.v -test.run '^TestKernel' -test.skip '"+p.skip+"'"))
		})
	}
}
