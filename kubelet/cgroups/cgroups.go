// Package cgroups keeps the part of the machine's cgroup trees that pods live in.
//
// It owns the cgroup kubepods, its children burstable and besteffort, and one cgroup for each pod; containers'
// cgroups below belong to the container runtime. The same path is kept in every mounted tree: cgroup v1, with one
// tree for each controller, the v2 tree beside it, or v2 alone. Every call reads what is there and converges, so a
// crash between any two steps is mended by the next call.
package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/orlop-io/orlop/kubelet/systemd"
)

// Config says where and how pods' cgroups are made.
type Config struct {
	// Hierarchies are the trees to keep, from Discover. Required.
	Hierarchies []Hierarchy
	// Prefix is the cgroup that kubepods is made in; empty is the root of each tree.
	Prefix string
	// Driver names the cgroups the way the container runtime expects; empty is Cgroupfs.
	Driver Driver
	// Slices are told of slices before they are made here; required for Systemd on cgroup v2.
	Slices sliceKeeper
	// CPUQuota makes CPU limits hold. Without it they only count for the pod's quality of service.
	CPUQuota bool
	// CPUPeriod is the time over which a CPU limit is measured, 1 ms to 1 s; zero is 100 ms. A short one makes
	// throttling smoother and costs more.
	CPUPeriod time.Duration
	// PodPids bounds the processes and threads of each pod; zero or less is no bound.
	PodPids int64
}

// sliceKeeper is systemd, which must know of its slices; *systemd.Bus is one.
type sliceKeeper interface {
	Set(slice string, bounds systemd.Bounds) error
	Stop(slice string) error
}

// Cgroups keeps pods' cgroups. Its methods may be called at the same time for different pods.
type Cgroups struct {
	cfg  Config
	root name
	log  *slog.Logger

	weighing sync.Mutex // one at a time, else an older sum could be written last

	mu   sync.Mutex
	told map[string]systemd.Bounds // what systemd was told last, by slice
}

// New checks cfg; it touches no cgroup.
func New(cfg Config, log *slog.Logger) (*Cgroups, error) {
	if cfg.Driver == "" {
		cfg.Driver = Cgroupfs
	}
	if cfg.CPUPeriod == 0 {
		cfg.CPUPeriod = 100 * time.Millisecond
	}
	var errs []error
	if cfg.Driver != Cgroupfs && cfg.Driver != Systemd {
		errs = append(errs, fmt.Errorf("cgroup driver %q: want cgroupfs or systemd", cfg.Driver))
	}
	if len(cfg.Hierarchies) == 0 {
		errs = append(errs, errors.New("no cgroup tree to keep"))
	}
	if cfg.CPUPeriod < time.Millisecond || cfg.CPUPeriod > time.Second {
		errs = append(errs, fmt.Errorf("CPU period %v: want 1ms to 1s", cfg.CPUPeriod))
	}
	c := &Cgroups{cfg: cfg, root: rootName(cfg.Prefix), log: log, told: map[string]systemd.Bounds{}}
	if c.bySlices() && cfg.Slices == nil {
		errs = append(errs, errors.New("cgroup driver systemd: no systemd to tell of slices"))
	}
	return c, errors.Join(errs...)
}

// EnsureRoot makes kubepods and its two classes, and bounds all pods together to what the node has to give. Call it
// first, and again whenever that changes; nil takes the bounds of memory and processes away.
func (c *Cgroups) EnsureRoot(bound v1.ResourceList) error {
	l := rootLimits(bound)
	if bound == nil {
		l = limits{Memory: -1, Pids: -1}
	}
	return errors.Join(
		c.ensure(c.root, l),
		c.ensure(className(c.root, v1.PodQOSBestEffort), limits{Shares: minShares}),
		c.ensure(className(c.root, v1.PodQOSBurstable), limits{}),
		c.weighBurstable())
}

