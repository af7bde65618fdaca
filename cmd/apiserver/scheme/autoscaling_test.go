package scheme

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func quantity(s string) *resource.Quantity { return new(resource.MustParse(s)) }

// A client of v1 that writes back what it read must not change what v1 has no fields for.
func TestAutoscalersSurviveV1(t *testing.T) {
	types, err := New()
	if err != nil {
		t.Fatal(err)
	}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	metric := autoscalingv2.MetricIdentifier{Name: "m", Selector: selector}
	object := autoscalingv2.CrossVersionObjectReference{Kind: "Ingress", Name: "i", APIVersion: "networking.k8s.io/v1"}
	average := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: quantity("10")}
	value := autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: quantity("1k")}
	in := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "h", Annotations: map[string]string{"mine": "kept"}},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "d"}, MinReplicas: new(int32(2)), MaxReplicas: 9,
			Metrics: []autoscalingv2.MetricSpec{
				{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu", Target: autoscalingv2.MetricTarget{Type: "Utilization", AverageUtilization: new(int32(70))}}},
				{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "memory", Target: average}},
				{Type: "Pods", Pods: &autoscalingv2.PodsMetricSource{Metric: metric, Target: average}},
				{Type: "Object", Object: &autoscalingv2.ObjectMetricSource{Metric: metric, DescribedObject: object, Target: value}},
				{Type: "Object", Object: &autoscalingv2.ObjectMetricSource{Metric: metric, DescribedObject: object, Target: average}},
				{Type: "External", External: &autoscalingv2.ExternalMetricSource{Metric: metric, Target: value}},
				{Type: "ContainerResource", ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: "cpu", Container: "c", Target: autoscalingv2.MetricTarget{Type: "Utilization", AverageUtilization: new(int32(60))}}},
			},
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{
				ScaleUp: &autoscalingv2.HPAScalingRules{SelectPolicy: new(autoscalingv2.MinChangePolicySelect), Tolerance: quantity("100m"),
					Policies: []autoscalingv2.HPAScalingPolicy{{Type: "Pods", Value: 4, PeriodSeconds: 15}}},
				ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32(300))},
			},
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			ObservedGeneration: new(int64(3)), CurrentReplicas: 2, DesiredReplicas: 3,
			CurrentMetrics: []autoscalingv2.MetricStatus{
				{Type: "Resource", Resource: &autoscalingv2.ResourceMetricStatus{Name: "cpu", Current: autoscalingv2.MetricValueStatus{AverageUtilization: new(int32(5)), AverageValue: quantity("50m")}}},
				{Type: "Object", Object: &autoscalingv2.ObjectMetricStatus{Metric: metric, DescribedObject: object, Current: autoscalingv2.MetricValueStatus{Value: quantity("7")}}},
			},
			Conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: autoscalingv2.AbleToScale, Status: "True", Reason: "r", Message: "m",
				LastTransitionTime: metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Local())}},
		},
	}
	before := in.DeepCopy()
	var old autoscalingv1.HorizontalPodAutoscaler
	if err := types.Scheme.Convert(in, &old, nil); err != nil {
		t.Fatal(err)
	}
	if *old.Spec.TargetCPUUtilizationPercentage != 70 || *old.Status.CurrentCPUUtilizationPercentage != 5 {
		t.Errorf("what v1 has fields for: %+v, %+v", old.Spec, old.Status)
	}
	var out autoscalingv2.HorizontalPodAutoscaler
	if err := types.Scheme.Convert(&old, &out, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, &out); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before, in); diff != "" {
		t.Errorf("the conversion changed what it converts: %s", diff)
	}
	old.Annotations[metricsAnnotation] = "{"
	if err := types.Scheme.Convert(&old, &out, nil); err == nil {
		t.Error("an annotation that is no JSON was taken for no metrics")
	}
}
