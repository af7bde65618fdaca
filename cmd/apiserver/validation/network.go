package validation

import (
	"fmt"
	"net/netip"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
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
		return kind(ingress, nil, nil), true
	case *networkingv1.IngressClass:
		return kind(ingressClass, func(c, old *networkingv1.IngressClass) field.ErrorList {
			return append(ingressClass(c), immutable(spec().Child("controller"), c.Spec.Controller, old.Spec.Controller)...)
		}, nil), true
	case *networkingv1.ServiceCIDR:
		return kind(serviceCIDR, nil, nil), true
	}
	return rules{}, false
}

func endpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	errs := oneOf(field.NewPath("addressType"), s.AddressType, discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	if len(s.Endpoints) > 1000 {
		errs = append(errs, field.TooMany(field.NewPath("endpoints"), len(s.Endpoints), 1000))
	}
	for i := range s.Endpoints {
		e, at := &s.Endpoints[i], field.NewPath("endpoints").Index(i)
		if len(e.Addresses) == 0 {
			errs = append(errs, field.Required(at.Child("addresses"), "must contain at least 1 address"))
		} else if len(e.Addresses) > 100 {
			errs = append(errs, field.TooMany(at.Child("addresses"), len(e.Addresses), 100))
		}
		for j, a := range e.Addresses {
			errs = append(errs, sliceAddress(s.AddressType, a, at.Child("addresses").Index(j))...)
		}
		if e.NodeName != nil {
			errs = append(errs, nodeName(*e.NodeName, at.Child("nodeName"))...)
		}
		if e.Hostname != nil {
			errs = append(errs, invalid(at.Child("hostname"), *e.Hostname, validation.IsDNS1123Label(*e.Hostname))...)
		}
	}
	names := sets.New[string]()
	for i, p := range s.Ports {
		at, name := field.NewPath("ports").Index(i), ""
		if p.Name != nil {
			name = *p.Name
		}
		if name != "" {
			errs = append(errs, invalid(at.Child("name"), name, validation.IsDNS1123Label(name))...)
		}
		if names.Has(name) {
			errs = append(errs, field.Duplicate(at.Child("name"), name))
		}
		names.Insert(name)
		if p.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, oneOf(at.Child("protocol"), *p.Protocol, protocols()...)...)
		}
		if p.Port != nil {
			errs = append(errs, portNumber(at.Child("port"), *p.Port)...)
		}
	}
	return errs
}

func sliceAddress(kind discoveryv1.AddressType, a string, p *field.Path) field.ErrorList {
	switch kind {
	case discoveryv1.AddressTypeFQDN:
		return validation.IsFullyQualifiedDomainName(p, a)
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
		errs := validation.IsValidIPForLegacyField(p, a, false, nil)
		if len(errs) == 0 && netutils.IsIPv6String(a) != (kind == discoveryv1.AddressTypeIPv6) {
			errs = append(errs, field.Invalid(p, a, fmt.Sprintf("must be an %s address", kind)))
		}
		return append(errs, specialIP(a, p)...)
	}
	return nil
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
		errs = append(errs, oneOf(spec().Child("policyTypes").Index(i), t, networkingv1.PolicyTypeEgress, networkingv1.PolicyTypeIngress)...)
	}
	return errs
}

