package servicecidr

import (
	"net/netip"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDecide(t *testing.T) {
	now := time.Now()
	cidr := func(name string, deleted time.Duration, cidrs ...string) *networkingv1.ServiceCIDR {
		c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{finalizer}}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
		if deleted >= 0 {
			at := metav1.NewTime(now.Add(-deleted))
			c.DeletionTimestamp = &at
		}
		return c
	}
	const stays, now0, long = -1, 0, time.Minute
	for _, tt := range []struct {
		name    string
		c       *networkingv1.ServiceCIDR
		others  []*networkingv1.ServiceCIDR
		taken   []string
		protect bool
		ready   metav1.ConditionStatus
		waits   bool
	}{
		{name: "in use", c: cidr("a", stays, "10.0.0.0/24"), taken: []string{"10.0.0.1"}, protect: true, ready: metav1.ConditionTrue},
		{name: "going, in use", c: cidr("a", long, "10.0.0.0/24"), taken: []string{"10.0.0.1"}, protect: true, ready: metav1.ConditionFalse},
		{name: "going, only others in use", c: cidr("a", long, "10.0.0.0/24"), taken: []string{"10.0.1.1"}},
		{name: "going just now", c: cidr("a", now0, "10.0.0.0/24"), protect: true, waits: true},
		{name: "a wider one stays", c: cidr("a", long, "10.0.0.0/24"), others: []*networkingv1.ServiceCIDR{cidr("b", stays, "10.0.0.0/16")}, taken: []string{"10.0.0.1"}},
		{name: "the wider one goes too", c: cidr("a", long, "10.0.0.0/24"), others: []*networkingv1.ServiceCIDR{cidr("b", long, "10.0.0.0/16")},
			taken: []string{"10.0.0.1"}, protect: true, ready: metav1.ConditionFalse},
		{name: "second family in use", c: cidr("a", long, "10.0.0.0/24", "fd00::/112"), taken: []string{"fd00::1"}, protect: true, ready: metav1.ConditionFalse},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var taken []netip.Addr
			for _, text := range tt.taken {
				taken = append(taken, netip.MustParseAddr(text))
			}
			v := decide(tt.c, append(tt.others, tt.c), taken, now)
			var ready metav1.ConditionStatus
			if v.ready != nil {
				ready = v.ready.Status
			}
			if v.protect != tt.protect || ready != tt.ready || (v.again > 0) != tt.waits {
				t.Errorf("protect %v, ready %q, again %v; want %v, %q, waiting %v", v.protect, ready, v.again, tt.protect, tt.ready, tt.waits)
			}
		})
	}
}
