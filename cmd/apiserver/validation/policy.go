package validation

import (
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
)

// What a policy's audit annotations may be at most.
const (
	maxAuditAnnotations    = 20
	maxAuditExpressionSize = 5 * 1024
)

// validatingPolicy judges a policy; what was stored with old, if there is one, compiles with the CEL functions of then.
func validatingPolicy(v, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	stored := sets.New[string]()
	if old != nil {
		stored.Insert(policyExpressions(old.Spec.MatchConditions, old.Spec.Variables)...)
		for _, val := range old.Spec.Validations {
			stored.Insert(val.Expression, val.MessageExpression)
		}
		for _, a := range old.Spec.AuditAnnotations {
			stored.Insert(a.ValueExpression)
		}
	}
	e, err := newExpressions(v.Spec.ParamKind != nil, stored)
	if err != nil {
		return field.ErrorList{field.InternalError(spec(), err)}
	}
	errs := policyShape(v.Spec.FailurePolicy, v.Spec.ParamKind, v.Spec.MatchConstraints)
	errs = append(errs, e.conditions(v.Spec.MatchConditions, spec().Child("matchConditions"))...)
	errs = append(errs, e.variables(v.Spec.Variables, spec().Child("variables"))...)
	if len(v.Spec.Validations)+len(v.Spec.AuditAnnotations) == 0 {
		const detail = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(spec().Child("validations"), detail), field.Required(spec().Child("auditAnnotations"), detail))
	}
	for i := range v.Spec.Validations {
		errs = append(errs, e.validation(&v.Spec.Validations[i], spec().Child("validations").Index(i))...)
	}
	return append(errs, e.auditAnnotations(v.Name, v.Spec.AuditAnnotations, spec().Child("auditAnnotations"))...)
}

func policyExpressions(conditions []admissionv1.MatchCondition, variables []admissionv1.Variable) []string {
	var out []string
	for _, c := range conditions {
		out = append(out, c.Expression)
	}
	for _, v := range variables {
		out = append(out, v.Expression)
	}
	return out
}

