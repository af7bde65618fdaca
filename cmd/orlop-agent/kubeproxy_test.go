package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func configured(t *testing.T, text string, o options, given ...string) (options, []string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.conf")
	if err := os.WriteFile(path, []byte("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := readKubeProxy(path)
	if err != nil {
		return o, nil, err
	}
	lost, err := o.configure(c, func(f string) bool { return slices.Contains(given, f) })
	return o, lost, err
}

// kube-proxy's ConfigMap of a cluster made by kubeadm is taken as it is.
func TestKubeadmsConfiguration(t *testing.T) {
	c, err := readKubeProxy("testdata/kubeadm-config.conf")
	if err != nil {
		t.Fatal(err)
	}
	var o options
	lost, err := o.configure(c, func(string) bool { return false })
	if err != nil || len(lost) > 0 {
		t.Fatal(err, lost)
	}
	want := options{kubeconfig: "/var/lib/kube-proxy/kubeconfig.conf", clusterCIDRs: []string{"10.244.0.0/16"}, healthz: "0.0.0.0:10256", metrics: "127.0.0.1:10249"}
	if d := cmp.Diff(want, o, cmp.AllowUnexported(options{}, proxyConfiguration{}), cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Error(d)
	}
}

func TestConfigurationIsTaken(t *testing.T) {
	o, lost, err := configured(t, `
mode: nftables
hostnameOverride: " Node-A "
healthzBindAddress: 192.0.2.1
metricsBindAddress: "[::1]:9"
clusterCIDR: 10.0.0.0/8,fd00::/48
bindAddress: 192.0.2.7
bindAddressHardFail: true
nodePortAddresses: [192.0.2.0/24, "2001:db8::/32"]
clientConnection: {qps: 5, burst: 9, contentType: application/json}
logging: {format: json, verbosity: 5}
conntrack: {maxPerCore: 1000, min: 10, tcpEstablishedTimeout: 1h, udpTimeout: 10s, tcpBeLiberal: true}
ipvs: {scheduler: rr, syncPeriod: 30s}
oomScoreAdj: -999
detectLocalMode: NodeCIDR
`, options{proxyMode: "ebpf", kubeconfig: "mine"}, "proxy-mode", "kubeconfig")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"proxy-mode"}, lost); d != "" {
		t.Errorf("flags that lost: %s", d)
	}
	keys := []string{}
	for _, s := range o.config.conntrack {
		keys = append(keys, strings.TrimPrefix(s.key, "net/netfilter/nf_conntrack_")+"="+s.value)
	}
	got := []any{o.proxyMode, o.node, o.kubeconfig, o.healthz, o.metrics, strings.Join(o.clusterCIDRs, " "), o.config.hardFail, o.config.jsonLog, o.verbose, o.config.qps, o.config.burst, o.config.encode, strings.Join(keys[1:], " ")}
	want := []any{"nftables", "node-a", "mine", "192.0.2.1:10256", "[::1]:9", "10.0.0.0/8 fd00::/48", true, true, true, float32(5), 9, "application/json",
		"tcp_be_liberal=1 tcp_timeout_established=3600 udp_timeout=10"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if !strings.HasPrefix(keys[0], "max=") {
		t.Error(keys)
	}
}

func TestConfigurationIsRefusedByName(t *testing.T) {
	for text, says := range map[string]string{
		"modes: iptables":                                        `unknown field "modes"`,
		"iptables: {masquerade: true}":                           `unknown field "iptables.masquerade"`,
		"iptables: {masqueradeAll: true}":                        "iptables.masqueradeAll: true",
		"nftables: {masqueradeBit: 3}":                           "nftables.masqueradeBit: 3",
		"ipvs: {strictARP: true}":                                "ipvs.strictARP: true",
		"winkernel: {enableDSR: true}":                           "winkernel",
		"detectLocalMode: InterfaceNamePrefix":                   "detectLocalMode: InterfaceNamePrefix",
		"iptables: {localhostNodePorts: false}":                  "iptables.localhostNodePorts: false",
		"oomScoreAdj: 0":                                         "oomScoreAdj: 0",
		"featureGates: {X: true}":                                "featureGates",
		"nodePortAddresses: [primary, some]":                     `nodePortAddresses: "some"`,
		"nodePortAddresses: [10.0.0.1]":                          `nodePortAddresses: "10.0.0.1"`,
		"healthzBindAddress: nowhere":                            "healthzBindAddress",
		"clusterCIDR: 10.0.0.0/8;fd00::/8":                       "clusterCIDR",
		"bindAddress: eth0":                                      "bindAddress",
		"enableProfiling: true\niptables: {masqueradeAll: true}": "enableProfiling: true",
	} {
		if _, _, err := configured(t, text, options{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, []byte("apiVersion: v1\nkind: ConfigMap\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readKubeProxy(path); err == nil || !strings.Contains(err.Error(), "want kubeproxy.config.k8s.io/v1alpha1 KubeProxyConfiguration") {
		t.Error(err)
	}
}

func TestNodePortAddresses(t *testing.T) {
	a := func(list ...string) (out []netip.Addr) {
		for _, s := range list {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	inner, local := a("192.0.2.1", "192.0.2.2", "2001:db8::1"), a("127.0.0.1", "192.0.2.1", "198.51.100.1", "2001:db8::1")
	everywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	for _, tt := range []struct {
		c    proxyConfiguration
		want []netip.Addr
	}{
		{proxyConfiguration{}, a("192.0.2.1", "2001:db8::1")},
		{proxyConfiguration{bind: a("198.51.100.1")[0]}, a("198.51.100.1", "2001:db8::1")},
		{proxyConfiguration{nodePorts: everywhere[:1]}, a("192.0.2.1", "198.51.100.1")},
		{proxyConfiguration{nodePorts: everywhere}, a("192.0.2.1", "198.51.100.1", "2001:db8::1")},
		{proxyConfiguration{nodePorts: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}, nil},
	} {
		if got := tt.c.nodePortAddrs(inner, local); !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %v, want %v", tt.c, got, tt.want)
		}
	}
	for words, want := range map[string][]netip.Addr{ // as the file has them
		"[]": a("192.0.2.1", "2001:db8::1"), "[primary]": a("192.0.2.1", "2001:db8::1"), "[all]": a("192.0.2.1", "198.51.100.1", "2001:db8::1"),
		"[primary, localhost]": a("192.0.2.1", "2001:db8::1"), "[localhost]": nil, "[localhost, 198.51.100.0/24]": a("198.51.100.1"),
		"[primary, 198.51.100.0/24]": a("192.0.2.1", "198.51.100.1", "2001:db8::1"), "[all, primary, localhost]": a("192.0.2.1", "198.51.100.1", "2001:db8::1"),
	} {
		o, _, err := configured(t, "nodePortAddresses: "+words, options{})
		if got := o.config.nodePortAddrs(inner, local); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", words, got, err, want)
		}
		if o.config.loopbackToo != strings.Contains(words, "localhost") {
			t.Errorf("%s: at 127.0.0.1 by name: %v", words, o.config.loopbackToo)
		}
	}
}
