package validation

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

func service(s *corev1.Service) field.ErrorList {
	errs := serviceType(&s.Spec)
	errs = append(errs, servicePorts(&s.Spec)...)
	errs = append(errs, metavalidation.ValidateLabels(s.Spec.Selector, spec().Child("selector"))...)
	errs = append(errs, oneOf(spec().Child("sessionAffinity"), s.Spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)...)
	if c := s.Spec.SessionAffinityConfig; s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP && c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		if t := *c.ClientIP.TimeoutSeconds; t <= 0 || t > 86400 {
			errs = append(errs, field.Invalid(spec().Child("sessionAffinityConfig", "clientIP", "timeoutSeconds"), t, "must be greater than 0 and less than or equal to 86400"))
		}
	}
	errs = append(errs, clusterIPs(&s.Spec)...)
	errs = append(errs, externalAddresses(&s.Spec)...)
	errs = append(errs, trafficPolicies(&s.Spec)...)
	return errs
}

func serviceType(s *corev1.ServiceSpec) field.ErrorList {
	errs := oneOf(spec().Child("type"), s.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	switch s.Type {
	case corev1.ServiceTypeExternalName:
		if len(s.ClusterIPs) > 0 || s.ClusterIP != "" {
			errs = append(errs, field.Forbidden(spec().Child("clusterIPs"), "may not be set when `type` is 'ExternalName'"))
		}
		name := strings.TrimSuffix(s.ExternalName, ".")
		errs = append(errs, requiredName(spec().Child("externalName"), name, validation.IsDNS1123Subdomain)...)
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if s.ClusterIP == corev1.ClusterIPNone {
			errs = append(errs, field.Invalid(spec().Child("clusterIPs").Index(0), s.ClusterIP, fmt.Sprintf("may not be set to 'None' for %s services", s.Type)))
		}
	}
	headless := s.ClusterIP == corev1.ClusterIPNone
	if len(s.Ports) == 0 && !headless && s.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(spec().Child("ports"), ""))
	}
	if c := s.LoadBalancerClass; c != nil {
		errs = append(errs, invalid(spec().Child("loadBalancerClass"), *c, validation.IsQualifiedName(*c))...)
		if s.Type != corev1.ServiceTypeLoadBalancer {
			errs = append(errs, field.Forbidden(spec().Child("loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'"))
		}
	}
	if s.AllocateLoadBalancerNodePorts != nil && s.Type != corev1.ServiceTypeLoadBalancer {
		errs = append(errs, field.Forbidden(spec().Child("allocateLoadBalancerNodePorts"), "may only be used when `type` is 'LoadBalancer'"))
	}
	return errs
}

func servicePorts(s *corev1.ServiceSpec) field.ErrorList {
	type front struct {
		protocol corev1.Protocol
		port     int32
	}
	var errs field.ErrorList
	names, fronts, nodePorts := sets.New[string](), sets.New[front](), sets.New[front]()
	for i := range s.Ports {
		p, at := &s.Ports[i], spec().Child("ports").Index(i)
		errs = append(errs, servicePort(p, len(s.Ports) > 1, names, at)...)
		if f := (front{p.Protocol, p.Port}); fronts.Has(f) {
			errs = append(errs, field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		} else {
			fronts.Insert(f)
		}
		if p.NodePort == 0 {
			continue
		}
		if s.Type == corev1.ServiceTypeClusterIP || s.Type == corev1.ServiceTypeExternalName {
			errs = append(errs, field.Forbidden(at.Child("nodePort"), fmt.Sprintf("may not be used when `type` is '%s'", s.Type)))
		}
		if f := (front{p.Protocol, p.NodePort}); nodePorts.Has(f) {
			errs = append(errs, field.Duplicate(at.Child("nodePort"), p.NodePort))
		} else {
			nodePorts.Insert(f)
		}
	}
	return errs
}

func servicePort(p *corev1.ServicePort, several bool, names sets.Set[string], at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case p.Name == "" && several:
		errs = append(errs, field.Required(at.Child("name"), ""))
	case p.Name != "" && names.Has(p.Name):
		errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
	case p.Name != "":
		errs = append(errs, invalid(at.Child("name"), p.Name, validation.IsDNS1123Label(p.Name))...)
		names.Insert(p.Name)
	}
	errs = append(errs, portNumber(at.Child("port"), p.Port)...)
	errs = append(errs, oneOf(at.Child("protocol"), p.Protocol, protocols()...)...)
	errs = append(errs, portOrName(p.TargetPort, at.Child("targetPort"))...)
	if p.AppProtocol != nil {
		errs = append(errs, invalid(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))...)
	}
	return errs
}

