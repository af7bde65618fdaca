package validation

import (
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func clusterRules(obj runtime.Object) (rules, bool) {
	switch obj.(type) {
	case *rbacv1.Role:
		return kind(func(r *rbacv1.Role) field.ErrorList { return policyRules(r.Rules, true, field.NewPath("rules")) }, nil, nil), true
	case *rbacv1.ClusterRole:
		return kind(clusterRole, nil, nil), true
	case *rbacv1.RoleBinding:
		return kind(func(b *rbacv1.RoleBinding) field.ErrorList {
			return roleBinding(b.RoleRef, b.Subjects, b.Namespace, "Role", "ClusterRole")
		},
			func(b, old *rbacv1.RoleBinding) field.ErrorList {
				return append(roleBinding(b.RoleRef, b.Subjects, b.Namespace, "Role", "ClusterRole"), roleRefUpdate(b.RoleRef, old.RoleRef)...)
			}, nil), true
	case *rbacv1.ClusterRoleBinding:
		return kind(func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
			return roleBinding(b.RoleRef, b.Subjects, "", "ClusterRole")
		},
			func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
				return append(roleBinding(b.RoleRef, b.Subjects, "", "ClusterRole"), roleRefUpdate(b.RoleRef, old.RoleRef)...)
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
		}, signingRequestStatus), true
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

// roleBinding validates a binding; namespace is its own, or empty for one of the whole cluster.
func roleBinding(ref rbacv1.RoleRef, subjects []rbacv1.Subject, namespace string, kinds ...string) field.ErrorList {
	at := field.NewPath("roleRef")
	var errs field.ErrorList
	if ref.APIGroup != rbacv1.GroupName {
		errs = append(errs, field.NotSupported(at.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	errs = append(errs, supported(at.Child("kind"), ref.Kind, kinds...)...)
	errs = append(errs, required(at.Child("name"), ref.Name)...)
	errs = append(errs, invalid(at.Child("name"), ref.Name, path.ValidatePathSegmentName(ref.Name, false))...)
	for i := range subjects {
		errs = append(errs, subject(&subjects[i], namespace, field.NewPath("subjects").Index(i))...)
	}
	return errs
}

func subject(s *rbacv1.Subject, namespace string, p *field.Path) field.ErrorList {
	errs := required(p.Child("name"), s.Name)
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			errs = append(errs, invalid(p.Child("name"), s.Name, validation.IsDNS1123Subdomain(s.Name))...)
		}
		if s.APIGroup != "" {
			errs = append(errs, field.NotSupported(p.Child("apiGroup"), s.APIGroup, []string{""}))
		}
		// A binding in a namespace means the accounts of that namespace.
		if namespace == "" {
			errs = append(errs, required(p.Child("namespace"), s.Namespace)...)
		}
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
