package validation

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What a job's policies may have at most.
const (
	maxPolicyRules      = 20
	maxRuleExitCodes    = 255
	maxPodConditions    = 20
	maxSucceededIndexes = 64 * 1024
)

func failurePolicy(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	rules := p.Child("rules")
	if len(s.PodFailurePolicy.Rules) > maxPolicyRules {
		errs = append(errs, field.TooMany(rules, len(s.PodFailurePolicy.Rules), maxPolicyRules))
	}
	names := sets.New[string]()
	for _, c := range slices.Concat(s.Template.Spec.Containers, s.Template.Spec.InitContainers) {
		names.Insert(c.Name)
	}
	for i := range s.PodFailurePolicy.Rules {
		r, at := &s.PodFailurePolicy.Rules[i], rules.Index(i)
		errs = append(errs, failureAction(s, r.Action, at.Child("action"))...)
		if r.OnExitCodes != nil {
			errs = append(errs, exitCodes(r.OnExitCodes, names, at.Child("onExitCodes"))...)
		}
		errs = append(errs, conditionPatterns(r.OnPodConditions, at.Child("onPodConditions"))...)
		switch {
		case r.OnExitCodes != nil && len(r.OnPodConditions) > 0:
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
		case r.OnExitCodes == nil && len(r.OnPodConditions) == 0:
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
		}
	}
	return errs
}

func failureAction(s *batchv1.JobSpec, a batchv1.PodFailurePolicyAction, p *field.Path) field.ErrorList {
	if a == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
		return field.ErrorList{field.Invalid(p, a, "requires the backoffLimitPerIndex to be set")}
	}
	return oneOfThese(p, a, batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
		batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)
}

// oneOfThese is oneOf, with the valid values told to whoever gives none.
func oneOfThese[T ~string](p *field.Path, value T, allowed ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(p, fmt.Sprintf("valid values: %q", allowed))}
	}
	return supported(p, value, allowed...)
}

func exitCodes(c *batchv1.PodFailurePolicyOnExitCodesRequirement, containers sets.Set[string], p *field.Path) field.ErrorList {
	errs := oneOfThese(p.Child("operator"), c.Operator, batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if c.ContainerName != nil && !containers.Has(*c.ContainerName) {
		errs = append(errs, field.Invalid(p.Child("containerName"), *c.ContainerName, "must be one of the container or initContainer names in the pod template"))
	}
	at := p.Child("values")
	if len(c.Values) == 0 {
		errs = append(errs, field.Invalid(at, c.Values, "at least one value is required"))
	} else if len(c.Values) > maxRuleExitCodes {
		errs = append(errs, field.TooMany(at, len(c.Values), maxRuleExitCodes))
	}
	seen := sets.New[int32]()
	for i, v := range c.Values {
		if c.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && v == 0 {
			errs = append(errs, field.Invalid(at.Index(i), v, "must not be 0 for the In operator"))
		}
		if seen.Has(v) {
			errs = append(errs, field.Duplicate(at.Index(i), v))
		}
		seen.Insert(v)
	}
	if !slices.IsSorted(c.Values) {
		errs = append(errs, field.Invalid(at, c.Values, "must be ordered"))
	}
	return errs
}

func conditionPatterns(list []batchv1.PodFailurePolicyOnPodConditionsPattern, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) > maxPodConditions {
		errs = append(errs, field.TooMany(p, len(list), maxPodConditions))
	}
	for i, c := range list {
		errs = append(errs, invalid(p.Index(i).Child("type"), c.Type, validation.IsQualifiedName(string(c.Type)))...)
		errs = append(errs, oneOfThese(p.Index(i).Child("status"), c.Status, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
	}
	return errs
}

func successPolicy(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	if !indexed(s) {
		return field.ErrorList{field.Invalid(p, *s.SuccessPolicy, "requires indexed completion mode")}
	}
	rules := p.Child("rules")
	var errs field.ErrorList
	if len(s.SuccessPolicy.Rules) == 0 {
		errs = append(errs, field.Required(rules, "at least one rules must be specified when the successPolicy is specified"))
	}
	if len(s.SuccessPolicy.Rules) > maxPolicyRules {
		errs = append(errs, field.TooMany(rules, len(s.SuccessPolicy.Rules), maxPolicyRules))
	}
	completions := int32(0) // absent completions are reported elsewhere
	if s.Completions != nil {
		completions = *s.Completions
	}
	for i, r := range s.SuccessPolicy.Rules {
		errs = append(errs, successRule(r, completions, rules.Index(i))...)
	}
	return errs
}

func successRule(r batchv1.SuccessPolicyRule, completions int32, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.SucceededCount == nil && r.SucceededIndexes == nil {
		errs = append(errs, field.Required(p, "at least one of succeededCount or succeededIndexes must be specified"))
	}
	total := int32(0)
	if x := r.SucceededIndexes; x != nil {
		at := p.Child("succeededIndexes")
		if len(*x) > maxSucceededIndexes {
			errs = append(errs, field.TooLong(at, *x, maxSucceededIndexes))
		}
		set, err := parseIndexes(*x, completions)
		if err != nil {
			errs = append(errs, field.Invalid(at, *x, fmt.Sprintf("error parsing succeededIndexes: %s", err)))
		}
		total = set.count()
	}
	if n := r.SucceededCount; n != nil {
		at := p.Child("succeededCount")
		errs = append(errs, nonNegative(at, int64(*n))...)
		if *n > completions {
			errs = append(errs, field.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
		}
		if r.SucceededIndexes != nil && *n > total {
			errs = append(errs, field.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total)))
		}
	}
	return errs
}
