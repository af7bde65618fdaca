package validation

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

func nodeName(name string, p *field.Path) field.ErrorList {
	return invalid(p, name, validation.IsDNS1123Subdomain(name))
}

// node validates a node. Its taints are reported under metadata, where they once were, and where clients look for them.
func node(n *corev1.Node) field.ErrorList {
	errs := taints(n.Spec.Taints, field.NewPath("metadata", "taints"))
	errs = append(errs, nodeResources(&n.Status)...)
	if len(n.Spec.PodCIDRs) == 0 {
		return errs
	}
	at, sound := spec().Child("podCIDRs"), true
	for i, cidr := range n.Spec.PodCIDRs {
		bad := validation.IsValidCIDRForLegacyField(at.Index(i), cidr, false, nil)
		errs, sound = append(errs, bad...), sound && len(bad) == 0
	}
	c := n.Spec.PodCIDRs
	if sound && (len(c) > 2 || len(c) == 2 && isIPv6CIDR(c[0]) == isIPv6CIDR(c[1])) {
		errs = append(errs, field.Invalid(at, c, "may specify no more than one CIDR for each IP family"))
	}
	return errs
}

func nodeResources(s *corev1.NodeStatus) field.ErrorList {
	var errs field.ErrorList
	for _, list := range []struct {
		name      string
		resources corev1.ResourceList
	}{{"capacity", s.Capacity}, {"allocatable", s.Allocatable}} {
		for _, n := range sortedNames(list.resources) {
			errs = append(errs, resourceQuantity(status().Child(list.name).Key(string(n)), n, list.resources[n])...)
		}
	}
	return errs
}

func taints(list []corev1.Taint, p *field.Path) field.ErrorList {
	type identity struct {
		key    string
		effect corev1.TaintEffect
	}
	var errs field.ErrorList
	seen := sets.New[identity]()
	for i, t := range list {
		at := p.Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		if bad := validation.IsValidLabelValue(t.Value); len(bad) > 0 {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, strings.Join(bad, ";")))
		}
		errs = append(errs, taintEffect(t.Effect, at.Child("effect"))...)
		if seen.Has(identity{t.Key, t.Effect}) {
			twice := field.Duplicate(at, t)
			twice.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, twice)
		}
		seen.Insert(identity{t.Key, t.Effect})
	}
	return errs
}

// nodeUpdate lets a node's pod CIDRs and provider be set once.
func nodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := node(n)
	seen := sets.New[corev1.NodeAddress]()
	for i, a := range n.Status.Addresses {
		if seen.Has(a) {
			errs = append(errs, field.Duplicate(status().Child("addresses").Index(i), a))
		}
		seen.Insert(a)
	}
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(spec().Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && old.Spec.ProviderID != n.Spec.ProviderID {
		errs = append(errs, field.Forbidden(spec().Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	if n.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(n.Spec.ConfigSource, old.Spec.ConfigSource) {
		errs = append(errs, field.Forbidden(spec().Child("configSource"), "configSource is not supported, dynamic kubelet config has been removed"))
	}
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(spec().Child("externalID"), "may not be updated"))
	}
	return errs
}

func isIPv6CIDR(cidr string) bool { return netutils.IsIPv6CIDRString(cidr) }
