package services

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

func TestSetFamilies(t *testing.T) {
	dual, single := corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack
	for _, tt := range []struct {
		name string
		in   corev1.ServiceSpec
		want corev1.ServiceSpec
		bad  bool
	}{
		{name: "filled in", in: corev1.ServiceSpec{ClusterIP: "10.0.0.9"},
			want: corev1.ServiceSpec{ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: &single}},
		{name: "external name has none", in: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"}},
			want: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}},
		{name: "two stacks", in: corev1.ServiceSpec{IPFamilyPolicy: &dual}, bad: true},
		{name: "the other family", in: corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol}}, bad: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			errs := setFamilies(&tt.in, false)
			if (len(errs) > 0) != tt.bad {
				t.Fatalf("errors = %v", errs)
			}
			if diff := cmp.Diff(tt.want, tt.in); !tt.bad && diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestKeepAllocated(t *testing.T) {
	old := corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"},
		Ports: []corev1.ServicePort{{Protocol: "TCP", Port: 80, NodePort: 30001}, {Protocol: "TCP", Port: 81, NodePort: 30002}}}
	for _, tt := range []struct {
		name     string
		in, want corev1.ServiceSpec
	}{
		{"replaced by a file without allocations",
			corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Protocol: "TCP", Port: 81}}},
			corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"},
				Ports: []corev1.ServicePort{{Protocol: "TCP", Port: 81, NodePort: 30002}}}},
		{"no node ports any more",
			corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"}, Ports: []corev1.ServicePort{{Protocol: "TCP", Port: 80, NodePort: 30001}}},
			corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"}, Ports: []corev1.ServicePort{{Protocol: "TCP", Port: 80}}}},
		{"an old client makes it headless: validation, not we, refuses that",
			corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "None", ClusterIPs: []string{"10.0.0.9"}},
			corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "None", ClusterIPs: []string{"None"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			keepAllocated(&tt.in, &old)
			if diff := cmp.Diff(tt.want, tt.in); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestAddressRange(t *testing.T) {
	for _, tt := range []struct {
		prefix   string
		reserved uint64
		first    string
		usable   []uint64
	}{
		{"10.96.0.0/12", 256, "10.96.0.1", []uint64{1, 1<<20 - 2}},
		{"10.0.0.0/24", 16, "10.0.0.1", []uint64{1, 254}},
		{"10.0.0.0/29", 4, "10.0.0.1", []uint64{1, 6}},
		{"fd00::/112", 256, "fd00::1", []uint64{1, 1<<16 - 1}},
	} {
		a := &addresses{prefix: netip.MustParsePrefix(tt.prefix)}
		if a.reserved() != tt.reserved || a.nth(1).String() != tt.first {
			t.Errorf("%s: reserved %d, first %s, want %d, %s", tt.prefix, a.reserved(), a.nth(1), tt.reserved, tt.first)
		}
		for _, n := range tt.usable {
			if !a.usable(n) || !a.prefix.Contains(a.nth(n)) {
				t.Errorf("%s: offset %d should be usable", tt.prefix, n)
			}
		}
		if a.usable(0) || a.usable(a.size()-1) == a.prefix.Addr().Is4() {
			t.Errorf("%s: the network's own or its broadcast address is usable", tt.prefix)
		}
	}
}

func TestChoosePort(t *testing.T) {
	span := utilnet.PortRange{Base: 30000, Size: 4}
	b := newBitmap(span.Size)
	var got []int
	for range 4 {
		p, err := choose(b, span, 0, map[int]bool{}, 2)
		if err != nil {
			t.Fatal(err)
		}
		b.set(p - span.Base)
		got = append(got, p)
	}
	if want := []int{30002, 30003, 30000, 30001}; !slices.Equal(got, want) {
		t.Errorf("ports = %v, want %v", got, want)
	}
	if _, err := choose(b, span, 0, nil, 0); err == nil {
		t.Error("a full range gave a port")
	}
	if _, err := choose(b, span, 30001, nil, 0); err == nil {
		t.Error("a taken port was given")
	}
	b.clear(1)
	if p, err := choose(b, span, 30001, nil, 0); err != nil || p != 30001 {
		t.Errorf("a freed port: %d, %v", p, err)
	}
	// Upstream keeps the bits as a big integer: the lowest is in the last byte.
	if b.bytes[len(b.bytes)-1] != 0b1101 {
		t.Errorf("bits = %b, want 1101", b.bytes)
	}
}

func TestPlanRepair(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	made := func(ip string, age time.Duration) networkingv1.IPAddress {
		c := claim(netip.MustParseAddr(ip), "a", "b")
		c.CreationTimestamp = metav1.NewTime(now.Add(-age))
		return *c
	}
	service := func(ip string) corev1.Service {
		return corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}}}
	}
	missing, orphaned := planRepair(
		[]networkingv1.IPAddress{made("10.0.0.1", time.Hour), made("10.0.0.2", time.Hour), made("10.0.0.3", time.Second)},
		[]corev1.Service{service("10.0.0.1"), service("10.0.0.4"), service("None")}, now)
	if len(missing) != 1 || missing["10.0.0.4"] == nil {
		t.Errorf("missing = %v, want 10.0.0.4", missing)
	}
	if want := []string{"10.0.0.2"}; !slices.Equal(orphaned, want) {
		t.Errorf("orphaned = %v, want %v: a young claim may be of a service about to be written", orphaned, want)
	}
}
