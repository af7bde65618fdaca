package main

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestModesThatAreRefused(t *testing.T) {
	for mode, says := range map[string]string{"ipvs": `give "nftables"`, "EBPF": "ebpf, nftables, iptables, userspace"} {
		s, err := openServices(options{proxy: true, proxyMode: mode}, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), mode) {
			t.Errorf("--proxy-mode=%s: %v, %v, want an error that says %q", mode, s, err, says)
		}
	}
}

func TestPrimaryAddresses(t *testing.T) {
	a := func(list ...string) (out []netip.Addr) {
		for _, s := range list {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	for _, tt := range []struct{ all, want []netip.Addr }{
		{a("192.0.2.1", "192.0.2.2", "fd00::1"), a("192.0.2.1", "fd00::1")},
		{a("fd00::2", "fd00::1"), a("fd00::2")},
		{nil, nil},
	} {
		if got := primary(tt.all); !slices.Equal(got, tt.want) {
			t.Errorf("primary of %v is %v, want %v", tt.all, got, tt.want)
		}
	}
}
