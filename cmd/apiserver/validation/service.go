package validation

import (
	"fmt"
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
	errs = append(errs, sessionAffinity(&s.Spec)...)
	errs = append(errs, ServiceAddresses(&s.Spec)...)
	for i, ip := range s.Spec.ExternalIPs {
		at := spec().Child("externalIPs").Index(i)
		bad := validation.IsValidIPForLegacyField(at, ip, false, nil)
		if len(bad) == 0 {
			bad = specialIP(ip, at)
		}
		errs = append(errs, bad...)
	}
	errs = append(errs, balancer(s)...)
	return append(errs, trafficPolicies(&s.Spec)...)
}

// kubeletPort must not be reachable through a load balancer: whoever can talk to a kubelet may run what he likes.
const kubeletPort = 10250

func serviceType(s *corev1.ServiceSpec) field.ErrorList {
	headless := s.ClusterIP == corev1.ClusterIPNone
	errs := oneOf(spec().Child("type"), s.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	if len(s.Ports) == 0 && !headless && s.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(spec().Child("ports"), ""))
	}
	switch s.Type {
	case corev1.ServiceTypeLoadBalancer:
		for i, p := range s.Ports {
			if p.Port == kubeletPort {
				errs = append(errs, field.Invalid(spec().Child("ports").Index(i), p.Port, fmt.Sprintf("may not expose port %d externally since it is used by kubelet", kubeletPort)))
			}
		}
		fallthrough
	case corev1.ServiceTypeNodePort:
		if headless {
			errs = append(errs, field.Invalid(spec().Child("clusterIPs").Index(0), s.ClusterIP, fmt.Sprintf("may not be set to 'None' for %s services", s.Type)))
		}
	case corev1.ServiceTypeExternalName:
		const refused = "may not be set for ExternalName services"
		if len(s.ClusterIPs) > 0 || s.ClusterIP != "" {
			errs = append(errs, field.Forbidden(spec().Child("clusterIPs"), refused))
		}
		if len(s.IPFamilies) > 0 {
			errs = append(errs, field.Forbidden(spec().Child("ipFamilies"), refused))
		}
		if s.IPFamilyPolicy != nil {
			errs = append(errs, field.Forbidden(spec().Child("ipFamilyPolicy"), refused))
		}
		errs = append(errs, subdomain(strings.TrimSuffix(s.ExternalName, "."), spec().Child("externalName"))...)
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
		if s.Type == corev1.ServiceTypeClusterIP {
			errs = append(errs, field.Forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
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
	case p.Name != "":
		errs = append(errs, invalid(at.Child("name"), p.Name, validation.IsDNS1123Label(p.Name))...)
		if names.Has(p.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
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

// maxAffinity is how long, in seconds, a client may be sent to the same endpoint.
const maxAffinity = 86400

func sessionAffinity(s *corev1.ServiceSpec) field.ErrorList {
	errs := oneOf(spec().Child("sessionAffinity"), s.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at := spec().Child("sessionAffinityConfig")
	c := s.SessionAffinityConfig
	if s.SessionAffinity == corev1.ServiceAffinityNone && c != nil {
		errs = append(errs, field.Forbidden(at, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone)))
	}
	if s.SessionAffinity != corev1.ServiceAffinityClientIP {
		return errs
	}
	missing := fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)
	switch {
	case c == nil:
		errs = append(errs, field.Required(at, missing))
	case c.ClientIP == nil:
		errs = append(errs, field.Required(at.Child("clientIP"), missing))
	case c.ClientIP.TimeoutSeconds == nil:
		errs = append(errs, field.Required(at.Child("clientIP", "timeoutSeconds"), missing))
	case *c.ClientIP.TimeoutSeconds <= 0 || *c.ClientIP.TimeoutSeconds > maxAffinity:
		errs = append(errs, field.Invalid(at.Child("clientIP", "timeoutSeconds"), *c.ClientIP.TimeoutSeconds, fmt.Sprintf("must be greater than 0 and less than %d", maxAffinity)))
	}
	return errs
}

// ServiceAddresses holds the rules between a service's addresses and its address families, of which each may still be missing.
func ServiceAddresses(s *corev1.ServiceSpec) field.ErrorList {
	if s.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	errs := ipFamilies(s)
	at := spec().Child("clusterIPs")
	switch {
	case s.ClusterIP != "" && len(s.ClusterIPs) == 0:
		errs = append(errs, field.Required(at, ""))
	case s.ClusterIP != "" && s.ClusterIPs[0] != s.ClusterIP:
		errs = append(errs, field.Invalid(at, s.ClusterIPs, "first value must match `clusterIP`"))
	case s.ClusterIP == "" && len(s.ClusterIPs) > 0:
		errs = append(errs, field.Invalid(at, s.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	}
	sound := true
	for i, ip := range s.ClusterIPs {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(s.ClusterIPs) > 1 {
				errs, sound = append(errs, field.Invalid(at, s.ClusterIPs, "'None' must be the first and only value")), false
			}
			continue
		}
		bad := validation.IsValidIPForLegacyField(at.Index(i), ip, false, nil)
		errs, sound = append(errs, bad...), sound && len(bad) == 0
	}
	if len(s.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(at, s.ClusterIPs, "may only hold up to 2 values"))
	}
	if !sound || s.ClusterIP == corev1.ClusterIPNone {
		return errs
	}
	if len(s.ClusterIPs) > 1 && netutils.IsIPv6String(s.ClusterIPs[0]) == netutils.IsIPv6String(s.ClusterIPs[1]) {
		errs = append(errs, field.Invalid(at, s.ClusterIPs, "may specify no more than one IP for each IP family"))
	}
	for i, ip := range s.ClusterIPs {
		if i < len(s.IPFamilies) && netutils.IsIPv6String(ip) != (s.IPFamilies[i] == corev1.IPv6Protocol) {
			errs = append(errs, field.Invalid(at.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", s.IPFamilies[i], i)))
		}
	}
	return errs
}

func ipFamilies(s *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.IPFamily]()
	for i, f := range s.IPFamilies {
		at := spec().Child("ipFamilies").Index(i)
		errs = append(errs, supported(at, f, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if seen.Has(f) {
			errs = append(errs, field.Duplicate(at, f))
		}
		seen.Insert(f)
	}
	if p := s.IPFamilyPolicy; p != nil {
		errs = append(errs, supported(spec().Child("ipFamilyPolicy"), *p, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	}
	return errs
}

// balancer validates what only a load balancer knows.
func balancer(s *corev1.Service) field.ErrorList {
	const refused = "may only be used when `type` is 'LoadBalancer'"
	ours := s.Spec.Type == corev1.ServiceTypeLoadBalancer
	var errs field.ErrorList
	ranges, at := s.Spec.LoadBalancerSourceRanges, spec().Child("LoadBalancerSourceRanges")
	indexed := at.Index
	if len(ranges) == 0 {
		annotation := strings.TrimSpace(s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey])
		at = field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
		indexed = func(int) *field.Path { return at }
		if annotation != "" {
			ranges = strings.Split(annotation, ",")
		}
	}
	if len(ranges) > 0 && !ours {
		errs = append(errs, field.Forbidden(at, refused))
	}
	for i, cidr := range ranges {
		errs = append(errs, validation.IsValidCIDRForLegacyField(indexed(i), strings.TrimSpace(cidr), false, nil)...)
	}
	switch {
	case s.Spec.AllocateLoadBalancerNodePorts != nil && !ours:
		errs = append(errs, field.Forbidden(spec().Child("allocateLoadBalancerNodePorts"), refused))
	case s.Spec.AllocateLoadBalancerNodePorts == nil && ours:
		errs = append(errs, field.Required(spec().Child("allocateLoadBalancerNodePorts"), ""))
	}
	if c := s.Spec.LoadBalancerClass; c != nil {
		if ours {
			errs = append(errs, invalid(spec().Child("loadBalancerClass"), *c, validation.IsQualifiedName(*c))...)
		} else {
			errs = append(errs, field.Forbidden(spec().Child("loadBalancerClass"), refused))
		}
	}
	return errs
}

// specialIP refuses addresses that no other host can be reached at.
func specialIP(ip string, p *field.Path) field.ErrorList {
	parsed := netutils.ParseIPSloppy(ip)
	if parsed == nil {
		return field.ErrorList{field.Invalid(p, ip, "must be a valid IP address")}
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
		errs = append(errs, supported(spec().Child("internalTrafficPolicy"), *i, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	} else if s.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(spec().Child("internalTrafficPolicy"), ""))
	}
	if t := s.TrafficDistribution; t != nil {
		errs = append(errs, supported(spec().Child("trafficDistribution"), *t, corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameNode, corev1.ServiceTrafficDistributionPreferSameZone)...)
	}
	return errs
}
