package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

const (
	groupWrites fs.FileMode = 0o660
	groupReads  fs.FileMode = 0o440
	groupEnters fs.FileMode = 0o110
)

// setGroup gives everything below dir, and dir, to the group, lets the group read it, or write it too if writable, and
// makes new files inherit the group. It never leaves dir, even where a link in it leads out.
func setGroup(dir string, group int64, writable bool) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("set group: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return fs.WalkDir(root.FS(), ".", func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a container may be removing files meanwhile
		}
		if err != nil {
			return fmt.Errorf("set group: %w", err)
		}
		return setGroupOf(root, p, e, group, writable)
	})
}

func setGroupOf(root *os.Root, p string, e fs.DirEntry, group int64, writable bool) error {
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set group: %w", err)
	}
	if err := root.Lchown(p, -1, int(group)); err != nil {
		return fmt.Errorf("set group: %w", err)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	if err := root.Chmod(p, info.Mode()|groupMode(info.IsDir(), writable)); err != nil {
		return fmt.Errorf("set group: %w", err)
	}
	return nil
}

func groupMode(dir, writable bool) fs.FileMode {
	mode := groupReads
	if writable {
		mode = groupWrites
	}
	if dir {
		mode |= fs.ModeSetgid | groupEnters
	}
	return mode
}

// groupSet tells whether dir itself already is as setGroup would leave it.
func groupSet(dir string, group int64, writable bool) (bool, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return false, fmt.Errorf("check group: %w", err)
	}
	want := groupMode(true, writable)
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && int64(owner.Gid) == group && info.Mode()&want == want, nil
}
