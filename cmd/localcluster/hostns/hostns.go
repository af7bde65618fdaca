package hostns

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/orlop-io/orlop/cmd/localcluster/cgroups"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	"golang.org/x/sys/unix"
)

// system is the cgroup of what systemd would run elsewhere. The host's own root stays free of
// processes, for v2 gives no controllers to the children of a cgroup that has some.
const system = "system"

// Enter moves this process into the host's cgroups and into new namespaces, then becomes argv.
// It returns only if that failed.
func Enter(c *layout.Cluster, h layout.Host, argv, env []string) error {
	trees, err := cgroups.Mounted()
	if err != nil {
		return err
	}
	root := layout.HostCgroup(c.Name, h.Name)
	if err := errors.Join(trees.Create(layout.Cgroup(c.Name)), trees.Delegate(layout.Cgroup(c.Name)), trees.Create(root+"/"+system)); err != nil {
		return err
	}
	// A cgroup namespace's root is where its maker is when it makes it.
	if err := trees.Enter(root); err != nil {
		return err
	}
	// Unshare acts on a thread alone; the exec below makes that thread the whole process.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if err := trees.Enter(root + "/" + system); err != nil {
		return err
	}
	if err := trees.Delegate(root); err != nil {
		return err
	}
	if err := unix.Exec(argv[0], argv, env); err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	return nil
}

// Boot makes the files and the network of the host. It runs once, in namespaces that Enter made.
func Boot(c *layout.Cluster, h layout.Host) error {
	fabric, err := os.Open(layout.FabricHandle(c.Name)) // before /run is the host's own
	if err != nil {
		return fmt.Errorf("open the fabric: %w", err)
	}
	defer fabric.Close()
	if err := unix.Sethostname([]byte(h.Name)); err != nil {
		return fmt.Errorf("set the host's name: %w", err)
	}
	if err := writeOwn(c, h); err != nil {
		return err
	}
	trees, err := cgroups.Mounted()
	if err != nil {
		return err
	}
	in, err := readMountInput(trees, func(p string) string { return layout.RootDir(c.Name, h.Name, p) })
	if err != nil {
		return err
	}
	for _, m := range PlanMounts(in) {
		if err := m.apply(); err != nil {
			return err
		}
	}
	return connect(fabric, h, c.Routed)
}

// writeOwn makes the host's own folders and writes its own files anew.
func writeOwn(c *layout.Cluster, h layout.Host) error {
	own := func(p string) string { return layout.RootDir(c.Name, h.Name, p) }
	for _, d := range OwnDirs() {
		if err := os.MkdirAll(own(d), 0o755); err != nil {
			return fmt.Errorf("make the host's %s: %w", d, err)
		}
	}
	// Etcd wants its folder closed to others.
	if err := os.Chmod(own("/var/lib/etcd"), 0o700); err != nil {
		return fmt.Errorf("close the host's /var/lib/etcd: %w", err)
	}
	id, err := newBootID()
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"/etc/hosts":       hostsFile(c),
		"/etc/hostname":    h.Name + "\n",
		"/etc/resolv.conf": "nameserver " + layout.Gateway().String() + "\n",
		bootID:             id + "\n",
	} {
		if err := os.MkdirAll(filepath.Dir(own(name)), 0o755); err != nil {
			return fmt.Errorf("make the host's %s: %w", name, err)
		}
		if err := os.WriteFile(own(name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("write the host's %s: %w", name, err)
		}
	}
	return nil
}

func hostsFile(c *layout.Cluster) string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	for _, h := range c.Hosts {
		fmt.Fprintf(&b, "%s %s\n", h.Addr, h.Name)
	}
	fmt.Fprintf(&b, "%s %s\n", layout.Gateway(), layout.MachineName)
	return b.String()
}

func newBootID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make a boot id: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// MissingPoints lists the mount points that the machine lacks, outermost first.
func MissingPoints() []string {
	var all []string
	for _, d := range OwnDirs() {
		for _, p := range missing(d) {
			if !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	for _, f := range OwnFiles() {
		if _, err := os.Lstat(f); errors.Is(err, fs.ErrNotExist) {
			all = append(all, f)
		}
	}
	return all
}

// MakePoints makes the mount points that the machine lacks.
func MakePoints() error {
	for _, d := range OwnDirs() {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
	}
	for _, f := range OwnFiles() {
		if _, err := os.Lstat(f); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
	}
	return nil
}

// missing lists p and those of its parents that do not exist, outermost first.
func missing(p string) []string {
	var m []string
	for ; p != "/"; p = filepath.Dir(p) {
		if _, err := os.Stat(p); err == nil {
			break
		}
		m = append(m, p)
	}
	slices.Reverse(m)
	return m
}

// RemovePoints removes what MakePoints made, as far as it is still empty.
func RemovePoints(made []string) {
	for _, p := range slices.Backward(made) {
		if st, err := os.Lstat(p); err == nil && (st.IsDir() || st.Size() == 0) {
			_ = os.Remove(p) // a folder that somebody began to use stays
		}
	}
}

func sorted(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
