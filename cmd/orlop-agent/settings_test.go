package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSettingsFor(t *testing.T) {
	four, six := netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00::/64")
	for _, tt := range []struct {
		name string
		pods []netip.Prefix
		want []string
	}{
		{"no range yet", nil, nil},
		{"IPv4", []netip.Prefix{four}, []string{"net/ipv4/ip_forward=1"}},
		{"advertisements before forwarding", []netip.Prefix{six}, []string{"net/ipv6/conf/eth0/accept_ra=2", "net/ipv6/conf/all/forwarding=1"}},
		{"both", []netip.Prefix{four, six}, []string{"net/ipv4/ip_forward=1", "net/ipv6/conf/eth0/accept_ra=2", "net/ipv6/conf/all/forwarding=1"}},
	} {
		var got []string
		for _, s := range settingsFor(tt.pods, []string{"eth0", "eth1"}, func(l string) string { return map[string]string{"eth0": "1", "eth1": "0"}[l] }) {
			got = append(got, s.key+"="+s.value)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}

func TestFindings(t *testing.T) {
	for _, tt := range []struct {
		name      string
		overlay   bool
		all, eth0 string
		want      bool
	}{
		{"strict", true, "0", "1", true},
		{"strict for all", true, "1", "0", true},
		{"loose", true, "1", "2", false},
		{"off", true, "0", "0", false},
		{"strict without an overlay", false, "1", "1", false},
	} {
		got := findings(tt.overlay, []string{"eth0"}, func(key string) string {
			return map[string]string{"net/ipv4/conf/all/rp_filter": tt.all, "net/ipv4/conf/eth0/rp_filter": tt.eth0}[key]
		})
		if (len(got) == 1) != tt.want || tt.want && !strings.Contains(got[0], "sysctl -w net.ipv4.conf.eth0.rp_filter=2") {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
