package validation

import (
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// How far an autoscaler may look, in seconds.
const (
	maxStabilization = 3600
	maxPolicyPeriod  = 1800
)

func disruptionBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	var errs field.ErrorList
	if b.Spec.MinAvailable != nil && b.Spec.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(spec(), b.Spec, "minAvailable and maxUnavailable cannot be both set"))
	}
	errs = append(errs, intOrPercent(b.Spec.MinAvailable, spec().Child("minAvailable"))...)
	errs = append(errs, atMostAll(b.Spec.MinAvailable, spec().Child("minAvailable"))...)
	errs = append(errs, intOrPercent(b.Spec.MaxUnavailable, spec().Child("maxUnavailable"))...)
	errs = append(errs, atMostAll(b.Spec.MaxUnavailable, spec().Child("maxUnavailable"))...)
	errs = append(errs, labelSelector(spec().Child("selector"), b.Spec.Selector)...)
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil {
		errs = append(errs, supported(spec().Child("unhealthyPodEvictionPolicy"), *p, policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}

func disruptionBudgetStatus(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	errs := metavalidation.ValidateConditions(b.Status.Conditions, status().Child("conditions"))
	for _, c := range []count{{"disruptionsAllowed", b.Status.DisruptionsAllowed}, {"currentHealthy", b.Status.CurrentHealthy},
		{"desiredHealthy", b.Status.DesiredHealthy}, {"expectedPods", b.Status.ExpectedPods}} {
		errs = append(errs, nonNegative(status().Child(c.name), int64(c.n))...)
	}
	return errs
}

func autoscaler(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	var errs field.ErrorList
	if m := h.Spec.MinReplicas; m != nil && *m < 1 {
		errs = append(errs, field.Invalid(spec().Child("minReplicas"), *m, "must be greater than or equal to 1").WithOrigin("minimum"))
	}
	if h.Spec.MaxReplicas < 1 {
		errs = append(errs, field.Invalid(spec().Child("maxReplicas"), h.Spec.MaxReplicas, "must be greater than 0").WithOrigin("minimum"))
	}
	if m := h.Spec.MinReplicas; m != nil && h.Spec.MaxReplicas < *m {
		errs = append(errs, field.Invalid(spec().Child("maxReplicas"), h.Spec.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, scaleTarget(&h.Spec.ScaleTargetRef, spec().Child("scaleTargetRef"))...)
	for i := range h.Spec.Metrics {
		errs = append(errs, metric(&h.Spec.Metrics[i], spec().Child("metrics").Index(i))...)
	}
	if b := h.Spec.Behavior; b != nil {
		errs = append(errs, scalingRules(b.ScaleUp, spec().Child("behavior", "scaleUp"))...)
		errs = append(errs, scalingRules(b.ScaleDown, spec().Child("behavior", "scaleDown"))...)
	}
	return errs
}

func autoscalerStatus(h, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	errs := nonNegative(status().Child("currentReplicas"), int64(h.Status.CurrentReplicas))
	return append(errs, nonNegative(status().Child("desiredReplicas"), int64(h.Status.DesiredReplicas))...)
}

// scaleTarget validates what an autoscaler looks at; its kind and name become parts of a URL.
func scaleTarget(r *autoscalingv2.CrossVersionObjectReference, p *field.Path) field.ErrorList {
	segment := func(s string) []string { return path.IsValidPathSegmentName(s) }
	errs := requiredName(p.Child("kind"), r.Kind, segment)
	errs = append(errs, requiredName(p.Child("name"), r.Name, segment)...)
	if _, err := schema.ParseGroupVersion(r.APIVersion); err != nil {
		errs = append(errs, field.Invalid(p.Child("apiVersion"), r.APIVersion, err.Error()))
	}
	return errs
}

func metric(m *autoscalingv2.MetricSpec, p *field.Path) field.ErrorList {
	if m.Type == "" {
		return field.ErrorList{field.Required(p.Child("type"), "must specify a metric source type")}
	}
	errs := supported(p.Child("type"), m.Type, autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType,
		autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType)
	for _, s := range []struct {
		kind  autoscalingv2.MetricSourceType
		name  string
		set   bool
		judge func(*field.Path) field.ErrorList
	}{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func(p *field.Path) field.ErrorList { return objectMetric(m.Object, p) }},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func(p *field.Path) field.ErrorList { return externalMetric(m.External, p) }},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func(p *field.Path) field.ErrorList { return podsMetric(m.Pods, p) }},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func(p *field.Path) field.ErrorList {
			return resourceMetric(string(m.Resource.Name), &m.Resource.Target, p)
		}},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func(p *field.Path) field.ErrorList {
			var errs field.ErrorList
			if m.ContainerResource.Container == "" {
				errs = append(errs, field.Required(p.Child("container"), "must specify a container"))
			}
			return append(errs, resourceMetric(string(m.ContainerResource.Name), &m.ContainerResource.Target, p)...)
		}},
	} {
		at := p.Child(s.name)
		switch {
		case s.set:
			if s.kind != m.Type {
				errs = append(errs, field.Forbidden(at, "must populate the given metric source only"))
			}
			errs = append(errs, s.judge(at)...)
		case s.kind == m.Type:
			errs = append(errs, field.Required(at, "must populate information for the given metric source"))
		}
	}
	return errs
}

