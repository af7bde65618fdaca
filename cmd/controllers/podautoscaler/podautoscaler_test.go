package podautoscaler

import (
	"fmt"
	"slices"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)

// pod requests 1 CPU and has been ready for an hour, unless it is told otherwise.
func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &metav1.Time{Time: t0.Add(-time.Hour)},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: t0.Add(-time.Hour)}}}}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

func pending(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }
func failed(p *corev1.Pod)  { p.Status.Phase = corev1.PodFailed }
func leaving(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: t0} }
func starting(p *corev1.Pod) {
	p.Status.StartTime = &metav1.Time{Time: t0.Add(-time.Minute)}
	p.Status.Conditions[0].Status, p.Status.Conditions[0].LastTransitionTime = corev1.ConditionFalse, metav1.Time{Time: t0.Add(-time.Minute)}
}

func using(millis map[string]int64) map[string]metric {
	out := map[string]metric{}
	for name, v := range millis {
		out[name] = metric{v, t0, 15 * time.Second}
	}
	return out
}

func TestMeasure(t *testing.T) {
	half := int32(50)
	cpu := want{resource: corev1.ResourceCPU, utilization: &half}
	for name, tt := range map[string]struct {
		pods []*corev1.Pod
		use  map[string]int64
		want string // replicas and percentage, or the error
	}{
		"twice the target":               {[]*corev1.Pod{pod("a"), pod("b")}, map[string]int64{"a": 1000, "b": 1000}, "4 at 100%"},
		"within a tenth":                 {[]*corev1.Pod{pod("a"), pod("b")}, map[string]int64{"a": 540, "b": 540}, "2 at 54%"},
		"a half":                         {[]*corev1.Pod{pod("a"), pod("b")}, map[string]int64{"a": 250, "b": 250}, "1 at 25%"},
		"rounded up":                     {[]*corev1.Pod{pod("a"), pod("b")}, map[string]int64{"a": 700, "b": 700}, "3 at 70%"},
		"those that leave do not count":  {[]*corev1.Pod{pod("a"), pod("b", leaving), pod("d", failed)}, map[string]int64{"a": 1000, "b": 0, "d": 0}, "2 at 100%"},
		"a pending one will help":        {[]*corev1.Pod{pod("a"), pod("b", pending)}, map[string]int64{"a": 1000}, "2 at 100%"},
		"a starting one will help":       {[]*corev1.Pod{pod("a"), pod("b", starting)}, map[string]int64{"a": 2000, "b": 3000}, "4 at 200%"},
		"missing may be busy":            {[]*corev1.Pod{pod("a"), pod("b")}, map[string]int64{"a": 100}, "2 at 10%"},
		"missing may be idle":            {[]*corev1.Pod{pod("a"), pod("b")}, map[string]int64{"a": 600}, "2 at 60%"},
		"missing, and too much for one":  {[]*corev1.Pod{pod("a"), pod("b")}, map[string]int64{"a": 2000}, "4 at 200%"},
		"nobody is ready":                {[]*corev1.Pod{pod("a", starting)}, map[string]int64{"a": 1}, "did not receive metrics for targeted pods (pods might be unready)"},
		"there is nobody":                {nil, nil, "no pods returned by selector while calculating replica count"},
		"a percentage of nothing":        {[]*corev1.Pod{pod("a", func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = nil })}, map[string]int64{"a": 1}, "missing request for cpu in container c of Pod a"},
		"a sidecar's request counts too": {[]*corev1.Pod{pod("a", withSidecar)}, map[string]int64{"a": 1000}, "1 at 50%"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Defaults()
			f, err := measure(2, tt.pods, using(tt.use), cpu, s, tolerances{s.Tolerance, s.Tolerance}, t0)
			if len(tt.pods) == 1 {
				f, err = measure(1, tt.pods, using(tt.use), cpu, s, tolerances{s.Tolerance, s.Tolerance}, t0)
			}
			got := fmt.Sprintf("%d at %d%%", f.replicas, f.utilization)
			if err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func withSidecar(p *corev1.Pod) {
	always := corev1.ContainerRestartPolicyAlways
	p.Spec.InitContainers = []corev1.Container{{Name: "s", RestartPolicy: &always, Resources: p.Spec.Containers[0].Resources}, {Name: "init"}}
}

func TestMeasureAverage(t *testing.T) {
	s := Defaults()
	f, err := measure(2, []*corev1.Pod{pod("a"), pod("b")}, using(map[string]int64{"a": 3000, "b": 1000}), want{resource: corev1.ResourceMemory, average: 1000}, s, tolerances{0.1, 0.1}, t0)
	if err != nil || f.replicas != 4 || f.average != 2000 {
		t.Errorf("%+v, %v", f, err)
	}
}

func spec(change ...func(*autoscalingv2.HorizontalPodAutoscalerSpec)) *autoscalingv2.HorizontalPodAutoscalerSpec {
	least := int32(2)
	s := &autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: &least, MaxReplicas: 20}
	for _, f := range change {
		f(s)
	}
	return s
}

func TestDecide(t *testing.T) {
	rules := func(window int32, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
		return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, Policies: policies}
	}
	disabled := autoscalingv2.DisabledPolicySelect
	for name, tt := range map[string]struct {
		spec            *autoscalingv2.HorizontalPodAutoscalerSpec
		current, wanted int32
		h               history
		want            string
	}{
		"nothing to do":        {spec(), 4, 4, history{}, "4 ReadyForNewScale DesiredWithinRange"},
		"up":                   {spec(), 4, 6, history{}, "6 ReadyForNewScale DesiredWithinRange"},
		"up, by rate":          {spec(), 4, 15, history{}, "8 ReadyForNewScale ScaleUpLimit"},
		"up from few, by pods": {spec(), 2, 15, history{}, "6 ReadyForNewScale ScaleUpLimit"},
		"up, after it did":     {spec(), 8, 15, history{ups: []recommendation{{t0.Add(-5 * time.Second), 4}}}, "8 ReadyForNewScale ScaleUpLimit"},
		"up, long after":       {spec(), 8, 15, history{ups: []recommendation{{t0.Add(-20 * time.Second), 4}}}, "15 ReadyForNewScale DesiredWithinRange"},
		"up, to the most":      {spec(), 18, 30, history{}, "20 ReadyForNewScale TooManyReplicas"},
		"down at once":         {spec(), 8, 3, history{}, "3 ReadyForNewScale DesiredWithinRange"},
		"down to the least":    {spec(), 8, 1, history{}, "2 ReadyForNewScale TooFewReplicas"},
		"down, not yet":        {spec(), 8, 3, history{recommended: []recommendation{{t0.Add(-4 * time.Minute), 7}}}, "7 ScaleDownStabilized DesiredWithinRange"},
		"down, now":            {spec(), 8, 3, history{recommended: []recommendation{{t0.Add(-6 * time.Minute), 7}}}, "3 ReadyForNewScale DesiredWithinRange"},
		"down, one in a minute": {spec(func(s *autoscalingv2.HorizontalPodAutoscalerSpec) {
			s.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: rules(0, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 1, PeriodSeconds: 60})}
		}), 8, 3, history{}, "7 ReadyForNewScale ScaleDownLimit"},
		"never down": {spec(func(s *autoscalingv2.HorizontalPodAutoscalerSpec) {
			s.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{SelectPolicy: &disabled}}
		}), 8, 3, history{}, "8 ReadyForNewScale ScaleDownLimit"},
		"up, only when it stays": {spec(func(s *autoscalingv2.HorizontalPodAutoscalerSpec) {
			s.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rules(60)}
		}), 4, 8, history{recommended: []recommendation{{t0.Add(-30 * time.Second), 5}}}, "5 ScaleUpStabilized DesiredWithinRange"},
	} {
		t.Run(name, func(t *testing.T) {
			h := tt.h
			d := decide(tt.spec, tt.current, tt.wanted, &h, Defaults(), t0)
			if got := fmt.Sprintf("%d %s %s", d.replicas, d.ready.name, d.limited.name); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestHistoryIsBounded(t *testing.T) {
	h, s := &history{}, spec()
	for i := range 1000 {
		now := t0.Add(time.Duration(i) * 15 * time.Second)
		decide(s, 5, 5, h, Defaults(), now)
		h.changed(5, 6, s, Defaults(), now)
	}
	if len(h.recommended) > 21 || len(h.ups) > 2 {
		t.Errorf("it remembers %d recommendations and %d changes", len(h.recommended), len(h.ups))
	}
}

func TestTargetOf(t *testing.T) {
	half := int32(50)
	q := resource.MustParse("100Mi")
	for _, tt := range []struct {
		spec autoscalingv2.MetricSpec
		want string
	}{
		{autoscalingv2.MetricSpec{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu", Target: autoscalingv2.MetricTarget{AverageUtilization: &half}}}, "cpu resource utilization (percentage of request)"},
		{autoscalingv2.MetricSpec{Type: "ContainerResource", ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: "memory", Container: "c", Target: autoscalingv2.MetricTarget{AverageValue: &q}}}, "memory container resource"},
		{autoscalingv2.MetricSpec{Type: "External"}, "FailedGetExternalMetric: metrics of type External are not supported: only Resource and ContainerResource are"},
	} {
		w, why, err := targetOf(&tt.spec)
		got := describe(w)
		if err != nil {
			got = why + ": " + err.Error()
		}
		if got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}

func TestConditionChangesItsTimeWithItsStatus(t *testing.T) {
	hpa := &autoscalingv2.HorizontalPodAutoscaler{}
	condition(hpa, autoscalingv2.AbleToScale, reason{true, "A", ""}, t0)
	condition(hpa, autoscalingv2.AbleToScale, reason{true, "B", ""}, t0.Add(time.Minute))
	condition(hpa, autoscalingv2.ScalingActive, reason{true, "C", ""}, t0.Add(time.Minute))
	condition(hpa, autoscalingv2.ScalingActive, reason{false, "D", ""}, t0.Add(2*time.Minute))
	var got []string
	for _, c := range hpa.Status.Conditions {
		got = append(got, fmt.Sprintf("%s %s %s %v", c.Type, c.Status, c.Reason, c.LastTransitionTime.Sub(t0)))
	}
	if want := []string{"AbleToScale True B 0s", "ScalingActive False D 2m0s"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// The size that is found first counts as recommended: a restart does not scale down at once, but up.
func TestBegin(t *testing.T) {
	h, s := &history{}, Defaults()
	spec := &autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 20}
	h.begin(8, t0)
	if d := decide(spec, 8, 3, h, s, t0); d.replicas != 8 || d.ready.name != "ScaleDownStabilized" {
		t.Errorf("down at once: %+v", d)
	}
	h.begin(3, t0.Add(time.Minute)) // it has begun already
	if d := decide(spec, 8, 12, h, s, t0.Add(time.Minute)); d.replicas != 12 {
		t.Errorf("up at once: %+v", d)
	}
	if d := decide(spec, 12, 3, h, s, t0.Add(7*time.Minute)); d.replicas != 3 {
		t.Errorf("down at last: %+v", d)
	}
}
