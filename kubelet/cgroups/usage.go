package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	v1 "k8s.io/api/core/v1"
)

// Usage is what the processes of a cgroup and of those below it hold.
type Usage struct {
	// Memory in bytes, without the pages of files that the kernel could drop at once.
	Memory int64
	Pids   int64
}

// Bounds are what a cgroup may hold at most; 0 is no bound.
type Bounds struct{ Memory, Pids int64 }

// unbounded is above what v1 writes for a cgroup without a bound, which is the largest page number.
const unbounded = 1 << 60

// Machine reads the top of the trees as this process sees them. On a machine that is shared by several nodes, each in a
// cgroup namespace, that is the node's part of it.
func (c *Cgroups) Machine() (Usage, Bounds, error) { return c.look("/") }

// AllPods reads kubepods: all pods together.
func (c *Cgroups) AllPods() (Usage, Bounds, error) { return c.look(c.root.path(c.cfg.Driver)) }

// PodUsage reads what a pod holds, and each of its containers by id. A pod without a cgroup holds nothing.
func (c *Cgroups) PodUsage(pod *v1.Pod) (Usage, map[string]Usage, error) {
	all, _, err := c.look(c.PodPath(pod))
	if err != nil {
		return Usage{}, nil, err
	}
	each := map[string]Usage{}
	for _, h := range c.cfg.Hierarchies {
		if !h.has("memory") {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(h.Dir, c.PodPath(pod)))
		if err != nil && !vanished(err) {
			return Usage{}, nil, fmt.Errorf("list cgroup: %w", err)
		}
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			u, _, err := c.look(filepath.Join(c.PodPath(pod), e.Name()))
			if err != nil {
				return Usage{}, nil, err
			}
			each[containerID(e.Name())] = u
		}
	}
	return all, each, nil
}

// Killed counts the processes of a pod, its containers' with them, that the kernel has killed for want of memory. known is false where the kernel does not count
// those of a whole tree, as on cgroup v1.
func (c *Cgroups) Killed(pod *v1.Pod) (n int64, known bool, err error) {
	for _, h := range c.cfg.Hierarchies {
		if h.Unified && h.has("memory") {
			n, err := keyed(filepath.Join(h.Dir, c.PodPath(pod), "memory.events"), "oom_kill")
			return n, err == nil, err
		}
	}
	return 0, false, nil
}

// containerID is the id in the name of a container's cgroup, which systemd's driver puts into the name of a scope.
func containerID(dir string) string {
	dir = strings.TrimSuffix(dir, ".scope")
	return dir[strings.LastIndexByte(dir, '-')+1:]
}

func vanished(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV)
}

func (c *Cgroups) look(path string) (u Usage, b Bounds, err error) {
	for _, h := range c.cfg.Hierarchies {
		dir := filepath.Join(h.Dir, path)
		usage, limit, stat := "memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"
		if h.Unified {
			usage, limit, stat = "memory.current", "memory.max", "inactive_file"
		}
		if h.has("memory") {
			held, err1 := number64(dir, usage)
			bound, err2 := number64(dir, limit)
			idle, err3 := keyed(filepath.Join(dir, "memory.stat"), stat)
			if err := errors.Join(err1, err2, err3); err != nil {
				return u, b, err
			}
			u.Memory, b.Memory = max(held-idle, 0), bound
		}
		if h.has("pids") {
			held, err1 := number64(dir, "pids.current")
			bound, err2 := number64(dir, "pids.max")
			if err := errors.Join(err1, err2); err != nil {
				return u, b, err
			}
			u.Pids, b.Pids = held, bound
		}
	}
	return u, b, nil
}

// number64 reads a file of one number. What is not there, as at the root of a tree, and "max", are 0.
func number64(dir, name string) (int64, error) {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		if vanished(err) {
			return 0, nil
		}
		return 0, fmt.Errorf("read cgroup: %w", err)
	}
	text := strings.TrimSpace(string(raw))
	if text == "max" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read cgroup: %w", err)
	}
	if n >= unbounded {
		return 0, nil
	}
	return n, nil
}

// keyed reads one number of a file of lines with a name and a number.
func keyed(file, key string) (int64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		if vanished(err) {
			return 0, nil
		}
		return 0, fmt.Errorf("read cgroup: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, key+" "); ok {
			return strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
		}
	}
	return 0, nil
}
