// Package hostns turns the calling process into the first process of a host: in a network,
// mount, cgroup and UTS namespace of its own, with the files, cgroups and network of a machine
// of its own.
//
// Enter runs in the machine's namespaces and ends in an exec; Boot runs after it. Both change
// only the namespaces of the calling process, and the fabric's, where the host's cable ends.
package hostns

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/orlop-io/orlop/cmd/localcluster/cgroups"
	"golang.org/x/sys/unix"
)

// Mount is one step of making a host's file tree.
type Mount struct {
	Source, Target, Type, Data string
	Flags                      uintptr
	Detach                     bool // unmount Target and all below it instead
	Dir                        bool // make Target first: it lies on a fresh tmpfs
	File                       bool // likewise, as an empty file
	Link                       string
}

// OwnDirs are the folders that each host has for itself, over the machine's.
func OwnDirs() []string {
	return []string{
		"/etc/kubernetes", "/etc/cni", "/opt/cni",
		"/var/lib/kubelet", "/var/lib/containerd", "/var/lib/etcd", "/var/lib/cni", "/var/lib/orlop-agent", "/var/lib/orlop-local-path",
		"/var/log/pods", "/var/log/containers",
	}
}

// OwnFiles are the files that each host has for itself.
func OwnFiles() []string { return []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} }

const bootID = "/proc/sys/kernel/random/boot_id"

// MountInput is what PlanMounts decides from.
type MountInput struct {
	Trees  cgroups.Trees
	Links  map[string]string // symbolic links in /sys/fs/cgroup, name to target
	Points []string          // mount points of the machine, in the order of mountinfo
	// Files maps each of OwnFiles to the file it is in the end, where one is a symbolic link.
	Files map[string]string
	// Own gives the host's own version of a path.
	Own func(path string) string
}

// PlanMounts lists what makes the machine's file tree, in a private copy, into a host's.
func PlanMounts(in MountInput) []Mount {
	plan := []Mount{{Target: "/", Flags: unix.MS_REC | unix.MS_PRIVATE}}
	// What is mounted below /run holds other clusters' namespaces alive, so it goes, not just out of sight.
	for i := len(in.Points) - 1; i >= 0; i-- {
		if p := in.Points[i]; p == "/sys" || under(p, "/run") {
			plan = append(plan, Mount{Target: p, Detach: true})
		}
	}
	plan = append(plan, Mount{Source: "sysfs", Target: "/sys", Type: "sysfs", Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC})
	plan = append(plan, cgroupMounts(in)...)
	plan = append(plan, Mount{Source: "bpf", Target: "/sys/fs/bpf", Type: "bpf", Data: "mode=700"})
	for _, m := range []struct{ target, fstype string }{
		{"/sys/kernel/security", "securityfs"}, {"/sys/kernel/debug", "debugfs"}, {"/sys/kernel/tracing", "tracefs"},
	} {
		for _, p := range in.Points {
			if p == m.target {
				plan = append(plan, Mount{Source: m.fstype, Target: m.target, Type: m.fstype})
				break
			}
		}
	}
	plan = append(plan, Mount{Source: "tmpfs", Target: "/run", Type: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_NODEV, Data: "mode=755"},
		Mount{Target: "/run/lock", Dir: true})
	for _, d := range OwnDirs() {
		plan = append(plan, Mount{Source: in.Own(d), Target: d, Flags: unix.MS_BIND})
	}
	for _, f := range OwnFiles() {
		target := f
		if to := in.Files[f]; to != "" {
			target = to
		}
		plan = append(plan, Mount{Source: in.Own(f), Target: target, Flags: unix.MS_BIND, File: under(target, "/run")})
	}
	return append(plan,
		Mount{Source: in.Own(bootID), Target: bootID, Flags: unix.MS_BIND},
		// Kubernetes' Bidirectional mount propagation needs a shared root, as systemd makes it elsewhere.
		Mount{Target: "/", Flags: unix.MS_REC | unix.MS_SHARED})
}

// cgroupMounts lays the hierarchies out as they are on the machine: fresh mounts in a cgroup
// namespace show its subtree as the root.
func cgroupMounts(in MountInput) []Mount {
	const root = "/sys/fs/cgroup"
	var plan []Mount
	for _, h := range in.Trees {
		if h.Mount == root { // nothing but v2
			return []Mount{{Source: "cgroup2", Target: root, Type: "cgroup2"}}
		}
	}
	plan = append(plan, Mount{Source: "tmpfs", Target: root, Type: "tmpfs", Data: "mode=755"})
	for _, h := range in.Trees {
		m := Mount{Source: "cgroup", Target: h.Mount, Type: "cgroup", Data: h.Options, Dir: under(h.Mount, root)}
		if h.V2 {
			m.Source, m.Type = "cgroup2", "cgroup2"
		}
		plan = append(plan, m)
	}
	for _, e := range sorted(in.Links) {
		plan = append(plan, Mount{Target: path.Join(root, e), Link: in.Links[e]})
	}
	return plan
}

func under(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// Points lists the mount points of a mountinfo file.
func Points(mountinfo io.Reader) ([]string, error) {
	var points []string
	sc := bufio.NewScanner(mountinfo)
	for sc.Scan() {
		if f := strings.Fields(sc.Text()); len(f) > 4 {
			points = append(points, strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[4]))
		}
	}
	return points, sc.Err()
}

func readMountInput(trees cgroups.Trees, own func(string) string) (MountInput, error) {
	in := MountInput{Trees: trees, Links: map[string]string{}, Files: map[string]string{}, Own: own}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return in, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	if in.Points, err = Points(f); err != nil {
		return in, fmt.Errorf("list mounts: %w", err)
	}
	entries, err := os.ReadDir("/sys/fs/cgroup")
	if err != nil {
		return in, fmt.Errorf("list cgroup mounts: %w", err)
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join("/sys/fs/cgroup", e.Name())); err == nil {
			in.Links[e.Name()] = to
		}
	}
	for _, name := range OwnFiles() {
		to, err := os.Readlink(name)
		if err != nil {
			continue
		}
		if !path.IsAbs(to) {
			to = path.Join(path.Dir(name), to)
		}
		in.Files[name] = path.Clean(to)
	}
	return in, nil
}

// apply carries out one step. A step that was carried out before is carried out again.
func (m Mount) apply() error {
	switch {
	case m.Detach:
		if err := unix.Unmount(m.Target, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", m.Target, err)
		}
		return nil
	case m.Link != "":
		if err := os.Symlink(m.Link, m.Target); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link %s: %w", m.Target, err)
		}
		return nil
	case m.Dir:
		if err := os.MkdirAll(m.Target, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", m.Target, err)
		}
	case m.File:
		if err := os.MkdirAll(path.Dir(m.Target), 0o755); err != nil {
			return fmt.Errorf("make %s: %w", m.Target, err)
		}
		if err := os.WriteFile(m.Target, nil, 0o644); err != nil {
			return fmt.Errorf("make %s: %w", m.Target, err)
		}
	}
	if m.Type == "" && m.Flags == 0 {
		return nil
	}
	if err := unix.Mount(m.Source, m.Target, m.Type, m.Flags, m.Data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.Source, m.Target, err)
	}
	return nil
}
