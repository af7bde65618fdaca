package validation

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"
)

func admissionRules(obj runtime.Object) (rules, bool) {
	switch obj.(type) {
	case *admissionv1.ValidatingWebhookConfiguration:
		return kind(func(c *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
			return webhooks(plainWebhooks(c), nil)
		}, func(c, old *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
			return webhooks(plainWebhooks(c), plainWebhooks(old))
		}, nil), true
	case *admissionv1.MutatingWebhookConfiguration:
		return kind(func(c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
			return webhooks(c.Webhooks, nil)
		}, func(c, old *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
			return webhooks(c.Webhooks, old.Webhooks)
		}, nil), true
	case *admissionv1.ValidatingAdmissionPolicy:
		return kind(func(p *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
			return validatingPolicy(p, nil)
		}, validatingPolicy, validatingPolicyStatus), true
	case *admissionv1.ValidatingAdmissionPolicyBinding:
		return kind(validatingBinding, nil, nil), true
	case *admissionv1.MutatingAdmissionPolicy:
		return kind(func(p *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
			return mutatingPolicy(p, nil)
		}, mutatingPolicy, nil), true
	case *admissionv1.MutatingAdmissionPolicyBinding:
		return kind(func(b *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
			return policyBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
		}, nil, nil), true
	}
	return rules{}, false
}

// plainWebhooks are validating webhooks as mutating ones: they differ in that they are never called again.
func plainWebhooks(c *admissionv1.ValidatingWebhookConfiguration) []admissionv1.MutatingWebhook {
	var out []admissionv1.MutatingWebhook
	for _, w := range c.Webhooks {
		out = append(out, admissionv1.MutatingWebhook{
			Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
			NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects, TimeoutSeconds: w.TimeoutSeconds,
			AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
		})
	}
	return out
}

func webhooks(list, old []admissionv1.MutatingWebhook) field.ErrorList {
	var errs field.ErrorList
	stored := sets.New[string]()
	for i := range old {
		for _, c := range old[i].MatchConditions {
			stored.Insert(c.Expression)
		}
	}
	names := sets.New[string]()
	for i := range list {
		at := field.NewPath("webhooks").Index(i)
		errs = append(errs, webhookShape(&list[i], stored, at)...)
		if name := list[i].Name; name != "" {
			if names.Has(name) {
				errs = append(errs, field.Duplicate(at.Child("name"), name))
			}
			names.Insert(name)
		}
	}
	return errs
}

func webhookShape(w *admissionv1.MutatingWebhook, stored sets.Set[string], p *field.Path) field.ErrorList {
	errs := reviewVersions(w.AdmissionReviewVersions, p.Child("admissionReviewVersions"))
	errs = append(errs, validation.IsFullyQualifiedName(p.Child("name"), w.Name)...)
	for i := range w.Rules {
		errs = append(errs, webhookRule(&w.Rules[i], p.Child("rules").Index(i))...)
	}
	if w.FailurePolicy != nil {
		errs = append(errs, failurePolicyType(*w.FailurePolicy, p)...)
	}
	if w.MatchPolicy != nil {
		errs = append(errs, supported(p.Child("matchPolicy"), *w.MatchPolicy, admissionv1.Equivalent, admissionv1.Exact)...)
	}
	if w.ReinvocationPolicy != nil {
		errs = append(errs, supported(p.Child("reinvocationPolicy"), *w.ReinvocationPolicy, admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)...)
	}
	if w.SideEffects == nil {
		errs = append(errs, field.Required(p.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	} else {
		errs = append(errs, supported(p.Child("sideEffects"), *w.SideEffects, admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun)...)
	}
	if t := w.TimeoutSeconds; t != nil && (*t < 1 || *t > 30) {
		errs = append(errs, field.Invalid(p.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, labelSelector(p.Child("namespaceSelector"), w.NamespaceSelector)...)
	errs = append(errs, labelSelector(p.Child("objectSelector"), w.ObjectSelector)...)
	errs = append(errs, clientConfig(&w.ClientConfig, p.Child("clientConfig"))...)
	return append(errs, webhookConditions(w.MatchConditions, stored, p.Child("matchConditions"))...)
}

func failurePolicyType(f admissionv1.FailurePolicyType, p *field.Path) field.ErrorList {
	return supported(p.Child("failurePolicy"), f, admissionv1.Fail, admissionv1.Ignore)
}

func clientConfig(c *admissionv1.WebhookClientConfig, p *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(p, "exactly one of url or service is required")}
	case c.URL != nil:
		return webhook.ValidateWebhookURL(p.Child("url"), *c.URL, true)
	}
	port := int32(443)
	if c.Service.Port != nil {
		port = *c.Service.Port
	}
	return webhook.ValidateWebhookService(p.Child("service"), c.Service.Namespace, c.Service.Name, c.Service.Path, port)
}

func reviewVersions(versions []string, p *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(p, "must specify one of v1, v1beta1")}
	}
	var errs field.ErrorList
	for i, v := range versions {
		if slices.Contains(versions[:i], v) {
			errs = append(errs, field.Invalid(p.Index(i), v, "duplicate version"))
		} else {
			errs = append(errs, invalid(p.Index(i), v, validation.IsDNS1035Label(v))...)
		}
	}
	if !slices.Contains(versions, "v1") && !slices.Contains(versions, "v1beta1") {
		errs = append(errs, field.Invalid(p, versions, "must include at least one of v1, v1beta1"))
	}
	return errs
}

