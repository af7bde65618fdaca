package printers

import (
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
)

func autoscalerPrinter() printer {
	return newPrinter(columns("Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age"), func(h *autoscalingv2.HorizontalPodAutoscaler, now time.Time) []any {
		var targets []string
		for i, spec := range h.Spec.Metrics {
			var current autoscalingv2.MetricStatus
			if i < len(h.Status.CurrentMetrics) {
				current = h.Status.CurrentMetrics[i]
			}
			targets = append(targets, metricTarget(spec, current))
		}
		return []any{h.Name, h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name, atMost(targets, 2, ", ", none),
			deref(h.Spec.MinReplicas, unset), int64(h.Spec.MaxReplicas), int64(h.Status.CurrentReplicas), age(h, now)}
	})
}

// metricTarget shows one metric as current value/target.
func metricTarget(spec autoscalingv2.MetricSpec, status autoscalingv2.MetricStatus) string {
	switch {
	case spec.Type == autoscalingv2.ExternalMetricSourceType && spec.External != nil:
		var current autoscalingv2.MetricValueStatus
		if status.External != nil {
			current = status.External.Current
		}
		return valueOrAverage(spec.External.Target, current)
	case spec.Type == autoscalingv2.ObjectMetricSourceType && spec.Object != nil:
		var current autoscalingv2.MetricValueStatus
		if status.Object != nil {
			current = status.Object.Current
		}
		return valueOrAverage(spec.Object.Target, current)
	case spec.Type == autoscalingv2.PodsMetricSourceType && spec.Pods != nil:
		var current autoscalingv2.MetricValueStatus
		if status.Pods != nil {
			current = status.Pods.Current
		}
		return quantity(current.AverageValue) + "/" + quantity(spec.Pods.Target.AverageValue)
	case spec.Type == autoscalingv2.ResourceMetricSourceType && spec.Resource != nil:
		var current autoscalingv2.MetricValueStatus
		if status.Resource != nil {
			current = status.Resource.Current
		}
		return string(spec.Resource.Name) + ": " + utilization(spec.Resource.Target, current)
	case spec.Type == autoscalingv2.ContainerResourceMetricSourceType && spec.ContainerResource != nil:
		var current autoscalingv2.MetricValueStatus
		if status.ContainerResource != nil {
			current = status.ContainerResource.Current
		}
		return string(spec.ContainerResource.Name) + ": " + utilization(spec.ContainerResource.Target, current)
	}
	return "<unknown type>"
}

func valueOrAverage(target autoscalingv2.MetricTarget, current autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return quantity(current.AverageValue) + "/" + quantity(target.AverageValue) + " (avg)"
	}
	return quantity(current.Value) + "/" + quantity(target.Value)
}

func utilization(target autoscalingv2.MetricTarget, current autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return quantity(current.AverageValue) + "/" + quantity(target.AverageValue)
	}
	return percent(current.AverageUtilization, "<unknown>") + "/" + percent(target.AverageUtilization, "<auto>")
}

func quantity(q *resource.Quantity) string {
	if q == nil {
		return "<unknown>"
	}
	return q.String()
}

func percent(p *int32, absent string) string {
	if p == nil {
		return absent
	}
	return fmt.Sprintf("%d%%", *p)
}
