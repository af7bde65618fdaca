package localcluster

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
)

func valid() UpConfig {
	return UpConfig{
		Name: "orlop", Nodes: 2, ControlPlanes: 1,
		PodCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/12"),
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		mutate func(*UpConfig)
		says   string
	}{
		{"good", func(*UpConfig) {}, ""},
		{"name", func(c *UpConfig) { c.Name = "../x" }, "cluster name"},
		{"no nodes", func(c *UpConfig) { c.Nodes = 0 }, "--nodes 0"},
		{"high availability", func(c *UpConfig) { c.ControlPlanes = 3 }, "high availability"},
		{"overlap", func(c *UpConfig) { c.ServiceCIDR = netip.MustParsePrefix("10.244.8.0/24") }, "overlaps --pod-cidr"},
		{"the fabric", func(c *UpConfig) { c.PodCIDR = netip.MustParsePrefix("192.168.0.0/16") }, "the hosts' own range"},
		{"too small", func(c *UpConfig) { c.PodCIDR = netip.MustParsePrefix("10.244.0.0/24") }, "too small"},
		{"a mode of somebody else's proxy", func(c *UpConfig) { c.ProxyMode, c.Proxy = "iptables", "none" }, "--proxy-mode iptables"},
		{"a mode that there is not", func(c *UpConfig) { c.ProxyMode = "ipvs" }, "ebpf, nftables, iptables, userspace"},
		{"a port twice", func(c *UpConfig) {
			c.Publish = []layout.Publish{{HostPort: 80, NodePort: 1}, {HostPort: 80, NodePort: 2}}
		}, "named twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := valid()
			tt.mutate(&cfg)
			err := cfg.Validate()
			if tt.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var e *ExitError
			if !errors.As(err, &e) || e.Code != ExitUsage || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want exit code 2 and %q", err, tt.says)
			}
		})
	}
}

func TestComplaintsNameTheRemedy(t *testing.T) {
	good := facts{root: true, overlay: true, inotifyInstances: 128, pidMax: 32768}
	if errs := good.complaints(2); len(errs) != 0 {
		t.Errorf("a good machine: %v", errs)
	}
	bad := facts{missingPrograms: []string{"containerd", "ctr", "runc"}, missingFiles: []string{"bin/x"}, staleImages: []string{"old.tar"}, inotifyInstances: 1, pidMax: 1, busyPorts: []uint16{80}}
	bad.missingRuntime = []string{"/x/ctr"}
	all := errors.Join(bad.complaints(2)...).Error()
	for _, want := range []string{"sudo", "--containerd: missing: /x/ctr", "apt-get install -y containerd runc\n", "make build images", "old.tar; build with: make images", "modprobe overlay", "fs.inotify.max_user_instances=1024", "kernel.pid_max", "port 80"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in:\n%s", want, all)
		}
	}
}

func TestArchiveHolds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.tar")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range map[string]string{"index.json": `{"annotations":{"io.containerd.image.name":"localhost/x:v1"}}`} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]bool{"v1": true, "v": false, "v12": false, "v2": false} {
		if got := archiveHolds(path, version); got != want {
			t.Errorf("version %s: %t", version, got)
		}
	}
	if archiveHolds(path+".gone", "v1") {
		t.Error("an archive that is not there holds an image")
	}
}

func TestSortArchives(t *testing.T) {
	got := sortArchives([]string{"i/orlop-agent.tar", "i/orlop-server.tar", "i/orlop-testimage.tar", "i/pause.tar"})
	want := shipped{controlPlane: []string{"i/orlop-server.tar", "i/pause.tar"}, node: []string{"i/orlop-agent.tar"}, rest: []string{"i/orlop-testimage.tar"}}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(shipped{})); d != "" {
		t.Error(d)
	}
}

func TestKeepPrograms(t *testing.T) {
	dir := t.TempDir()
	c := &layout.Cluster{Exe: filepath.Join(dir, "own", "orlop")}
	for _, p := range []string{"orlop", "orlop-kubelet"} {
		if err := os.WriteFile(filepath.Join(dir, p), []byte("first "+p), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := keepPrograms(c, dir); err != nil {
		t.Fatal(err)
	}
	// Builders put a new file in the place of the old one.
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "new"), []byte("second"), 0o755), os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "orlop-kubelet"))); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"orlop", "orlop-kubelet"} {
		b, err := os.ReadFile(filepath.Join(dir, "own", p))
		st, statErr := os.Stat(filepath.Join(dir, "own", p))
		if err != nil || statErr != nil || string(b) != "first "+p || st.Mode().Perm() != 0o755 {
			t.Errorf("%s: %q, %v", p, b, errors.Join(err, statErr))
		}
	}
}

// What runs in a host has as long as the whole, whatever its own default: --wait alone ends it.
func TestLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
		defer cancel()
		if got := longer(ctx); got != "--timeout=21m0s" {
			t.Errorf("with 20 minutes left: %s", got)
		}
		if got := longer(t.Context()); got != "--timeout=24h0m0s" {
			t.Errorf("without an end: %s", got)
		}
	})
}
