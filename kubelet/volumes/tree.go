package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

const (
	dataLink = "..data"     // leads to the directory that holds the files now
	nextLink = "..data_tmp" // becomes dataLink by one rename
)

// file is one file that a volume is to show.
type file struct {
	Data []byte
	Mode fs.FileMode
	User *int64 // owner; nil is root
}

// tree is what a volume is to show: files by their slash-separated paths.
type tree map[string]file

// check refuses paths that would leave the volume or hide what writeTree keeps there.
func (t tree) check() error {
	for p := range t {
		switch {
		case p == "" || path.IsAbs(p) || path.Clean(p) != p || len(p) > 4096:
			return fmt.Errorf("invalid path %q: must be relative and clean", p)
		case strings.HasPrefix(p, ".."):
			return fmt.Errorf("invalid path %q: must not start with '..'", p)
		}
	}
	return nil
}

// tops lists the names that are directly in the volume.
func (t tree) tops() map[string]bool {
	out := map[string]bool{}
	for p := range t {
		top, _, _ := strings.Cut(p, "/")
		out[top] = true
	}
	return out
}

// writeTree makes dir show exactly want, all at once: the files are written beside the present ones, and one rename
// makes a reader see the new ones instead. own is called on the new files before anyone sees them. Each name in dir is
// a link into ..data, so a reader that holds a directory open keeps seeing one version. It reports whether anything
// changed, and mends what a crash at any point left behind.
func writeTree(dir string, want tree, now time.Time, own func(string) error) (bool, error) {
	if err := want.check(); err != nil {
		return false, err
	}
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read volume: %w", err)
	}
	changed := old == ""
	if !changed {
		same, err := showsSame(filepath.Join(dir, old), want)
		if err != nil {
			return false, err
		}
		changed = !same
	}
	current := old
	if changed {
		if current, err = writeVersion(dir, want, now, own); err != nil {
			return false, err
		}
		if err := swapLink(dir, current); err != nil {
			return false, err
		}
	}
	return changed, tidy(dir, want.tops(), current)
}

// showsSame tells whether the files below dir are want's, by path and content. Modes are not compared, for the
// ownership that a pod asked for changes them.
func showsSame(dir string, want tree) (bool, error) {
	found := 0
	same := true
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		f, ok := want[rel]
		if !ok {
			same = false
			return fs.SkipAll
		}
		have, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if !bytes.Equal(have, f.Data) {
			same = false
			return fs.SkipAll
		}
		found++
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read volume: %w", err)
	}
	return same && found == len(want), nil
}

// writeVersion writes want into a new directory of dir and returns its name.
func writeVersion(dir string, want tree, now time.Time, own func(string) error) (name string, err error) {
	version, err := os.MkdirTemp(dir, now.UTC().Format("..2006_01_02_15_04_05.*"))
	if err != nil {
		return "", fmt.Errorf("write volume: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(version))
		}
	}()
	if err := os.Chmod(version, 0o755); err != nil { // containers of any user must be able to look in
		return "", fmt.Errorf("write volume: %w", err)
	}
	for p, f := range want {
		if err := writeFile(version, p, f); err != nil {
			return "", fmt.Errorf("write volume: %w", err)
		}
	}
	if own != nil {
		if err := own(version); err != nil {
			return "", err
		}
	}
	return filepath.Base(version), nil
}

func writeFile(dir, p string, f file) error {
	full := filepath.Join(dir, p)
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(full, f.Data, f.Mode.Perm()); err != nil {
		return err
	}
	if err := os.Chmod(full, f.Mode.Perm()); err != nil { // the umask took part in WriteFile
		return err
	}
	if f.User == nil {
		return nil
	}
	return os.Chown(full, int(*f.User), -1)
}

func swapLink(dir, version string) error {
	next := filepath.Join(dir, nextLink)
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write volume: %w", err)
	}
	if err := os.Symlink(version, next); err != nil {
		return fmt.Errorf("write volume: %w", err)
	}
	if err := os.Rename(next, filepath.Join(dir, dataLink)); err != nil {
		return fmt.Errorf("write volume: %w", err)
	}
	return nil
}

// tidy makes the names in dir those of tops and removes all versions but the current one.
func tidy(dir string, tops map[string]bool, current string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read volume: %w", err)
	}
	have := map[string]bool{}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		switch {
		case name == dataLink || name == current || name == "lost+found":
		case !strings.HasPrefix(name, "..") && tops[name]:
			have[name] = true
		default:
			errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
		}
	}
	for name := range tops {
		if !have[name] {
			errs = append(errs, os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)))
		}
	}
	return errors.Join(errs...)
}