func webhookRule(r *admissionv1.RuleWithOperations, p *field.Path) field.ErrorList {
	errs := wholeOrParts(p.Child("operations"), r.Operations, "operations")
	for i, o := range r.Operations {
		errs = append(errs, supported(p.Child("operations").Index(i), o, admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Delete, admissionv1.Update)...)
	}
	errs = append(errs, wholeOrParts(p.Child("apiGroups"), r.APIGroups, "API groups")...)
	errs = append(errs, wholeOrParts(p.Child("apiVersions"), r.APIVersions, "API versions")...)
	for i, v := range r.APIVersions {
		errs = append(errs, required(p.Child("apiVersions").Index(i), v)...)
	}
	errs = append(errs, ruleResources(r.Resources, p.Child("resources"))...)
	if r.Scope != nil {
		errs = append(errs, supported(p.Child("scope"), *r.Scope, admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope)...)
	}
	return errs
}

// wholeOrParts demands a value, and that * stands alone.
func wholeOrParts[T ~string](p *field.Path, values []T, what string) field.ErrorList {
	if len(values) == 0 {
		return field.ErrorList{field.Required(p, "")}
	}
	if len(values) > 1 && slices.Contains(values, "*") {
		return field.ErrorList{field.Invalid(p, values, fmt.Sprintf("if '*' is present, must not specify other %s", what))}
	}
	return nil
}

// ruleResources refuses a resource that a wildcard beside it holds already: "pods" and "pods/log" are two, "*" is all without
// a subresource, "pods/*" all subresources of one, "*/scale" one subresource of all, "*/*" everything.
func ruleResources(list []string, p *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(p, "")}
	}
	var errs field.ErrorList
	wholeResources, wholeSubresources := sets.New[string](), sets.New[string]()
	plain := false
	for i, r := range list {
		if r == "" {
			errs = append(errs, field.Required(p.Index(i), ""))
			continue
		}
		resource, sub, ok := strings.Cut(r, "/")
		if !ok {
			plain = plain || r != "*"
			continue
		}
		if wholeResources.Has(resource) {
			errs = append(errs, field.Invalid(p.Index(i), r, fmt.Sprintf("if '%s/*' is present, must not specify %s", resource, r)))
		}
		if wholeSubresources.Has(sub) {
			errs = append(errs, field.Invalid(p.Index(i), r, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, r)))
		}
		if sub == "*" {
			wholeResources.Insert(resource)
		}
		if resource == "*" {
			wholeSubresources.Insert(sub)
		}
	}
	if len(list) > 1 && slices.Contains(list, "*/*") {
		errs = append(errs, field.Invalid(p, list, "if '*/*' is present, must not specify other resources"))
	}
	if plain && slices.Contains(list, "*") {
		errs = append(errs, field.Invalid(p, list, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}
