package supervisor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/orlop-io/orlop/cmd/localcluster/layout"
)

const containerdSocket = "/run/containerd/containerd.sock"

var versionRE = regexp.MustCompile(`(?:^|[ /v])([0-9]+)\.[0-9]+\.[0-9]+`)

// majorVersion finds the major version in what containerd --version prints.
func majorVersion(printed string) (int, error) {
	fields := strings.Fields(printed)
	for _, f := range fields[min(1, len(fields)):] {
		if m := versionRE.FindStringSubmatch(f); m != nil {
			return strconv.Atoi(m[1])
		}
	}
	return 0, fmt.Errorf("no version in %q", printed)
}

// The opt plugin is moved below the root, because its default is a folder of the machine; NRI
// listens at a fixed path that nothing here uses. Lowering oom_score_adj takes a capability that
// some machines do not grant, and without the restriction every sandbox would fail there.
var configs = map[int]string{
	1: `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{{.Socket}}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{{.Pause}}"
  restrict_oom_score_adj = true
  max_concurrent_downloads = 6
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{{.Certs}}"
`,
	2: `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{{.Socket}}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  max_concurrent_downloads = 6
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{{.Pause}}"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "{{.Certs}}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
`}

// containerdConfig writes the configuration for a major version of containerd.
func containerdConfig(major int, pause, certs string) (string, error) {
	text, ok := configs[major]
	if !ok {
		return "", fmt.Errorf("containerd %d.x is not supported, 1.x and 2.x are", major)
	}
	t, err := template.New("config.toml").Parse(text)
	if err != nil {
		return "", fmt.Errorf("parse the configuration's template: %w", err)
	}
	var b strings.Builder
	err = t.Execute(&b, struct{ Socket, Pause, Certs string }{containerdSocket, pause, certs})
	return b.String(), err
}

// proxyEnv makes containerd pull through the machine. The cluster's own addresses stay direct.
func proxyEnv(c *layout.Cluster) []string {
	if c.Offline {
		return nil
	}
	proxy := "http://" + netip.AddrPortFrom(layout.Gateway(), layout.ProxyPort).String()
	direct := strings.Join([]string{"localhost", "127.0.0.0/8", "::1", layout.Fabric().String(),
		c.PodCIDR.String(), c.ServiceCIDR.String(), ".svc", ".cluster.local"}, ",")
	return []string{"HTTP_PROXY=" + proxy, "HTTPS_PROXY=" + proxy, "NO_PROXY=" + direct}
}

// writeContainerdConfig prepares the host's containerd and returns how to start it.
func writeContainerdConfig(ctx context.Context, c *layout.Cluster, h layout.Host, env []string) (argv, fullEnv []string, err error) {
	exe := c.Containerd
	if exe == "" {
		if exe, err = exec.LookPath("containerd"); err != nil {
			return nil, nil, fmt.Errorf("find containerd: %w", err)
		}
	}
	out, err := exec.CommandContext(ctx, exe, "--version").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("ask containerd its version: %w", err)
	}
	major, err := majorVersion(string(out))
	if err != nil {
		return nil, nil, fmt.Errorf("ask containerd its version: %w", err)
	}
	dir := layout.HostDir(c.Name, h.Name)
	certs := filepath.Join(dir, "certs.d")
	if err := writeRegistries(certs, c.Registries); err != nil {
		return nil, nil, err
	}
	conf, err := containerdConfig(major, "localhost/pause:"+c.Version, certs)
	if err != nil {
		return nil, nil, err
	}
	path := filepath.Join(dir, "containerd.toml")
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		return nil, nil, fmt.Errorf("write containerd's configuration: %w", err)
	}
	return []string{exe, "-c", path}, append(append([]string{}, env...), proxyEnv(c)...), nil
}

// writeRegistries tells containerd that the registries on the machine's loopback speak plain HTTP.
func writeRegistries(certs string, ports []uint16) error {
	if err := os.MkdirAll(certs, 0o755); err != nil {
		return fmt.Errorf("make registry folder: %w", err)
	}
	for _, p := range ports {
		name := fmt.Sprintf("%s:%d", layout.MachineName, p)
		dir := filepath.Join(certs, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make registry folder: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "server = \"http://%[1]s\"\n[host.\"http://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", name), 0o644); err != nil {
			return fmt.Errorf("describe registry %s: %w", name, err)
		}
	}
	return nil
}

func containerdAnswers() bool {
	c, err := net.DialTimeout("unix", containerdSocket, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
