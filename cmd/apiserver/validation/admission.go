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
		return kind(validatingWebhooks, nil, nil), true
	case *admissionv1.MutatingWebhookConfiguration:
		return kind(mutatingWebhooks, nil, nil), true
	case *admissionv1.ValidatingAdmissionPolicy:
		return kind(validatingPolicy, nil, nil), true
	case *admissionv1.ValidatingAdmissionPolicyBinding:
		return kind(validatingBinding, nil, nil), true
	case *admissionv1.MutatingAdmissionPolicy:
		return kind(mutatingPolicy, nil, nil), true
	case *admissionv1.MutatingAdmissionPolicyBinding:
		return kind(func(b *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
			return policyBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
		}, nil, nil), true
	}
	return rules{}, false
}

func validatingWebhooks(c *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range c.Webhooks {
		at := field.NewPath("webhooks").Index(i)
		w := c.Webhooks[i]
		errs = append(errs, oneWebhook(admissionv1.MutatingWebhook{
			Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
			NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects, TimeoutSeconds: w.TimeoutSeconds,
			AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
		}, names, at)...)
	}
	return errs
}

func mutatingWebhooks(c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, w := range c.Webhooks {
		at := field.NewPath("webhooks").Index(i)
		errs = append(errs, oneWebhook(w, names, at)...)
		if w.ReinvocationPolicy != nil {
			errs = append(errs, oneOf(at.Child("reinvocationPolicy"), *w.ReinvocationPolicy, admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)...)
		}
	}
	return errs
}

// oneWebhook validates a webhook of either sort: a validating one is a mutating one that is never called again.
func oneWebhook(w admissionv1.MutatingWebhook, names sets.Set[string], p *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(p.Child("name"), w.Name)
	if w.Name != "" && names.Has(w.Name) {
		errs = append(errs, field.Duplicate(p.Child("name"), w.Name))
	}
	names.Insert(w.Name)
	for i := range w.Rules {
		errs = append(errs, webhookRule(&w.Rules[i], p.Child("rules").Index(i))...)
	}
	if w.FailurePolicy != nil {
		errs = append(errs, failurePolicyType(*w.FailurePolicy, p)...)
	}
	if w.MatchPolicy != nil {
		errs = append(errs, oneOf(p.Child("matchPolicy"), *w.MatchPolicy, admissionv1.Equivalent, admissionv1.Exact)...)
	}
	if w.SideEffects == nil {
		errs = append(errs, field.Required(p.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	} else {
		errs = append(errs, oneOf(p.Child("sideEffects"), *w.SideEffects, admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun)...)
	}
	if t := w.TimeoutSeconds; t != nil && (*t < 1 || *t > 30) {
		errs = append(errs, field.Invalid(p.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, labelSelector(p.Child("namespaceSelector"), w.NamespaceSelector)...)
	errs = append(errs, labelSelector(p.Child("objectSelector"), w.ObjectSelector)...)
	errs = append(errs, reviewVersions(w.AdmissionReviewVersions, p.Child("admissionReviewVersions"))...)
	errs = append(errs, matchConditions(w.MatchConditions, p.Child("matchConditions"))...)
	return append(errs, clientConfig(&w.ClientConfig, p.Child("clientConfig"))...)
}

func failurePolicyType(f admissionv1.FailurePolicyType, p *field.Path) field.ErrorList {
	return oneOf(p.Child("failurePolicy"), f, admissionv1.Fail, admissionv1.Ignore)
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
	var errs field.ErrorList
	for _, list := range []struct {
		name   string
		values []string
	}{{"apiGroups", r.APIGroups}, {"apiVersions", r.APIVersions}, {"resources", r.Resources}, {"operations", operations(r.Operations)}} {
		at := p.Child(list.name)
		if len(list.values) == 0 {
			errs = append(errs, field.Required(at, ""))
		}
		if len(list.values) > 1 && slices.Contains(list.values, "*") {
			errs = append(errs, field.Invalid(at, list.values, fmt.Sprintf("if '*' is present, must not specify other %s", words(list.name))))
		}
		for i, v := range list.values {
			if v == "" && list.name != "apiGroups" {
				errs = append(errs, field.Required(at.Index(i), ""))
			}
		}
	}
	for i, o := range r.Operations {
		errs = append(errs, oneOf(p.Child("operations").Index(i), o, admissionv1.OperationAll, admissionv1.Create, admissionv1.Update, admissionv1.Delete, admissionv1.Connect)...)
	}
	if r.Scope != nil {
		errs = append(errs, oneOf(p.Child("scope"), *r.Scope, admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope)...)
	}
	return errs
}

func operations(list []admissionv1.OperationType) []string {
	var out []string
	for _, o := range list {
		out = append(out, string(o))
	}
	return out
}

// words says a field's name in English.
func words(name string) string {
	return strings.Replace(strings.ToLower(name), "api", "API ", 1)
}
