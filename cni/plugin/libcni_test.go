package plugin

import (
	"context"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/cni/install"
)

// What the installer writes goes through the library that runtimes use, with the version that containerd 1.6 takes and the newest.
func TestKernelConflistThroughLibcni(t *testing.T) {
	for _, version := range []string{"1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			b := newBench(t)
			cfg := install.Config{Binary: b.bin, BinDir: t.TempDir(), ConfDir: t.TempDir()}
			if err := install.Programs(cfg); err != nil {
				t.Fatal(err)
			}
			_, err := install.Conflist(cfg, install.Network{
				Name: "test-" + filepath.Base(t.TempDir()), Bridge: "orlop0", MTU: 1400,
				PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24")}, Direct: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16")},
				StateDir: t.TempDir(),
			})
			if err != nil {
				t.Fatal(err)
			}
			list, err := libcni.NetworkConfFromFile(filepath.Join(cfg.ConfDir, "10-orlop.conflist"))
			if err != nil {
				t.Fatal(err)
			}
			if list.CNIVersion != "1.1.0" {
				t.Errorf("libcni chooses version %s", list.CNIVersion)
			}
			list.CNIVersion = version
			throughLibcni(t, b, libcni.NewCNIConfigWithCacheDir([]string{cfg.BinDir}, t.TempDir(), nil), list)
		})
	}
}

func throughLibcni(t *testing.T, b *bench, cni *libcni.CNIConfig, list *libcni.NetworkConfigList) {
	t.Helper()
	ctx := context.Background()
	out, pod := b.outside(), netnstest.New(t)
	rt := &libcni.RuntimeConf{
		ContainerID: "c1", NetNS: pod.Path(), IfName: "eth0",
		CapabilityArgs: map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}},
	}
	step := func(what string, f func() error) {
		t.Helper()
		if err := b.node.Do(f); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	step("add", func() error { _, err := cni.AddNetworkList(ctx, list, rt); return err })
	serve(t, pod, ":80")
	wantAnswer(t, out, "", "192.0.2.1:8080", "192.0.2.2")
	step("check", func() error { return cni.CheckNetworkList(ctx, list, rt) })
	if list.CNIVersion == "1.1.0" {
		step("status", func() error { return cni.GetStatusNetworkList(ctx, list) })
		keep := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "c1", IfName: "eth0"}}}
		step("collect others", func() error { return cni.GCNetworkList(ctx, list, keep) })
		wantAnswer(t, out, "", "192.0.2.1:8080", "192.0.2.2")
		step("collect all", func() error { return cni.GCNetworkList(ctx, list, &libcni.GCArgs{}) })
	}
	for range 2 {
		step("del", func() error { return cni.DelNetworkList(ctx, list, rt) })
	}
	if b.links() != 0 {
		t.Errorf("%d links left", b.links())
	}
}
