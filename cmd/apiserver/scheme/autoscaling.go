package scheme

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// What autoscaling/v1 has no field for, it carries in annotations under these names, as JSON.
const (
	metricsAnnotation        = "autoscaling.alpha.kubernetes.io/metrics"
	currentMetricsAnnotation = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsAnnotation     = "autoscaling.alpha.kubernetes.io/conditions"
	behaviorAnnotation       = "autoscaling.alpha.kubernetes.io/behavior"
)

// addAutoscalerConversions lets autoscaling/v1 serve horizontal pod autoscalers, which are v2 inside.
func addAutoscalerConversions(s *runtime.Scheme) error {
	type pair struct {
		from, to any
		convert  conversion.ConversionFunc
	}
	for _, p := range []pair{
		{(*autoscalingv1.HorizontalPodAutoscaler)(nil), (*autoscalingv2.HorizontalPodAutoscaler)(nil), func(a, b any, _ conversion.Scope) error {
			return autoscalerFromV1(a.(*autoscalingv1.HorizontalPodAutoscaler), b.(*autoscalingv2.HorizontalPodAutoscaler))
		}},
		{(*autoscalingv2.HorizontalPodAutoscaler)(nil), (*autoscalingv1.HorizontalPodAutoscaler)(nil), func(a, b any, _ conversion.Scope) error {
			return autoscalerToV1(a.(*autoscalingv2.HorizontalPodAutoscaler), b.(*autoscalingv1.HorizontalPodAutoscaler))
		}},
		{(*autoscalingv1.HorizontalPodAutoscalerList)(nil), (*autoscalingv2.HorizontalPodAutoscalerList)(nil), func(a, b any, _ conversion.Scope) error {
			in, out := a.(*autoscalingv1.HorizontalPodAutoscalerList), b.(*autoscalingv2.HorizontalPodAutoscalerList)
			out.ListMeta, out.Items = in.ListMeta, make([]autoscalingv2.HorizontalPodAutoscaler, len(in.Items))
			for i := range in.Items {
				if err := autoscalerFromV1(&in.Items[i], &out.Items[i]); err != nil {
					return err
				}
			}
			return nil
		}},
		{(*autoscalingv2.HorizontalPodAutoscalerList)(nil), (*autoscalingv1.HorizontalPodAutoscalerList)(nil), func(a, b any, _ conversion.Scope) error {
			in, out := a.(*autoscalingv2.HorizontalPodAutoscalerList), b.(*autoscalingv1.HorizontalPodAutoscalerList)
			out.ListMeta, out.Items = in.ListMeta, make([]autoscalingv1.HorizontalPodAutoscaler, len(in.Items))
			for i := range in.Items {
				if err := autoscalerToV1(&in.Items[i], &out.Items[i]); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		if err := s.AddConversionFunc(p.from, p.to, p.convert); err != nil {
			return err
		}
	}
	return nil
}

// DropAutoscalerAnnotations removes the annotations that only mean something in autoscaling/v1: what a client of v2
// sends under their names must not show up as metrics for clients of v1.
func DropAutoscalerAnnotations(m metav1.Object) {
	annotations := m.GetAnnotations()
	for _, name := range []string{metricsAnnotation, currentMetricsAnnotation, conditionsAnnotation, behaviorAnnotation} {
		if _, ok := annotations[name]; ok {
			annotations = maps.Clone(annotations)
			delete(annotations, name)
		}
	}
	if len(annotations) == 0 {
		annotations = nil
	}
	m.SetAnnotations(annotations)
}

func autoscalerFromV1(in *autoscalingv1.HorizontalPodAutoscaler, out *autoscalingv2.HorizontalPodAutoscaler) error {
	in = in.DeepCopy()
	out.ObjectMeta = in.ObjectMeta
	out.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
		MinReplicas:    in.Spec.MinReplicas, MaxReplicas: in.Spec.MaxReplicas,
	}
	out.Status = autoscalingv2.HorizontalPodAutoscalerStatus{
		ObservedGeneration: in.Status.ObservedGeneration, LastScaleTime: in.Status.LastScaleTime,
		CurrentReplicas: in.Status.CurrentReplicas, DesiredReplicas: in.Status.DesiredReplicas,
	}
	if out.Spec.MinReplicas == nil {
		out.Spec.MinReplicas = new(int32(1))
	}
	if p := in.Spec.TargetCPUUtilizationPercentage; p != nil {
		out.Spec.Metrics = []autoscalingv2.MetricSpec{cpuMetric(p)}
	}
	if p := in.Status.CurrentCPUUtilizationPercentage; p != nil {
		out.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{
			Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: p},
		}}}
	}
	if err := readMetricAnnotations(in.Annotations, out); err != nil {
		return err
	}
	if text, ok := in.Annotations[behaviorAnnotation]; ok {
		// The annotation's keys begin with capitals; encoding/json reads them whatever their case.
		if err := json.Unmarshal([]byte(text), &out.Spec.Behavior); err != nil {
			return fmt.Errorf("read annotation %s: %w", behaviorAnnotation, err)
		}
	}
	// An autoscaler of v1 that names no target means 80 % of the CPU, whoever reads it.
	if len(out.Spec.Metrics) == 0 {
		usual := int32(80)
		out.Spec.Metrics = []autoscalingv2.MetricSpec{cpuMetric(&usual)}
	}
	DropAutoscalerAnnotations(out)
	return nil
}

