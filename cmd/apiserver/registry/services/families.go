package services

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/orlop-io/orlop/cmd/apiserver/validation"
)

// familyOf is the family of a text that is an IP address.
func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

func otherFamily(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

func policyOf(s *corev1.ServiceSpec) corev1.IPFamilyPolicy {
	if s.IPFamilyPolicy == nil {
		return ""
	}
	return *s.IPFamilyPolicy
}

func setPolicy(s *corev1.ServiceSpec, p corev1.IPFamilyPolicy) { s.IPFamilyPolicy = &p }

// setFamilies makes policy, families and addresses of a Service agree with each other and with the families of the
// cluster, of which the first is the default. It gives out no address. old is nil for a new Service.
//
// The three fields are three ways to say the same: two addresses mean two families, and two families mean a policy of
// two stacks, unless the client says something else about them.
func setFamilies(s, old *corev1.ServiceSpec, cluster []corev1.IPFamily) field.ErrorList {
	if s.ClusterIP != "" && len(s.ClusterIPs) == 0 {
		s.ClusterIPs = []string{s.ClusterIP}
	}
	if s.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	// What contradicts itself gets no address, and an error that speaks of what the client wrote.
	if errs := validation.ServiceAddresses(s); len(errs) > 0 {
		return errs
	}
	if old != nil {
		dropSecond(s, old)
		if untouchedPreferDual(s, old) {
			// A Service that takes what it can get keeps what it got when the cluster changes.
			return nil
		}
		if errs := checkSingle(s); len(errs) > 0 {
			return errs
		}
	}
	if errs := inferFamilies(s); len(errs) > 0 {
		return errs
	}
	if old == nil {
		if errs := checkSingle(s); len(errs) > 0 {
			return errs
		}
	}
	if headless(s) && len(s.Selector) == 0 {
		// Its endpoints are somebody else's, of whatever family: the cluster's own do not matter.
		completeFamilies(s, cluster[0], true)
		if s.IPFamilyPolicy == nil {
			setPolicy(s, corev1.IPFamilyPolicyRequireDualStack)
		}
		return nil
	}
	if errs := checkCluster(s, cluster); len(errs) > 0 {
		return errs
	}
	if s.IPFamilyPolicy == nil {
		setPolicy(s, corev1.IPFamilyPolicySingleStack)
	}
	completeFamilies(s, cluster[0], len(cluster) > 1)
	return nil
}

// inferFamilies reads families from addresses, and a policy from either.
func inferFamilies(s *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	if !headless(s) {
		at := field.NewPath("spec", "clusterIPs")
		for i, text := range s.ClusterIPs {
			ip, err := parseIP(text)
			if err != nil {
				errs = append(errs, field.Invalid(at.Index(i), text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))
				continue
			}
			switch {
			case i >= len(s.IPFamilies):
				if slices.Contains(s.IPFamilies, familyOf(ip)) {
					errs = append(errs, field.Invalid(at, s.ClusterIPs, "may specify no more than one IP for each IP family"))
					continue
				}
				s.IPFamilies = append(s.IPFamilies, familyOf(ip))
			case s.IPFamilies[i] != familyOf(ip):
				errs = append(errs, field.Invalid(at.Index(i), text,
					fmt.Sprintf("expected an %v value as indicated by `ipFamilies[%v]`", s.IPFamilies[i], i)))
			}
		}
	}
	if s.IPFamilyPolicy == nil && (len(s.ClusterIPs) == 2 || len(s.IPFamilies) == 2) {
		setPolicy(s, corev1.IPFamilyPolicyRequireDualStack)
	}
	return errs
}

// checkSingle refuses two of anything under a policy of one stack.
func checkSingle(s *corev1.ServiceSpec) field.ErrorList {
	if policyOf(s) != corev1.IPFamilyPolicySingleStack {
		return nil
	}
	var errs field.ErrorList
	at := field.NewPath("spec", "ipFamilyPolicy")
	if len(s.ClusterIPs) == 2 {
		errs = append(errs, field.Invalid(at, *s.IPFamilyPolicy, "must be RequireDualStack or PreferDualStack when multiple 'clusterIPs' are specified"))
	}
	if len(s.IPFamilies) == 2 {
		errs = append(errs, field.Invalid(at, *s.IPFamilyPolicy, "must be RequireDualStack or PreferDualStack when multiple 'ipFamilies' are specified"))
	}
	return errs
}

// checkCluster refuses what the cluster cannot give.
func checkCluster(s *corev1.ServiceSpec, cluster []corev1.IPFamily) field.ErrorList {
	var errs field.ErrorList
	if policyOf(s) == corev1.IPFamilyPolicyRequireDualStack && len(cluster) < 2 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), *s.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range s.IPFamilies {
		if !slices.Contains(cluster, f) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	return errs
}

// completeFamilies adds the families that the policy wants and nobody named.
func completeFamilies(s *corev1.ServiceSpec, first corev1.IPFamily, both bool) {
	if len(s.IPFamilies) == 0 {
		s.IPFamilies = []corev1.IPFamily{first}
	}
	if both && len(s.IPFamilies) == 1 && policyOf(s) != corev1.IPFamilyPolicySingleStack {
		s.IPFamilies = append(s.IPFamilies, otherFamily(s.IPFamilies[0]))
	}
}

// dropSecond takes the second family and address away where an update says only that there is to be one stack.
func dropSecond(s, old *corev1.ServiceSpec) {
	was := policyOf(old)
	if was == "" || was == corev1.IPFamilyPolicySingleStack || policyOf(s) != corev1.IPFamilyPolicySingleStack {
		return
	}
	if len(s.ClusterIPs) == 2 && slices.Equal(s.ClusterIPs, old.ClusterIPs) {
		s.ClusterIPs = s.ClusterIPs[:1:1]
	}
	if len(s.IPFamilies) == 2 && slices.Equal(s.IPFamilies, old.IPFamilies) {
		s.IPFamilies = s.IPFamilies[:1:1]
	}
}

// untouchedPreferDual says that an update leaves a Service's wish for two stacks, if there are two, as it was.
func untouchedPreferDual(s, old *corev1.ServiceSpec) bool {
	return old.Type != corev1.ServiceTypeExternalName &&
		policyOf(s) == corev1.IPFamilyPolicyPreferDualStack && policyOf(old) == corev1.IPFamilyPolicyPreferDualStack &&
		len(old.ClusterIPs) > 0 && slices.Equal(s.ClusterIPs, old.ClusterIPs) && slices.Equal(s.IPFamilies, old.IPFamilies)
}
