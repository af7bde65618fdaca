package podautoscaler

import (
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// condition says r of hpa. The time is that of the last change between true and false.
func condition(hpa *autoscalingv2.HorizontalPodAutoscaler, kind autoscalingv2.HorizontalPodAutoscalerConditionType, r reason, now time.Time) {
	status := corev1.ConditionFalse
	if r.holds {
		status = corev1.ConditionTrue
	}
	for i := range hpa.Status.Conditions {
		if c := &hpa.Status.Conditions[i]; c.Type == kind {
			if c.Status != status {
				c.LastTransitionTime = metav1.Time{Time: now}
			}
			c.Status, c.Reason, c.Message = status, r.name, r.message
			return
		}
	}
	hpa.Status.Conditions = append(hpa.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
		Type: kind, Status: status, Reason: r.name, Message: r.message, LastTransitionTime: metav1.Time{Time: now}})
}

// statusOf is what a metric was found at.
func statusOf(spec *autoscalingv2.MetricSpec, w want, f found) autoscalingv2.MetricStatus {
	value := autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(f.average, resource.DecimalSI)}
	if w.resource != corev1.ResourceCPU {
		value.AverageValue = resource.NewQuantity(f.average/1000, resource.DecimalSI)
	}
	if w.utilization != nil {
		value.AverageUtilization = &f.utilization
	}
	out := autoscalingv2.MetricStatus{Type: spec.Type}
	if w.container != "" {
		out.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: w.resource, Container: w.container, Current: value}
	} else {
		out.Resource = &autoscalingv2.ResourceMetricStatus{Name: w.resource, Current: value}
	}
	return out
}
