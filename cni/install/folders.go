package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Folders are where a runtime looks for plugins and for configurations.
type Folders struct{ Bin, Conf string }

// RuntimeFolders reads them from the configuration of containerd or CRI-O below root, the first that is there; what it does not say is the
// default of both. Debian's containerd has another folder of plugins than everybody else.
func RuntimeFolders(root string) (Folders, error) {
	out := Folders{Bin: "/opt/cni/bin", Conf: "/etc/cni/net.d"}
	for _, file := range []string{"etc/containerd/config.toml", "etc/crio/crio.conf"} {
		content, err := os.ReadFile(filepath.Join(root, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return out, fmt.Errorf("read the runtime's configuration: %w", err)
		}
		return out.with(string(content)), nil
	}
	return out, nil
}

// settings are those lines of either runtime's file that name the folders; of a list of folders the first counts.
var settings = regexp.MustCompile(`(?m)^\s*(bin_dirs?|plugin_dirs?|conf_dir|network_dir)\s*=\s*\[?\s*["']([^"']+)["']`)

func (f Folders) with(config string) Folders {
	for _, m := range settings.FindAllStringSubmatch(config, -1) {
		switch strings.TrimSuffix(m[1], "s") {
		case "bin_dir", "plugin_dir":
			f.Bin = m[2]
		default:
			f.Conf = m[2]
		}
	}
	return f
}

// Others lists the configurations of other networks in the folder. Runtimes take the first by name: those before ours are taken in its place.
func Others(cfg Config) (before, after []string, err error) {
	entries, err := os.ReadDir(cfg.ConfDir)
	if err != nil {
		return nil, nil, fmt.Errorf("list configurations: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		switch filepath.Ext(name) {
		case ".conf", ".conflist", ".json":
		default:
			continue
		}
		switch {
		case name < conflistName:
			before = append(before, name)
		case name > conflistName:
			after = append(after, name)
		}
	}
	return before, after, nil
}

// PodCIDRs writes the node's ranges for configurations of somebody's own, which name the file as podCIDRsFile.
func PodCIDRs(path string, cidrs []netip.Prefix) error {
	content, err := json.Marshal(map[string][]netip.Prefix{"podCIDRs": cidrs})
	if err != nil {
		return fmt.Errorf("encode pod CIDRs: %w", err)
	}
	return replace(path, append(content, '\n'), 0o644)
}