func cpuMetric(percent *int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: percent},
	}}
}

// readMetricAnnotations adds the metrics of the annotations. What they say of the CPU now is fuller than the field.
func readMetricAnnotations(annotations map[string]string, out *autoscalingv2.HorizontalPodAutoscaler) error {
	if text, ok := annotations[metricsAnnotation]; ok {
		var metrics []autoscalingv1.MetricSpec
		if err := json.Unmarshal([]byte(text), &metrics); err != nil {
			return fmt.Errorf("read annotation %s: %w", metricsAnnotation, err)
		}
		for i := range metrics {
			out.Spec.Metrics = append(out.Spec.Metrics, metricFromV1(&metrics[i]))
		}
	}
	if text, ok := annotations[currentMetricsAnnotation]; ok {
		var metrics []autoscalingv1.MetricStatus
		// What a controller wrote is only shown: a wrong value here must not make the object unreadable.
		if err := json.Unmarshal([]byte(text), &metrics); err == nil {
			if slices.ContainsFunc(metrics, func(m autoscalingv1.MetricStatus) bool {
				return m.Resource != nil && m.Resource.Name == corev1.ResourceCPU
			}) {
				out.Status.CurrentMetrics = nil
			}
			for i := range metrics {
				out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, metricStatusFromV1(&metrics[i]))
			}
		}
	}
	if text, ok := annotations[conditionsAnnotation]; ok {
		var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
		if err := json.Unmarshal([]byte(text), &conditions); err == nil {
			for _, c := range conditions {
				out.Status.Conditions = append(out.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
					Type: autoscalingv2.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
					Reason: c.Reason, Message: c.Message, ObservedGeneration: c.ObservedGeneration,
				})
			}
		}
	}
	return nil
}

