// Package layout says what a local cluster is made of and where each part of it lives.
//
// It owns the state file and every path; it starts nothing and touches no kernel state.
// All names on the machine follow from the cluster's name, so that whatever remains after
// a crash can be found, and removed, by name alone.
package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sort"
)

// The two trees that hold everything of all clusters on a machine.
const (
	StateRoot = "/var/lib/orlop"
	RunRoot   = "/run/orlop"
)

// MaxHosts is how many hosts the fabric's range has addresses for.
const MaxHosts = 200

// Fabric is the range that joins the hosts of one cluster. Each cluster has a bridge in a
// namespace of its own, so all clusters use the same range.
var fabric = netip.MustParsePrefix("192.168.77.0/24")

// Fabric returns the range that joins the hosts of a cluster.
func Fabric() netip.Prefix { return fabric }

// Gateway returns the fabric bridge's address, where hosts find the pull proxy.
func Gateway() netip.Addr { return fabric.Addr().Next() }

// ProxyPort is where the pull proxy listens on the gateway's address.
const ProxyPort = 3128

// MachineName is how hosts name the machine they run on, for registries on its loopback.
const MachineName = "host.orlop.internal"

// Phases of a cluster. A cluster that is not up was interrupted, and only down helps.
const (
	PhaseStarting = "starting"
	PhaseUp       = "up"
)

// Host is one host of a cluster.
type Host struct {
	Name  string     `json:"name"`
	Index int        `json:"index"` // from 1
	Addr  netip.Addr `json:"addr"`
}

// Publish makes a NodePort reachable on the machine's loopback.
type Publish struct {
	HostPort uint16 `json:"hostPort"`
	NodePort uint16 `json:"nodePort"`
}

// KubeconfigEntry records what up did to a kubeconfig, so that down can undo it.
type KubeconfigEntry struct {
	Path            string `json:"path"`
	CreatedFile     bool   `json:"createdFile"`
	CreatedDir      bool   `json:"createdDir"`
	PreviousContext string `json:"previousContext,omitempty"`
}

// Cluster is the state file: all that later commands need to know.
type Cluster struct {
	Name        string           `json:"name"`
	Version     string           `json:"version"`
	Phase       string           `json:"phase"`
	Exe         string           `json:"exe"` // the cluster's own orlop, in BinDir, beside the kubelet
	Hosts       []Host           `json:"hosts"`
	PodCIDR     netip.Prefix     `json:"podCIDR"`
	ServiceCIDR netip.Prefix     `json:"serviceCIDR"`
	APIPort     uint16           `json:"apiPort"` // on 127.0.0.1; kept over restarts
	Publish     []Publish        `json:"publish,omitempty"`
	Registries  []uint16         `json:"registries,omitempty"` // loopback ports that hosts may pull from
	Offline     bool             `json:"offline,omitempty"`
	Containerd  string           `json:"containerd,omitempty"` // the program that hosts run, its shim and ctr beside it; empty: from PATH
	CNI         string           `json:"cni,omitempty"`        // "none": pods' network is somebody else's
	Routed      bool             `json:"routed,omitempty"`     // no two hosts share a link
	Proxy       string           `json:"proxy,omitempty"`      // "none": services are somebody else's
	ProxyMode   string           `json:"proxyMode,omitempty"`  // how Services are translated; empty: the best that the machine can do
	Kubeconfig  *KubeconfigEntry `json:"kubeconfig,omitempty"`
}

// Networked says that pods' network and Services are ours, so that they can be waited for.
func (c *Cluster) Networked() bool { return c.CNI != "none" && c.Proxy != "none" }

// HostList names the hosts of a cluster and gives them addresses.
func HostList(name string, n int) []Host {
	hosts := make([]Host, n)
	base := fabric.Addr().As4()
	for i := range hosts {
		a := base
		a[3] = byte(11 + i)
		hosts[i] = Host{Name: fmt.Sprintf("%s-%d", name, i+1), Index: i + 1, Addr: netip.AddrFrom4(a)}
	}
	return hosts
}

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// CheckName says whether name can name a cluster: it becomes part of host names, folders and cgroups.
func CheckName(name string) error {
	if !nameRE.MatchString(name) {
		return fmt.Errorf("cluster name %q: want at most 40 lower-case letters, digits and hyphens, with a letter or digit at both ends", name)
	}
	return nil
}

