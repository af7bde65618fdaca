package validation

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podSpec validates a pod's spec, or a template's.
func podSpec(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	byName, errs := volumes(s.Volumes, p.Child("volumes"))
	names := podNames{containers: sets.New[string](), volumes: byName, hostPorts: sets.New[string](), hostNetwork: s.HostNetwork, claims: sets.New[string]()}
	for i, c := range s.ResourceClaims {
		at := p.Child("resourceClaims").Index(i)
		errs = append(errs, requiredName(at.Child("name"), c.Name, validation.IsDNS1123Label)...)
		if names.claims.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		names.claims.Insert(c.Name)
		if (c.ResourceClaimName == nil) == (c.ResourceClaimTemplateName == nil) {
			errs = append(errs, field.Invalid(at, c, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
	}
	errs = append(errs, containers(s.Containers, names, p.Child("containers"))...)
	errs = append(errs, initContainers(s.InitContainers, names, p.Child("initContainers"))...)
	errs = append(errs, ephemeralContainers(s, names, p.Child("ephemeralContainers"))...)
	errs = append(errs, graceOfHooks(s, p)...)
	errs = append(errs, lifetime(s, p)...)
	errs = append(errs, dns(s, p)...)
	errs = append(errs, podNamesAndHosts(s, p)...)
	errs = append(errs, podSecurity(s, p)...)
	errs = append(errs, scheduling(s, p)...)
	if s.Resources != nil {
		errs = append(errs, containerResources(p.Child("resources"), s.Resources)...)
	}
	return errs
}

func lifetime(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	errs := oneOf(p.Child("restartPolicy"), s.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	if s.TerminationGracePeriodSeconds == nil {
		errs = append(errs, field.Required(p.Child("terminationGracePeriodSeconds"), ""))
	}
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		errs = append(errs, field.Invalid(p.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	return errs
}

func dns(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	errs := oneOf(p.Child("dnsPolicy"), s.DNSPolicy, corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	c, at := s.DNSConfig, p.Child("dnsConfig")
	if s.DNSPolicy == corev1.DNSNone && (c == nil || len(c.Nameservers) == 0) {
		errs = append(errs, field.Required(at.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None"))
	}
	if c == nil {
		return errs
	}
	if len(c.Nameservers) > 3 {
		errs = append(errs, field.Invalid(at.Child("nameservers"), c.Nameservers, "must not have more than 3 nameservers"))
	}
	for i, ns := range c.Nameservers {
		errs = append(errs, validation.IsValidIPForLegacyField(at.Child("nameservers").Index(i), ns, false, nil)...)
	}
	if len(c.Searches) > 32 {
		errs = append(errs, field.Invalid(at.Child("searches"), c.Searches, "must not have more than 32 search paths"))
	}
	for i, search := range c.Searches {
		if search == "." {
			continue
		}
		if n := len(search); n > 0 && search[n-1] == '.' {
			search = search[:n-1]
		}
		errs = append(errs, invalid(at.Child("searches").Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(search))...)
	}
	for i, o := range c.Options {
		errs = append(errs, required(at.Child("options").Index(i), o.Name)...)
	}
	return errs
}

// podNamesAndHosts validates the names in a pod's spec and its hosts file.
func podNamesAndHosts(s *corev1.PodSpec, p *field.Path) field.ErrorList {
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
		{"schedulerName", s.SchedulerName, validation.IsQualifiedName},
	} {
		if f.value != "" {
			errs = append(errs, invalid(p.Child(f.name), f.value, f.shape(f.value))...)
		}
	}
	if s.RuntimeClassName != nil {
		errs = append(errs, invalid(p.Child("runtimeClassName"), *s.RuntimeClassName, validation.IsDNS1123Subdomain(*s.RuntimeClassName))...)
	}
	for i, a := range s.HostAliases {
		at := p.Child("hostAliases").Index(i)
		errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), a.IP, false, nil)...)
		for j, h := range a.Hostnames {
			errs = append(errs, invalid(at.Child("hostnames").Index(j), h, validation.IsDNS1123Subdomain(h))...)
		}
	}
	for i, r := range s.ReadinessGates {
		errs = append(errs, invalid(p.Child("readinessGates").Index(i).Child("conditionType"), r.ConditionType, validation.IsQualifiedName(string(r.ConditionType)))...)
	}
	gates := sets.New[string]()
	for i, g := range s.SchedulingGates {
		at := p.Child("schedulingGates").Index(i)
		errs = append(errs, invalid(at.Child("name"), g.Name, validation.IsQualifiedName(g.Name))...)
		if gates.Has(g.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), g.Name))
		}
		gates.Insert(g.Name)
	}
	if s.OS != nil {
		errs = append(errs, oneOf(p.Child("os", "name"), s.OS.Name, corev1.Linux, corev1.Windows)...)
	}
	return errs
}

func scheduling(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabels(s.NodeSelector, p.Child("nodeSelector"))
	errs = append(errs, tolerations(s.Tolerations, p.Child("tolerations"))...)
	if s.Affinity != nil {
		errs = append(errs, affinity(s.Affinity, p.Child("affinity"))...)
	}
	if s.PreemptionPolicy != nil {
		errs = append(errs, oneOf(p.Child("preemptionPolicy"), *s.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	for name, q := range s.Overhead {
		errs = append(errs, containerResource(p.Child("overhead").Key(string(name)), p.Child("overhead"), name, q)...)
	}
	type pair struct {
		key  string
		when corev1.UnsatisfiableConstraintAction
	}
	seen := sets.New[pair]()
	for i, c := range s.TopologySpreadConstraints {
		at := p.Child("topologySpreadConstraints").Index(i)
		if c.MaxSkew <= 0 {
			errs = append(errs, field.Invalid(at.Child("maxSkew"), c.MaxSkew, "must be greater than zero"))
		}
		errs = append(errs, topologyKey(c.TopologyKey, at.Child("topologyKey"))...)
		errs = append(errs, oneOf(at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
		if seen.Has(pair{c.TopologyKey, c.WhenUnsatisfiable}) {
			errs = append(errs, field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), "{"+c.TopologyKey+", "+string(c.WhenUnsatisfiable)+"}"))
		}
		seen.Insert(pair{c.TopologyKey, c.WhenUnsatisfiable})
		if m := c.MinDomains; m != nil && *m <= 0 {
			errs = append(errs, field.Invalid(at.Child("minDomains"), *m, "must be greater than zero"))
		}
		if m := c.MinDomains; m != nil && c.WhenUnsatisfiable != corev1.DoNotSchedule {
			errs = append(errs, field.Invalid(at.Child("minDomains"), *m, "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not "+string(c.WhenUnsatisfiable)))
		}
		errs = append(errs, labelSelector(at.Child("labelSelector"), c.LabelSelector)...)
	}
	return errs
}

func topologyKey(key string, p *field.Path) field.ErrorList {
	if key == "" {
		return field.ErrorList{field.Required(p, "can not be empty")}
	}
	return metavalidation.ValidateLabelName(key, p)
}

func tolerations(list []corev1.Toleration, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, t := range list {
		at := p.Index(i)
		if t.Key != "" {
			errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		}
		if t.Key == "" && t.Operator != corev1.TolerationOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			errs = append(errs, invalid(at.Child("operator"), t.Value, validation.IsValidLabelValue(t.Value))...)
		case corev1.TolerationOpExists:
			if t.Value != "" {
				errs = append(errs, field.Invalid(at.Child("operator"), t, "value must be empty when `operator` is 'Exists'"))
			}
		default:
			errs = append(errs, field.NotSupported(at.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		if t.Effect != "" {
			errs = append(errs, taintEffect(t.Effect, at.Child("effect"))...)
		}
	}
	return errs
}

func taintEffect(e corev1.TaintEffect, p *field.Path) field.ErrorList {
	return oneOf(p, e, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

// podTemplate validates a template with its labels and annotations.
func podTemplate(t *corev1.PodTemplateSpec, p *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabels(t.Labels, p.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, p.Child("annotations"))...)
	errs = append(errs, podSpec(&t.Spec, p.Child("spec"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(p.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}
