package validation

import (
	"fmt"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"
)

// expressions compiles the CEL expressions of one policy or webhook, so that a mistake shows when it is written, not when a
// request is refused for it.
type expressions struct {
	compiler *plugincel.CompositedCompiler
	options  plugincel.OptionalVariableDeclarations
}

func newExpressions(params bool) (*expressions, error) {
	c, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return nil, fmt.Errorf("make CEL compiler: %w", err)
	}
	return &expressions{compiler: c, options: plugincel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}}, nil
}

func (e *expressions) check(a plugincel.ExpressionAccessor, o plugincel.OptionalVariableDeclarations, p *field.Path) field.ErrorList {
	if a.GetExpression() == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	result := e.compiler.CompileCELExpression(a, o, environment.NewExpressions)
	return celError(result, a.GetExpression(), p)
}

func celError(result plugincel.CompilationResult, expression string, p *field.Path) field.ErrorList {
	if result.Error == nil {
		return nil
	}
	return field.ErrorList{field.Invalid(p, expression, result.Error.Detail)}
}

func (e *expressions) variables(list []admissionv1.Variable, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, v := range list {
		at := p.Index(i)
		switch {
		case v.Name == "":
			errs = append(errs, field.Required(at.Child("name"), "name is required"))
			continue
		case names.Has(v.Name):
			errs = append(errs, field.Duplicate(at.Child("name"), v.Name))
			continue
		case len(validation.IsCIdentifier(v.Name)) > 0:
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, "name is not a valid CEL identifier"))
			continue
		case v.Expression == "":
			errs = append(errs, field.Required(at.Child("expression"), "expression is required"))
			continue
		}
		names.Insert(v.Name)
		result := e.compiler.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, e.options, environment.NewExpressions)
		errs = append(errs, celError(result, v.Expression, at.Child("expression"))...)
	}
	return errs
}

func (e *expressions) conditions(list []admissionv1.MatchCondition, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) > 64 {
		errs = append(errs, field.TooMany(p, len(list), 64))
	}
	names := sets.New[string]()
	for i := range list {
		at := p.Index(i)
		errs = append(errs, requiredName(at.Child("name"), list[i].Name, validation.IsQualifiedName)...)
		if names.Has(list[i].Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), list[i].Name))
		}
		names.Insert(list[i].Name)
		errs = append(errs, e.check((*matchconditions.MatchCondition)(&list[i]), e.options, at.Child("expression"))...)
	}
	return errs
}

// matchConditions validates the conditions of a webhook, which has no variables.
func matchConditions(list []admissionv1.MatchCondition, p *field.Path) field.ErrorList {
	if len(list) == 0 {
		return nil
	}
	e, err := newExpressions(false)
	if err != nil {
		return field.ErrorList{field.InternalError(p, err)}
	}
	return e.conditions(list, p)
}

func validatingPolicy(v *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	e, err := newExpressions(v.Spec.ParamKind != nil)
	if err != nil {
		return field.ErrorList{field.InternalError(spec(), err)}
	}
	errs := policyShape(v.Spec.FailurePolicy, v.Spec.ParamKind, v.Spec.MatchConstraints)
	errs = append(errs, e.variables(v.Spec.Variables, spec().Child("variables"))...)
	errs = append(errs, e.conditions(v.Spec.MatchConditions, spec().Child("matchConditions"))...)
	if len(v.Spec.Validations)+len(v.Spec.AuditAnnotations) == 0 {
		errs = append(errs, field.Required(spec().Child("validations"), "validations or auditAnnotations must be non-empty"))
	}
	plain := plugincel.OptionalVariableDeclarations{HasParams: e.options.HasParams}
	for i, val := range v.Spec.Validations {
		at := spec().Child("validations").Index(i)
		errs = append(errs, e.check(&validating.ValidationCondition{Expression: val.Expression}, e.options, at.Child("expression"))...)
		if val.MessageExpression != "" {
			errs = append(errs, e.check(&validating.MessageExpressionCondition{MessageExpression: val.MessageExpression}, plain, at.Child("messageExpression"))...)
		}
		if r := val.Reason; r != nil && !slices.Contains(denialReasons(), *r) {
			errs = append(errs, field.NotSupported(at.Child("reason"), *r, denialReasons()))
		}
	}
	for i, a := range v.Spec.AuditAnnotations {
		at := spec().Child("auditAnnotations").Index(i)
		errs = append(errs, requiredName(at.Child("key"), a.Key, validation.IsQualifiedName)...)
		errs = append(errs, e.check(&validating.AuditAnnotationCondition{Key: a.Key, ValueExpression: a.ValueExpression}, e.options, at.Child("valueExpression"))...)
	}
	return errs
}

func denialReasons() []metav1.StatusReason {
	return []metav1.StatusReason{metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnauthorized}
}

