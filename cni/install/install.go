// Package install puts the CNI plugin and its configuration where container runtimes look for them.
//
// It owns three files: the plugin, the plugin under the name loopback unless somebody else's is there, and one conflist. The
// programs come first, the conflist when the node's pod addresses are known, for a node is ready for pods as soon as there is one. All are
// written whole: a temporary file in the same folder, then a rename, which is also what makes containerd look again.
package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
)

// Config says where things are.
type Config struct {
	Binary  string // the plugin to install
	BinDir  string // where runtimes look for plugins
	ConfDir string // where runtimes look for configurations
}

// Network is what the conflist says.
type Network struct {
	Name     string
	Bridge   string
	PodCIDRs []netip.Prefix // of this node
	Direct   []netip.Prefix // of the cluster: pods keep their own address to these
	MTU      int            // 0: the kernel's default
	RouteMTU int            // of pods' default routes, where a tunnel takes less than the link; 0: the link's
	StateDir string         // of the plugin's leases; empty: its default
	// PodCIDRsFile stands for PodCIDRs that are not known any more; until the file is there ADD fails, and DEL goes on working.
	PodCIDRsFile string
	// Netfilter says that packets between pods of the bridge must pass netfilter, because services are translated there and not in sockets.
	Netfilter bool
}

// conflistName sorts before most others, and runtimes take the first.
const conflistName = "10-orlop.conflist"

// temporary is what a file is called while it is written.
const temporary = ".orlop-*"

// Programs installs the plugin. It changes nothing when the same is there.
func Programs(cfg Config) error {
	content, err := os.ReadFile(cfg.Binary)
	if err != nil {
		return fmt.Errorf("read plugin: %w", err)
	}
	if err := os.MkdirAll(cfg.BinDir, 0o755); err != nil {
		return fmt.Errorf("make plugin folder: %w", err)
	}
	if err := replace(filepath.Join(cfg.BinDir, "orlop-cni"), content, 0o755); err != nil {
		return err
	}
	// containerd calls a plugin of this name for every pod. It is ours when it is a link to ours.
	link := filepath.Join(cfg.BinDir, "loopback")
	if err := os.Symlink("orlop-cni", link); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("install loopback plugin: %w", err)
	}
	return nil
}

// Conflist writes the configuration, and says whether it changed.
func Conflist(cfg Config, n Network) (changed bool, err error) {
	content, err := n.conflist()
	if err != nil {
		return false, err
	}
	path := filepath.Join(cfg.ConfDir, conflistName)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return false, nil
	}
	if err := os.MkdirAll(cfg.ConfDir, 0o755); err != nil {
		return false, fmt.Errorf("make configuration folder: %w", err)
	}
	return true, replace(path, content, 0o644)
}

// Served says whether there is a configuration of ours.
func Served(cfg Config) bool {
	_, err := os.Lstat(filepath.Join(cfg.ConfDir, conflistName))
	return err == nil
}

// Configuration names what Conflist writes.
func (cfg Config) Configuration() []string { return []string{filepath.Join(cfg.ConfDir, conflistName)} }

// Installed names what Programs writes, and what was left of a write that was cut off. Somebody else's loopback plugin is not among it.
func (cfg Config) Installed() []string {
	paths := []string{filepath.Join(cfg.BinDir, "orlop-cni")}
	for _, dir := range []string{cfg.BinDir, cfg.ConfDir} {
		torn, _ := filepath.Glob(filepath.Join(dir, temporary)) // the only error is of a wrong pattern
		paths = append(paths, torn...)
	}
	link := filepath.Join(cfg.BinDir, "loopback")
	if to, err := os.Readlink(link); err == nil && to == "orlop-cni" {
		paths = append(paths, link)
	}
	return paths
}

// conflist is for every runtime: containerd 1.6 refuses versions it does not know in cniVersion, and newer ones take the highest
// of cniVersions.
func (n Network) conflist() ([]byte, error) {
	plugin := map[string]any{
		"type": "orlop-cni", "bridge": n.Bridge,
		"ipMasq": true, "directCIDRs": n.Direct,
		"capabilities": map[string]bool{"portMappings": true},
	}
	if len(n.PodCIDRs) > 0 {
		plugin["podCIDRs"] = n.PodCIDRs
	} else {
		plugin["podCIDRsFile"] = n.PodCIDRsFile
	}
	if !n.Netfilter {
		plugin["bridgeNetfilter"] = "off"
	}
	if n.MTU > 0 {
		plugin["mtu"] = n.MTU
	}
	if n.RouteMTU > 0 && n.RouteMTU < n.MTU {
		plugin["routeMTU"] = n.RouteMTU
	}
	if n.StateDir != "" {
		plugin["stateDir"] = n.StateDir
	}
	b, err := json.MarshalIndent(map[string]any{
		"cniVersion": "1.0.0", "cniVersions": []string{"1.0.0", "1.1.0"}, "name": n.Name, "plugins": []any{plugin},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode conflist: %w", err)
	}
	return append(b, '\n'), nil
}

// replace makes path have the content, in one step. A program that is running keeps its old file.
func replace(path string, content []byte, mode fs.FileMode) (err error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		if st, err := os.Lstat(path); err == nil && st.Mode() == mode {
			return nil
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), temporary)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
