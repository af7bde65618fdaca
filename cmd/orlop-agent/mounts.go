package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/socklb"
)

// What mounts mounts, where a node has none: a BPF file system for pins, and cgroup v2 below the run folder.
const (
	cgroupName = "cgroup2"
	markerName = "bpf-mounted" // says in the run folder that the BPF file system is ours to unmount
)

func mountsCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "mounts", Short: "Mount a BPF file system and cgroup v2 on a node that has none, and end", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return mounts(*o) },
	}
}

// mounts makes what is missing. A node without either is rare: systemd mounts both.
func mounts(o options) error {
	bpffs := filepath.Dir(o.pinDir)
	is, err := isType(bpffs, unix.BPF_FS_MAGIC)
	if err != nil {
		return err
	}
	if !is {
		if err := os.MkdirAll(o.runDir, 0o755); err != nil {
			return fmt.Errorf("make run folder: %w", err)
		}
		if err := unix.Mount("bpf", bpffs, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700"); err != nil {
			return fmt.Errorf("mount a BPF file system at %s: %w", bpffs, err)
		}
		if err := os.WriteFile(filepath.Join(o.runDir, markerName), nil, 0o600); err != nil {
			return fmt.Errorf("note the mount: %w", err)
		}
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	if _, err := socklb.CgroupRoot(string(info)); err == nil {
		return nil
	}
	at := filepath.Join(o.runDir, cgroupName)
	if err := os.MkdirAll(at, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", at, err)
	}
	if err := unix.Mount("cgroup2", at, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount cgroup v2 at %s: %w", at, err)
	}
	return nil
}

func isType(path string, magic int64) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, fmt.Errorf("look at %s: %w", path, err)
	}
	return st.Type == magic, nil
}

// mounted are the mounts that are ours.
func mounted(o options) (list []effect, err error) {
	unmount := func(path string, magic int64) {
		if is, err := isType(path, magic); err == nil && is {
			list = append(list, effect{"unmount " + path, func() error {
				if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
					return err
				}
				return nil
			}})
		}
	}
	unmount(filepath.Join(o.runDir, cgroupName), unix.CGROUP2_SUPER_MAGIC)
	marker := filepath.Join(o.runDir, markerName)
	if _, err := os.Lstat(marker); err == nil {
		unmount(filepath.Dir(o.pinDir), unix.BPF_FS_MAGIC)
		found, err := files([]string{marker})
		return append(list, found...), err
	}
	return list, nil
}
