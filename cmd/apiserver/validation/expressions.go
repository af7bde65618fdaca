package validation

import (
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// maxMatchConditions is how many conditions a webhook or policy may have.
const maxMatchConditions = 64

// expressions compiles the CEL expressions of one policy or webhook, so that a mistake shows when it is written, not when a
// request is refused for it.
type expressions struct {
	compiler *plugincel.CompositedCompiler
	options  plugincel.OptionalVariableDeclarations
	// stored are expressions that were accepted before: they may use what only a newer version, now rolled back, lets one write.
	stored sets.Set[string]
}

func newExpressions(params bool, stored sets.Set[string]) (*expressions, error) {
	c, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return nil, fmt.Errorf("make CEL compiler: %w", err)
	}
	return &expressions{compiler: c, options: plugincel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}, stored: stored}, nil
}

func (e *expressions) mode(expression string) environment.Type {
	if e.stored.Has(expression) {
		return environment.StoredExpressions
	}
	return environment.NewExpressions
}

func (e *expressions) check(a plugincel.ExpressionAccessor, o plugincel.OptionalVariableDeclarations, p *field.Path) field.ErrorList {
	result := e.compiler.CompileCELExpression(a, o, e.mode(a.GetExpression()))
	return compiled(result, a.GetExpression(), p)
}

func compiled(result plugincel.CompilationResult, expression string, p *field.Path) field.ErrorList {
	if result.Error == nil {
		return nil
	}
	switch result.Error.Type {
	case cel.ErrorTypeRequired:
		return field.ErrorList{field.Required(p, result.Error.Detail)}
	case cel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(p, expression, result.Error.Detail)}
	default:
		return field.ErrorList{field.InternalError(p, result.Error)}
	}
}

// variables compiles variables in order: each may use those before it.
func (e *expressions) variables(list []admissionv1.Variable, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, v := range list {
		name, expression := p.Index(i).Child("name"), p.Index(i).Child("expression")
		switch {
		case strings.TrimSpace(v.Name) == "":
			errs = append(errs, field.Required(name, "name is not specified"))
		case !isIdentifier(v.Name):
			errs = append(errs, field.Invalid(name, v.Name, "name is not a valid CEL identifier"))
		case names.Has(v.Name):
			errs = append(errs, field.Duplicate(name, v.Name))
		}
		names.Insert(v.Name)
		if strings.TrimSpace(v.Expression) == "" {
			errs = append(errs, field.Required(expression, "expression is not specified"))
			continue
		}
		result := e.compiler.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, e.options, e.mode(v.Expression))
		errs = append(errs, compiled(result, v.Expression, expression)...)
	}
	return errs
}

// isIdentifier says whether an expression may name a variable so: escaping shows which names are CEL's own.
func isIdentifier(name string) bool {
	escaped, ok := cel.Escape(name)
	return ok && escaped != "__"+name+"__" && len(validation.IsCIdentifier(name)) == 0
}

// conditions judges match conditions. They are evaluated before variables exist, so they are compiled before them too.
func (e *expressions) conditions(list []admissionv1.MatchCondition, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) > maxMatchConditions {
		errs = append(errs, field.TooMany(p, len(list), maxMatchConditions))
	}
	names := sets.New[string]()
	for i := range list {
		at := p.Index(i)
		if strings.TrimSpace(list[i].Expression) == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else {
			errs = append(errs, e.check((*matchconditions.MatchCondition)(&list[i]), e.options, at.Child("expression"))...)
		}
		errs = append(errs, requiredName(at.Child("name"), list[i].Name, validation.IsQualifiedName)...)
		if list[i].Name != "" && names.Has(list[i].Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), list[i].Name))
		}
		names.Insert(list[i].Name)
	}
	return errs
}

// webhookConditions validates the conditions of a webhook, which has neither parameters nor variables.
func webhookConditions(list []admissionv1.MatchCondition, stored sets.Set[string], p *field.Path) field.ErrorList {
	if len(list) == 0 {
		return nil
	}
	e, err := newExpressions(false, stored)
	if err != nil {
		return field.ErrorList{field.InternalError(p, err)}
	}
	return e.conditions(list, p)
}

func (e *expressions) mutation(m *admissionv1.Mutation, p *field.Path) field.ErrorList {
	const wanted, unwanted = "must be specified when patchType is %s", "must not be specified when patchType is %s"
	var errs field.ErrorList
	jsonPatch, apply := p.Child("jsonPatch"), p.Child("applyConfiguration")
	switch m.PatchType {
	case admissionv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			errs = append(errs, field.Required(jsonPatch, fmt.Sprintf(wanted, m.PatchType)))
		} else {
			errs = append(errs, e.patch(&patch.JSONPatchCondition{Expression: m.JSONPatch.Expression}, jsonPatch.Child("expression"))...)
		}
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(apply, "{applyConfiguration}", fmt.Sprintf(unwanted, m.PatchType)))
		}
	case admissionv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			errs = append(errs, field.Required(apply, fmt.Sprintf(wanted, m.PatchType)))
		} else {
			errs = append(errs, e.patch(&patch.ApplyConfigurationCondition{Expression: m.ApplyConfiguration.Expression}, apply.Child("expression"))...)
		}
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(jsonPatch, "{jsonPatch}", fmt.Sprintf(unwanted, m.PatchType)))
		}
	case "":
		errs = append(errs, field.Required(p.Child("patchType"), ""))
	default:
		errs = append(errs, field.NotSupported(p.Child("patchType"), m.PatchType,
			[]admissionv1.PatchType{admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch}))
	}
	return errs
}

func (e *expressions) patch(a plugincel.ExpressionAccessor, p *field.Path) field.ErrorList {
	if strings.TrimSpace(a.GetExpression()) == "" {
		return field.ErrorList{field.Required(p, "expression is not specified")}
	}
	options := e.options
	options.HasPatchTypes = true
	return e.check(a, options, p)
}