func (e *expressions) validation(v *admissionv1.Validation, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	expression, message := strings.TrimSpace(v.Expression), strings.TrimSpace(v.Message)
	if expression == "" {
		errs = append(errs, field.Required(p.Child("expression"), "expression is not specified"))
	} else {
		errs = append(errs, e.check(&validating.ValidationCondition{Expression: v.Expression}, e.options, p.Child("expression"))...)
	}
	if v.MessageExpression != "" && strings.TrimSpace(v.MessageExpression) == "" {
		errs = append(errs, field.Invalid(p.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified"))
	} else if v.MessageExpression != "" {
		// A message must not depend on what else the requester may do.
		options := e.options
		options.HasAuthorizer = false
		errs = append(errs, e.check(&validating.MessageExpressionCondition{MessageExpression: v.MessageExpression}, options, p.Child("messageExpression"))...)
	}
	switch {
	case v.Message != "" && message == "":
		errs = append(errs, field.Invalid(p.Child("message"), v.Message, "message must be non-empty if specified"))
	case strings.ContainsAny(message, "\n\r"):
		errs = append(errs, field.Invalid(p.Child("message"), v.Message, "message must not contain line breaks"))
	case strings.ContainsAny(expression, "\n\r") && message == "":
		errs = append(errs, field.Required(p.Child("message"), "message must be specified if expression contains line breaks"))
	}
	if v.Reason != nil {
		errs = append(errs, supported(p.Child("reason"), *v.Reason,
			metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnauthorized)...)
	}
	return errs
}

// auditAnnotations judges the annotations of a policy's audit events: their keys are <policy>/<key>.
func (e *expressions) auditAnnotations(policy string, list []admissionv1.AuditAnnotation, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) > maxAuditAnnotations {
		errs = append(errs, field.Invalid(p, list, fmt.Sprintf("must not have more than %d auditAnnotations", maxAuditAnnotations)))
	}
	keys := sets.New[string]()
	for i, a := range list {
		key, value := p.Index(i).Child("key"), p.Index(i).Child("valueExpression")
		name := a.Key
		if policy != "" {
			name = policy + "/" + a.Key
		}
		errs = append(errs, invalid(key, name, validation.IsQualifiedName(name))...)
		switch trimmed := strings.TrimSpace(a.ValueExpression); {
		case trimmed == "":
			errs = append(errs, field.Required(value, "valueExpression is not specified"))
		case len(trimmed) > maxAuditExpressionSize:
			errs = append(errs, field.Required(value, fmt.Sprintf("must not exceed %d bytes in length", maxAuditExpressionSize)))
		default:
			errs = append(errs, e.check(&validating.AuditAnnotationCondition{Key: a.Key, ValueExpression: a.ValueExpression}, e.options, value)...)
		}
		if keys.Has(a.Key) {
			errs = append(errs, field.Duplicate(key, a.Key))
		}
		keys.Insert(a.Key)
	}
	return errs
}

func validatingPolicyStatus(v, _ *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	errs := metavalidation.ValidateConditions(v.Status.Conditions, status().Child("conditions"))
	if v.Status.TypeChecking == nil {
		return errs
	}
	for i, w := range v.Status.TypeChecking.ExpressionWarnings {
		at := status().Child("typeChecking", "expressionWarnings").Index(i)
		errs = append(errs, required(at.Child("warning"), w.Warning)...)
		errs = append(errs, required(at.Child("fieldRef"), w.FieldRef)...)
	}
	return errs
}

// mutatingPolicy is to mutating policies what validatingPolicy is to validating ones.
func mutatingPolicy(m, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	stored := sets.New[string]()
	if old != nil {
		stored.Insert(policyExpressions(old.Spec.MatchConditions, old.Spec.Variables)...)
		for _, mutation := range old.Spec.Mutations {
			if mutation.ApplyConfiguration != nil {
				stored.Insert(mutation.ApplyConfiguration.Expression)
			}
			if mutation.JSONPatch != nil {
				stored.Insert(mutation.JSONPatch.Expression)
			}
		}
	}
	e, err := newExpressions(m.Spec.ParamKind != nil, stored)
	if err != nil {
		return field.ErrorList{field.InternalError(spec(), err)}
	}
	errs := policyShape(m.Spec.FailurePolicy, m.Spec.ParamKind, m.Spec.MatchConstraints)
	errs = append(errs, e.conditions(m.Spec.MatchConditions, spec().Child("matchConditions"))...)
	errs = append(errs, e.variables(m.Spec.Variables, spec().Child("variables"))...)
	if len(m.Spec.Mutations) == 0 {
		errs = append(errs, field.Required(spec().Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range m.Spec.Mutations {
		errs = append(errs, e.mutation(&m.Spec.Mutations[i], spec().Child("mutations").Index(i))...)
	}
	return append(errs, oneOf(spec().Child("reinvocationPolicy"), m.Spec.ReinvocationPolicy, admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)...)
}

// policyShape validates what both sorts of policies have: when they fail, what parametrizes them, what they match.
func policyShape(failure *admissionv1.FailurePolicyType, k *admissionv1.ParamKind, m *admissionv1.MatchResources) field.ErrorList {
	var errs field.ErrorList
	if failure == nil {
		errs = append(errs, field.Required(spec().Child("failurePolicy"), ""))
	} else {
		errs = append(errs, failurePolicyType(*failure, spec())...)
	}
	if k != nil {
		errs = append(errs, paramKind(k, spec().Child("paramKind"))...)
	}
	if m == nil {
		return append(errs, field.Required(spec().Child("matchConstraints"), ""))
	}
	errs = append(errs, matchResources(m, spec().Child("matchConstraints"))...)
	if len(m.ResourceRules) == 0 {
		// Without a rule there is no type to check the expressions against.
		errs = append(errs, field.Required(spec().Child("matchConstraints", "resourceRules"), ""))
	}
	return errs
}

func paramKind(k *admissionv1.ParamKind, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := p.Child("apiVersion")
	gv, err := schema.ParseGroupVersion(k.APIVersion)
	switch {
	case k.APIVersion == "":
		errs = append(errs, field.Required(at, ""))
	case err != nil:
		errs = append(errs, field.Invalid(at, k.APIVersion, err.Error()))
	case gv.Version == "":
		errs = append(errs, field.Invalid(at, k.APIVersion, "version must be specified"))
	default:
		if gv.Group != "" {
			errs = append(errs, joined(at, gv.Group, "", validation.IsDNS1123Subdomain(gv.Group))...)
		}
		errs = append(errs, joined(at, gv.Version, "", validation.IsDNS1035Label(gv.Version))...)
	}
	if k.Kind == "" {
		return append(errs, field.Required(p.Child("kind"), ""))
	}
	return append(errs, joined(p.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: ", validation.IsDNS1035Label(strings.ToLower(k.Kind)))...)
}

// joined reports all messages about a value as one error.
func joined(p *field.Path, value any, prefix string, messages []string) field.ErrorList {
	if len(messages) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(p, value, prefix+strings.Join(messages, ","))}
}

func matchResources(m *admissionv1.MatchResources, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m.MatchPolicy == nil {
		errs = append(errs, field.Required(p.Child("matchPolicy"), ""))
	} else {
		errs = append(errs, supported(p.Child("matchPolicy"), *m.MatchPolicy, admissionv1.Equivalent, admissionv1.Exact)...)
	}
	// Without selectors, matching fails later for every request.
	if m.NamespaceSelector == nil {
		errs = append(errs, field.Required(p.Child("namespaceSelector"), ""))
	}
	if m.ObjectSelector == nil {
		errs = append(errs, field.Required(p.Child("objectSelector"), ""))
	}
	errs = append(errs, labelSelector(p.Child("namespaceSelector"), m.NamespaceSelector)...)
	errs = append(errs, labelSelector(p.Child("objectSelector"), m.ObjectSelector)...)
	for i := range m.ResourceRules {
		errs = append(errs, namedRule(&m.ResourceRules[i], p.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, namedRule(&m.ExcludeResourceRules[i], p.Child("excludeResourceRules").Index(i))...)
	}
	return errs
}

func namedRule(r *admissionv1.NamedRuleWithOperations, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, n := range r.ResourceNames {
		at := p.Child("resourceNames").Index(i)
		errs = append(errs, invalid(at, n, path.ValidatePathSegmentName(n, false))...)
		if names.Has(n) {
			errs = append(errs, field.Duplicate(at, n))
		}
		names.Insert(n)
	}
	return append(errs, webhookRule(&r.RuleWithOperations, p)...)
}

func validatingBinding(b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	errs := policyBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
	at := spec().Child("validationActions")
	if len(b.Spec.ValidationActions) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	seen := sets.New[admissionv1.ValidationAction]()
	for i, a := range b.Spec.ValidationActions {
		errs = append(errs, supported(at.Index(i), a, admissionv1.Audit, admissionv1.Deny, admissionv1.Warn)...)
		if seen.Has(a) {
			errs = append(errs, field.Duplicate(at.Index(i), a))
		}
		seen.Insert(a)
	}
	if seen.Has(admissionv1.Deny) && seen.Has(admissionv1.Warn) {
		errs = append(errs, field.Invalid(at, b.Spec.ValidationActions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return errs
}

func policyBinding(policy string, r *admissionv1.ParamRef, m *admissionv1.MatchResources) field.ErrorList {
	errs := requiredName(spec().Child("policyName"), policy, func(name string) []string { return apivalidation.NameIsDNSSubdomain(name, false) })
	if m != nil {
		errs = append(errs, matchResources(m, spec().Child("matchResources"))...)
	}
	if r == nil {
		return errs
	}
	at := spec().Child("paramRef")
	if r.Name != "" {
		errs = append(errs, invalid(at.Child("name"), r.Name, path.ValidatePathSegmentName(r.Name, false))...)
	}
	switch {
	case r.Name != "" && r.Selector != nil:
		const detail = "name and selector are mutually exclusive"
		errs = append(errs, field.Forbidden(at.Child("name"), detail), field.Forbidden(at.Child("selector"), detail))
	case r.Name == "" && r.Selector == nil:
		errs = append(errs, field.Required(at, "one of name or selector must be specified"))
	}
	errs = append(errs, labelSelector(at.Child("selector"), r.Selector)...)
	if r.ParameterNotFoundAction == nil || *r.ParameterNotFoundAction == "" {
		return append(errs, field.Required(at.Child("parameterNotFoundAction"), ""))
	}
	return append(errs, supported(at.Child("parameterNotFoundAction"), *r.ParameterNotFoundAction, admissionv1.DenyAction, admissionv1.AllowAction)...)
}
