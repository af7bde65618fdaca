// Package sysctl changes the kernel's settings of a node and keeps what they were, for the day that all of ours is removed.
//
// It owns a folder with one small file per setting. A file is written before its setting is, and counts for the boot it was written in: settings do
// not outlive their kernel. What somebody else has set since is left as it is.
package sysctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Folder is the ledger's name within the CNI plugin's state folder. No network has such a name.
const Folder = ".sysctls"

// Ledger is the folder of a node's network namespace. The plugin and the agent of a node share one.
type Ledger struct {
	// Dir is the folder; made with the first change.
	Dir string
	// Root is where settings are; empty: /proc/sys.
	Root string
}

// Change is a setting that is not what it was.
type Change struct {
	Key string `json:"key"` // its path below /proc/sys
	Was string `json:"was"`
	Set string `json:"set"` // what we made it
	// Now is what it is; other than Set where somebody else has changed it since, and left then.
	Now  string `json:"-"`
	Boot string `json:"boot"`
}

func (c Change) String() string {
	name := strings.ReplaceAll(c.Key, "/", ".")
	if c.Now != c.Set {
		return fmt.Sprintf("leave sysctl %s at %s: it was set to %s here, and changed since", name, c.Now, c.Set)
	}
	return fmt.Sprintf("set sysctl %s from %s back to %s", name, c.Now, c.Was)
}

// Set makes key be value. It writes nothing where that is so, and returns fs.ErrNotExist where the kernel has no such setting.
func (l Ledger) Set(key, value string) error {
	now, err := l.Value(key)
	if err != nil {
		return fmt.Errorf("read sysctl %s: %w", key, err)
	}
	if now == value {
		return nil
	}
	if err := l.note(Change{Key: key, Was: now, Set: value}); err != nil {
		return fmt.Errorf("note sysctl %s: %w", key, err)
	}
	if err := os.WriteFile(l.path(key), []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", key, value, err)
	}
	return nil
}

// Changes lists what would be put back, sorted by key. Changes of another boot are none.
func (l Ledger) Changes() ([]Change, error) {
	entries, err := os.ReadDir(l.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read changed sysctls: %w", err)
	}
	boot, err := l.boot()
	if err != nil {
		return nil, err
	}
	var out []Change
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporary) { // being written, or its writer was killed
			continue
		}
		c, err := l.noted(filepath.Join(l.Dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if c.Boot != boot {
			continue
		}
		c.Now, err = l.Value(c.Key)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went with its interface
		}
		if err != nil {
			return nil, fmt.Errorf("read sysctl %s: %w", c.Key, err)
		}
		if c.Now != c.Was {
			out = append(out, c)
		}
	}
	return out, nil
}

// Undo puts a setting back, unless somebody else has changed it since.
func (l Ledger) Undo(c Change) error {
	if now, err := l.Value(c.Key); err != nil || now != c.Set {
		return nil // gone, or not ours any more
	}
	if err := os.WriteFile(l.path(c.Key), []byte(c.Was), 0); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", c.Key, c.Was, err)
	}
	return nil
}

const temporary = ".new-"

// note keeps the oldest value of this boot, and the newest that we set.
func (l Ledger) note(c Change) error {
	boot, err := l.boot()
	if err != nil {
		return err
	}
	c.Boot = boot
	path := filepath.Join(l.Dir, strings.ReplaceAll(c.Key, "/", ","))
	if old, err := l.noted(path); err == nil && old.Boot == boot && old.Key == c.Key {
		c.Was = old.Was
	}
	content, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.Dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(l.Dir, temporary+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func (l Ledger) noted(path string) (c Change, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return Change{}, err
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return Change{}, fmt.Errorf("read %s: %w", path, err)
	}
	return c, nil
}

func (l Ledger) path(key string) string {
	root := l.Root
	if root == "" {
		root = "/proc/sys"
	}
	return filepath.Join(root, key)
}

// Value is what the kernel says of a setting. It reads with system calls of its own: package os would begin with a poller, for
// files that never wait, and a plugin reads one or two of them in its two milliseconds.
func (l Ledger) Value(key string) (string, error) {
	fd, err := unix.Open(l.path(key), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: l.path(key), Err: err}
	}
	defer unix.Close(fd)
	b := make([]byte, 4096) // the kernel's longest
	n, err := unix.Read(fd, b)
	if err != nil {
		return "", &fs.PathError{Op: "read", Path: l.path(key), Err: err}
	}
	return strings.TrimSpace(string(b[:n])), nil
}

func (l Ledger) boot() (string, error) {
	id, err := l.Value("kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return id, nil
}