func objectMetric(m *autoscalingv2.ObjectMetricSource, p *field.Path) field.ErrorList {
	errs := scaleTarget(&m.DescribedObject, p.Child("describedObject"))
	errs = append(errs, metricIdentifier(&m.Metric, p.Child("metric"))...)
	errs = append(errs, metricTarget(&m.Target, p.Child("target"))...)
	if m.Target.Value == nil && m.Target.AverageValue == nil {
		errs = append(errs, field.Required(p.Child("target", "averageValue"), "must set either a target value or averageValue"))
	}
	return errs
}

func externalMetric(m *autoscalingv2.ExternalMetricSource, p *field.Path) field.ErrorList {
	errs := metricIdentifier(&m.Metric, p.Child("metric"))
	errs = append(errs, metricTarget(&m.Target, p.Child("target"))...)
	if m.Target.Value == nil && m.Target.AverageValue == nil {
		errs = append(errs, field.Required(p.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
	}
	if m.Target.Value != nil && m.Target.AverageValue != nil {
		errs = append(errs, field.Forbidden(p.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
	}
	return errs
}

func podsMetric(m *autoscalingv2.PodsMetricSource, p *field.Path) field.ErrorList {
	errs := metricIdentifier(&m.Metric, p.Child("metric"))
	errs = append(errs, metricTarget(&m.Target, p.Child("target"))...)
	if m.Target.AverageValue == nil || m.Target.AverageValue.Sign() != 1 {
		errs = append(errs, field.Required(p.Child("target", "averageValue"), "must specify a positive target averageValue"))
	}
	return errs
}

func resourceMetric(name string, t *autoscalingv2.MetricTarget, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(p.Child("name"), "must specify a resource name"))
	}
	errs = append(errs, metricTarget(t, p.Child("target"))...)
	if t.AverageUtilization == nil && t.AverageValue == nil {
		errs = append(errs, field.Required(p.Child("target", "averageUtilization"), "must set either a target raw value or a target utilization"))
	}
	if t.AverageUtilization != nil && t.AverageValue != nil {
		errs = append(errs, field.Forbidden(p.Child("target", "averageValue"), "may not set both a target raw value and a target utilization"))
	}
	return errs
}

func metricIdentifier(m *autoscalingv2.MetricIdentifier, p *field.Path) field.ErrorList {
	errs := labelSelector(p.Child("selector"), m.Selector)
	if m.Name == "" {
		return append(errs, field.Required(p.Child("name"), "must specify a metric name"))
	}
	return append(errs, invalid(p.Child("name"), m.Name, path.IsValidPathSegmentName(m.Name))...)
}

func metricTarget(t *autoscalingv2.MetricTarget, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	case "":
		errs = append(errs, field.Required(p.Child("type"), "must specify a metric target type"))
	default:
		errs = append(errs, field.Invalid(p.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	for _, v := range []struct {
		name string
		q    *resource.Quantity
	}{{"value", t.Value}, {"averageValue", t.AverageValue}} {
		if v.q != nil && v.q.Sign() != 1 {
			errs = append(errs, field.Invalid(p.Child(v.name), v.q.String(), "must be positive"))
		}
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		errs = append(errs, field.Invalid(p.Child("averageUtilization"), *t.AverageUtilization, "must be greater than 0"))
	}
	return errs
}

func scalingRules(r *autoscalingv2.HPAScalingRules, p *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	if w := r.StabilizationWindowSeconds; w != nil && *w < 0 {
		errs = append(errs, field.Invalid(p.Child("stabilizationWindowSeconds"), *w, "must be greater than or equal to zero"))
	} else if w != nil && *w > maxStabilization {
		errs = append(errs, field.Invalid(p.Child("stabilizationWindowSeconds"), *w, fmt.Sprintf("must be less than or equal to %d", maxStabilization)))
	}
	if r.Tolerance != nil {
		errs = append(errs, nonNegativeQuantity(p.Child("tolerance"), *r.Tolerance)...)
	}
	if r.SelectPolicy != nil {
		errs = append(errs, supported(p.Child("selectPolicy"), *r.SelectPolicy, autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	}
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(p.Child("policies"), "must specify at least one Policy"))
	}
	for i, policy := range r.Policies {
		at := p.Child("policies").Index(i)
		errs = append(errs, supported(at.Child("type"), policy.Type, autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)...)
		if policy.Value <= 0 {
			errs = append(errs, field.Invalid(at.Child("value"), policy.Value, "must be greater than zero"))
		}
		if policy.PeriodSeconds <= 0 {
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), policy.PeriodSeconds, "must be greater than zero"))
		}
		if policy.PeriodSeconds > maxPolicyPeriod {
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), policy.PeriodSeconds, fmt.Sprintf("must be less than or equal to %d", maxPolicyPeriod)))
		}
	}
	return errs
}
