package validation

import (
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// scope is what the parts of a pod's spec must know of the whole.
type scope struct {
	spec *corev1.PodSpec
	// meta is the pod's metadata, nil for a template. A few rules came late and hold for pods alone, so that what had been
	// stored in a template before them stays valid.
	meta       *metav1.ObjectMeta
	containers sets.Set[string]
	volumes    map[string]corev1.VolumeSource
	hostPorts  sets.Set[string]
	claims     sets.Set[string]
}

// podSpec validates a pod's spec, or, without metadata, a template's.
func podSpec(s *corev1.PodSpec, meta *metav1.ObjectMeta, p *field.Path) field.ErrorList {
	in := scope{spec: s, meta: meta, containers: sets.New[string](), hostPorts: sets.New[string](), claims: sets.New[string]()}
	var errs field.ErrorList
	in.volumes, errs = volumes(s.Volumes, in, p.Child("volumes"))
	errs = append(errs, podClaims(s.ResourceClaims, in, p.Child("resourceClaims"))...)
	errs = append(errs, containers(s.Containers, in, p.Child("containers"))...)
	errs = append(errs, initContainers(s.InitContainers, in, p.Child("initContainers"))...)
	errs = append(errs, ephemeralContainers(in, p.Child("ephemeralContainers"))...)
	errs = append(errs, podResources(s, p)...)
	errs = append(errs, hostNetworkPorts(in, p)...)
	errs = append(errs, lifetime(s, p)...)
	errs = append(errs, dns(s, p)...)
	errs = append(errs, podNames(s, p)...)
	errs = append(errs, podHostname(s, p)...)
	errs = append(errs, gates(s, p)...)
	errs = append(errs, podSecurity(s, p)...)
	errs = append(errs, hostUsers(s, p)...)
	errs = append(errs, hostProcess(s, p)...)
	errs = append(errs, podOS(s, p)...)
	errs = append(errs, scheduling(s, p)...)
	errs = append(errs, schedulingGroup(s, p)...)
	return append(errs, evictionResponders(s, p.Child("evictionResponders"))...)
}

func podClaims(list []corev1.PodResourceClaim, in scope, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, c := range list {
		at := p.Index(i)
		errs = append(errs, requiredName(at.Child("name"), c.Name, validation.IsDNS1123Label)...)
		if c.Name != "" && in.claims.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		in.claims.Insert(c.Name)
		switch {
		case c.ResourceClaimName != nil && c.ResourceClaimTemplateName != nil:
			errs = append(errs, field.Invalid(at, c, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		case c.ResourceClaimName == nil && c.ResourceClaimTemplateName == nil:
			errs = append(errs, field.Invalid(at, c, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if n := c.ResourceClaimName; n != nil {
			errs = append(errs, invalid(at.Child("resourceClaimName"), *n, validation.IsDNS1123Subdomain(*n))...)
		}
		if n := c.ResourceClaimTemplateName; n != nil {
			errs = append(errs, invalid(at.Child("resourceClaimTemplateName"), *n, validation.IsDNS1123Subdomain(*n))...)
		}
	}
	return errs
}

func lifetime(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	errs := oneOf(p.Child("restartPolicy"), s.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure)
	if s.TerminationGracePeriodSeconds == nil {
		errs = append(errs, field.Required(p.Child("terminationGracePeriodSeconds"), ""))
	}
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		errs = append(errs, field.Invalid(p.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	return errs
}

// Limits of a resolver's configuration.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

func dns(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	errs := oneOf(p.Child("dnsPolicy"), s.DNSPolicy, corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet, corev1.DNSDefault, corev1.DNSNone)
	c, at := s.DNSConfig, p.Child("dnsConfig")
	if s.DNSPolicy == corev1.DNSNone {
		if c == nil {
			return append(errs, field.Required(at, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone)))
		}
		if len(c.Nameservers) == 0 {
			errs = append(errs, field.Required(at.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone)))
		}
	}
	if c == nil {
		return errs
	}
	if len(c.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(at.Child("nameservers"), c.Nameservers, fmt.Sprintf("must not have more than %d nameservers", maxNameservers)))
	}
	for i, ns := range c.Nameservers {
		errs = append(errs, validation.IsValidIPForLegacyField(at.Child("nameservers").Index(i), ns, false, nil)...)
	}
	errs = append(errs, searches(c.Searches, at.Child("searches"))...)
	for i, o := range c.Options {
		if o.Name == "" {
			errs = append(errs, field.Required(at.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

func searches(list []string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) > maxSearches {
		errs = append(errs, field.Invalid(p, list, fmt.Sprintf("must not have more than %d search paths", maxSearches)))
	}
	if len(strings.Join(list, " ")) > maxSearchChars {
		errs = append(errs, field.Invalid(p, list, fmt.Sprintf("must not have more than %d characters (including spaces) in the search list", maxSearchChars)))
	}
	for i, search := range list {
		if search == "." {
			continue
		}
		search = strings.TrimSuffix(search, ".")
		errs = append(errs, invalid(p.Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(search))...)
	}
	return errs
}

// podNames validates the names in a pod's spec and its hosts file.
func podNames(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []struct {
		name, value string
		shape       func(string) []string
	}{
		{"serviceAccountName", s.ServiceAccountName, validation.IsDNS1123Subdomain},
		{"nodeName", s.NodeName, validation.IsDNS1123Subdomain},
		{"hostname", s.Hostname, validation.IsDNS1123Label},
		{"subdomain", s.Subdomain, validation.IsDNS1123Label},
		{"priorityClassName", s.PriorityClassName, validation.IsDNS1123Subdomain},
	} {
		if f.value != "" {
			errs = append(errs, invalid(p.Child(f.name), f.value, f.shape(f.value))...)
		}
	}
	if n := s.RuntimeClassName; n != nil {
		errs = append(errs, invalid(p.Child("runtimeClassName"), *n, validation.IsDNS1123Subdomain(*n))...)
	}
	for i, a := range s.HostAliases {
		at := p.Child("hostAliases").Index(i)
		errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), a.IP, false, nil)...)
		for j, h := range a.Hostnames {
			errs = append(errs, invalid(at.Child("hostnames").Index(j), h, validation.IsDNS1123Subdomain(h))...)
		}
	}
	return errs
}

// maxHostname is the longest name that Linux gives a host.
const maxHostname = 64

func podHostname(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	if s.HostnameOverride == nil {
		return nil
	}
	at := p.Child("hostnameOverride")
	var errs field.ErrorList
	if s.SetHostnameAsFQDN != nil && *s.SetHostnameAsFQDN {
		errs = append(errs, field.Forbidden(at, "may not be specified when `setHostnameAsFQDN` is true"))
	}
	if s.HostNetwork {
		errs = append(errs, field.Forbidden(at, "may not be specified when `hostNetwork` is true"))
	}
	if len(*s.HostnameOverride) > maxHostname {
		errs = append(errs, field.TooLong(at, *s.HostnameOverride, maxHostname))
	}
	return append(errs, invalid(at, *s.HostnameOverride, validation.IsDNS1123Subdomain(*s.HostnameOverride))...)
}

func gates(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, r := range s.ReadinessGates {
		errs = append(errs, invalid(p.Child("readinessGates").Index(i).Child("conditionType"), r.ConditionType, validation.IsQualifiedName(string(r.ConditionType)))...)
	}
	seen := sets.New[string]()
	for i, g := range s.SchedulingGates {
		at := p.Child("schedulingGates").Index(i)
		errs = append(errs, invalid(at, g.Name, validation.IsQualifiedName(g.Name))...)
		if seen.Has(g.Name) {
			errs = append(errs, field.Duplicate(at, g.Name))
		}
		seen.Insert(g.Name)
	}
	return errs
}

func schedulingGroup(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	if s.SchedulingGroup == nil {
		return nil
	}
	at := p.Child("schedulingGroup")
	if s.SchedulingGroup.PodGroupName == nil {
		return field.ErrorList{field.Required(at, "must specify one of: `podGroupName`")}
	}
	return requiredName(at.Child("podGroupName"), *s.SchedulingGroup.PodGroupName, validation.IsDNS1123Subdomain)
}

// evictionResponders says of responders what their type's tags do not enforce yet.
func evictionResponders(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	if len(s.EvictionResponders) > 0 && s.SchedulingGroup != nil {
		return field.ErrorList{field.Forbidden(p, "may not be specified when `schedulingGroup` is specified")}
	}
	return nil
}

// podTemplate validates a template with its labels and annotations.
func podTemplate(t *corev1.PodTemplateSpec, p *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabels(t.Labels, p.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, p.Child("annotations"))...)
	errs = append(errs, podAnnotations(t.Annotations, &t.Spec, p.Child("annotations"))...)
	errs = append(errs, podSpec(&t.Spec, nil, p.Child("spec"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(p.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// allContainers are the main and the init containers.
func allContainers(s *corev1.PodSpec) []corev1.Container {
	return slices.Concat(s.InitContainers, s.Containers)
}
