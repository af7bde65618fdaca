package validation

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/shufflesharding"
)

func clusterRules(obj runtime.Object) (rules, bool) {
	switch obj.(type) {
	case *rbacv1.Role:
		return kind(func(r *rbacv1.Role) field.ErrorList { return policyRules(r.Rules, true, field.NewPath("rules")) }, nil, nil), true
	case *rbacv1.ClusterRole:
		return kind(clusterRole, nil, nil), true
	case *rbacv1.RoleBinding:
		return kind(func(b *rbacv1.RoleBinding) field.ErrorList {
			return roleBinding(b.RoleRef, b.Subjects, "Role", "ClusterRole")
		},
			func(b, old *rbacv1.RoleBinding) field.ErrorList {
				return append(roleBinding(b.RoleRef, b.Subjects, "Role", "ClusterRole"), roleRefUpdate(b.RoleRef, old.RoleRef)...)
			}, nil), true
	case *rbacv1.ClusterRoleBinding:
		return kind(func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
			return roleBinding(b.RoleRef, b.Subjects, "ClusterRole")
		},
			func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
				return append(roleBinding(b.RoleRef, b.Subjects, "ClusterRole"), roleRefUpdate(b.RoleRef, old.RoleRef)...)
			}, nil), true
	case *schedulingv1.PriorityClass:
		return kind(priorityClass, priorityClassUpdate, nil), true
	case *nodev1.RuntimeClass:
		return kind(runtimeClass, func(c, old *nodev1.RuntimeClass) field.ErrorList {
			return append(runtimeClass(c), immutable(field.NewPath("handler"), c.Handler, old.Handler)...)
		}, nil), true
	case *coordinationv1.Lease:
		return kind(lease, nil, nil), true
	case *certificatesv1.CertificateSigningRequest:
		return kind(signingRequest, func(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
			return append(signingRequest(c), immutable(spec(), c.Spec, old.Spec)...)
		}, nil), true
	case *flowcontrolv1.PriorityLevelConfiguration:
		return kind(priorityLevel, nil, nil), true
	case *flowcontrolv1.FlowSchema:
		return kind(flowSchema, nil, nil), true
	}
	return admissionRules(obj)
}

