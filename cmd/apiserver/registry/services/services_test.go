package services

import (
	"math/rand/v2"
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

const v4, v6 = corev1.IPv4Protocol, corev1.IPv6Protocol

func families(f ...corev1.IPFamily) []corev1.IPFamily { return f }

func TestSetFamilies(t *testing.T) {
	single, prefer, require := corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack
	sel := map[string]string{"a": "b"}
	for _, tt := range []struct {
		name    string
		cluster []corev1.IPFamily
		old     *corev1.ServiceSpec
		in      corev1.ServiceSpec
		// want is what becomes of the three fields, or of the error.
		policy   corev1.IPFamilyPolicy
		families []corev1.IPFamily
		ips      []string
		err      string
	}{
		{name: "nothing said", in: corev1.ServiceSpec{Selector: sel}, policy: single, families: families(v4)},
		{name: "default of a v6 cluster", cluster: families(v6, v4), in: corev1.ServiceSpec{Selector: sel}, policy: single, families: families(v6)},
		{name: "an address says its family", cluster: families(v4, v6), in: corev1.ServiceSpec{Selector: sel, ClusterIP: "fd00::9"},
			policy: single, families: families(v6), ips: []string{"fd00::9"}},
		{name: "two addresses mean two stacks", cluster: families(v4, v6), in: corev1.ServiceSpec{Selector: sel, ClusterIP: "fd00::9", ClusterIPs: []string{"fd00::9", "10.0.0.9"}},
			policy: require, families: families(v6, v4), ips: []string{"fd00::9", "10.0.0.9"}},
		{name: "two families mean two stacks", cluster: families(v4, v6), in: corev1.ServiceSpec{Selector: sel, IPFamilies: families(v6, v4)}, policy: require, families: families(v6, v4)},
		{name: "prefer on a single stack", in: corev1.ServiceSpec{Selector: sel, IPFamilyPolicy: &prefer}, policy: prefer, families: families(v4)},
		{name: "prefer on a dual stack", cluster: families(v4, v6), in: corev1.ServiceSpec{Selector: sel, IPFamilyPolicy: &prefer, IPFamilies: families(v6)},
			policy: prefer, families: families(v6, v4)},
		{name: "require on a single stack", in: corev1.ServiceSpec{Selector: sel, IPFamilyPolicy: &require},
			err: `spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`},
		{name: "the other family", in: corev1.ServiceSpec{Selector: sel, IPFamilies: families(v6)}, err: `spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`},
		{name: "one stack with two families", cluster: families(v4, v6), in: corev1.ServiceSpec{Selector: sel, IPFamilyPolicy: &single, IPFamilies: families(v4, v6)},
			err: `spec.ipFamilyPolicy: Invalid value: "SingleStack": must be RequireDualStack or PreferDualStack when multiple 'ipFamilies' are specified`},
		{name: "address of another family", cluster: families(v4, v6), in: corev1.ServiceSpec{Selector: sel, ClusterIP: "10.0.0.9", IPFamilies: families(v6)},
			err: "spec.clusterIPs[0]: Invalid value: \"10.0.0.9\": expected an IPv6 value as indicated by `ipFamilies[0]`"},
		{name: "two first addresses", in: corev1.ServiceSpec{Selector: sel, ClusterIP: "10.0.0.1", ClusterIPs: []string{"10.0.0.2"}},
			err: "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`"},
		{name: "the newer field alone", in: corev1.ServiceSpec{Selector: sel, ClusterIPs: []string{"10.0.0.2"}},
			err: "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: must be empty when `clusterIP` is not specified"},
		{name: "a family twice", cluster: families(v4, v6), in: corev1.ServiceSpec{Selector: sel, IPFamilies: families(v4, v4)}, err: `spec.ipFamilies[1]: Duplicate value: "IPv4"`},
		{name: "no family", in: corev1.ServiceSpec{Selector: sel, IPFamilies: families("IPv5")},
			err: `spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"`},
		{name: "headless with a selector", cluster: families(v4, v6), in: corev1.ServiceSpec{Selector: sel, ClusterIP: "None", IPFamilyPolicy: &require},
			policy: require, families: families(v4, v6), ips: []string{"None"}},
		{name: "headless without a selector has both, whatever the cluster", in: corev1.ServiceSpec{ClusterIP: "None"}, policy: require, families: families(v4, v6), ips: []string{"None"}},
		{name: "headless without a selector may have one", in: corev1.ServiceSpec{ClusterIP: "None", IPFamilyPolicy: &single}, policy: single, families: families(v4), ips: []string{"None"}},
		{name: "upgrade", cluster: families(v4, v6),
			old:    &corev1.ServiceSpec{Selector: sel, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"}, IPFamilyPolicy: &single, IPFamilies: families(v4)},
			in:     corev1.ServiceSpec{Selector: sel, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"}, IPFamilyPolicy: &require, IPFamilies: families(v4)},
			policy: require, families: families(v4, v6), ips: []string{"10.0.0.9"}},
		{name: "downgrade", cluster: families(v4, v6),
			old:    &corev1.ServiceSpec{Selector: sel, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9", "fd00::9"}, IPFamilyPolicy: &require, IPFamilies: families(v4, v6)},
			in:     corev1.ServiceSpec{Selector: sel, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9", "fd00::9"}, IPFamilyPolicy: &single, IPFamilies: families(v4, v6)},
			policy: single, families: families(v4), ips: []string{"10.0.0.9"}},
		{name: "the cluster became dual-stack, the service did not ask", cluster: families(v4, v6),
			old:    &corev1.ServiceSpec{Selector: sel, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"}, IPFamilyPolicy: &prefer, IPFamilies: families(v4)},
			in:     corev1.ServiceSpec{Selector: sel, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"}, IPFamilyPolicy: &prefer, IPFamilies: families(v4)},
			policy: prefer, families: families(v4), ips: []string{"10.0.0.9"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.cluster == nil {
				tt.cluster = families(v4)
			}
			errs := setFamilies(&tt.in, tt.old, tt.cluster)
			if tt.err != "" {
				if len(errs) != 1 || errs[0].Error() != tt.err {
					t.Errorf("errors = %v\nwant %s", errs, tt.err)
				}
				return
			}
			if len(errs) > 0 || policyOf(&tt.in) != tt.policy || !slices.Equal(tt.in.IPFamilies, tt.families) || !slices.Equal(tt.in.ClusterIPs, tt.ips) {
				t.Errorf("%v %v %v, %v; want %v %v %v", policyOf(&tt.in), tt.in.IPFamilies, tt.in.ClusterIPs, errs, tt.policy, tt.families, tt.ips)
			}
		})
	}
}

func TestKeepAllocated(t *testing.T) {
	single := corev1.IPFamilyPolicySingleStack
	old := corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"}, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster,
		IPFamilies: families(v4), IPFamilyPolicy: &single,
		Ports: []corev1.ServicePort{{Protocol: "TCP", Port: 80, NodePort: 30001}, {Protocol: "TCP", Port: 81, NodePort: 30002}, {Protocol: "UDP", Port: 81, NodePort: 30002}}}
	for _, tt := range []struct {
		name     string
		in, want corev1.ServiceSpec
	}{
		{"replaced by a file without allocations",
			corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Protocol: "TCP", Port: 81}, {Protocol: "UDP", Port: 81}}},
			corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"}, IPFamilies: families(v4), IPFamilyPolicy: &single,
				Ports: []corev1.ServicePort{{Protocol: "TCP", Port: 81, NodePort: 30002}, {Protocol: "UDP", Port: 81, NodePort: 30002}}}},
		{"no node ports any more",
			corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"}, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster,
				Ports: []corev1.ServicePort{{Protocol: "TCP", Port: 80, NodePort: 30001}}},
			corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"}, IPFamilies: families(v4), IPFamilyPolicy: &single,
				Ports: []corev1.ServicePort{{Protocol: "TCP", Port: 80}}}},
		{"no address any more",
			corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ClusterIP: "10.0.0.9", ClusterIPs: []string{"10.0.0.9"}, IPFamilies: families(v4), IPFamilyPolicy: &single},
			corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}},
		{"an old client makes it headless: validation, not we, refuses that",
			corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "None", ClusterIPs: []string{"10.0.0.9"}},
			corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "None", ClusterIPs: []string{"None"}, IPFamilies: families(v4), IPFamilyPolicy: &single}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			keepAllocated(&tt.in, &old)
			if diff := cmp.Diff(tt.want, tt.in); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestBlock(t *testing.T) {
	for _, tt := range []struct {
		prefix      string
		band, count uint64
		first, last string
	}{
		{"10.96.0.0/12", 256, 1<<20 - 2, "10.96.0.1", "10.111.255.254"},
		{"10.0.0.0/24", 16, 254, "10.0.0.1", "10.0.0.254"},
		{"10.0.0.0/28", 0, 14, "10.0.0.1", "10.0.0.14"},
		{"fd00::/112", 256, 1<<16 - 1, "fd00::1", "fd00::ffff"},
		{"10.0.0.0/32", 0, 0, "", ""},
		{"10.0.0.0/31", 0, 0, "", ""},
	} {
		b := block{netip.MustParsePrefix(tt.prefix)}
		if b.band() != tt.band || b.count() != tt.count {
			t.Errorf("%s: band %d, count %d, want %d, %d", tt.prefix, b.band(), b.count(), tt.band, tt.count)
		}
		if tt.count == 0 {
			continue
		}
		first, last := netip.MustParseAddr(tt.first), netip.MustParseAddr(tt.last)
		if b.nth(0) != first || b.nth(b.count()-1) != last || !b.usable(first) || !b.usable(last) {
			t.Errorf("%s: from %s to %s, want %s to %s, both usable", tt.prefix, b.nth(0), b.nth(b.count()-1), first, last)
		}
		if b.usable(first.Prev()) || b.usable(last.Next()) {
			t.Errorf("%s: the network's own, the broadcast address or one outside is usable", tt.prefix)
		}
	}
}

