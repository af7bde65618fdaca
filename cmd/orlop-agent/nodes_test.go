package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/cni/routes"
)

func node(name, cidr, ip string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)}, Spec: corev1.NodeSpec{PodCIDR: cidr}}
	if ip != "" {
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: ip}}
	}
	return n
}

func TestClusterOf(t *testing.T) {
	a, b, c, d := node("a", "10.244.0.0/24", "192.0.2.1"), node("b", "10.244.1.0/24", "192.0.2.2"), node("c", "", "192.0.2.3"), node("d", "10.244.3.0/24", "")
	a.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue}}
	b.Spec.PodCIDRs = []string{"10.244.1.0/24", "fd00:1::/64"}
	prefix, ip := netip.MustParsePrefix, netip.MustParseAddr
	want := cluster{
		podCIDRs: []netip.Prefix{prefix("10.244.0.0/24")}, own: []netip.Addr{ip("192.0.2.1")}, inner: []netip.Addr{ip("192.0.2.1")},
		view: routes.View{
			Self: routes.Node{Name: "a", UID: "uid-a", Pods: []netip.Prefix{prefix("10.244.0.0/24")}, Addrs: []netip.Addr{ip("192.0.2.1")}},
			Peers: []routes.Node{
				{Name: "d", UID: "uid-d", Pods: []netip.Prefix{prefix("10.244.3.0/24")}},
				{Name: "c", UID: "uid-c", Addrs: []netip.Addr{ip("192.0.2.3")}},
				{Name: "b", UID: "uid-b", Pods: []netip.Prefix{prefix("10.244.1.0/24"), prefix("fd00:1::/64")}, Addrs: []netip.Addr{ip("192.0.2.2")}},
			},
		},
		addrs:       []netip.Addr{ip("192.0.2.1"), ip("192.0.2.2"), ip("192.0.2.3")},
		allPods:     []netip.Prefix{prefix("10.244.0.0/24"), prefix("10.244.1.0/24"), prefix("10.244.3.0/24"), prefix("fd00:1::/64")},
		unavailable: true,
	}
	got := clusterOf([]*corev1.Node{d, c, b, a}, "a")
	if d := cmp.Diff(want, got, cmp.AllowUnexported(cluster{}), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); d != "" {
		t.Fatal(d)
	}
}

// Pods are paired where the stack would not masquerade: in the ranges that were given as the cluster's, or in all that nodes have.
func TestOtherPods(t *testing.T) {
	a, b, c := node("a", "10.244.0.0/24", "192.0.2.1"), node("b", "10.244.1.0/24", "192.0.2.2"), node("c", "10.99.0.0/24", "192.0.2.3")
	seen := clusterOf([]*corev1.Node{a, b, c}, "a")
	agent := &agent{}
	if got := agent.otherPods(); got != nil {
		t.Errorf("before nodes are known: %v", got)
	}
	agent.cluster.Store(&seen)
	for direct, want := range map[string][]string{"": {"10.244.1.0/24", "10.99.0.0/24"}, "10.244.0.0/16": {"10.244.1.0/24"}, "10.244.1.0/25": nil} {
		agent.direct = nil
		if direct != "" {
			agent.direct = []netip.Prefix{netip.MustParsePrefix(direct)}
		}
		var got []string
		for _, p := range agent.otherPods() {
			got = append(got, p.String())
		}
		if d := cmp.Diff(want, got, cmpopts.SortSlices(func(a, b string) bool { return a < b })); d != "" {
			t.Errorf("with %q: %s", direct, d)
		}
	}
}

func TestClusterRanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ClusterConfiguration")
	if err := os.WriteFile(file, []byte("networking:\n  podSubnet: 10.244.0.0/16,fd00::/48\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		o    options
		want int
	}{
		{"file", options{clusterConfiguration: file}, 2},
		{"flag before file", options{clusterConfiguration: file, clusterCIDRs: []string{"10.0.0.0/8"}}, 1},
		{"no such file", options{clusterConfiguration: file + "x"}, 0},
		{"nothing given", options{}, 0},
	} {
		if got, err := clusterRanges(tt.o); err != nil || len(got) != tt.want {
			t.Errorf("%s: %v, %v", tt.name, got, err)
		}
	}
}
