package iptables

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/netnstest"
	"github.com/orlop-io/orlop/proxy"
)

// What this backend does as every other is tested in package proxy/modes.

func TestKernelOpenLeavesNothing(t *testing.T) {
	ns := netnstest.New(t)
	err := ns.Do(func() error {
		if _, err := Open(Config{Log: slog.New(slog.DiscardHandler)}); err != nil {
			return err
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		if len(tables) > 0 {
			t.Errorf("%d tables, the first %s", len(tables), tables[0].Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// In a container the host's programs run below its root, with its libraries, as the agent's image and manifest lay it out.
func TestKernelProgramsOfTheHost(t *testing.T) {
	ns, root := netnstest.New(t), t.TempDir()
	for _, dir := range []string{"usr", "run"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+link, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	usr := filepath.Join(root, "usr")
	if err := unix.Mount("/usr", usr, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(usr, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	err := ns.Do(func() error {
		for _, flavour := range []Flavour{NFT, Legacy} {
			tools, err := find(root)
			if err != nil {
				return err
			}
			for _, tl := range tools {
				if tl.flavour != flavour {
					continue
				}
				if tl.root != root {
					t.Errorf("%s: runs below %q", flavour, tl.root)
				}
				if err := tl.probe(true); err != nil {
					t.Errorf("%s: %v", flavour, err)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A kernel that lacks a match is told by the match's name.
func TestKernelProbeNamesWhatIsMissing(t *testing.T) {
	ns := netnstest.New(t)
	dir := t.TempDir()
	// Programs that know no match "recent", which is what a kernel without it looks like.
	script := "#!/bin/sh\ninput=$(cat)\ncase $input in *recent*) echo 'Extension recent revision 0 not supported, missing kernel module?' >&2; exit 4;; esac\nprintf '%s\\n' \"$input\" | exec iptables-nft-restore \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "iptables-nft-restore"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	err := ns.Do(func() error { return tool{flavour: NFT, dir: dir}.probe(true) })
	if err == nil || !strings.Contains(err.Error(), "match recent: ") || strings.Contains(err.Error(), "match statistic") {
		t.Errorf("%v", err)
	}
	out := ""
	_ = ns.Do(func() error {
		b, err := exec.Command("iptables-nft-save").Output()
		out = string(b)
		return err
	})
	if strings.Contains(out, probeChain) {
		t.Errorf("left:\n%s", out)
	}
}

// What somebody has flushed, as a firewall's restart does, is back at the next look, and others' rules stay before and after.
func TestKernelFlushedTablesComeBack(t *testing.T) {
	ns := netnstest.New(t)
	err := ns.Do(func() error {
		b, err := Open(Config{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return err
		}
		b.SetNode(testNode)
		model := proxy.Model{"default/web:80/6/4": web(nil, "10.244.0.2:8080")}
		if err := b.Set(model); err != nil {
			return err
		}
		save := func() string {
			out := ""
			for _, table := range []string{nat, filter} {
				text, err := b.tool.save(true, table)
				if err != nil {
					t.Error(err)
				}
				for line := range strings.Lines(text) {
					if !strings.HasPrefix(line, "#") {
						out += line
					}
				}
			}
			return out
		}
		want := save()
		if n := strings.Count(want, "-A PREROUTING "); n != 1 {
			t.Errorf("%d rules lead to ours from PREROUTING", n)
		}
		told, last := 0, 0
		for _, r := range b.Rules() {
			if r.V4 {
				told, last = told+r.All, last+r.Last
			}
		}
		if ours := strings.Count(want, "\n-A KUBE-"); told != ours || last != strings.Count(want, "\n-A ") {
			t.Errorf("it counts %d rules, and %d just written, of %d in chains of ours in\n%s", told, last, ours, want)
		}
		for _, table := range []string{nat, filter} {
			for _, do := range []string{"-F", "-X"} {
				if out, err := exec.Command("iptables-nft", "-t", table, do).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			}
		}
		if err := b.Set(model); err != nil { // too early to look
			return err
		}
		if strings.Contains(save(), "KUBE-") {
			t.Error("each change reads all tables")
		}
		for _, s := range b.sides {
			s.checked = s.checked.Add(-check)
		}
		if err := b.Set(model); err != nil {
			return err
		}
		if d := cmp.Diff(want, save()); d != "" {
			t.Error(d)
		}
		if out, err := exec.Command("iptables-nft", "-t", nat, "-F").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		for _, s := range b.sides {
			s.checked = s.checked.Add(-check)
		}
		if err := b.Set(model); err != nil {
			return err
		}
		if d := cmp.Diff(want, save()); d != "" {
			t.Errorf("with chains that have no rules: %s", d)
		}
		if out, err := exec.Command("iptables-nft", "-t", nat, "-F", "PREROUTING").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		for _, s := range b.sides {
			s.checked = s.checked.Add(-check)
		}
		if err := b.Set(model); err != nil {
			return err
		}
		if d := cmp.Diff(want, save()); d != "" {
			t.Errorf("with only the rule that leads to ours gone: %s", d)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
