package validation

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
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
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil {
		errs = append(errs, oneOf(spec().Child("unhealthyPodEvictionPolicy"), *p, policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return append(errs, labelSelector(spec().Child("selector"), b.Spec.Selector)...)
}

func disruptionBudgetStatus(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	var errs field.ErrorList
	for name, n := range map[string]int32{"disruptionsAllowed": b.Status.DisruptionsAllowed, "currentHealthy": b.Status.CurrentHealthy,
		"desiredHealthy": b.Status.DesiredHealthy, "expectedPods": b.Status.ExpectedPods} {
		errs = append(errs, nonNegative(status().Child(name), int64(n))...)
	}
	return errs
}

func autoscaler(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	var errs field.ErrorList
	if m := h.Spec.MinReplicas; m != nil && *m < 1 {
		errs = append(errs, field.Invalid(spec().Child("minReplicas"), *m, "must be greater than or equal to 1"))
	}
	if h.Spec.MaxReplicas < 1 {
		errs = append(errs, field.Invalid(spec().Child("maxReplicas"), h.Spec.MaxReplicas, "must be greater than 0"))
	}
	if m := h.Spec.MinReplicas; m != nil && h.Spec.MaxReplicas < *m {
		errs = append(errs, field.Invalid(spec().Child("maxReplicas"), h.Spec.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, required(spec().Child("scaleTargetRef", "kind"), h.Spec.ScaleTargetRef.Kind)...)
	errs = append(errs, required(spec().Child("scaleTargetRef", "name"), h.Spec.ScaleTargetRef.Name)...)
	for i := range h.Spec.Metrics {
		errs = append(errs, metric(&h.Spec.Metrics[i], spec().Child("metrics").Index(i))...)
	}
	return errs
}

func metric(m *autoscalingv2.MetricSpec, p *field.Path) field.ErrorList {
	errs := oneOf(p.Child("type"), m.Type, autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType,
		autoscalingv2.ExternalMetricSourceType, autoscalingv2.ContainerResourceMetricSourceType)
	var target *autoscalingv2.MetricTarget
	name := ""
	switch m.Type {
	case autoscalingv2.ObjectMetricSourceType:
		if name = "object"; m.Object != nil {
			target = &m.Object.Target
		}
	case autoscalingv2.PodsMetricSourceType:
		if name = "pods"; m.Pods != nil {
			target = &m.Pods.Target
		}
	case autoscalingv2.ResourceMetricSourceType:
		if name = "resource"; m.Resource != nil {
			errs = append(errs, required(p.Child("resource", "name"), string(m.Resource.Name))...)
			target = &m.Resource.Target
		}
	case autoscalingv2.ContainerResourceMetricSourceType:
		if name = "containerResource"; m.ContainerResource != nil {
			errs = append(errs, required(p.Child("containerResource", "name"), string(m.ContainerResource.Name))...)
			errs = append(errs, required(p.Child("containerResource", "container"), m.ContainerResource.Container)...)
			target = &m.ContainerResource.Target
		}
	case autoscalingv2.ExternalMetricSourceType:
		if name = "external"; m.External != nil {
			target = &m.External.Target
		}
	default:
		return errs
	}
	if target == nil {
		return append(errs, field.Required(p.Child(name), "must populate information for the given metric source"))
	}
	return append(errs, metricTarget(target, p.Child(name, "target"))...)
}

func metricTarget(t *autoscalingv2.MetricTarget, p *field.Path) field.ErrorList {
	errs := oneOf(p.Child("type"), t.Type, autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType)
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		errs = append(errs, field.Invalid(p.Child("averageUtilization"), *t.AverageUtilization, "must be greater than 0"))
	}
	if t.Value != nil && t.Value.Sign() != 1 {
		errs = append(errs, field.Invalid(p.Child("value"), t.Value.String(), "must be positive"))
	}
	if t.AverageValue != nil && t.AverageValue.Sign() != 1 {
		errs = append(errs, field.Invalid(p.Child("averageValue"), t.AverageValue.String(), "must be positive"))
	}
	if t.Value == nil && t.AverageValue == nil && t.AverageUtilization == nil {
		errs = append(errs, field.Required(p, "must set either a target value, an average value or an average utilization"))
	}
	return errs
}
