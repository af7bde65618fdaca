package localcluster

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/orlop-io/orlop/cmd/localcluster/cgroups"
)

// Exit codes of commands, beside 0 and 1.
const (
	ExitUsage     = 2
	ExitPreflight = 3
	ExitTimeout   = 4
)

// ExitError is an error that decides the exit code.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string { return e.Err.Error() }
func (e *ExitError) Unwrap() error { return e.Err }

// ExitCode is what the program exits with.
func (e *ExitError) ExitCode() int { return e.Code }

func usage(format string, args ...any) error {
	return &ExitError{ExitUsage, fmt.Errorf(format, args...)}
}

// facts are what preflight decides from.
type facts struct {
	root             bool
	missingPrograms  []string
	missingRuntime   []string // of a containerd that was named
	missingFiles     []string // beside the binary
	staleImages      []string // archives there that hold images of another version
	overlay          bool
	missingCgroups   []string
	inotifyInstances int
	pidMax           int
	busyPorts        []uint16
}

// Per host: containerd, kubelet and agent hold about ten inotify instances; 100 pods hold some
// 1,500 processes and threads.
const (
	inotifyPerHost = 16
	pidsPerHost    = 1500
)

// debianPackage is where a program comes from on Debian.
var debianPackages = map[string]string{"containerd": "containerd", "ctr": "containerd", "runc": "runc", "mount": "mount", "umount": "mount"}

// complaints says what is in the way, and how to remove it.
func (f facts) complaints(nodes int) []error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !f.root {
		add("making namespaces needs root: run it with sudo")
	}
	if len(f.missingPrograms) > 0 {
		var packages []string
		for _, p := range f.missingPrograms {
			if pkg := debianPackages[p]; !strings.Contains(" "+strings.Join(packages, " ")+" ", " "+pkg+" ") {
				packages = append(packages, pkg)
			}
		}
		add("missing: %s; install with: apt-get install -y %s", strings.Join(f.missingPrograms, ", "), strings.Join(packages, " "))
	}
	if len(f.missingRuntime) > 0 {
		add("--containerd: missing: %s; install containerd, containerd-shim-runc-v2 and ctr of one version into one folder", strings.Join(f.missingRuntime, ", "))
	}
	if len(f.missingFiles) > 0 {
		add("missing: %s; build with: make build images", strings.Join(f.missingFiles, ", "))
	}
	if len(f.staleImages) > 0 {
		add("not of this program's version: %s; build with: make images", strings.Join(f.staleImages, ", "))
	}
	if !f.overlay {
		add("the kernel has no overlay file system; load it with: modprobe overlay")
	}
	if len(f.missingCgroups) > 0 {
		add("missing cgroup controllers: %s; boot with cgroup_enable=memory, or enable them in the root's cgroup.subtree_control", strings.Join(f.missingCgroups, ", "))
	}
	if want := nodes * inotifyPerHost; f.inotifyInstances < want {
		add("%d nodes need %d inotify instances, a user may have %d; raise it with: sysctl -w fs.inotify.max_user_instances=%d", nodes, want, f.inotifyInstances, max(1024, want))
	}
	if want := nodes * pidsPerHost; f.pidMax < want {
		add("%d nodes need %d process ids, there are %d; raise it with: sysctl -w kernel.pid_max=4194304", nodes, want, f.pidMax)
	}
	for _, p := range f.busyPorts {
		add("port %d of 127.0.0.1 is in use; publish another one", p)
	}
	return errs
}

func preflight(cfg UpConfig) error {
	f := gather(cfg)
	if errs := f.complaints(cfg.Nodes); len(errs) > 0 {
		return &ExitError{ExitPreflight, errors.Join(errs...)}
	}
	return nil
}

func gather(cfg UpConfig) facts {
	f := facts{root: os.Geteuid() == 0, overlay: hasOverlay()}
	programs := []string{"runc", "mount", "umount"}
	if cfg.Containerd == "" {
		programs = append([]string{"containerd", "ctr"}, programs...)
	} else {
		beside := filepath.Dir(cfg.Containerd)
		for _, p := range []string{cfg.Containerd, filepath.Join(beside, "containerd-shim-runc-v2"), filepath.Join(beside, "ctr")} {
			if _, err := exec.LookPath(p); err != nil {
				f.missingRuntime = append(f.missingRuntime, p)
			}
		}
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			f.missingPrograms = append(f.missingPrograms, p)
		}
	}
	dir := filepath.Dir(cfg.Exe)
	for _, p := range []string{"orlop-kubelet", "images/orlop-server.tar", "images/orlop-agent.tar", "images/pause.tar"} {
		p = filepath.Join(dir, p)
		if _, err := os.Stat(p); err != nil {
			f.missingFiles = append(f.missingFiles, p)
			continue
		}
		if strings.HasSuffix(p, ".tar") && !archiveHolds(p, cfg.Version) {
			f.staleImages = append(f.staleImages, p)
		}
	}
	f.missingCgroups = missingCgroups()
	f.inotifyInstances = readInt("/proc/sys/fs/inotify/max_user_instances")
	f.pidMax = readInt("/proc/sys/kernel/pid_max")
	for _, p := range cfg.Publish {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p.HostPort))
		if err != nil {
			f.busyPorts = append(f.busyPorts, p.HostPort)
			continue
		}
		l.Close()
	}
	return f
}

// archiveHolds says whether an OCI archive names an image of a version. With images of another,
// pods would wait for one that nobody has.
func archiveHolds(path, version string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			return false
		}
		if h.Name == "index.json" {
			index, err := io.ReadAll(io.LimitReader(r, 1<<20))
			return err == nil && strings.Contains(string(index), ":"+version+`"`)
		}
	}
}

// hasOverlay is also true where the module is merely not loaded yet: mounting loads it.
func hasOverlay() bool {
	b, _ := os.ReadFile("/proc/filesystems")
	if strings.Contains(string(b), "\toverlay\n") {
		return true
	}
	found, _ := filepath.Glob("/lib/modules/" + release() + "/kernel/fs/overlayfs/overlay.ko*")
	return len(found) > 0
}

func release() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}

func missingCgroups() []string {
	trees, err := cgroups.Mounted()
	if err != nil {
		return []string{"all"}
	}
	have := map[string]bool{}
	for _, h := range trees {
		names := strings.Split(h.Options, ",")
		if h.V2 {
			b, _ := os.ReadFile(filepath.Join(h.Mount, "cgroup.controllers"))
			names = strings.Fields(string(b))
		}
		for _, n := range names {
			have[n] = true
		}
	}
	var missing []string
	for _, want := range []string{"cpu", "memory", "pids"} {
		if !have[want] {
			missing = append(missing, want)
		}
	}
	return missing
}

func readInt(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}
