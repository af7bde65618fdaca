package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// build makes the program with flags for the linker.
func build(t *testing.T, flags string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "orlop-cni")
	cmd := exec.Command("go", "build", "-ldflags", flags, "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

func TestStartsWithOneProcessor(t *testing.T) {
	if runtime.NumCPU() == 1 {
		t.Skip("this machine has no more than one")
	}
	bin := build(t, "-E main.start")
	all := fmt.Sprintf("gomaxprocs=%d ", runtime.NumCPU())
	for set, want := range map[string]string{"": "gomaxprocs=1 ", "GOMAXPROCS=2": "gomaxprocs=2 ", "GOMAXPROCS=": all} {
		cmd := exec.Command(bin)
		cmd.Env = []string{"GODEBUG=schedtrace=1", "CNI_COMMAND=DEL", "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_PATH=/absent"}
		if set != "" {
			cmd.Env = append(cmd.Env, set)
		}
		stdin, err := cmd.StdinPipe() // it waits for the end of its configuration
		if err != nil {
			t.Fatal(err)
		}
		stderr, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(stderr).ReadString('\n')
		if err != nil || !strings.Contains(line, want) {
			t.Errorf("with %q its scheduler says %q, %v, want %s", set, line, err, want)
		}
		stdin.Close()
		_, _ = io.Copy(io.Discard, stderr)
		_ = cmd.Wait() // none is no configuration
	}
}

// What comes before Go must leave arguments and environment as they were, however many there are.
func TestStartKeepsArgumentsAndEnvironment(t *testing.T) {
	plain, ours := build(t, ""), build(t, "-E main.start")
	var many []string
	for i := range 5000 {
		many = append(many, fmt.Sprintf("V%d=%d", i, i))
	}
	for _, c := range []struct{ args, env []string }{
		{[]string{"orlop-cni"}, []string{"CNI_COMMAND=VERSION"}},
		{[]string{"orlop-cni"}, append(slices.Clone(many), "CNI_COMMAND=VERSION")},
		{[]string{"orlop-cni"}, []string{"CNI_COMMAND=nonsense"}},
		{[]string{"orlop-cni"}, []string{}},
		{[]string{""}, []string{}},
		{[]string{"/a/path/loopback"}, []string{"CNI_COMMAND=VERSION"}},
		{[]string{"orlop-cni", "ipam"}, []string{}},
		{append([]string{"orlop-cni", "ipam", "list"}, many...), many},
		{[]string{"orlop-cni", "ipam", "list", "--state-dir", "/absent/one", "--network", "none"}, []string{"A=1", "B=2"}},
	} {
		run := func(bin string) string {
			cmd := &exec.Cmd{Path: bin, Args: c.args, Env: c.env}
			out, err := cmd.CombinedOutput()
			return fmt.Sprintf("%s%v", out, err)
		}
		if got, want := run(ours), run(plain); got != want {
			t.Errorf("%.100q with %d variables: got %q, want %q", c.args, len(c.env), got, want)
		}
	}
}
