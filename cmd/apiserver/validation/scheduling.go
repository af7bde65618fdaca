package validation

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func scheduling(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabels(s.NodeSelector, p.Child("nodeSelector"))
	errs = append(errs, tolerations(s.Tolerations, p.Child("tolerations"))...)
	if s.Affinity != nil {
		errs = append(errs, affinity(s.Affinity, p.Child("affinity"))...)
	}
	if s.PreemptionPolicy != nil {
		errs = append(errs, oneOf(p.Child("preemptionPolicy"), *s.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	if len(s.Overhead) > 0 {
		errs = append(errs, containerResources(p.Child("overhead"), &corev1.ResourceRequirements{Limits: s.Overhead}, nil)...)
	}
	return append(errs, spreadConstraints(s.TopologySpreadConstraints, p.Child("topologySpreadConstraints"))...)
}

func spreadConstraints(list []corev1.TopologySpreadConstraint, p *field.Path) field.ErrorList {
	type pair struct {
		key  string
		when corev1.UnsatisfiableConstraintAction
	}
	var errs field.ErrorList
	seen := sets.New[pair]()
	for i := range list {
		c, at := &list[i], p.Index(i)
		errs = append(errs, spreadConstraint(c, at)...)
		if seen.Has(pair{c.TopologyKey, c.WhenUnsatisfiable}) {
			errs = append(errs, field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%s, %s}", c.TopologyKey, c.WhenUnsatisfiable)))
		}
		seen.Insert(pair{c.TopologyKey, c.WhenUnsatisfiable})
	}
	return errs
}

func spreadConstraint(c *corev1.TopologySpreadConstraint, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.MaxSkew <= 0 {
		errs = append(errs, field.Invalid(p.Child("maxSkew"), c.MaxSkew, "must be greater than zero"))
	}
	errs = append(errs, topologyKey(c.TopologyKey, p.Child("topologyKey"))...)
	errs = append(errs, supported(p.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
	if m := c.MinDomains; m != nil && *m <= 0 {
		errs = append(errs, field.Invalid(p.Child("minDomains"), *m, "must be greater than zero"))
	}
	if m := c.MinDomains; m != nil && c.WhenUnsatisfiable != corev1.DoNotSchedule {
		errs = append(errs, field.Invalid(p.Child("minDomains"), *m, fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, c.WhenUnsatisfiable)))
	}
	if n := c.NodeAffinityPolicy; n != nil {
		errs = append(errs, supported(p.Child("nodeAffinityPolicy"), *n, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
	}
	if n := c.NodeTaintsPolicy; n != nil {
		errs = append(errs, supported(p.Child("nodeTaintsPolicy"), *n, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
	}
	errs = append(errs, labelSelector(p.Child("labelSelector"), c.LabelSelector)...)
	return append(errs, labelKeys("matchLabelKeys", c.MatchLabelKeys, c.LabelSelector, p)...)
}

// labelKeys validates the keys of the field called name: keys whose values in the pod's own labels narrow selector. Such a key may be there once already, because
// the server itself writes it there.
func labelKeys(name string, keys []string, selector *metav1.LabelSelector, p *field.Path) field.ErrorList {
	p = p.Child(name)
	if len(keys) == 0 {
		return nil
	}
	if selector == nil {
		return field.ErrorList{field.Forbidden(p, "must not be specified when labelSelector is not set")}
	}
	uses := map[string]int{}
	for k := range selector.MatchLabels {
		uses[k] += 2
	}
	for _, e := range selector.MatchExpressions {
		uses[e.Key]++
	}
	var errs field.ErrorList
	for i, k := range keys {
		errs = append(errs, metavalidation.ValidateLabelName(k, p.Index(i))...)
		if uses[k] > 1 {
			errs = append(errs, field.Invalid(p.Index(i), k, fmt.Sprintf("exists in both %s and labelSelector", name)))
		}
	}
	return errs
}

func topologyKey(key string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if key == "" {
		errs = append(errs, field.Required(p, "can not be empty"))
	}
	return append(errs, metavalidation.ValidateLabelName(key, p)...)
}

func tolerations(list []corev1.Toleration, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		errs = append(errs, toleration(&list[i], p.Index(i))...)
	}
	return errs
}

func toleration(t *corev1.Toleration, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, p.Child("key"))...)
	}
	if t.Key == "" && t.Operator != corev1.TolerationOpExists {
		errs = append(errs, field.Invalid(p.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
	}
	if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
		errs = append(errs, field.Invalid(p.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
	}
	switch t.Operator {
	case corev1.TolerationOpEqual, "":
		if bad := validation.IsValidLabelValue(t.Value); len(bad) > 0 {
			errs = append(errs, field.Invalid(p.Child("operator"), t.Value, strings.Join(bad, ";")))
		}
	case corev1.TolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(p.Child("operator"), *t, "value must be empty when `operator` is 'Exists'"))
		}
	case corev1.TolerationOpLt, corev1.TolerationOpGt:
		if n, err := strconv.ParseInt(t.Value, 10, 64); err != nil || strconv.FormatInt(n, 10) != t.Value {
			errs = append(errs, field.Invalid(p.Child("value"), t.Value, fmt.Sprintf("value must be a valid integer when operator is '%s'", t.Operator)))
		}
	default:
		errs = append(errs, field.NotSupported(p.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists, corev1.TolerationOpLt, corev1.TolerationOpGt}))
	}
	if t.Effect != "" {
		errs = append(errs, taintEffect(t.Effect, p.Child("effect"))...)
	}
	return errs
}

func taintEffect(e corev1.TaintEffect, p *field.Path) field.ErrorList {
	return oneOf(p, e, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}
