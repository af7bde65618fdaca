package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/nftables"
)

func TestChainsThatSeeForwardedPackets(t *testing.T) {
	chain := func(family nftables.TableFamily, typ nftables.ChainType, hook *nftables.ChainHook) *nftables.Chain {
		return &nftables.Chain{Table: &nftables.Table{Family: family}, Type: typ, Hooknum: hook}
	}
	for _, tt := range []struct {
		name  string
		chain *nftables.Chain
		want  bool
	}{
		{"a firewall's", chain(nftables.TableFamilyINet, nftables.ChainTypeFilter, nftables.ChainHookForward), true},
		{"marks", chain(nftables.TableFamilyIPv4, nftables.ChainTypeFilter, nftables.ChainHookPrerouting), true},
		{"what leaves", chain(nftables.TableFamilyIPv6, nftables.ChainTypeFilter, nftables.ChainHookPostrouting), true},
		{"of a device", chain(nftables.TableFamilyNetdev, nftables.ChainTypeFilter, nftables.ChainHookIngress), true},
		{"of the bridge", chain(nftables.TableFamilyBridge, nftables.ChainTypeFilter, nftables.ChainHookForward), true},
		{"the node's own", chain(nftables.TableFamilyINet, nftables.ChainTypeFilter, nftables.ChainHookInput), false},
		{"host ports", chain(nftables.TableFamilyIPv4, nftables.ChainTypeNAT, nftables.ChainHookPrerouting), false},
		{"no base chain", chain(nftables.TableFamilyINet, "", nil), false},
	} {
		if got := seesForwarded(tt.chain); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	for _, tt := range []struct {
		name             string
		chain            *nftables.Chain
		translates, sees bool
	}{
		{"what the node gets", chain(nftables.TableFamilyINet, nftables.ChainTypeFilter, nftables.ChainHookInput), false, true},
		{"what the node sends", chain(nftables.TableFamilyIPv4, nftables.ChainTypeRoute, nftables.ChainHookOutput), false, true},
		{"a masquerade", chain(nftables.TableFamilyIPv4, nftables.ChainTypeNAT, nftables.ChainHookPostrouting), true, false},
		{"addresses of what the node sends", chain(nftables.TableFamilyIPv4, nftables.ChainTypeNAT, nftables.ChainHookOutput), false, false},
		{"no base chain", chain(nftables.TableFamilyINet, "", nil), false, false},
	} {
		if translates, sees := translatesForwarded(tt.chain), seesTunnel(tt.chain); translates != tt.translates || sees != tt.sees {
			t.Errorf("%s: translates %t, sees a tunnel %t", tt.name, translates, sees)
		}
	}
	for mode, ok := range map[string]bool{redirectAuto: true, redirectPeer: true, redirectStack: true, "": false, "veth": false} {
		if err := (options{podRedirect: mode}).checkRedirect(); (err == nil) != ok {
			t.Errorf("--pod-redirect=%s: %v", mode, err)
		}
	}
}

// The agent sends packets past the stack where nothing would miss them, and by it as soon as something does.
func TestKernelStackIsPassedWhereNothingMisses(t *testing.T) {
	t.Setenv("ORLOP_TEST_MODE", modeEBPF)
	ns, _, dir, _ := hosted(t)
	startAgent(t, ns, dir)
	waitFor(t, "healthy agent", func() bool { return healthy(ns) })
	says := func() string { return get(t, ns, "127.0.0.1:10249", "/proxyMode?verbose") }
	nft := func(text string) {
		t.Helper()
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		ns.Must(ns.Start(cmd))
		ns.Must(cmd.Wait())
	}
	passed := func() bool { return !strings.Contains(says(), "by the node's stack") }
	waitFor(t, "way past the stack", passed)
	nft("table inet wall {\n chain empty {\n type filter hook forward priority 0;\n }\n}\n")
	nft("table inet wall {\n chain in {\n type filter hook input priority 0;\n tcp dport 1 drop\n }\n}\n")
	if !passed() {
		t.Errorf("rules that see nothing of it: %s", says())
	}
	nft("add rule inet wall empty ct state invalid drop\n")
	waitFor(t, "way by the stack", func() bool {
		return strings.Contains(says(), "packets from outside go by the node's stack: chain empty of the nftables table wall would see them")
	})
	nft("delete table inet wall\n")
	waitFor(t, "way past the stack again", passed)
	nft("table ip own {\n chain post {\n type nat hook postrouting priority 100;\n masquerade\n }\n}\n")
	waitFor(t, "way by the stack for pods alone", func() bool {
		s := says()
		return strings.Contains(s, "packets of TCP between pods of two nodes go by the node's stack: chain post of the nftables table own would see them") && !strings.Contains(s, "packets from outside go by")
	})
}
