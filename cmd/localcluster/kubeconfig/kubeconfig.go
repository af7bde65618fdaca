// Package kubeconfig adds a cluster's entries to a user's kubeconfig, and takes them out again.
//
// It owns the entries named after the cluster and no others. Files are replaced whole, keep
// their owner, and are locked the way kubectl locks them.
package kubeconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// User is whose kubeconfig is meant.
type User struct {
	Home     string
	UID, GID int
}

// Caller is the user who gave the command, also under sudo.
func Caller(getenv func(string) string) (User, error) {
	if uid := getenv("SUDO_UID"); uid != "" && os.Geteuid() == 0 {
		u, err := user.LookupId(uid)
		if err != nil {
			return User{}, fmt.Errorf("find the user behind sudo: %w", err)
		}
		n, err1 := strconv.Atoi(u.Uid)
		g, err2 := strconv.Atoi(u.Gid)
		return User{u.HomeDir, n, g}, errors.Join(err1, err2)
	}
	home := getenv("HOME")
	if home == "" {
		u, err := user.Current()
		if err != nil {
			return User{}, fmt.Errorf("find your home: %w", err)
		}
		home = u.HomeDir
	}
	return User{home, os.Geteuid(), os.Getegid()}, nil
}

// DefaultPath is where kubectl looks for the user's kubeconfig.
func (u User) DefaultPath() string { return filepath.Join(u.Home, ".kube", "config") }

// ForCluster makes of kubeadm's admin.conf a configuration that reaches the API at server and
// calls everything name.
func ForCluster(adminConf []byte, name, server string) (*api.Config, error) {
	in, err := clientcmd.Load(adminConf)
	if err != nil {
		return nil, fmt.Errorf("parse admin.conf: %w", err)
	}
	ctx := in.Contexts[in.CurrentContext]
	if ctx == nil || in.Clusters[ctx.Cluster] == nil || in.AuthInfos[ctx.AuthInfo] == nil {
		return nil, errors.New("admin.conf has no usable current context")
	}
	out := api.NewConfig()
	cluster := in.Clusters[ctx.Cluster].DeepCopy()
	cluster.Server = server
	out.Clusters[name] = cluster
	out.AuthInfos[name] = in.AuthInfos[ctx.AuthInfo].DeepCopy()
	out.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name}
	out.CurrentContext = name
	return out, nil
}

// Merge adds the entries of add to the file at path and makes its context current. Before it
// changes anything it hands record what Remove needs to know. New files and folders belong to owner.
func Merge(path string, add *api.Config, owner User, record func(layout.KubeconfigEntry) error) error {
	entry, err := look(path, add.CurrentContext)
	if err != nil {
		return err
	}
	if err := record(entry); err != nil {
		return err
	}
	if entry.CreatedDir {
		dir := filepath.Dir(path)
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
		if err := os.Chown(dir, owner.UID, owner.GID); err != nil {
			return fmt.Errorf("give %s to its user: %w", dir, err)
		}
	}
	return edit(path, owner, func(cfg *api.Config, _ bool) bool {
		for k, v := range add.Clusters {
			cfg.Clusters[k] = v
		}
		for k, v := range add.AuthInfos {
			cfg.AuthInfos[k] = v
		}
		for k, v := range add.Contexts {
			cfg.Contexts[k] = v
		}
		cfg.CurrentContext = add.CurrentContext
		return true
	})
}

// look says what there is before a context is added.
func look(path, context string) (layout.KubeconfigEntry, error) {
	entry := layout.KubeconfigEntry{Path: path}
	if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
		entry.CreatedDir = true
	}
	cfg, err := clientcmd.LoadFromFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		entry.CreatedFile = true
		return entry, nil
	}
	if err != nil {
		return entry, fmt.Errorf("read kubeconfig: %w", err)
	}
	if cfg.CurrentContext != context {
		entry.PreviousContext = cfg.CurrentContext
	}
	return entry, nil
}

