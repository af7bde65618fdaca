package servicecidr

import (
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// finalizer is upstream's, so that either's controller can let a ServiceCIDR go.
	finalizer = "networking.k8s.io/service-cidr-finalizer"
	// grace is how long after its deletion a ServiceCIDR stays at least: a request that read it before may still be
	// about to take an address of it.
	grace = 10 * time.Second
)

// verdict is what should become of a ServiceCIDR.
type verdict struct {
	// protect says whether the finalizer is to be there.
	protect bool
	// ready is the condition to show; nil leaves it as it is.
	ready *metav1.Condition
	// again is when to look again without an event; zero means never.
	again time.Duration
}

// decide judges c among all ServiceCIDRs, given the addresses that Services have.
func decide(c *networkingv1.ServiceCIDR, all []*networkingv1.ServiceCIDR, taken []netip.Addr, now time.Time) verdict {
	if c.DeletionTimestamp == nil {
		return verdict{protect: true, ready: &metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue,
			Reason: "KubernetesServiceCIDR", Message: "Kubernetes Service CIDR is ready"}}
	}
	if !slices.Contains(c.Finalizers, finalizer) {
		return verdict{}
	}
	if needed(c, all, taken) {
		return verdict{protect: true, ready: &metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionFalse,
			Reason:  networkingv1.ServiceCIDRReasonTerminating,
			Message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"}}
	}
	if wait := c.DeletionTimestamp.Add(grace).Sub(now); wait > 0 {
		return verdict{protect: true, again: wait}
	}
	return verdict{}
}

// needed says whether an address of c is taken that no other ServiceCIDR, of those that stay, has too.
func needed(c *networkingv1.ServiceCIDR, all []*networkingv1.ServiceCIDR, taken []netip.Addr) bool {
	own := prefixes(c)
	var others []netip.Prefix
	for _, o := range all {
		if o.Name != c.Name && o.DeletionTimestamp == nil && !apimeta.IsStatusConditionFalse(o.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
			others = append(others, prefixes(o)...)
		}
	}
	in := func(list []netip.Prefix, ip netip.Addr) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(ip) })
	}
	return slices.ContainsFunc(taken, func(ip netip.Addr) bool { return in(own, ip) && !in(others, ip) })
}

func prefixes(c *networkingv1.ServiceCIDR) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}
