// Package plugintest has the built plugin for tests of the kernel tier.
package plugintest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// folder is what goes with the tests; empty before something is built.
var folder string

var built = sync.OnceValues(func() (bin string, err error) {
	if dir := os.Getenv("ORLOP_BIN"); dir != "" {
		return filepath.Join(dir, "orlop-cni"), nil
	}
	if folder, err = os.MkdirTemp("", "orlop-cni-test-*"); err != nil {
		return "", err
	}
	bin = filepath.Join(folder, "orlop-cni")
	build := exec.Command("go", "build", "-ldflags", "-E main.start", "-o", bin, "github.com/orlop-io/orlop/cmd/orlop-cni")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build plugin: %w\n%s", err, out)
	}
	return bin, nil
})

// Program is the plugin: that in ORLOP_BIN, for machines without Go, or one that is built at the first call.
func Program(t testing.TB) string {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// Main runs a package's tests, and removes what Program built.
func Main(m *testing.M) {
	code := m.Run()
	if folder != "" {
		os.RemoveAll(folder)
	}
	os.Exit(code)
}