func autoscalerToV1(in *autoscalingv2.HorizontalPodAutoscaler, out *autoscalingv1.HorizontalPodAutoscaler) error {
	in = in.DeepCopy()
	out.ObjectMeta = in.ObjectMeta
	DropAutoscalerAnnotations(out)
	out.Spec = autoscalingv1.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
		MinReplicas:    in.Spec.MinReplicas, MaxReplicas: in.Spec.MaxReplicas,
	}
	out.Status = autoscalingv1.HorizontalPodAutoscalerStatus{
		ObservedGeneration: in.Status.ObservedGeneration, LastScaleTime: in.Status.LastScaleTime,
		CurrentReplicas: in.Status.CurrentReplicas, DesiredReplicas: in.Status.DesiredReplicas,
	}
	var metrics []autoscalingv1.MetricSpec
	for i := range in.Spec.Metrics {
		m := &in.Spec.Metrics[i]
		if r := m.Resource; r != nil && r.Name == corev1.ResourceCPU && r.Target.AverageUtilization != nil && out.Spec.TargetCPUUtilizationPercentage == nil {
			out.Spec.TargetCPUUtilizationPercentage = r.Target.AverageUtilization
			continue
		}
		metrics = append(metrics, metricToV1(m))
	}
	var current []autoscalingv1.MetricStatus
	for i := range in.Status.CurrentMetrics {
		m := &in.Status.CurrentMetrics[i]
		if r := m.Resource; r != nil && r.Name == corev1.ResourceCPU && r.Current.AverageUtilization != nil && out.Status.CurrentCPUUtilizationPercentage == nil {
			out.Status.CurrentCPUUtilizationPercentage = r.Current.AverageUtilization
			// The value beside the percentage would be lost, so it goes into the annotation, too.
			if r.Current.AverageValue == nil {
				continue
			}
		}
		current = append(current, metricStatusToV1(m))
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	for _, c := range in.Status.Conditions {
		conditions = append(conditions, autoscalingv1.HorizontalPodAutoscalerCondition{
			Type: autoscalingv1.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
			Reason: c.Reason, Message: c.Message, ObservedGeneration: c.ObservedGeneration,
		})
	}
	return annotateV1(out, in.Spec.Behavior, metrics, current, conditions)
}

func annotateV1(out *autoscalingv1.HorizontalPodAutoscaler, behavior *autoscalingv2.HorizontalPodAutoscalerBehavior, metrics []autoscalingv1.MetricSpec,
	current []autoscalingv1.MetricStatus, conditions []autoscalingv1.HorizontalPodAutoscalerCondition) error {
	for _, a := range []struct {
		name  string
		some  bool
		value any
	}{
		{metricsAnnotation, len(metrics) > 0, metrics}, {currentMetricsAnnotation, len(current) > 0, current},
		{conditionsAnnotation, len(conditions) > 0, conditions}, {behaviorAnnotation, behavior != nil, namedBehavior(behavior)},
	} {
		if !a.some {
			continue
		}
		text, err := json.Marshal(a.value)
		if err != nil {
			return fmt.Errorf("write annotation %s: %w", a.name, err)
		}
		metav1.SetMetaDataAnnotation(&out.ObjectMeta, a.name, string(text))
	}
	return nil
}

// The behavior annotation names its fields as Go does: upstream once wrote a type without JSON names there, and clients
// of v1 have read it so ever since.
type (
	behaviorText struct{ ScaleUp, ScaleDown *rulesText }
	rulesText    struct {
		StabilizationWindowSeconds *int32
		SelectPolicy               *autoscalingv2.ScalingPolicySelect
		Policies                   []policyText
		Tolerance                  *resource.Quantity
	}
	policyText struct {
		Type          autoscalingv2.HPAScalingPolicyType
		Value         int32
		PeriodSeconds int32
	}
)

func namedBehavior(b *autoscalingv2.HorizontalPodAutoscalerBehavior) *behaviorText {
	if b == nil {
		return nil
	}
	return &behaviorText{namedRules(b.ScaleUp), namedRules(b.ScaleDown)}
}

func namedRules(r *autoscalingv2.HPAScalingRules) *rulesText {
	if r == nil {
		return nil
	}
	out := &rulesText{StabilizationWindowSeconds: r.StabilizationWindowSeconds, SelectPolicy: r.SelectPolicy, Tolerance: r.Tolerance}
	for _, p := range r.Policies {
		out.Policies = append(out.Policies, policyText(p))
	}
	return out
}
