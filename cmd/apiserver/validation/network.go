package validation

import (
	"net/netip"

	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func networkRules(obj runtime.Object) (rules, bool) {
	switch obj.(type) {
	case *discoveryv1.EndpointSlice:
		return kind(endpointSlice, func(s, old *discoveryv1.EndpointSlice) field.ErrorList {
			return append(endpointSlice(s), immutable(field.NewPath("addressType"), s.AddressType, old.AddressType)...)
		}, nil), true
	case *networkingv1.NetworkPolicy:
		return kind(networkPolicy, nil, nil), true
	case *networkingv1.Ingress:
		return kind(ingressCreate, func(in, _ *networkingv1.Ingress) field.ErrorList { return ingress(in) }, ingressStatus), true
	case *networkingv1.IngressClass:
		return kind(ingressClass, func(c, old *networkingv1.IngressClass) field.ErrorList {
			return append(ingressClass(c), immutable(spec().Child("controller"), c.Spec.Controller, old.Spec.Controller)...)
		}, nil), true
	case *networkingv1.ServiceCIDR:
		return kind(serviceCIDR, serviceCIDRUpdate, serviceCIDRStatus), true
	}
	return rules{}, false
}

func networkPolicy(n *networkingv1.NetworkPolicy) field.ErrorList {
	errs := labelSelector(spec().Child("podSelector"), &n.Spec.PodSelector)
	for i, r := range n.Spec.Ingress {
		at := spec().Child("ingress").Index(i)
		errs = append(errs, policyPorts(r.Ports, at.Child("ports"))...)
		errs = append(errs, policyPeers(r.From, at.Child("from"))...)
	}
	for i, r := range n.Spec.Egress {
		at := spec().Child("egress").Index(i)
		errs = append(errs, policyPorts(r.Ports, at.Child("ports"))...)
		errs = append(errs, policyPeers(r.To, at.Child("to"))...)
	}
	if len(n.Spec.PolicyTypes) > 2 {
		return append(errs, field.Invalid(spec().Child("policyTypes"), &n.Spec.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range n.Spec.PolicyTypes {
		errs = append(errs, supported(spec().Child("policyTypes").Index(i), t, networkingv1.PolicyTypeEgress, networkingv1.PolicyTypeIngress)...)
	}
	return errs
}

func policyPorts(ports []networkingv1.NetworkPolicyPort, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, port := range ports {
		at := p.Index(i)
		if port.Protocol != nil {
			errs = append(errs, supported(at.Child("protocol"), *port.Protocol, protocols()...)...)
		}
		if port.Port != nil {
			errs = append(errs, portOrName(*port.Port, at.Child("port"))...)
		}
		switch {
		case port.EndPort == nil:
		case port.Port == nil:
			errs = append(errs, field.Invalid(at.Child("endPort"), *port.EndPort, "may not be specified when `port` is not specified"))
		case port.Port.Type == intstr.String:
			errs = append(errs, field.Invalid(at.Child("endPort"), *port.EndPort, "may not be specified when `port` is non-numeric"))
		case *port.EndPort < port.Port.IntVal:
			errs = append(errs, field.Invalid(at.Child("endPort"), *port.EndPort, "must be greater than or equal to `port`"))
		default:
			errs = append(errs, portNumber(at.Child("endPort"), *port.EndPort)...)
		}
	}
	return errs
}

func policyPeers(peers []networkingv1.NetworkPolicyPeer, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, peer := range peers {
		at := p.Index(i)
		errs = append(errs, labelSelector(at.Child("podSelector"), peer.PodSelector)...)
		errs = append(errs, labelSelector(at.Child("namespaceSelector"), peer.NamespaceSelector)...)
		switch {
		case peer.PodSelector == nil && peer.NamespaceSelector == nil && peer.IPBlock == nil:
			errs = append(errs, field.Required(at, "must specify a peer"))
		case peer.IPBlock != nil && (peer.PodSelector != nil || peer.NamespaceSelector != nil):
			errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
		case peer.IPBlock != nil:
			errs = append(errs, ipBlock(peer.IPBlock, at.Child("ipBlock"))...)
		}
	}
	return errs
}

func ipBlock(b *networkingv1.IPBlock, p *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(p.Child("cidr"), "")}
	}
	errs := validation.IsValidCIDRForLegacyField(p.Child("cidr"), b.CIDR, false, nil)
	whole, err := netip.ParsePrefix(b.CIDR)
	for i, e := range b.Except {
		at := p.Child("except").Index(i)
		errs = append(errs, validation.IsValidCIDRForLegacyField(at, e, false, nil)...)
		part, partErr := netip.ParsePrefix(e)
		if err == nil && partErr == nil && (!whole.Contains(part.Addr()) || part.Bits() <= whole.Bits()) {
			errs = append(errs, field.Invalid(at, e, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

func serviceCIDR(c *networkingv1.ServiceCIDR) field.ErrorList {
	at := spec().Child("cidrs")
	if len(c.Spec.CIDRs) == 0 {
		return field.ErrorList{field.Required(at, "at least one CIDR required")}
	}
	if len(c.Spec.CIDRs) > 2 {
		return field.ErrorList{field.Invalid(at, c.Spec, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	for i, cidr := range c.Spec.CIDRs {
		errs = append(errs, validation.IsValidCIDR(at.Index(i), cidr)...)
	}
	if len(c.Spec.CIDRs) == 2 && isIPv6CIDR(c.Spec.CIDRs[0]) == isIPv6CIDR(c.Spec.CIDRs[1]) {
		errs = append(errs, field.Invalid(at, c.Spec, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96"))
	}
	return errs
}