func TestBlockGivesTheLowerBandLast(t *testing.T) {
	b := block{netip.MustParsePrefix("10.0.0.0/24")}
	seen := map[netip.Addr]bool{}
	i := 0
	for ip := range b.all(rand.Uint64N) {
		if low := ip.Compare(b.nth(b.band())) < 0; low != (i >= 238) {
			t.Fatalf("address %d is %s", i, ip)
		}
		seen[ip] = true
		i++
	}
	if len(seen) != 254 {
		t.Errorf("%d addresses, want 254", len(seen))
	}
	for range 1000 {
		if ip := b.random(rand.Uint64N); ip.Compare(b.nth(b.band())) < 0 || !b.usable(ip) {
			t.Fatalf("random address %s is in the lower band or not usable", ip)
		}
	}
}

func TestUsableBlocks(t *testing.T) {
	cidr := func(name string, age time.Duration, change func(*networkingv1.ServiceCIDR), cidrs ...string) networkingv1.ServiceCIDR {
		c := networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age))}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
		if change != nil {
			change(&c)
		}
		return c
	}
	now := metav1.Now()
	all := []networkingv1.ServiceCIDR{
		cidr("new", 0, nil, "10.1.0.0/24"),
		cidr("kubernetes", time.Hour, nil, "10.0.0.0/24", "fd00::/112"),
		cidr("going", 0, func(c *networkingv1.ServiceCIDR) { c.DeletionTimestamp = &now }, "10.2.0.0/24"),
		cidr("not ready", 0, func(c *networkingv1.ServiceCIDR) {
			c.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: metav1.ConditionFalse}}
		}, "10.3.0.0/24"),
	}
	var got []string
	for _, b := range usableBlocks(all, v4) {
		got = append(got, b.prefix.String())
	}
	if want := []string{"10.0.0.0/24", "10.1.0.0/24"}; !slices.Equal(got, want) {
		t.Errorf("ranges = %v, want %v", got, want)
	}
}

