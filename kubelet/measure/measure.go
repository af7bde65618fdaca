// Package measure reads how much of the node, and of each of its pods, is used.
//
// Memory and processes come from cgroup files and /proc, file systems from statfs. Only what a pod has stored is counted
// file by file, and only when somebody asks for that pod: nothing here runs by itself.
package measure

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/kubelet/cgroups"
	"github.com/orlop-io/orlop/kubelet/eviction"
)

// Node says where the node's resources are.
type Node struct {
	// RootDir's file system is the node's; ImageDir's holds images and containers' layers, empty if it is not known.
	RootDir, ImageDir string
	Groups            *cgroups.Cgroups
}

// Observe measures all signals. One that cannot be measured is absent, and the error says why.
func (n Node) Observe() (eviction.Observations, error) {
	out := eviction.Observations{}
	var errs []error
	errs = append(errs, n.memory(out), n.pids(out), n.pods(out))
	errs = append(errs, space(n.RootDir, out, eviction.NodeFsAvailable, eviction.NodeFsInodes))
	if n.ImageDir != "" {
		errs = append(errs, space(n.ImageDir, out, eviction.ImageFsAvailable, eviction.ImageFsInodes))
	}
	return out, errors.Join(errs...)
}

// Disks says whether images have a file system of their own.
func (n Node) Disks() eviction.Disks {
	var a, b unix.Stat_t
	if n.ImageDir == "" || unix.Stat(n.RootDir, &a) != nil || unix.Stat(n.ImageDir, &b) != nil {
		return eviction.Disks{}
	}
	return eviction.Disks{Separate: a.Dev != b.Dev}
}

// memory is what could be had without ending anything, by the kernel's own account: upstream counts the pages of files
// that were used lately as lost, and evicts pods for a full page cache. Where the top of the cgroup trees is bounded, that
// bound is what the node has.
func (n Node) memory(out eviction.Observations) error {
	info, err := Memory()
	if err != nil {
		return err
	}
	o := eviction.Observation{Available: available(info), Capacity: info["MemTotal"]}
	use, bound, err := n.Groups.Machine()
	if err != nil {
		return fmt.Errorf("measure memory: %w", err)
	}
	if bound.Memory > 0 && bound.Memory < o.Capacity {
		o = eviction.Observation{Available: min(o.Available, bound.Memory-use.Memory), Capacity: bound.Memory}
	}
	out[eviction.MemoryAvailable] = o
	return nil
}

func available(info map[string]int64) int64 {
	return max(info["MemAvailable"], info["MemFree"]+info["Inactive(file)"])
}

func (n Node) pods(out eviction.Observations) error {
	use, bound, err := n.Groups.AllPods()
	if err != nil {
		return fmt.Errorf("measure pods' memory: %w", err)
	}
	if bound.Memory > 0 {
		out[eviction.AllocatableMemory] = eviction.Observation{Available: bound.Memory - use.Memory, Capacity: bound.Memory}
	}
	return nil
}

func (n Node) pids(out eviction.Observations) error {
	most, err := MaxPids()
	if err != nil {
		return err
	}
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return fmt.Errorf("measure processes: %w", err)
	}
	fields := strings.Fields(string(raw)) // 0.1 0.2 0.3 running/all last
	if len(fields) < 4 {
		return fmt.Errorf("measure processes: /proc/loadavg has %q", raw)
	}
	_, all, _ := strings.Cut(fields[3], "/")
	running, err := strconv.ParseInt(all, 10, 64)
	if err != nil {
		return fmt.Errorf("measure processes: %w", err)
	}
	o := eviction.Observation{Available: most - running, Capacity: most}
	use, bound, err := n.Groups.Machine()
	if err != nil {
		return fmt.Errorf("measure processes: %w", err)
	}
	if bound.Pids > 0 && bound.Pids < o.Capacity {
		o = eviction.Observation{Available: min(o.Available, bound.Pids-use.Pids), Capacity: bound.Pids}
	}
	out[eviction.PIDAvailable] = o
	return nil
}

// MaxPids is how many processes and threads the machine can have.
func MaxPids() (int64, error) {
	least := int64(0)
	for _, file := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			return 0, fmt.Errorf("read process limit: %w", err)
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read process limit: %w", err)
		}
		if least == 0 || n < least {
			least = n
		}
	}
	return least, nil
}

func space(dir string, out eviction.Observations, bytes, inodes eviction.Signal) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("measure file system of %s: %w", dir, err)
	}
	if fs.Blocks > 0 {
		out[bytes] = eviction.Observation{Available: int64(fs.Bavail) * fs.Bsize, Capacity: int64(fs.Blocks) * fs.Bsize}
	}
	if fs.Files > 0 { // some file systems make inodes as they need them
		out[inodes] = eviction.Observation{Available: int64(fs.Ffree), Capacity: int64(fs.Files)}
	}
	return nil
}

// Memory reads /proc/meminfo in bytes.
func Memory() (map[string]int64, error) {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("read memory size: %w", err)
	}
	out := map[string]int64{}
	for line := range strings.Lines(string(raw)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		if n, err := strconv.ParseInt(words[1], 10, 64); err == nil {
			out[strings.TrimSuffix(words[0], ":")] = n << 10
		}
	}
	if out["MemTotal"] == 0 {
		return nil, errors.New("read memory size: /proc/meminfo has no MemTotal")
	}
	return out, nil
}
