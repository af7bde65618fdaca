// Package cgroups makes, enters, empties and removes one subtree at the same path in every
// cgroup hierarchy of a machine, v1 and v2 alike.
//
// It touches only the paths it is given. Names are relative to the root of each hierarchy as
// it is mounted here.
package cgroups

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Hierarchy is one mounted cgroup tree.
type Hierarchy struct {
	Mount string // where its root is
	V2    bool
	// Options name a v1 tree to mount(2): "cpu,cpuacct" or "name=systemd".
	Options string
}

// Trees is every hierarchy of the machine.
type Trees []Hierarchy

// Mounted reads the hierarchies that this process sees.
func Mounted() (Trees, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroup mounts: %w", err)
	}
	defer f.Close()
	t, err := Parse(f)
	if err != nil {
		return nil, err
	}
	if len(t) == 0 {
		return nil, errors.New("find cgroup mounts: none in /proc/self/mountinfo")
	}
	return t, nil
}

// Parse finds the cgroup mounts in a mountinfo file, each hierarchy once.
func Parse(mountinfo io.Reader) (Trees, error) {
	var t Trees
	seen := map[string]bool{}
	sc := bufio.NewScanner(mountinfo)
	for sc.Scan() {
		left, right, ok := strings.Cut(sc.Text(), " - ")
		pre, post := strings.Fields(left), strings.Fields(right)
		if !ok || len(pre) < 5 || len(post) < 3 {
			continue
		}
		h := Hierarchy{Mount: pre[4]}
		switch post[0] {
		case "cgroup2":
			h.V2 = true
		case "cgroup":
			h.Options = v1Options(post[2])
		default:
			continue
		}
		if seen[h.Options] || (!h.V2 && h.Options == "") {
			continue
		}
		seen[h.Options] = true
		t = append(t, h)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read mountinfo: %w", err)
	}
	return t, nil
}

// v1Options keeps of a superblock's options those that say which hierarchy it is.
func v1Options(super string) string {
	var keep []string
	for o := range strings.SplitSeq(super, ",") {
		switch {
		case o == "rw", o == "ro", o == "xattr", o == "none", o == "noprefix", o == "clone_children",
			o == "cpuset_v2_mode", o == "favordynmods", strings.HasPrefix(o, "release_agent="):
		default:
			keep = append(keep, o)
		}
	}
	return strings.Join(keep, ",")
}

// Create makes path in every hierarchy. What exists already is left as it is.
func (t Trees) Create(path string) error {
	for _, h := range t {
		dir := h.Mount
		for part := range strings.SplitSeq(path, "/") {
			parent := dir
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make cgroup: %w", err)
			}
			if err := h.inherit(parent, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// inherit gives a new v1 cpuset its parent's cpus and memory nodes: an empty one takes no process.
func (h Hierarchy) inherit(parent, dir string) error {
	if !slices.Contains(strings.Split(h.Options, ","), "cpuset") {
		return nil
	}
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(dir, f))
		if err == nil && strings.TrimSpace(string(have)) != "" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(parent, f))
		if err != nil {
			return fmt.Errorf("copy %s: %w", f, err)
		}
		if err := os.WriteFile(filepath.Join(dir, f), b, 0o644); err != nil {
			return fmt.Errorf("copy %s to %s: %w", f, dir, err)
		}
	}
	return nil
}

// Delegate lets the children of path have every v2 controller that path itself was given.
// No process may be in path then: the kernel allows none beside children with controllers.
func (t Trees) Delegate(path string) error {
	for _, h := range t {
		if !h.V2 {
			continue
		}
		dir := filepath.Join(h.Mount, path)
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return fmt.Errorf("read controllers of %s: %w", path, err)
		}
		for c := range strings.FieldsSeq(string(b)) {
			// A controller that cannot be had here (an rt cpu one, say) is no reason to have none.
			_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
		}
	}
	return nil
}

// Enter moves this process, with all its threads, to path in every hierarchy.
func (t Trees) Enter(path string) error {
	for _, h := range t {
		if err := os.WriteFile(filepath.Join(h.Mount, path, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("enter cgroup %s: %w", filepath.Join(h.Mount, path), err)
		}
	}
	return nil
}

// Exists says whether path is there in any hierarchy.
func (t Trees) Exists(path string) bool {
	for _, h := range t {
		if _, err := os.Stat(filepath.Join(h.Mount, path)); err == nil {
			return true
		}
	}
	return false
}

// Procs lists the processes in path and below it, over all hierarchies.
func (t Trees) Procs(path string) ([]int, error) {
	seen := map[int]bool{}
	for _, h := range t {
		err := walk(filepath.Join(h.Mount, path), func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil {
				return ignoreGone(err)
			}
			for f := range strings.FieldsSeq(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
					seen[pid] = true
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list processes of cgroup %s: %w", path, err)
		}
	}
	pids := make([]int, 0, len(seen))
	for p := range seen {
		pids = append(pids, p)
	}
	slices.Sort(pids)
	return pids, nil
}

// Kill ends every process in path and below it, as a power cut would, and returns when none is left.
func (t Trees) Kill(ctx context.Context, path string) error {
	for {
		for _, h := range t {
			if h.V2 {
				// Kernels before 5.14 have no cgroup.kill; the signals below do there.
				_ = os.WriteFile(filepath.Join(h.Mount, path, "cgroup.kill"), []byte("1"), 0o200)
			}
			if h.Options == "freezer" {
				_ = walk(filepath.Join(h.Mount, path), func(dir string) error {
					// A frozen process cannot die.
					_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0o644)
					return nil
				})
			}
		}
		pids, err := t.Procs(path)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill process %d of cgroup %s: %w", pid, path, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for processes %v of cgroup %s to die: %w", pids, path, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Remove deletes path and all below it in every hierarchy. It must hold no process.
func (t Trees) Remove(ctx context.Context, path string) error {
	for _, h := range t {
		for {
			err := walk(filepath.Join(h.Mount, path), func(dir string) error {
				return ignoreGone(syscall.Rmdir(dir))
			})
			if err == nil {
				break
			}
			// The last exits are still being worked off: the kernel says busy for some milliseconds.
			select {
			case <-ctx.Done():
				return fmt.Errorf("remove cgroup %s of %s: %w", path, h.Mount, err)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	return nil
}

// walk calls f for dir and every folder below it, children first.
func walk(dir string, f func(dir string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ignoreGone(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := walk(filepath.Join(dir, e.Name()), f); err != nil {
				return err
			}
		}
	}
	return f(dir)
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}