func policyPorts(ports []networkingv1.NetworkPolicyPort, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, port := range ports {
		at := p.Index(i)
		if port.Protocol != nil {
			errs = append(errs, oneOf(at.Child("protocol"), *port.Protocol, protocols()...)...)
		}
		if port.Port != nil {
			errs = append(errs, portOrName(*port.Port, at.Child("port"))...)
		}
		switch {
		case port.EndPort == nil:
		case port.Port == nil:
			errs = append(errs, field.Required(at.Child("endPort"), "port must be specified as well"))
		case port.Port.StrVal != "":
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

func ingress(in *networkingv1.Ingress) field.ErrorList {
	var errs field.ErrorList
	if in.Spec.DefaultBackend == nil && len(in.Spec.Rules) == 0 {
		errs = append(errs, field.Invalid(spec(), in.Spec.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if in.Spec.DefaultBackend != nil {
		errs = append(errs, ingressBackend(in.Spec.DefaultBackend, spec().Child("defaultBackend"))...)
	}
	if c := in.Spec.IngressClassName; c != nil {
		errs = append(errs, invalid(spec().Child("ingressClassName"), *c, validation.IsDNS1123Subdomain(*c))...)
	}
	for i, t := range in.Spec.TLS {
		for j, h := range t.Hosts {
			errs = append(errs, ingressHost(h, spec().Child("tls").Index(i).Child("hosts").Index(j))...)
		}
	}
	for i := range in.Spec.Rules {
		r, at := &in.Spec.Rules[i], spec().Child("rules").Index(i)
		if r.Host != "" {
			errs = append(errs, ingressHost(r.Host, at.Child("host"))...)
		}
		if r.HTTP == nil {
			continue
		}
		if len(r.HTTP.Paths) == 0 {
			errs = append(errs, field.Required(at.Child("http", "paths"), ""))
		}
		for j := range r.HTTP.Paths {
			errs = append(errs, ingressPath(&r.HTTP.Paths[j], at.Child("http", "paths").Index(j))...)
		}
	}
	return errs
}

func ingressHost(h string, p *field.Path) field.ErrorList {
	if _, err := netip.ParseAddr(h); err == nil {
		return field.ErrorList{field.Invalid(p, h, "must be a DNS name, not an IP address")}
	}
	if strings.Contains(h, "*") {
		return invalid(p, h, validation.IsWildcardDNS1123Subdomain(h))
	}
	return invalid(p, h, validation.IsDNS1123Subdomain(h))
}

func ingressPath(x *networkingv1.HTTPIngressPath, p *field.Path) field.ErrorList {
	if x.PathType == nil {
		return field.ErrorList{field.Required(p.Child("pathType"), "pathType must be specified")}
	}
	errs := oneOf(p.Child("pathType"), *x.PathType, networkingv1.PathTypeExact, networkingv1.PathTypePrefix, networkingv1.PathTypeImplementationSpecific)
	implementation := *x.PathType == networkingv1.PathTypeImplementationSpecific
	if !strings.HasPrefix(x.Path, "/") && (!implementation || x.Path != "") {
		errs = append(errs, field.Invalid(p.Child("path"), x.Path, "must be an absolute path"))
	}
	if !implementation {
		for _, s := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(x.Path, s) {
				errs = append(errs, field.Invalid(p.Child("path"), x.Path, fmt.Sprintf("must not contain '%s'", s)))
			}
		}
		for _, s := range []string{"/..", "/."} {
			if strings.HasSuffix(x.Path, s) {
				errs = append(errs, field.Invalid(p.Child("path"), x.Path, fmt.Sprintf("cannot end with '%s'", s)))
			}
		}
	}
	return append(errs, ingressBackend(&x.Backend, p.Child("backend"))...)
}

func ingressBackend(b *networkingv1.IngressBackend, p *field.Path) field.ErrorList {
	switch {
	case b.Service != nil && b.Resource != nil:
		return field.ErrorList{field.Invalid(p, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return append(required(p.Child("resource", "kind"), b.Resource.Kind), required(p.Child("resource", "name"), b.Resource.Name)...)
	case b.Service == nil:
		return field.ErrorList{field.Required(p, "backend resource or service is required")}
	}
	errs := requiredName(p.Child("service", "name"), b.Service.Name, validation.IsDNS1123Label)
	port, at := b.Service.Port, p.Child("service", "port")
	switch {
	case port.Name != "" && port.Number != 0:
		errs = append(errs, field.Invalid(at, "", "cannot set both port name & port number"))
	case port.Name != "":
		errs = append(errs, invalid(at.Child("name"), port.Name, validation.IsValidPortName(port.Name))...)
	case port.Number != 0:
		errs = append(errs, portNumber(at.Child("number"), port.Number)...)
	default:
		errs = append(errs, field.Required(at, "port name or number is required"))
	}
	return errs
}

func ingressClass(c *networkingv1.IngressClass) field.ErrorList {
	if len(c.Spec.Controller) > 250 {
		return field.ErrorList{field.TooLong(spec().Child("controller"), "", 250)}
	}
	errs := validation.IsDomainPrefixedPath(spec().Child("controller"), c.Spec.Controller)
	p, at := c.Spec.Parameters, spec().Child("parameters")
	if p == nil {
		return errs
	}
	errs = append(errs, required(at.Child("kind"), p.Kind)...)
	errs = append(errs, required(at.Child("name"), p.Name)...)
	if p.Scope == nil {
		return append(errs, field.Required(at.Child("scope"), ""))
	}
	errs = append(errs, oneOf(at.Child("scope"), *p.Scope, networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace)...)
	inNamespace := *p.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace
	if inNamespace && (p.Namespace == nil || *p.Namespace == "") {
		errs = append(errs, field.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	} else if !inNamespace && p.Namespace != nil {
		errs = append(errs, field.Forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
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
