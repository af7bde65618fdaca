package localcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/orlop-io/orlop/cmd/localcluster/hostns"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	"golang.org/x/sys/unix"
)

// pointsFile lists the mount points that were made on the machine for its clusters. They go with
// the last cluster: removing a folder that is a mount point elsewhere would unmount it there.
func pointsFile() string { return filepath.Join(layout.StateRoot, "mountpoints.json") }

func unfinishedPoints() string { return pointsFile() + ".new" }

// locked runs f while no other orlop on this machine is between making and removing what
// clusters share. The lock is on /run itself, so that no file remains of it.
func locked(f func() error) error {
	dir, err := lockDir(filepath.Dir(layout.RunRoot))
	if err != nil {
		return err
	}
	defer dir.Close()
	return f()
}

// lockDir waits for the lock on a folder, and has it until the folder is closed.
func lockDir(path string) (*os.File, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for {
		err := unix.Flock(int(dir.Fd()), unix.LOCK_EX)
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, unix.EINTR) {
			dir.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}

// entering runs f, which makes this process a part of the cluster, while nobody removes the
// cluster: a process that an interrupted up has just started must not outlive it unseen. What f
// becomes by exec no longer holds the lock.
func entering(name string, f func(*layout.Cluster) error) error {
	if err := layout.CheckName(name); err != nil {
		return err
	}
	dir, err := lockDir(layout.StateDir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	ours, err := dir.Stat()
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if now, err := os.Stat(layout.StateDir(name)); err != nil || !os.SameFile(ours, now) {
		return fmt.Errorf("cluster %s was removed meanwhile", name)
	}
	c, err := layout.Load(name)
	if err != nil {
		return err
	}
	return f(c)
}

func readPoints() ([]string, error) {
	b, err := os.ReadFile(pointsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of mount points: %w", err)
	}
	if len(b) == 0 {
		return nil, nil // torn by an earlier version, which had made no mount point by then
	}
	var made []string
	if err := json.Unmarshal(b, &made); err != nil {
		return nil, fmt.Errorf("parse %s: %w; remove it if no cluster runs", pointsFile(), err)
	}
	return made, nil
}

// writePoints replaces the list: who is killed meanwhile leaves the old one or the new one.
func writePoints(made []string) error {
	b, err := json.Marshal(made)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(layout.StateRoot, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(unfinishedPoints(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(unfinishedPoints(), pointsFile())
}

// makePointsLocked records the mount points that the machine lacks, and makes them.
func makePointsLocked() error {
	before, err := readPoints()
	if err != nil {
		return err
	}
	missing := hostns.MissingPoints()
	for _, p := range missing {
		if !slices.Contains(before, p) {
			before = append(before, p)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := writePoints(before); err != nil {
		return fmt.Errorf("record the mount points: %w", err)
	}
	return hostns.MakePoints() // after the record: what a crash leaves half-made must go too
}

// clearGround removes what clusters share, when none is left.
func clearGround() error {
	return locked(func() error {
		names, err := layout.Names()
		if err != nil || len(names) > 0 {
			return err
		}
		made, err := readPoints()
		if err != nil {
			return err
		}
		hostns.RemovePoints(made)
		for _, file := range []string{pointsFile(), unfinishedPoints()} {
			if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove the list of mount points: %w", err)
			}
		}
		for _, dir := range []string{layout.StateRoot, layout.RunRoot} {
			_ = os.Remove(dir) // a machine may keep other things there
		}
		return nil
	})
}

// claim saves the first state of a cluster, unless there is one of that name.
func claim(c *layout.Cluster) error {
	return locked(func() error {
		for _, dir := range []string{layout.StateDir(c.Name), layout.RunDir(c.Name)} {
			if _, err := os.Stat(dir); err == nil {
				return fmt.Errorf("cluster %s %w", c.Name, ErrExists)
			}
		}
		return c.Save()
	})
}

// ErrExists is returned by Up for a name that is taken.
var ErrExists = errors.New("exists already")
