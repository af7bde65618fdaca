package measure

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/kubelet/eviction"
)

// onDisk are the kinds of volume that a pod fills on the node's own disk, by the names of their directories.
var onDisk = map[string]bool{"empty-dir": true, "configmap": true, "downward-api": true, "secret": true, "projected": true}

// Volumes counts what a pod has stored in its volumes, by their names. What is mounted in there is not the pod's, or is
// memory.
func Volumes(ctx context.Context, podDir string) (map[string]eviction.VolumeUse, error) {
	out := map[string]eviction.VolumeUse{}
	kinds, err := os.ReadDir(filepath.Join(podDir, "volumes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("measure volumes: %w", err)
	}
	for _, kind := range kinds {
		name, ours := strings.CutPrefix(kind.Name(), "kubernetes.io~")
		if !ours || !onDisk[name] {
			continue
		}
		dir := filepath.Join(podDir, "volumes", kind.Name())
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("measure volumes: %w", err)
		}
		for _, e := range entries {
			bytes, inodes, err := tree(ctx, dir, e.Name())
			if err != nil {
				return nil, fmt.Errorf("measure volume %s: %w", e.Name(), err)
			}
			if inodes > 0 {
				out[e.Name()] = eviction.VolumeUse{Bytes: bytes, Inodes: inodes}
			}
		}
	}
	return out, nil
}

// Logs counts the logs of a pod's containers, by their names.
func Logs(ctx context.Context, logDir string) (map[string]eviction.VolumeUse, error) {
	out := map[string]eviction.VolumeUse{}
	entries, err := os.ReadDir(logDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("measure logs: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		bytes, inodes, err := tree(ctx, logDir, e.Name())
		if err != nil {
			return nil, fmt.Errorf("measure logs of %s: %w", e.Name(), err)
		}
		out[e.Name()] = eviction.VolumeUse{Bytes: bytes, Inodes: inodes}
	}
	return out, nil
}

// tree counts the blocks and inodes of what is below dir/name and on dir's own file system. A container may rearrange
// its files meanwhile: no symbolic link is followed, and what has just gone is not counted.
func tree(ctx context.Context, dir, name string) (bytes, inodes int64, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, 0, err
	}
	defer root.Close()
	top, err := root.Stat(".")
	if err != nil {
		return 0, 0, err
	}
	device := top.Sys().(*syscall.Stat_t).Dev
	linked := map[uint64]bool{} // inodes with several names, seen already
	err = fs.WalkDir(root.FS(), name, func(p string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return skipGone(err)
		}
		info, err := e.Info()
		if err != nil {
			return skipGone(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if st.Dev != device {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if st.Nlink > 1 && !e.IsDir() {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		bytes += st.Blocks * 512
		inodes++
		return nil
	})
	return bytes, inodes, err
}

func skipGone(err error) error {
	// ENOTDIR and ELOOP: it was a directory a moment ago.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	return err
}
