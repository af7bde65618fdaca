package install

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/orlop-io/orlop/cni/plugin"
)

func config(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	cfg := Config{Binary: filepath.Join(dir, "src"), BinDir: filepath.Join(dir, "bin"), ConfDir: filepath.Join(dir, "net.d")}
	if err := os.WriteFile(cfg.Binary, []byte("program 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg
}

var network = Network{
	Name: "orlop", Bridge: "orlop0", MTU: 1450,
	PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, Direct: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
}

func TestProgramsReplaceAndLeaveOthersAlone(t *testing.T) {
	cfg := config(t)
	for _, version := range []string{"program 1", "program 1", "program 2"} {
		if err := os.WriteFile(cfg.Binary, []byte(version), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Programs(cfg); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"orlop-cni", "loopback"} {
			if b, err := os.ReadFile(filepath.Join(cfg.BinDir, name)); err != nil || string(b) != version {
				t.Fatalf("%s is %q, %v; want %q", name, b, err, version)
			}
		}
	}
	st, err := os.Stat(filepath.Join(cfg.BinDir, "orlop-cni"))
	if err != nil || st.Mode() != 0o755 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if es, _ := os.ReadDir(cfg.BinDir); len(es) != 2 {
		t.Errorf("left over: %v", es)
	}

	other := config(t)
	if err := os.MkdirAll(other.BinDir, 0o755); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(other.BinDir, "loopback")
	if err := os.WriteFile(theirs, []byte("theirs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Programs(other); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(theirs); string(b) != "theirs" || slices.Contains(other.Installed(), theirs) {
		t.Errorf("somebody else's loopback is %q, and ours is %v", b, other.Installed())
	}
}

func TestConflistIsWhatThePluginReads(t *testing.T) {
	cfg := config(t)
	for i, want := range []bool{true, false} {
		if changed, err := Conflist(cfg, network); err != nil || changed != want {
			t.Fatalf("write %d: changed %v, %v", i, changed, err)
		}
	}
	b, err := os.ReadFile(filepath.Join(cfg.ConfDir, conflistName))
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Name    string
		Plugins []map[string]any
	}
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	p := list.Plugins[0]
	p["name"], p["cniVersion"] = list.Name, "1.0.0" // as a runtime does
	stdin, _ := json.Marshal(p)
	c, err := plugin.Parse(stdin)
	if err != nil {
		t.Fatal(err)
	}
	if c.Bridge != "orlop0" || c.MTU != 1450 || !c.IPMasq || c.PodCIDRs[0] != network.PodCIDRs[0] || c.DirectCIDRs[0] != network.Direct[0] {
		t.Errorf("the plugin reads %+v", c)
	}
	torn := filepath.Join(cfg.ConfDir, ".orlop-123") // by a kill
	if err := os.WriteFile(torn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range append(cfg.Configuration(), cfg.Installed()...) {
		_ = os.Remove(p)
	}
	for _, dir := range []string{cfg.ConfDir, cfg.BinDir} {
		if es, _ := os.ReadDir(dir); len(es) != 0 {
			t.Errorf("not named: %v", es)
		}
	}
}

func TestRouteMTU(t *testing.T) {
	for _, tt := range []struct{ mtu, tunnel, want int }{{1500, 0, 0}, {1500, 1450, 1450}, {1400, 1450, 0}} {
		n := network
		n.MTU, n.RouteMTU = tt.mtu, tt.tunnel
		content, err := n.conflist()
		if err != nil {
			t.Fatal(err)
		}
		var list struct{ Plugins []map[string]any }
		if err := json.Unmarshal(content, &list); err != nil {
			t.Fatal(err)
		}
		list.Plugins[0]["name"], list.Plugins[0]["cniVersion"] = "n", "1.0.0"
		conf, err := json.Marshal(list.Plugins[0])
		if err != nil {
			t.Fatal(err)
		}
		got, err := plugin.Parse(conf)
		if err != nil || got.RouteMTU != tt.want || got.MTU != tt.mtu {
			t.Errorf("link %d, tunnel %d: mtu %d, routeMTU %d, %v", tt.mtu, tt.tunnel, got.MTU, got.RouteMTU, err)
		}
	}
}
