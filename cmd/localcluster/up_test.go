package localcluster

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

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
	bad := facts{missingPrograms: []string{"containerd", "ctr", "runc"}, missingFiles: []string{"bin/x"}, inotifyInstances: 1, pidMax: 1, busyPorts: []uint16{80}}
	all := errors.Join(bad.complaints(2)...).Error()
	for _, want := range []string{"sudo", "apt-get install -y containerd runc\n", "make build images", "modprobe overlay", "fs.inotify.max_user_instances=1024", "kernel.pid_max", "port 80"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in:\n%s", want, all)
		}
	}
}
