package validation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

const (
	ingressClassAnnotation = "kubernetes.io/ingress.class"
	maxIngressController   = 250
)

// ingressCreate judges a new ingress, which must not name two classes; old ones may have.
func ingressCreate(in *networkingv1.Ingress) field.ErrorList {
	errs := ingress(in)
	class, ok := in.Annotations[ingressClassAnnotation]
	if ok && in.Spec.IngressClassName != nil && class != *in.Spec.IngressClassName {
		errs = append(errs, field.Invalid(field.NewPath("annotations").Child(ingressClassAnnotation), class, "must match `ingressClassName` when both are specified"))
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
	for i := range in.Spec.Rules {
		errs = append(errs, ingressRule(&in.Spec.Rules[i], spec().Child("rules").Index(i))...)
	}
	if c := in.Spec.IngressClassName; c != nil {
		errs = append(errs, invalid(spec().Child("ingressClassName"), *c, validation.IsDNS1123Subdomain(*c))...)
	}
	for i, t := range in.Spec.TLS {
		at := spec().Child("tls").Index(i)
		for j, h := range t.Hosts {
			errs = append(errs, hostName(h, at.Child("hosts").Index(j))...)
		}
		if t.SecretName != "" {
			errs = append(errs, invalid(at.Child("secretName"), t.SecretName, apivalidation.NameIsDNSSubdomain(t.SecretName, false))...)
		}
	}
	return errs
}

func ingressRule(r *networkingv1.IngressRule, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Host != "" {
		if netutils.ParseIPSloppy(r.Host) != nil {
			errs = append(errs, field.Invalid(p.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, hostName(r.Host, p.Child("host"))...)
	}
	if r.HTTP == nil {
		return errs
	}
	if len(r.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(p.Child("http", "paths"), ""))
	}
	for i := range r.HTTP.Paths {
		errs = append(errs, ingressPath(&r.HTTP.Paths[i], p.Child("http", "paths").Index(i))...)
	}
	return errs
}

// hostName demands a DNS name, the first part of which may be a wildcard.
func hostName(h string, p *field.Path) field.ErrorList {
	if strings.Contains(h, "*") {
		return invalid(p, h, validation.IsWildcardDNS1123Subdomain(h))
	}
	return invalid(p, h, validation.IsDNS1123Subdomain(h))
}

func ingressPath(x *networkingv1.HTTPIngressPath, p *field.Path) field.ErrorList {
	if x.PathType == nil {
		return field.ErrorList{field.Required(p.Child("pathType"), "pathType must be specified")}
	}
	errs := supported(p.Child("pathType"), *x.PathType, networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix)
	if len(errs) > 0 {
		return append(errs, ingressBackend(&x.Backend, p.Child("backend"))...)
	}
	own := *x.PathType == networkingv1.PathTypeImplementationSpecific
	if !strings.HasPrefix(x.Path, "/") && (!own || x.Path != "") {
		errs = append(errs, field.Invalid(p.Child("path"), x.Path, "must be an absolute path"))
	}
	if !own {
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
		return localReference(b.Resource, p.Child("resource"))
	case b.Service == nil:
		return field.ErrorList{field.Invalid(p, "", "resource or service backend is required")}
	}
	errs := requiredName(p.Child("service", "name"), b.Service.Name, validation.IsDNS1123Label)
	port, at := b.Service.Port, p.Child("service", "port")
	switch {
	case port.Name != "" && port.Number != 0:
		errs = append(errs, field.Invalid(p, "", "cannot set both port name & port number"))
	case port.Name != "":
		errs = append(errs, invalid(at.Child("name"), port.Name, validation.IsValidPortName(port.Name))...)
	case port.Number != 0:
		errs = append(errs, portNumber(at.Child("number"), port.Number)...)
	default:
		errs = append(errs, field.Required(p, "port name or number is required"))
	}
	return errs
}

// localReference validates a reference to an object of any kind; what it says becomes parts of a URL.
func localReference(r *corev1.TypedLocalObjectReference, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.APIGroup != nil {
		errs = append(errs, invalid(p.Child("apiGroup"), *r.APIGroup, validation.IsDNS1123Subdomain(*r.APIGroup))...)
	}
	if r.Kind == "" {
		errs = append(errs, field.Required(p.Child("kind"), "kind is required"))
	}
	errs = append(errs, invalid(p.Child("kind"), r.Kind, path.IsValidPathSegmentName(r.Kind))...)
	if r.Name == "" {
		errs = append(errs, field.Required(p.Child("name"), "name is required"))
	}
	return append(errs, invalid(p.Child("name"), r.Name, path.IsValidPathSegmentName(r.Name))...)
}

func ingressStatus(in, _ *networkingv1.Ingress) field.ErrorList {
	var errs field.ErrorList
	for i, x := range in.Status.LoadBalancer.Ingress {
		at := status().Child("loadBalancer", "ingress").Index(i)
		if x.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), x.IP, false, nil)...)
		}
		if x.Hostname != "" {
			errs = append(errs, invalid(at.Child("hostname"), x.Hostname, validation.IsDNS1123Subdomain(x.Hostname))...)
			if netutils.ParseIPSloppy(x.Hostname) != nil {
				errs = append(errs, field.Invalid(at.Child("hostname"), x.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}

func ingressClass(c *networkingv1.IngressClass) field.ErrorList {
	var errs field.ErrorList
	at := spec().Child("controller")
	if len(c.Spec.Controller) > maxIngressController {
		errs = append(errs, field.TooLong(at, c.Spec.Controller, maxIngressController))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(at, c.Spec.Controller)...)
	p, at := c.Spec.Parameters, spec().Child("parameters")
	if p == nil {
		return errs
	}
	errs = append(errs, localReference(&corev1.TypedLocalObjectReference{APIGroup: p.APIGroup, Kind: p.Kind, Name: p.Name}, at)...)
	if p.Scope == nil {
		return append(errs, field.Required(at.Child("scope"), ""))
	}
	errs = append(errs, supported(at.Child("scope"), *p.Scope, networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace)...)
	switch *p.Scope {
	case networkingv1.IngressClassParametersReferenceScopeNamespace:
		if p.Namespace == nil {
			errs = append(errs, field.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
		} else {
			errs = append(errs, invalid(at.Child("namespace"), *p.Namespace, validation.IsDNS1123Label(*p.Namespace))...)
		}
	case networkingv1.IngressClassParametersReferenceScopeCluster:
		if p.Namespace != nil {
			errs = append(errs, field.Forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
		}
	}
	return errs
}
