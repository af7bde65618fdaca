package iptables

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/flows"
)

var update = flag.Bool("update", false, "write golden files")

// The names are those that every cluster with kube-proxy has: people know them by heart.
func TestChainNames(t *testing.T) {
	for _, tt := range []struct {
		key  portKey
		want string
	}{
		{portKey{"default/kubernetes:https", proxy.TCP}, "NPX46M4PTMTKRN6Y"},
		{portKey{"kube-system/kube-dns:dns", proxy.UDP}, "TCOU7JCQXEZGVUNU"},
		{portKey{"kube-system/kube-dns:dns-tcp", proxy.TCP}, "ERIFXISQEP7F7OF4"},
		{portKey{"kube-system/kube-dns:metrics", proxy.TCP}, "JD5MR3NA4I4DYORP"},
	} {
		if got := tt.key.hash(""); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.key, got, tt.want)
		}
	}
}

func web(mutate func(*proxy.Group), backends ...string) *proxy.Group {
	g := &proxy.Group{Port: "default/web:http", Frontends: []proxy.Frontend{
		{Addr: netip.MustParseAddr("10.96.0.9"), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside},
		{Addr: netip.IPv4Unspecified(), Port: 30080, Protocol: proxy.TCP, Scope: proxy.Everywhere},
	}}
	for _, b := range backends {
		g.Backends = append(g.Backends, netip.MustParseAddrPort(b))
	}
	if mutate != nil {
		mutate(g)
	}
	return g
}

var (
	balancer = proxy.Frontend{Addr: netip.MustParseAddr("192.0.2.50"), Port: 80, Protocol: proxy.TCP}
	testNode = proxy.Node{
		Inside:    []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00::/64")},
		NodePorts: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
	}
)

func scoped(s proxy.Scope, fs ...proxy.Frontend) []proxy.Frontend {
	fs = slices.Clone(fs)
	for i := range fs {
		fs[i].Scope = s
	}
	return fs
}

// wanted is the layout of a model, and the side that made it.
func wanted(m proxy.Model) layout {
	s := &side{f: family{true, 32}, units: map[portKey]*unit{}, live: map[string]*proxy.Group{}, masquerade: "-j MASQUERADE --random-fully"}
	s.regroup(m, flows.Set{})
	for _, u := range s.units {
		s.f.lay(u, testNode)
	}
	return s.whole(s.f.base(testNode, []uint16{32100}, s.masquerade))
}

func TestLayout(t *testing.T) {
	node := proxy.Frontend{Addr: netip.IPv4Unspecified(), Port: 30080, Protocol: proxy.TCP}
	vip := proxy.Frontend{Addr: netip.MustParseAddr("10.96.0.9"), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}
	for name, m := range map[string]proxy.Model{
		"plain":    {"default/web:80/6/4": web(nil, "10.244.0.2:8080", "10.244.1.2:8080")},
		"affinity": {"default/web:80/6/4": web(func(g *proxy.Group) { g.Affinity = 3 * time.Hour }, "10.244.0.2:8080", "10.244.1.2:8080")},
		"empty":    {"default/web:80/6/4": web(nil)},
		"ranges": {
			"default/web:80/6/4": web(func(g *proxy.Group) { g.Frontends = append(g.Frontends, scoped(proxy.Inside, balancer)...) }, "10.244.0.2:8080"),
			"default/web:80/6/4/balancer": web(func(g *proxy.Group) {
				g.Frontends, g.Sources = scoped(proxy.Outside, balancer), []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("fd02::/64")}
			}, "10.244.0.2:8080"),
		},
		"local": {
			"default/web:80/6/4": web(func(g *proxy.Group) { g.Frontends = append(scoped(proxy.Inside, node, balancer), vip) }, "10.244.0.2:8080", "10.244.1.2:8080"),
			"default/web:80/6/4/outside": web(func(g *proxy.Group) {
				g.Frontends, g.KeepSource = scoped(proxy.Outside, node, balancer), true
			}, "10.244.0.2:8080"),
		},
		"local-none-here": {
			"default/web:80/6/4": web(func(g *proxy.Group) { g.Frontends = append(scoped(proxy.Inside, node), vip) }, "10.244.1.2:8080"),
			"default/web:80/6/4/outside": web(func(g *proxy.Group) {
				g.Frontends, g.KeepSource = scoped(proxy.Outside, node), true
			}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := wanted(m)
			got := change(nat, nil, l, nil, nil) + change(filter, nil, l, nil, nil)
			file := filepath.Join("testdata", name+".rules")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Error(d)
			}
		})
	}
}

