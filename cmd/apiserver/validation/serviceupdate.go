package validation

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// serviceUpdate keeps a service's addresses for as long as it has any: they may be released only by becoming an ExternalName.
func serviceUpdate(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	if old.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, kept(s, old.Spec.ClusterIPs, s.Spec.ClusterIPs, "clusterIPs", "clusterIP")...)
		// A headless service without a selector has whatever families its endpoints have.
		free := func(s *corev1.ServiceSpec) bool { return s.ClusterIP == corev1.ClusterIPNone && len(s.Selector) == 0 }
		if !free(&s.Spec) || !free(&old.Spec) {
			errs = append(errs, kept(s, old.Spec.IPFamilies, s.Spec.IPFamilies, "ipFamilies", "ipFamily")...)
		}
	}
	class := func(s *corev1.Service) string {
		if s.Spec.LoadBalancerClass == nil {
			return ""
		}
		return *s.Spec.LoadBalancerClass
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer && class(s) != class(old) {
		errs = append(errs, field.Invalid(spec().Child("loadBalancerClass"), s.Spec.LoadBalancerClass, "may not change once set"))
	}
	checked := func(s *corev1.Service) bool {
		return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	}
	if checked(s) && checked(old) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(spec().Child("healthCheckNodePort"), "field is immutable"))
	}
	return append(errs, service(s)...)
}

// kept holds that the first of a pair stays, and that the second may come and go but not change. It goes only if the service
// says that it wants one stack.
func kept[T comparable](s *corev1.Service, old, now []T, list, name string) field.ErrorList {
	at := spec().Child(list)
	switch {
	case len(old) == 0:
		return nil
	case len(now) == 0:
		return field.ErrorList{field.Invalid(at.Index(0), now, "primary "+name+" can not be unset")}
	case now[0] != old[0]:
		return field.ErrorList{field.Invalid(at.Index(0), now, "may not change once set")}
	case len(old) < 2:
		return nil
	case len(now) > 1 && now[1] != old[1]:
		return field.ErrorList{field.Invalid(at.Index(1), now, "may not change once set")}
	}
	single := s.Spec.IPFamilyPolicy != nil && *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	if len(now) == 1 && !single {
		return field.ErrorList{field.Invalid(spec().Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary "+name)}
	}
	return nil
}

func serviceStatus(s, _ *corev1.Service) field.ErrorList {
	at := status().Child("loadBalancer", "ingress")
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) > 0 {
		return field.ErrorList{field.Forbidden(at, "may only be used when `spec.type` is \"LoadBalancer\"")}
	}
	var errs field.ErrorList
	for i := range s.Status.LoadBalancer.Ingress {
		errs = append(errs, balancerIngress(&s.Status.LoadBalancer.Ingress[i], at.Index(i))...)
	}
	return errs
}

func balancerIngress(in *corev1.LoadBalancerIngress, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if in.IP != "" {
		errs = append(errs, validation.IsValidIPForLegacyField(p.Child("ip"), in.IP, false, nil)...)
	}
	mode := p.Child("ipMode")
	switch {
	case in.IPMode == nil && in.IP != "":
		errs = append(errs, field.Required(mode, "must be specified when `ip` is set"))
	case in.IPMode != nil && in.IP == "":
		errs = append(errs, field.Forbidden(mode, "may not be specified when `ip` is not set"))
	case in.IPMode != nil:
		errs = append(errs, supported(mode, *in.IPMode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
	}
	if in.Hostname != "" {
		errs = append(errs, invalid(p.Child("hostname"), in.Hostname, validation.IsDNS1123Subdomain(in.Hostname))...)
		if netutils.ParseIPSloppy(in.Hostname) != nil {
			errs = append(errs, field.Invalid(p.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
		}
	}
	return errs
}