// Bound gives a cgroup that others made its bounds. It is named from the top of the trees, by its path or as the driver
// names it, and must be there.
func (c *Cgroups) Bound(cgroup string, amount v1.ResourceList) error {
	l := rootLimits(amount)
	found := false
	var errs []error
	for _, h := range c.cfg.Hierarchies {
		for _, path := range []string{cgroup, name(split(cgroup)).path(c.cfg.Driver)} {
			dir := filepath.Join(h.Dir, path)
			if _, err := os.Stat(dir); err != nil {
				continue
			}
			found = true
			errs = append(errs, h.bound(dir, l))
			break
		}
	}
	if !found {
		return fmt.Errorf("%q cgroup does not exist", cgroup)
	}
	return errors.Join(errs...)
}

// weighBurstable gives the burstable pods together the weight of what they ask for, against the guaranteed ones beside
// them. It adds up what the pods' cgroups have, so it is right after a restart too.
func (c *Cgroups) weighBurstable() error {
	c.weighing.Lock()
	defer c.weighing.Unlock()
	class := className(c.root, v1.PodQOSBurstable)
	var errs []error
	for _, h := range c.cfg.Hierarchies {
		if !h.has("cpu") {
			continue
		}
		sum, err := h.childShares(filepath.Join(h.Dir, class.path(c.cfg.Driver)))
		if errors.Is(err, fs.ErrNotExist) {
			continue // no burstable pod was here yet
		}
		l := limits{Shares: min(max(sum, minShares), maxShares)}
		if err == nil {
			err = c.tell(class, l)
		}
		if err == nil {
			err = h.ensure(class, c.cfg.Driver, l)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// childShares adds up the weights of the cgroups directly in dir.
func (h Hierarchy) childShares(dir string) (uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("list cgroup: %w", err)
	}
	file, toShares := "cpu.shares", func(n uint64) uint64 { return n }
	if h.Unified {
		file, toShares = "cpu.weight", sharesOf
	}
	var sum uint64
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, e.Name(), file))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
			continue // removed meanwhile
		}
		if err != nil {
			return 0, fmt.Errorf("read cgroup: %w", err)
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read cgroup: %w", err)
		}
		sum += toShares(n)
	}
	return sum, nil
}

// EnsurePod makes the pod's cgroup with its bounds, or corrects them.
func (c *Cgroups) EnsurePod(pod *v1.Pod) error {
	class := qos.ComputePodQOS(pod)
	err := c.ensure(podName(c.root, class, pod.UID), podLimits(pod, c.cfg))
	if class == v1.PodQOSBurstable { // the others are not in the sum, which is read from every pod's cgroup
		err = errors.Join(err, c.weighBurstable())
	}
	return err
}

// PodParent is the name of the pod's cgroup to give to the container runtime as the sandbox's cgroup parent.
func (c *Cgroups) PodParent(pod *v1.Pod) string {
	return podName(c.root, qos.ComputePodQOS(pod), pod.UID).parent(c.cfg.Driver)
}

// PodPath is the pod's cgroup below the mount point of each tree, for whoever reads its statistics.
func (c *Cgroups) PodPath(pod *v1.Pod) string {
	return podName(c.root, qos.ComputePodQOS(pod), pod.UID).path(c.cfg.Driver)
}

// RootPath is kubepods below the mount point of each tree.
func (c *Cgroups) RootPath() string { return c.root.path(c.cfg.Driver) }

// ensure makes one cgroup in every tree and writes its bounds. One tree's failure does not keep the others back.
func (c *Cgroups) ensure(n name, l limits) error {
	if err := c.tell(n, l); err != nil {
		return err
	}
	var errs []error
	for _, h := range c.cfg.Hierarchies {
		errs = append(errs, h.ensure(n, c.cfg.Driver, l))
	}
	return errors.Join(errs...)
}

func (h Hierarchy) ensure(n name, d Driver, l limits) error {
	for depth := 1; depth <= len(n); depth++ {
		dir := filepath.Join(h.Dir, n[:depth].path(d))
		if h.Unified {
			if err := h.delegate(filepath.Dir(dir)); err != nil {
				return err
			}
		}
		err := os.Mkdir(dir, 0o755)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if !h.Unified && h.has("cpuset") {
			if err := inheritCPUs(dir); err != nil {
				return err
			}
		}
	}
	return h.bound(filepath.Join(h.Dir, n.path(d)), l)
}