// policyRules validates rules, in a namespace or over the whole cluster.
func policyRules(list []rbacv1.PolicyRule, inNamespace bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, r := range list {
		at := p.Index(i)
		if len(r.Verbs) == 0 {
			errs = append(errs, field.Required(at.Child("verbs"), "verbs must contain at least one value"))
		}
		if len(r.NonResourceURLs) > 0 {
			if inNamespace {
				errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
			}
			if len(r.APIGroups)+len(r.Resources)+len(r.ResourceNames) > 0 {
				errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
			}
			continue
		}
		if len(r.APIGroups) == 0 {
			errs = append(errs, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
		}
		if len(r.Resources) == 0 {
			errs = append(errs, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
		}
	}
	return errs
}

func clusterRole(r *rbacv1.ClusterRole) field.ErrorList {
	errs := policyRules(r.Rules, false, field.NewPath("rules"))
	if r.AggregationRule == nil {
		return errs
	}
	at := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(r.AggregationRule.ClusterRoleSelectors) == 0 {
		errs = append(errs, field.Required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		errs = append(errs, labelSelector(at.Index(i), &r.AggregationRule.ClusterRoleSelectors[i])...)
	}
	return errs
}

func roleBinding(ref rbacv1.RoleRef, subjects []rbacv1.Subject, kinds ...string) field.ErrorList {
	at := field.NewPath("roleRef")
	var errs field.ErrorList
	if ref.APIGroup != rbacv1.GroupName {
		errs = append(errs, field.NotSupported(at.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	if bad := oneOf(at.Child("kind"), ref.Kind, kinds...); len(bad) > 0 {
		errs = append(errs, field.NotSupported(at.Child("kind"), ref.Kind, kinds))
	}
	errs = append(errs, required(at.Child("name"), ref.Name)...)
	if ref.Name != "" && (ref.Name == "." || ref.Name == ".." || strings.ContainsAny(ref.Name, "/%")) {
		errs = append(errs, field.Invalid(at.Child("name"), ref.Name, "may not be '.' or '..' and may not contain '/' or '%'"))
	}
	for i := range subjects {
		errs = append(errs, subject(&subjects[i], field.NewPath("subjects").Index(i))...)
	}
	return errs
}

func subject(s *rbacv1.Subject, p *field.Path) field.ErrorList {
	errs := required(p.Child("name"), s.Name)
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			errs = append(errs, invalid(p.Child("name"), s.Name, validation.IsDNS1123Subdomain(s.Name))...)
		}
		if s.APIGroup != "" {
			errs = append(errs, field.NotSupported(p.Child("apiGroup"), s.APIGroup, []string{""}))
		}
		// A binding in a namespace too must say whose account it means.
		errs = append(errs, required(p.Child("namespace"), s.Namespace)...)
	case rbacv1.UserKind, rbacv1.GroupKind:
		if s.APIGroup != rbacv1.GroupName {
			errs = append(errs, field.NotSupported(p.Child("apiGroup"), s.APIGroup, []string{rbacv1.GroupName}))
		}
	default:
		errs = append(errs, field.NotSupported(p.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
	}
	return errs
}

func roleRefUpdate(ref, old rbacv1.RoleRef) field.ErrorList {
	if ref != old {
		return field.ErrorList{field.Invalid(field.NewPath("roleRef"), ref, "cannot change roleRef")}
	}
	return nil
}

func priorityClass(c *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	system := c.Name == "system-cluster-critical" && c.Value == 2000000000 || c.Name == "system-node-critical" && c.Value == 2000001000
	if strings.HasPrefix(c.Name, "system-") && !system {
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), "priority class names with 'system-' prefix are reserved for system use only. error: "+c.Name+" is not a system priority class"))
	} else if c.Value > 1000000000 && !system {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "maximum allowed value of a user defined priority is 1000000000"))
	}
	if c.PreemptionPolicy != nil {
		errs = append(errs, oneOf(field.NewPath("preemptionPolicy"), *c.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}

func priorityClassUpdate(c, old *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if c.Value != old.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	return append(errs, immutable(field.NewPath("preemptionPolicy"), c.PreemptionPolicy, old.PreemptionPolicy)...)
}

func runtimeClass(c *nodev1.RuntimeClass) field.ErrorList {
	errs := invalid(field.NewPath("handler"), c.Handler, validation.IsDNS1123Label(c.Handler))
	if c.Overhead != nil {
		errs = append(errs, containerResources(field.NewPath("overhead"), &corev1.ResourceRequirements{Limits: c.Overhead.PodFixed}, nil)...)
	}
	if c.Scheduling != nil {
		errs = append(errs, metavalidation.ValidateLabels(c.Scheduling.NodeSelector, field.NewPath("scheduling", "nodeSelector"))...)
		errs = append(errs, tolerations(c.Scheduling.Tolerations, field.NewPath("scheduling", "tolerations"))...)
	}
	return errs
}

func lease(l *coordinationv1.Lease) field.ErrorList {
	var errs field.ErrorList
	if d := l.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(spec().Child("leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	return append(errs, nonNegativePtr(spec().Child("leaseTransitions"), l.Spec.LeaseTransitions)...)
}

func signingRequest(c *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var errs field.ErrorList
	if block, rest := pem.Decode(c.Spec.Request); block == nil || block.Type != "CERTIFICATE REQUEST" {
		errs = append(errs, field.Invalid(spec().Child("request"), c.Spec.Request, "PEM block type must be CERTIFICATE REQUEST"))
	} else if request, err := x509.ParseCertificateRequest(block.Bytes); err != nil {
		errs = append(errs, field.Invalid(spec().Child("request"), c.Spec.Request, err.Error()))
	} else if err := request.CheckSignature(); err != nil {
		errs = append(errs, field.Invalid(spec().Child("request"), c.Spec.Request, err.Error()))
	} else if strings.TrimSpace(string(rest)) != "" {
		errs = append(errs, field.Invalid(spec().Child("request"), c.Spec.Request, "trailing data after the certificate request"))
	}
	if len(c.Spec.Usages) == 0 {
		errs = append(errs, field.Required(spec().Child("usages"), ""))
	}
	for i, u := range c.Spec.Usages {
		for _, before := range c.Spec.Usages[:i] {
			if u == before {
				errs = append(errs, field.Duplicate(spec().Child("usages").Index(i), u))
			}
		}
	}
	errs = append(errs, signerName(c.Spec.SignerName, spec().Child("signerName"))...)
	if e := c.Spec.ExpirationSeconds; e != nil && *e < 600 {
		errs = append(errs, field.Invalid(spec().Child("expirationSeconds"), *e, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return errs
}

func signerName(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	domain, path, ok := strings.Cut(name, "/")
	if !ok || path == "" {
		return field.ErrorList{field.Invalid(p, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	errs := validation.IsFullyQualifiedDomainName(p, domain)
	for part := range strings.SplitSeq(path, ".") {
		errs = append(errs, invalid(p, path, validation.IsDNS1123Subdomain(part))...)
	}
	return errs
}

func priorityLevel(l *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	errs := oneOf(spec().Child("type"), l.Spec.Type, flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)
	at := spec().Child("limited")
	switch {
	case l.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt && l.Spec.Limited != nil:
		return append(errs, field.Forbidden(at, "must be nil if the type is not Limited"))
	case l.Spec.Type == flowcontrolv1.PriorityLevelEnablementLimited && l.Spec.Limited == nil:
		return append(errs, field.Required(at, "must not be empty when type is Limited"))
	case l.Spec.Limited == nil:
		return errs
	}
	errs = append(errs, nonNegativePtr(at.Child("nominalConcurrencyShares"), l.Spec.Limited.NominalConcurrencyShares)...)
	if p := l.Spec.Limited.LendablePercent; p != nil && (*p < 0 || *p > 100) {
		errs = append(errs, field.Invalid(at.Child("lendablePercent"), *p, "must be between 0 and 100, inclusive"))
	}
	response := l.Spec.Limited.LimitResponse
	at = at.Child("limitResponse")
	errs = append(errs, oneOf(at.Child("type"), response.Type, flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject)...)
	q := response.Queuing
	switch {
	case response.Type == flowcontrolv1.LimitResponseTypeReject && q != nil:
		errs = append(errs, field.Forbidden(at.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited"))
	case response.Type == flowcontrolv1.LimitResponseTypeQueue && q == nil:
		errs = append(errs, field.Required(at.Child("queuing"), "must not be empty if limited.limitResponse.type is Limited"))
	case q != nil:
		errs = append(errs, queuing(q, at.Child("queuing"))...)
	}
	return errs
}

func queuing(q *flowcontrolv1.QueuingConfiguration, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, n := range map[string]int32{"queueLengthLimit": q.QueueLengthLimit, "queues": q.Queues, "handSize": q.HandSize} {
		if n <= 0 {
			errs = append(errs, field.Invalid(p.Child(name), n, "must be positive"))
		}
	}
	if q.HandSize > q.Queues {
		errs = append(errs, field.Invalid(p.Child("handSize"), q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	}
	if q.Queues > 0 && q.HandSize > 0 && q.HandSize <= q.Queues {
		if bits := shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)); bits > shufflesharding.MaxHashBits {
			errs = append(errs, field.Invalid(p.Child("handSize"), q.HandSize,
				fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, shufflesharding.MaxHashBits)))
		}
	}
	return errs
}

func flowSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	var errs field.ErrorList
	if p := s.Spec.MatchingPrecedence; p < 1 || p > 10000 {
		errs = append(errs, field.Invalid(spec().Child("matchingPrecedence"), p, "must be between 1 and 10000, inclusive"))
	}
	if m := s.Spec.DistinguisherMethod; m != nil {
		errs = append(errs, oneOf(spec().Child("distinguisherMethod", "type"), m.Type, flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType)...)
	}
	errs = append(errs, requiredName(spec().Child("priorityLevelConfiguration", "name"), s.Spec.PriorityLevelConfiguration.Name, validation.IsDNS1123Subdomain)...)
	for i, r := range s.Spec.Rules {
		at := spec().Child("rules").Index(i)
		if len(r.Subjects) == 0 {
			errs = append(errs, field.Required(at.Child("subjects"), "subjects must contain at least one value"))
		}
		if len(r.ResourceRules)+len(r.NonResourceRules) == 0 {
			errs = append(errs, field.Required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"))
		}
	}
	return errs
}