func mutatingPolicy(m *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	e, err := newExpressions(m.Spec.ParamKind != nil)
	if err != nil {
		return field.ErrorList{field.InternalError(spec(), err)}
	}
	errs := policyShape(m.Spec.FailurePolicy, m.Spec.ParamKind, m.Spec.MatchConstraints)
	errs = append(errs, oneOf(spec().Child("reinvocationPolicy"), m.Spec.ReinvocationPolicy, admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)...)
	errs = append(errs, e.variables(m.Spec.Variables, spec().Child("variables"))...)
	errs = append(errs, e.conditions(m.Spec.MatchConditions, spec().Child("matchConditions"))...)
	if len(m.Spec.Mutations) == 0 {
		errs = append(errs, field.Required(spec().Child("mutations"), "mutations must contain at least one item"))
	}
	patching := e.options
	patching.HasPatchTypes = true
	for i, mutation := range m.Spec.Mutations {
		at := spec().Child("mutations").Index(i)
		errs = append(errs, oneOf(at.Child("patchType"), mutation.PatchType, admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch)...)
		switch {
		case mutation.PatchType == admissionv1.PatchTypeApplyConfiguration && mutation.ApplyConfiguration != nil:
			errs = append(errs, e.check(&patch.ApplyConfigurationCondition{Expression: mutation.ApplyConfiguration.Expression}, patching, at.Child("applyConfiguration", "expression"))...)
		case mutation.PatchType == admissionv1.PatchTypeApplyConfiguration:
			errs = append(errs, field.Required(at.Child("applyConfiguration"), "must be specified when patchType is ApplyConfiguration"))
		case mutation.PatchType == admissionv1.PatchTypeJSONPatch && mutation.JSONPatch != nil:
			errs = append(errs, e.check(&patch.JSONPatchCondition{Expression: mutation.JSONPatch.Expression}, patching, at.Child("jsonPatch", "expression"))...)
		case mutation.PatchType == admissionv1.PatchTypeJSONPatch:
			errs = append(errs, field.Required(at.Child("jsonPatch"), "must be specified when patchType is JSONPatch"))
		}
	}
	return errs
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
		at := spec().Child("paramKind")
		if gv, err := schema.ParseGroupVersion(k.APIVersion); err != nil || gv.Version == "" {
			errs = append(errs, field.Invalid(at.Child("apiVersion"), k.APIVersion, "must be <group>/<version>"))
		}
		errs = append(errs, required(at.Child("kind"), k.Kind)...)
	}
	if m == nil {
		return append(errs, field.Required(spec().Child("matchConstraints"), ""))
	}
	errs = append(errs, matchResources(m, spec().Child("matchConstraints"))...)
	if len(m.ResourceRules) == 0 {
		errs = append(errs, field.Required(spec().Child("matchConstraints", "resourceRules"), ""))
	}
	return errs
}

func matchResources(m *admissionv1.MatchResources, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m.MatchPolicy != nil {
		errs = append(errs, oneOf(p.Child("matchPolicy"), *m.MatchPolicy, admissionv1.Equivalent, admissionv1.Exact)...)
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
		errs = append(errs, webhookRule(&m.ResourceRules[i].RuleWithOperations, p.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, webhookRule(&m.ExcludeResourceRules[i].RuleWithOperations, p.Child("excludeResourceRules").Index(i))...)
	}
	return errs
}

func validatingBinding(b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	errs := policyBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
	at := spec().Child("validationActions")
	if len(b.Spec.ValidationActions) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	seen := sets.New[admissionv1.ValidationAction]()
	for i, a := range b.Spec.ValidationActions {
		errs = append(errs, oneOf(at.Index(i), a, admissionv1.Audit, admissionv1.Deny, admissionv1.Warn)...)
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
	errs := requiredName(spec().Child("policyName"), policy, validation.IsDNS1123Subdomain)
	if m != nil {
		errs = append(errs, matchResources(m, spec().Child("matchResources"))...)
	}
	if r == nil {
		return errs
	}
	at := spec().Child("paramRef")
	switch {
	case r.Name != "" && r.Selector != nil:
		errs = append(errs, field.Forbidden(at.Child("name"), "name and selector are mutually exclusive"))
	case r.Name == "" && r.Selector == nil:
		errs = append(errs, field.Required(at, "one of name or selector must be specified"))
	}
	errs = append(errs, labelSelector(at.Child("selector"), r.Selector)...)
	if r.ParameterNotFoundAction == nil {
		return append(errs, field.Required(at.Child("parameterNotFoundAction"), ""))
	}
	return append(errs, oneOf(at.Child("parameterNotFoundAction"), *r.ParameterNotFoundAction, admissionv1.AllowAction, admissionv1.DenyAction)...)
}