// Host finds a host by its full name, or by its number alone.
func (c *Cluster) Host(name string) (Host, error) {
	for _, h := range c.Hosts {
		if h.Name == name || fmt.Sprint(h.Index) == name {
			return h, nil
		}
	}
	return Host{}, fmt.Errorf("cluster %s has no host %q", c.Name, name)
}

// StateDir holds what must survive a reboot of the machine.
func StateDir(name string) string { return filepath.Join(StateRoot, name) }

// RunDir holds sockets and the handle of the fabric's namespace.
func RunDir(name string) string { return filepath.Join(RunRoot, name) }

// BinDir holds the programs that hosts go on to start, so that a rebuilt checkout changes no live cluster.
func BinDir(name string) string { return filepath.Join(StateDir(name), "bin") }

// FailedLogDir is where the logs go of an up that failed; the next down of the name removes it.
func FailedLogDir(name string) string { return "/var/log/orlop-" + name }

// StateFile is the file Load reads.
func StateFile(name string) string { return filepath.Join(StateDir(name), "cluster.json") }

// AdminKubeconfig is a kubeconfig for the cluster alone, by way of the forwarder.
func AdminKubeconfig(name string) string { return filepath.Join(StateDir(name), "kubeconfig") }

// FabricHandle is the bind-mounted namespace of the cluster's bridge.
func FabricHandle(name string) string { return filepath.Join(RunDir(name), "fabric") }

// Socket is where the supervisor of a host takes requests.
func Socket(name, host string) string { return filepath.Join(RunDir(name), host+".sock") }

// LogDir holds the logs of one host, or of the forwarder.
func LogDir(name, who string) string { return filepath.Join(StateDir(name), "logs", who) }

// HostDir holds the files of one host.
func HostDir(name, host string) string { return filepath.Join(StateDir(name), "hosts", host) }

// RootDir is where a host's own version of an absolute path is kept.
func RootDir(name, host, path string) string {
	return filepath.Join(HostDir(name, host), "root", path)
}

// Cgroup is the cluster's subtree, below the root of every hierarchy.
func Cgroup(name string) string { return "orlop-" + name }

// HostCgroup is what a host sees as the root of every hierarchy.
func HostCgroup(name, host string) string { return Cgroup(name) + "/" + host }

// ForwarderCgroup holds the forwarder. Host names never begin with an underscore.
func ForwarderCgroup(name string) string { return Cgroup(name) + "/_forwarder" }

// ErrNoCluster is returned by Load for a name that has no state.
var ErrNoCluster = errors.New("no such cluster")

// Load reads the state of a cluster.
func Load(name string) (*Cluster, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(StateFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cluster %s: %w", name, ErrNoCluster)
	}
	if err != nil {
		return nil, fmt.Errorf("read the state of cluster %s: %w", name, err)
	}
	c := &Cluster{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("parse %s: %w", StateFile(name), err)
	}
	return c, nil
}

// Save writes the state so that a reader sees the old or the new, never half.
func (c *Cluster) Save() error {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the state of cluster %s: %w", c.Name, err)
	}
	if err := os.MkdirAll(StateDir(c.Name), 0o755); err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	tmp := StateFile(c.Name) + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the state of cluster %s: %w", c.Name, err)
	}
	if err := os.Rename(tmp, StateFile(c.Name)); err != nil {
		return fmt.Errorf("write the state of cluster %s: %w", c.Name, err)
	}
	return nil
}

// Names lists every cluster that has left state of any kind on this machine.
func Names() ([]string, error) {
	seen := map[string]bool{}
	for _, root := range []string{StateRoot, RunRoot} {
		entries, err := os.ReadDir(root)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list clusters: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() && CheckName(e.Name()) == nil {
				seen[e.Name()] = true
			}
		}
	}
	names := make([]string, 0, len(seen))
	for n := range seen {
		names = append(names, n)
	}
	sort.Strings(names)
	return names, nil
}