func TestChoosePort(t *testing.T) {
	span := utilnet.PortRange{Base: 30000, Size: 20}
	b := newBitmap(span.Size)
	var got []int
	for range span.Size {
		p, err := choose(b, span, 0, nil, func(n int) int { return n - 1 })
		if err != nil {
			t.Fatal(err)
		}
		b.set(p - span.Base)
		got = append(got, p)
	}
	if want := []int{30019, 30016, 30017, 30018, 30015}; !slices.Equal(got[:5], want) {
		t.Errorf("first ports = %v, want %v: the lower band is for those that name theirs", got[:5], want)
	}
	if _, err := choose(b, span, 0, nil, rand.IntN); err == nil {
		t.Error("a full range gave a port")
	}
	if _, err := choose(b, span, 30001, nil, rand.IntN); err == nil {
		t.Error("a taken port was given")
	}
	b.clear(1)
	if p, err := choose(b, span, 30001, nil, rand.IntN); err != nil || p != 30001 {
		t.Errorf("a freed port: %d, %v", p, err)
	}
	// Upstream keeps the bits as a big integer: the lowest is in the last byte.
	if b.bytes[len(b.bytes)-1] != 0b11111101 {
		t.Errorf("bits = %b, want 11111101", b.bytes)
	}
}

func TestRangeOfPortsChanges(t *testing.T) {
	old := utilnet.PortRange{Base: 30000, Size: 100}
	b := newBitmap(old.Size)
	b.set(5)
	b.set(60)
	r := &corev1.RangeAllocation{Range: old.String(), Data: b.bytes}
	got := carryOver(r, utilnet.PortRange{Base: 30050, Size: 200})
	for n := range 200 {
		if got.has(n) != (n == 10) {
			t.Errorf("port %d taken: %v, want 30060 alone", 30050+n, got.has(n))
		}
	}
	if got := carryOver(&corev1.RangeAllocation{}, old); got.has(5) {
		t.Error("a bit of nothing is set")
	}
}