// A change of endpoints writes the service's own chains and no other: not those that all services are in.
func TestChangeWritesOnlyWhatDiffers(t *testing.T) {
	other := web(func(g *proxy.Group) {
		g.Port, g.Frontends = "default/other", []proxy.Frontend{{Addr: netip.MustParseAddr("10.96.0.8"), Port: 80, Protocol: proxy.TCP, Scope: proxy.Inside}}
	}, "10.244.0.3:80")
	before := wanted(proxy.Model{"a": web(nil, "10.244.0.2:8080", "10.244.1.2:8080"), "b": other})
	after := wanted(proxy.Model{"a": web(nil, "10.244.0.2:8080", "10.244.1.9:8080"), "b": other})
	gone := map[chain]bool{}
	for c := range before {
		gone[c] = true
	}
	k := portKey{"default/web:http", proxy.TCP}
	sep := func(s string) string { return k.endpoint(netip.MustParseAddrPort(s)) }
	got := change(nat, before, after, gone, nil)
	var declared []string
	for line := range strings.Lines(got) {
		if strings.HasPrefix(line, ":") {
			declared = append(declared, strings.Fields(line[1:])[0])
		}
	}
	slices.Sort(declared)
	want := []string{sep("10.244.1.2:8080"), sep("10.244.1.9:8080"), "KUBE-SVC-" + k.hash("")}
	slices.Sort(want)
	if d := cmp.Diff(want, declared); d != "" {
		t.Error(d)
	}
	if !strings.Contains(got, "\n-X "+sep("10.244.1.2:8080")+"\nCOMMIT") || change(filter, before, after, gone, nil) != "" {
		t.Errorf("the chain of the endpoint that went is not deleted, or the filters are written:\n%s", got)
	}
	if got := change(nat, after, after, nil, nil); got != "" {
		t.Errorf("nothing differs, and this is written:\n%s", got)
	}
}

func TestRemovalTakesOurChainsAndTheRulesThatLeadToThem(t *testing.T) {
	const saved = `*nat
:PREROUTING ACCEPT [0:0]
:KUBE-ORLOP - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
:DOCKER - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
-A PREROUTING -m comment --comment "kubernetes services" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A KUBE-SERVICES -d 10.96.0.9/32 -j KUBE-SVC-A
COMMIT
`
	p := nothing()
	for line := range strings.Lines(saved) {
		p.sees().line(nat, strings.TrimSpace(strings.Replace(line, "-A ", "[0:0] -A ", 1)))
	}
	want := `*nat
:KUBE-ORLOP - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
-D PREROUTING -m comment --comment "kubernetes services" -j KUBE-SERVICES
-X KUBE-ORLOP
-X KUBE-SERVICES
-X KUBE-SVC-A
COMMIT
`
	if d := cmp.Diff(want, removal(nat, saved, owned)); d != "" {
		t.Error(d)
	}
	if got := removal(nat, ":KUBE-FIREWALL - [0:0]\n:KUBE-MARK-DROP - [0:0]\n-A INPUT -j KUBE-FIREWALL\n", kubeProxys); got != "" {
		t.Errorf("a kubelet's chains are removed as a kube-proxy's: %s", got)
	}
	if p.foreign() {
		t.Error("chains with our sign are a kube-proxy's")
	}
	delete(p.chains, chain{nat, owner})
	if !p.foreign() {
		t.Error("chains without our sign are ours")
	}
}

func TestPreferTheFlavourOfTheHost(t *testing.T) {
	a, b := tool{flavour: NFT}, tool{flavour: Legacy}
	type held struct {
		rules   int
		kubelet bool
	}
	for _, tt := range []struct {
		nft, legacy held
		want        Flavour
	}{
		{held{0, false}, held{0, false}, NFT},
		{held{5, false}, held{5, false}, NFT},
		{held{3, false}, held{40, false}, Legacy},
		{held{0, true}, held{40, false}, NFT},
		{held{90, false}, held{0, true}, Legacy},
	} {
		got := prefer([]tool{a, b}, func(t tool) (int, bool) {
			if t.flavour == NFT {
				return tt.nft.rules, tt.nft.kubelet
			}
			return tt.legacy.rules, tt.legacy.kubelet
		})
		if got[0].flavour != tt.want {
			t.Errorf("nft %v, legacy %v: %s first, want %s", tt.nft, tt.legacy, got[0].flavour, tt.want)
		}
	}
}

// The host's programs are found below its root, through links that lead elsewhere here.
func TestFindOfTheHost(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "usr/sbin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere/xtables-nft-multi", filepath.Join(dir, "iptables-nft-restore")); err != nil {
		t.Fatal(err)
	}
	tools, err := find(root)
	if err != nil || len(tools) != 1 || tools[0] != (tool{root, NFT, "/usr/sbin", false}) {
		t.Errorf("%+v, %v", tools, err)
	}
}