// Remove takes the entries called name out again. A file or folder that Merge made goes too, if
// nobody else put anything there.
func Remove(name string, entry layout.KubeconfigEntry) error {
	if _, err := os.Stat(entry.Path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	empty := false
	err := edit(entry.Path, User{UID: -1, GID: -1}, func(cfg *api.Config, _ bool) bool {
		delete(cfg.Clusters, name)
		delete(cfg.AuthInfos, name)
		delete(cfg.Contexts, name)
		if cfg.CurrentContext == name {
			cfg.CurrentContext = ""
			if _, ok := cfg.Contexts[entry.PreviousContext]; ok {
				cfg.CurrentContext = entry.PreviousContext
			}
		}
		empty = len(cfg.Clusters)+len(cfg.AuthInfos)+len(cfg.Contexts)+len(cfg.Extensions) == 0
		return !empty || !entry.CreatedFile
	})
	if err != nil {
		return err
	}
	if empty && entry.CreatedFile {
		if err := os.Remove(entry.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", entry.Path, err)
		}
		if entry.CreatedDir {
			_ = os.Remove(filepath.Dir(entry.Path)) // kubectl may keep its cache there
		}
	}
	return nil
}

// HandOver gives the duties of an entry that was removed, name, to that of a cluster that stays:
// the last of several clusters removes the file that the first made, and goes back to the
// context that was current before the first.
func HandOver(name string, gone, stays layout.KubeconfigEntry) layout.KubeconfigEntry {
	if gone.Path != stays.Path {
		return stays
	}
	stays.CreatedFile = stays.CreatedFile || gone.CreatedFile
	stays.CreatedDir = stays.CreatedDir || gone.CreatedDir
	if stays.PreviousContext == name {
		stays.PreviousContext = gone.PreviousContext
	}
	return stays
}

// edit changes a kubeconfig under its lock. change says whether to write the result.
func edit(path string, owner User, change func(cfg *api.Config, existed bool) bool) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // replace the file, not the link to it
	}
	unlock, err := lock(path)
	if err != nil {
		return err
	}
	defer unlock()
	cfg, existed := api.NewConfig(), true
	mode := fs.FileMode(0o600)
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		existed = false
	case err != nil:
		return fmt.Errorf("read kubeconfig: %w", err)
	default:
		mode = st.Mode().Perm()
		if uid, gid, ok := ownerOf(st); ok {
			owner.UID, owner.GID = uid, gid
		}
		if cfg, err = clientcmd.LoadFromFile(path); err != nil {
			return fmt.Errorf("read kubeconfig: %w", err)
		}
	}
	// Loading notes the origin of each entry, and writing makes relative file names of it.
	for _, c := range cfg.Clusters {
		c.LocationOfOrigin = ""
	}
	for _, a := range cfg.AuthInfos {
		a.LocationOfOrigin = ""
	}
	if !change(cfg, existed) {
		return nil
	}
	return replace(path, cfg, mode, owner)
}

// replace writes the file beside the old one and renames it into place.
func replace(path string, cfg *api.Config, mode fs.FileMode, owner User) (err error) {
	b, err := clientcmd.Write(*cfg)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".kubeconfig-*")
	if err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Chown(owner.UID, owner.GID), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

// staleLock is the age at which a lock file must be a dead program's: locks are held for milliseconds.
const staleLock = 5 * time.Second

// lock makes the lock file that kubectl makes too.
func lock(path string) (unlock func(), err error) {
	name := path + ".lock"
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL, 0)
		if err == nil {
			f.Close()
			return func() { os.Remove(name) }, nil
		}
		if st, statErr := os.Stat(name); statErr == nil && time.Since(st.ModTime()) > staleLock {
			os.Remove(name)
			continue
		}
		if !errors.Is(err, fs.ErrExist) || time.Now().After(deadline) {
			return nil, fmt.Errorf("lock kubeconfig: %w", err)
		}
	}
}