func TestAssignPorts(t *testing.T) {
	span := utilnet.PortRange{Base: 30000, Size: 100}
	b := newBitmap(span.Size)
	b.set(7)
	s := &corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, HealthCheckNodePort: 30005,
		Ports: []corev1.ServicePort{{Protocol: "TCP", Port: 53}, {Protocol: "UDP", Port: 53}, {Protocol: "TCP", Port: 80, NodePort: 30007}, {Protocol: "TCP", Port: 81, NodePort: 30008}}}
	taken, errs := assignPorts(s, map[int]bool{30007: true}, b, span, func(int) int { return 0 })
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if s.Ports[0].NodePort != 30016 || s.Ports[1].NodePort != 30016 {
		t.Errorf("TCP and UDP of one port have %d and %d, want 30016 both", s.Ports[0].NodePort, s.Ports[1].NodePort)
	}
	if want := map[int]bool{30005: true, 30008: true, 30016: true}; !cmp.Equal(want, taken) {
		t.Errorf("taken %v, want %v: the Service had 30007", taken, want)
	}
	_, errs = assignPorts(s.DeepCopy(), nil, b, span, rand.IntN)
	if len(errs) != 1 || errs[0].Error() != "spec.ports[2].nodePort: Invalid value: 30007: provided port is already allocated" {
		t.Errorf("errors = %v", errs)
	}
}

func service(name string, ips ...string) corev1.Service {
	return corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ips[0], ClusterIPs: ips}}
}

func TestPlanAddresses(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	made := func(ip, svc string, age time.Duration) networkingv1.IPAddress {
		c := claimOf(netip.MustParseAddr(ip), "ns", svc)
		c.CreationTimestamp = metav1.NewTime(now.Add(-age))
		return *c
	}
	foreign := made("10.0.0.8", "x", time.Hour)
	foreign.Labels = nil
	claims := []networkingv1.IPAddress{
		made("10.0.0.1", "right", time.Hour), made("10.0.0.2", "gone", time.Hour), made("10.0.0.3", "young", time.Second),
		made("10.0.0.5", "gone", time.Hour), made("10.0.0.6", "second", time.Hour), foreign,
	}
	services := []corev1.Service{
		service("right", "10.0.0.1"), service("lost", "10.0.0.4", "fd00::4"), service("headless", "None"), service("wrong", "10.0.0.5"),
		service("first", "10.0.0.6"), service("second", "10.0.0.6"), service("outside", "11.0.0.1"),
	}
	var got []string
	for _, s := range planAddresses(claims, services, []block{{netip.MustParsePrefix("10.0.0.0/24")}, {netip.MustParsePrefix("fd00::/112")}}, now) {
		line := s.event.Reason + ":"
		if s.drop != nil {
			line += " drop " + s.drop.Name
		}
		if s.create != nil {
			line += " create " + s.create.Name + " for " + s.create.Spec.ParentRef.Name
		}
		if svc, ok := s.event.Object.(*corev1.Service); ok {
			line += " tell " + svc.Name
		}
		got = append(got, line)
	}
	want := []string{
		"ClusterIPOutOfRange: tell outside",
		"ClusterIPNotAllocated: create 10.0.0.4 for lost tell lost",
		"ClusterIPNotAllocated: create fd00::4 for lost tell lost",
		"IPAddressWrongReference: drop 10.0.0.5 create 10.0.0.5 for wrong",
		"ClusterIPAlreadyAllocated: tell first",
		"ClusterIPNotAllocated: create 11.0.0.1 for outside tell outside",
		"IPAddressNotAllocated: drop 10.0.0.2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestPlanPorts(t *testing.T) {
	b := newBitmap(16)
	for _, n := range []int{1, 2, 3} {
		b.set(n)
	}
	with := func(name string, port int32) corev1.Service {
		s := service(name, "10.0.0.1")
		s.Spec.Ports = []corev1.ServicePort{{NodePort: port}}
		return s
	}
	services := []corev1.Service{with("a", 30001), with("lost", 30005), with("again", 30001), with("outside", 99)}
	suspects, events := planPorts(b, services, 30000, 16, map[int]int{30003: 1}, nil)
	if want := map[int]bool{2: true}; !cmp.Equal(want, suspects) || !b.has(2) || !b.has(5) {
		t.Errorf("suspects %v, want %v; bits %b", suspects, want, b.bytes)
	}
	var reasons []string
	for _, e := range events {
		reasons = append(reasons, e.Reason)
	}
	if want := []string{"PortNotAllocated", "PortAlreadyAllocated", "PortOutOfRange"}; !slices.Equal(reasons, want) {
		t.Errorf("events %v, want %v", reasons, want)
	}
	if _, _ = planPorts(b, services, 30000, 16, map[int]int{30003: 1}, suspects); b.has(2) || !b.has(3) {
		t.Errorf("after the second look: bits %b, want 2 free, and 3 not: its Service is about to be written", b.bytes)
	}
}
