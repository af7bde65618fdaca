package install

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/orlop-io/orlop/cni/plugin"
)

func TestRuntimeFolders(t *testing.T) {
	for _, tt := range []struct {
		name, file, content string
		want                Folders
	}{
		{"no runtime's configuration", "", "", Folders{"/opt/cni/bin", "/etc/cni/net.d"}},
		{"Debian's containerd", "containerd/config.toml", `version = 2
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
`, Folders{"/usr/lib/cni", "/etc/cni/net.d"}},
		{"containerd 2", "containerd/config.toml", "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\n  bin_dirs = ['/opt/a', '/opt/b']\n  # bin_dir = '/opt/c'\n  conf_dir = '/etc/cni/other'\n", Folders{"/opt/a", "/etc/cni/other"}},
		{"containerd without a word on it", "containerd/config.toml", "version = 2\n", Folders{"/opt/cni/bin", "/etc/cni/net.d"}},
		{"CRI-O", "crio/crio.conf", "[crio.network]\nnetwork_dir = \"/etc/cni/crio\"\nplugin_dirs = [\n\t\"/usr/libexec/cni\",\n]\n", Folders{"/usr/libexec/cni", "/etc/cni/crio"}},
	} {
		root := t.TempDir()
		if tt.file != "" {
			path := filepath.Join(root, "etc", tt.file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := RuntimeFolders(root); err != nil || got != tt.want {
			t.Errorf("%s: %v, %v", tt.name, got, err)
		}
	}
}

func TestOthers(t *testing.T) {
	cfg := config(t)
	if _, err := Conflist(cfg, network); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"05-theirs.conflist", "10-flannel.conflist", "87-podman.conflist", "README", "20-x.conf"} {
		if err := os.WriteFile(filepath.Join(cfg.ConfDir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before, after, err := Others(cfg)
	if err != nil || !slices.Equal(before, []string{"05-theirs.conflist", "10-flannel.conflist"}) || !slices.Equal(after, []string{"20-x.conf", "87-podman.conflist"}) {
		t.Errorf("before ours %v, after it %v, %v", before, after, err)
	}
}

func TestPodCIDRsFileIsOneThatThePluginReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pod-cidrs.json")
	conf := `{"name": "n", "cniVersion": "1.0.0", "podCIDRsFile": "` + path + `"}`
	for _, cidr := range []string{"10.244.1.0/24", "10.244.2.0/24"} {
		if err := PodCIDRs(path, []netip.Prefix{netip.MustParsePrefix(cidr)}); err != nil {
			t.Fatal(err)
		}
		if got, err := plugin.Parse([]byte(conf)); err != nil || len(got.PodCIDRs) != 1 || got.PodCIDRs[0].String() != cidr {
			t.Errorf("read %v, %v", got, err)
		}
	}
}
