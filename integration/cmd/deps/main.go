// Command deps installs what a make target needs and this machine lacks, by
// apt, and the clients of tests, and names what it cannot install. What is there is left alone: a
// containerd of the user's own is neither replaced nor restarted.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// dep is a program or a file and the Debian package that brings it.
type dep struct{ name, pkg string }

// needs lists what each target needs.
func needs() map[string][]dep {
	build := []dep{{"x86_64-linux-gnu-gcc", "gcc"}}
	up := []dep{{"containerd", "containerd"}, {"runc", "runc"}, {"ctr", "containerd"}, {"mount", "mount"}}
	test := append(slices.Concat(build, up),
		dep{"nft", "nftables"}, dep{"iptables-nft-restore", "iptables"}, dep{"bpftool", "bpftool"}, dep{"ip", "iproute2"}, dep{"ps", "procps"}, dep{"git", "git"},
		dep{"/usr/lib/cni/bridge", "containernetworking-plugins"}, dep{"podman", "podman"})
	return map[string][]dep{
		"build-amd64": build,
		"build-arm64": {{"aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"}},
		"up":          up,
		"test":        test,
		"test-vm": append(slices.Clone(build),
			dep{"qemu-system-x86_64", "qemu-system-x86"}, dep{"debootstrap", "debootstrap"}, dep{"mkfs.ext4", "e2fsprogs"}),
		"generate": {{"clang", "clang"}, {"llvm-strip", "llvm"}, {"/usr/include/bpf/bpf_helpers.h", "libbpf-dev"}, {"/usr/include/linux/bpf.h", "linux-libc-dev"}},
	}
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "deps:", err)
		os.Exit(3)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("deps", flag.ContinueOnError)
	target := flags.String("need", "", "target: build-amd64, build-arm64, up, test, test-vm or generate")
	dir := flags.String("clients", "bin/clients", "where target test wants helm and Debian's kubectl")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := packages(*target); err != nil {
		return err
	}
	if *target == "test" {
		return addClients(*dir)
	}
	return nil
}

// packages installs what a target needs by apt.
func packages(target string) error {
	deps, ok := needs()[target]
	if !ok {
		return fmt.Errorf("unknown target %q", target)
	}
	pkgs := missing(deps, exists)
	if len(pkgs) == 0 {
		return nil
	}
	command := "apt-get install -y --no-install-recommends " + strings.Join(pkgs, " ")
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("this machine lacks %s; install them, on Debian as root with: %s", strings.Join(pkgs, ", "), command)
	}
	fmt.Println("installing", strings.Join(pkgs, " "))
	if err := apt("update", "-qq"); err != nil {
		return err
	}
	if err := apt(append([]string{"install", "-y", "-qq", "--no-install-recommends"}, pkgs...)...); err != nil {
		return err
	}
	if left := missing(deps, exists); len(left) > 0 {
		return fmt.Errorf("%s installed, but what they bring is still not found", strings.Join(left, ", "))
	}
	return nil
}

// missing lists the packages of what does not exist, each once.
func missing(deps []dep, exists func(string) bool) []string {
	var pkgs []string
	for _, d := range deps {
		if !exists(d.name) && !slices.Contains(pkgs, d.pkg) {
			pkgs = append(pkgs, d.pkg)
		}
	}
	return pkgs
}

func exists(name string) bool {
	if filepath.IsAbs(name) {
		_, err := os.Stat(name)
		return err == nil
	}
	if _, err := exec.LookPath(name); err == nil {
		return true
	}
	// A user's PATH may lack the system folders.
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

func apt(args ...string) error {
	cmd := exec.Command("apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		os.Stderr.Write(out)
		return errors.Join(fmt.Errorf("apt-get %s", strings.Join(args, " ")), err)
	}
	return nil
}