func (h Hierarchy) bound(dir string, l limits) error {
	files := l.filesV1()
	if h.Unified {
		files = l.filesV2()
	}
	for _, f := range files {
		if !h.has(f.Controller) {
			continue
		}
		if err := write(filepath.Join(dir, f.Name), f.Value); err != nil {
			return fmt.Errorf("bound cgroup: %w", err)
		}
	}
	return nil
}

// delegate lets the children of a v2 cgroup be bounded too. Only what is bounded here is handed down: the kernel refuses
// to hand down from a cgroup that has processes of its own, and beside v1 trees there is no reason to insist.
func (h Hierarchy) delegate(dir string) error {
	file := filepath.Join(dir, "cgroup.subtree_control")
	have, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read cgroup: %w", err)
	}
	enabled := strings.Fields(string(have))
	for _, ctl := range []string{"cpu", "memory", "pids"} {
		if !h.has(ctl) || slices.Contains(enabled, ctl) {
			continue
		}
		if err := write(file, "+"+ctl); err != nil {
			return fmt.Errorf("hand %s down: %w", ctl, err)
		}
	}
	return nil
}

// inheritCPUs fills what a v1 cpuset leaves empty, and without which no process can enter.
func inheritCPUs(dir string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			return fmt.Errorf("read cgroup: %w", err)
		}
		if strings.TrimSpace(string(own)) != "" {
			continue
		}
		above, err := os.ReadFile(filepath.Join(filepath.Dir(dir), f))
		if err != nil {
			return fmt.Errorf("read cgroup: %w", err)
		}
		if err := write(filepath.Join(dir, f), strings.TrimSpace(string(above))); err != nil {
			return fmt.Errorf("fill cgroup: %w", err)
		}
	}
	return nil
}

func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Pods lists the pods that have a cgroup in any tree.
func (c *Cgroups) Pods() ([]types.UID, error) {
	seen := map[types.UID]bool{}
	for _, h := range c.cfg.Hierarchies {
		for _, dir := range c.classDirs(h) {
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("list pods' cgroups: %w", err)
			}
			for _, e := range entries {
				if uid := podUID(e.Name(), c.cfg.Driver); uid != "" && e.IsDir() {
					seen[uid] = true
				}
			}
		}
	}
	out := make([]types.UID, 0, len(seen))
	for uid := range seen {
		out = append(out, uid)
	}
	slices.Sort(out)
	return out, nil
}

func (c *Cgroups) classDirs(h Hierarchy) []string {
	var out []string
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		out = append(out, filepath.Join(h.Dir, className(c.root, class).path(c.cfg.Driver)))
	}
	return out
}

// RemovePod kills every process left in the pod's cgroups and removes them from every tree. A pod that has none is a
// success. It waits until the kernel let the last process go, or ctx ends.
func (c *Cgroups) RemovePod(ctx context.Context, uid types.UID) error {
	var dirs []string
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		p := podName(c.root, class, uid).path(c.cfg.Driver)
		for _, h := range c.cfg.Hierarchies {
			dirs = append(dirs, filepath.Join(h.Dir, p))
		}
	}
	for wait := time.Millisecond; ; wait = min(wait*2, 100*time.Millisecond) {
		var errs []error
		for _, dir := range dirs {
			errs = append(errs, c.removeTree(dir))
		}
		err := errors.Join(errs...)
		if err == nil {
			return errors.Join(c.forget(uid), c.weighBurstable())
		}
		if !errors.Is(err, syscall.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}

// removeTree removes a cgroup and all below it, deepest first.
func (c *Cgroups) removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list cgroup: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() {
			errs = append(errs, c.removeTree(filepath.Join(dir, e.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := c.killAll(dir); err != nil {
		return err
	}
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

func (c *Cgroups) killAll(dir string) error {
	left, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, field := range strings.Fields(string(left)) {
		pid, err := strconv.Atoi(field)
		if err != nil || pid <= 1 {
			continue // 0 is a process of a PID namespace that is not ours
		}
		c.log.Info("kill process left in a pod's cgroup", "pid", pid, "cgroup", dir)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill %d: %w", pid, err)
		}
	}
	return nil
}