// clusterIPs holds the rules between a service's addresses and its address families.
func clusterIPs(s *corev1.ServiceSpec) field.ErrorList {
	if s.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var errs field.ErrorList
	at := spec().Child("clusterIPs")
	if len(s.ClusterIPs) == 0 {
		if s.ClusterIP != "" {
			errs = append(errs, field.Required(at, ""))
		}
		return errs
	}
	if s.ClusterIPs[0] != s.ClusterIP {
		errs = append(errs, field.Invalid(at, s.ClusterIPs, "first value must match `clusterIP`"))
	}
	if len(s.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(at, s.ClusterIPs, "may only hold up to 2 values"))
	}
	for i, ip := range s.ClusterIPs {
		switch {
		case ip == corev1.ClusterIPNone && len(s.ClusterIPs) > 1:
			errs = append(errs, field.Invalid(at, s.ClusterIPs, "'None' must be the first and only value"))
		case ip == corev1.ClusterIPNone:
		default:
			bad := validation.IsValidIPForLegacyField(at.Index(i), ip, false, nil)
			errs = append(errs, bad...)
			if len(bad) == 0 && i < len(s.IPFamilies) && netutils.IsIPv6String(ip) != (s.IPFamilies[i] == corev1.IPv6Protocol) {
				errs = append(errs, field.Invalid(at.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", s.IPFamilies[i], i)))
			}
		}
	}
	if len(s.ClusterIPs) == 2 && netutils.IsIPv6String(s.ClusterIPs[0]) == netutils.IsIPv6String(s.ClusterIPs[1]) {
		errs = append(errs, field.Invalid(at, s.ClusterIPs, "may specify no more than one IP for each IP family"))
	}
	return errs
}

func externalAddresses(s *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range s.ExternalIPs {
		at := spec().Child("externalIPs").Index(i)
		bad := validation.IsValidIPForLegacyField(at, ip, false, nil)
		if len(bad) == 0 {
			bad = specialIP(ip, at)
		}
		errs = append(errs, bad...)
	}
	if len(s.LoadBalancerSourceRanges) > 0 && s.Type != corev1.ServiceTypeLoadBalancer {
		errs = append(errs, field.Forbidden(spec().Child("loadBalancerSourceRanges"), "may only be used when `type` is 'LoadBalancer'"))
	}
	for i, cidr := range s.LoadBalancerSourceRanges {
		errs = append(errs, validation.IsValidCIDRForLegacyField(spec().Child("loadBalancerSourceRanges").Index(i), strings.TrimSpace(cidr), false, nil)...)
	}
	return errs
}

// specialIP refuses addresses that no other host can be reached at.
func specialIP(ip string, p *field.Path) field.ErrorList {
	parsed := netutils.ParseIPSloppy(ip)
	if parsed == nil {
		return nil
	}
	var errs field.ErrorList
	if parsed.IsUnspecified() {
		errs = append(errs, field.Invalid(p, ip, fmt.Sprintf("may not be unspecified (%v)", ip)))
	}
	if parsed.IsLoopback() {
		errs = append(errs, field.Invalid(p, ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)"))
	}
	if parsed.IsLinkLocalUnicast() {
		errs = append(errs, field.Invalid(p, ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"))
	}
	if parsed.IsLinkLocalMulticast() {
		errs = append(errs, field.Invalid(p, ip, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"))
	}
	return errs
}

func trafficPolicies(s *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	external := s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer || s.Type == corev1.ServiceTypeClusterIP && len(s.ExternalIPs) > 0
	at := spec().Child("externalTrafficPolicy")
	switch {
	case external:
		errs = append(errs, oneOf(at, s.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	case s.ExternalTrafficPolicy != "":
		errs = append(errs, field.Invalid(at, s.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	if p := s.HealthCheckNodePort; p != 0 {
		if s.Type != corev1.ServiceTypeLoadBalancer || s.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
			errs = append(errs, field.Invalid(spec().Child("healthCheckNodePort"), p, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
		} else {
			errs = append(errs, portNumber(spec().Child("healthCheckNodePort"), p)...)
		}
	}
	if i := s.InternalTrafficPolicy; i != nil {
		errs = append(errs, oneOf(spec().Child("internalTrafficPolicy"), *i, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	} else if s.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(spec().Child("internalTrafficPolicy"), ""))
	}
	if t := s.TrafficDistribution; t != nil {
		errs = append(errs, oneOf(spec().Child("trafficDistribution"), *t, corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return errs
}

// serviceUpdate keeps a service's addresses for as long as it has any: they may be released only by becoming an ExternalName.
func serviceUpdate(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	if old.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.Type != corev1.ServiceTypeExternalName && len(old.Spec.ClusterIPs) > 0 {
		at := spec().Child("clusterIPs")
		switch {
		case len(s.Spec.ClusterIPs) == 0:
			errs = append(errs, field.Invalid(at.Index(0), s.Spec.ClusterIPs, "primary clusterIP can not be unset"))
		case s.Spec.ClusterIPs[0] != old.Spec.ClusterIPs[0]:
			errs = append(errs, field.Invalid(at.Index(0), s.Spec.ClusterIPs, "may not change once set"))
		}
		if len(s.Spec.ClusterIPs) == 2 && len(old.Spec.ClusterIPs) == 2 && !slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) && s.Spec.ClusterIPs[0] == old.Spec.ClusterIPs[0] {
			errs = append(errs, field.Invalid(at.Index(1), s.Spec.ClusterIPs, "may not change once set"))
		}
		if len(old.Spec.IPFamilies) > 0 && len(s.Spec.IPFamilies) > 0 && s.Spec.IPFamilies[0] != old.Spec.IPFamilies[0] {
			errs = append(errs, field.Invalid(spec().Child("ipFamilies").Index(0), s.Spec.IPFamilies, "may not change once set"))
		}
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer {
		errs = append(errs, immutable(spec().Child("loadBalancerClass"), s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass)...)
	}
	return append(errs, service(s)...)
}

func serviceStatus(s, _ *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	at := status().Child("loadBalancer", "ingress")
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) > 0 {
		return field.ErrorList{field.Forbidden(at, "may only be used when `spec.type` is \"LoadBalancer\"")}
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(at.Index(i).Child("ip"), in.IP, false, nil)...)
		}
		if in.Hostname != "" {
			errs = append(errs, invalid(at.Index(i).Child("hostname"), in.Hostname, validation.IsDNS1123Subdomain(in.Hostname))...)
		}
	}
	return errs
}

func endpoints(e *corev1.Endpoints) field.ErrorList {
	var errs field.ErrorList
	for i, s := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range s.Addresses {
			errs = append(errs, endpointAddress(&s.Addresses[j], at.Child("addresses").Index(j))...)
		}
		for j := range s.NotReadyAddresses {
			errs = append(errs, endpointAddress(&s.NotReadyAddresses[j], at.Child("notReadyAddresses").Index(j))...)
		}
		for j, p := range s.Ports {
			port := at.Child("ports").Index(j)
			if p.Name == "" && len(s.Ports) > 1 {
				errs = append(errs, field.Required(port.Child("name"), ""))
			} else if p.Name != "" {
				errs = append(errs, invalid(port.Child("name"), p.Name, validation.IsDNS1123Label(p.Name))...)
			}
			errs = append(errs, portNumber(port.Child("port"), p.Port)...)
			errs = append(errs, oneOf(port.Child("protocol"), p.Protocol, protocols()...)...)
		}
	}
	return errs
}

func endpointAddress(a *corev1.EndpointAddress, p *field.Path) field.ErrorList {
	errs := validation.IsValidIPForLegacyField(p.Child("ip"), a.IP, false, nil)
	if a.Hostname != "" {
		errs = append(errs, invalid(p.Child("hostname"), a.Hostname, validation.IsDNS1123Label(a.Hostname))...)
	}
	if a.NodeName != nil {
		errs = append(errs, nodeName(*a.NodeName, p.Child("nodeName"))...)
	}
	if len(errs) > 0 {
		return errs
	}
	return specialIP(a.IP, p.Child("ip"))
}

func isIPv6CIDR(cidr string) bool { return netutils.IsIPv6CIDRString(cidr) }

// jsonValue demands that a secret's value is JSON.
func jsonValue(data map[string][]byte, key string, p *field.Path) field.ErrorList {
	if v, ok := data[key]; ok && !json.Valid(v) {
		return field.ErrorList{field.Invalid(p.Key(key), "<secret contents redacted>", "invalid JSON")}
	}
	return nil
}
