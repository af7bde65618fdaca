package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/packetlb"
	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/cni/install"
	"github.com/orlop-io/orlop/cni/sysctl"
)

// effect is something on this node that the agent or its CNI plugin made, or changed.
type effect struct {
	what string // what removing it does, for people
	undo func() error
}

// uninstall takes from this node all that the agent and its plugin made, and says each thing. Pods that hang on the bridge lose their network; what
// others have made, kube-proxy's rules and other plugins' links, is as it was. With dry it only says. It refuses while an agent works here, and goes
// on after an error.
func uninstall(ctx context.Context, o options, dry bool, out io.Writer) error {
	unlock, err := idle(o.runDir)
	if err != nil {
		return err
	}
	defer unlock()
	o, _ = o.withFolders(ctx, exists, slog.New(slog.DiscardHandler)) // what no runtime sees is removed as well
	list, err := effects(o)
	errs := []error{err}
	for _, e := range list {
		if dry {
			fmt.Fprintln(out, "would", e.what)
			continue
		}
		if err := e.undo(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", e.what, err))
			continue
		}
		fmt.Fprintln(out, e.what)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(list) == 0 {
		fmt.Fprintln(out, "nothing of orlop-agent is on this node")
	}
	return nil
}

// idle makes sure that no agent works on this node, and that none begins to before unlock.
func idle(runDir string) (unlock func(), err error) {
	path := filepath.Join(runDir, lockName)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("an agent works on this node, and holds %s: delete the DaemonSet kube-system/orlop-agent first, or end the process", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// effects lists what is there, in the order in which it must go: the configuration first, so that no pod comes meanwhile, what translates before
// what it translates to, and the settings and their ledger when nothing needs them. A part that cannot be read does not keep the others from the list.
func effects(o options) (list []effect, err error) {
	var errs []error
	for _, part := range []func(options) ([]effect, error){
		configuration, pinned, tables, chains, captures, routesAndRules, links, settings, mounted, folders, programs,
	} {
		found, err := part(o)
		errs = append(errs, err)
		list = append(list, found...)
	}
	return list, errors.Join(errs...)
}

func configuration(o options) ([]effect, error) {
	return files(o.everywhere(install.Config.Configuration))
}

func programs(o options) ([]effect, error) {
	return files(o.everywhere(install.Config.Installed))
}

// files are those of paths that are there.
func files(paths []string) (list []effect, err error) {
	for _, p := range paths {
		st, err := os.Lstat(p)
		if err != nil {
			continue
		}
		what := "remove file "
		if st.IsDir() {
			what = "remove folder "
		}
		list = append(list, effect{what + p, func() error {
			if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}})
	}
	return list, nil
}

func pinned(o options) ([]effect, error) {
	count := 0
	err := filepath.WalkDir(o.pinDir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			count++
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pinned programs: %w", err)
	}
	what := fmt.Sprintf("remove folder %s with %d pinned BPF links and maps", o.pinDir, count)
	return []effect{{what, func() error { return errors.Join(packetlb.Remove(o.pinDir), socklb.Remove(o.pinDir)) }}}, nil
}

func settings(o options) (list []effect, err error) {
	ledger := o.ledger()
	changes, err := ledger.Changes()
	for _, c := range changes {
		list = append(list, effect{c.String(), func() error { return ledger.Undo(c) }})
	}
	return list, err
}

// folders are those of state, and the one above that the plugin may have made, if it is empty then.
func folders(o options) (list []effect, err error) {
	for _, dir := range []string{o.stateDir, o.dataDir} {
		if _, err := os.Lstat(dir); dir == "" || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		list = append(list, effect{"remove folder " + dir, func() error {
			if err := os.RemoveAll(dir); err != nil && !errors.Is(err, unix.EBUSY) { // a mount of the pod that this runs in
				return err
			}
			if above := filepath.Dir(dir); filepath.Base(above) == "cni" {
				_ = os.Remove(above) // others' state keeps it
			}
			return nil
		}})
	}
	locks, err := files([]string{
		filepath.Join(o.runDir, socketName), filepath.Join(o.runDir, lockName), filepath.Join(o.runDir, cgroupName), filepath.Join(o.runDir, podCIDRsName), o.runDir,
	})
	for i := range locks { // the run folder may be a mount, or hold the state of local clusters
		remove := locks[i].undo
		locks[i].undo = func() error {
			if err := remove(); !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
				return err
			}
			return nil
		}
	}
	return append(list, locks...), err
}

// ledger is where the agent and its plugin keep what the kernel's settings were.
func (o options) ledger() sysctl.Ledger {
	return sysctl.Ledger{Dir: filepath.Join(o.stateDir, sysctl.Folder), Root: o.procSys}
}

// everywhere lists files in the folders given, or else in all that an agent on this node may have taken: in a container it sees other ones.
func (o options) everywhere(list func(install.Config) []string) (out []string) {
	for _, cfg := range []install.Config{o.installConfig(), {BinDir: cmp.Or(o.binDir, "/opt/cni/bin"), ConfDir: cmp.Or(o.confDir, "/etc/cni/net.d")}} {
		for _, path := range list(cfg) {
			if !slices.Contains(out, path) {
				out = append(out, path)
			}
		}
	}
	return out
}
