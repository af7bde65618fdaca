package podautoscaler

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	scalefake "k8s.io/client-go/scale/fake"
	ktesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metricsfake "k8s.io/metrics/pkg/client/clientset/versioned/fake"
)

// cluster has a Deployment of one pod, which uses so much of the one CPU that it requests, and an autoscaler to 50 %.
type cluster struct {
	controller *Controller
	api        *fake.Clientset
	events     *record.FakeRecorder
	replicas   int32
	refuse     error // what a change of the scale is answered with
	updates    int
}

func newCluster(t *testing.T, cpu string) *cluster {
	t.Helper()
	half := int32(50)
	hpa := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "h", Generation: 3}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"}, MaxReplicas: 5,
		Metrics: []autoscalingv2.MetricSpec{{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu",
			Target: autoscalingv2.MetricTarget{Type: "Utilization", AverageUtilization: &half}}}}}}
	p := pod("p", func(p *corev1.Pod) { p.Namespace, p.Labels = "ns", map[string]string{"app": "d"} })
	c := &cluster{api: fake.NewClientset(hpa, p), events: record.NewFakeRecorder(20), replicas: 1}
	scales := &scalefake.FakeScaleClient{}
	scales.AddReactor("get", "deployments", func(ktesting.Action) (bool, runtime.Object, error) {
		return true, &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d"}, Spec: autoscalingv1.ScaleSpec{Replicas: c.replicas},
			Status: autoscalingv1.ScaleStatus{Replicas: c.replicas, Selector: "app=d"}}, nil
	})
	scales.AddReactor("update", "deployments", func(a ktesting.Action) (bool, runtime.Object, error) {
		s := a.(ktesting.UpdateAction).GetObject().(*autoscalingv1.Scale)
		c.updates++
		if c.refuse != nil {
			return true, nil, c.refuse
		}
		c.replicas = s.Spec.Replicas
		return true, s, nil
	})
	metrics := metricsfake.NewSimpleClientset()
	metrics.PrependReactor("list", "pods", func(ktesting.Action) (bool, runtime.Object, error) {
		list := &metricsv1beta1.PodMetricsList{}
		if cpu != "" {
			list.Items = []metricsv1beta1.PodMetrics{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Labels: map[string]string{"app": "d"}}, Timestamp: metav1.Now(), Window: metav1.Duration{Duration: time.Second},
				Containers: []metricsv1beta1.ContainerMetrics{{Name: "c", Usage: corev1.ResourceList{"cpu": resource.MustParse(cpu)}}}}}
		}
		return true, list, nil
	})
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{{Group: "apps", Version: "v1"}})
	mapper.Add(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, meta.RESTScopeNamespace)
	shared := informers.NewSharedInformerFactory(c.api, 0)
	var err error
	c.controller, err = New(Clients{API: c.api, Scales: scales, Mapper: mapper, Metrics: metrics.MetricsV1beta1()}, Defaults(), shared, c.events, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	shared.Start(t.Context().Done())
	shared.WaitForCacheSync(t.Context().Done())
	return c
}

// status is the autoscaler's conditions, as "Type=Status/Reason".
func (c *cluster) status(t *testing.T) (autoscalingv2.HorizontalPodAutoscalerStatus, string) {
	t.Helper()
	hpa, err := c.api.AutoscalingV2().HorizontalPodAutoscalers("ns").Get(t.Context(), "h", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, cond := range hpa.Status.Conditions {
		out = append(out, string(cond.Type)+"="+string(cond.Status)+"/"+cond.Reason)
	}
	return hpa.Status, strings.Join(out, " ")
}

func TestScalesAndTells(t *testing.T) {
	c := newCluster(t, "1")
	if err := c.controller.sync(t.Context(), "ns/h"); err != nil {
		t.Fatal(err)
	}
	if c.replicas != 2 {
		t.Errorf("%d replicas, want 2", c.replicas)
	}
	if got := <-c.events.Events; got != "Normal SuccessfulRescale New size: 2; reason: cpu resource utilization (percentage of request) above target" {
		t.Errorf("event %q", got)
	}
	st, conditions := c.status(t)
	if want := "AbleToScale=True/SucceededRescale ScalingActive=True/ValidMetricFound ScalingLimited=False/DesiredWithinRange"; conditions != want {
		t.Errorf("conditions %s", conditions)
	}
	if st.DesiredReplicas != 2 || st.CurrentReplicas != 1 || *st.ObservedGeneration != 3 || *st.CurrentMetrics[0].Resource.Current.AverageUtilization != 100 || st.LastScaleTime == nil {
		t.Errorf("status %+v", st)
	}
}

func TestScalesByNothingItCannotKnow(t *testing.T) {
	c := newCluster(t, "")
	if err := c.controller.sync(t.Context(), "ns/h"); err != nil {
		t.Fatal(err)
	}
	if c.updates != 0 {
		t.Error("it scaled without metrics")
	}
	if _, got := c.status(t); got != "AbleToScale=True/SucceededGetScale ScalingActive=False/FailedGetResourceMetric" {
		t.Errorf("conditions %s", got)
	}
	why := "failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API"
	for _, want := range []string{"Warning FailedGetResourceMetric " + why,
		"Warning FailedComputeMetricsReplicas invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: " + why} {
		if got := <-c.events.Events; got != want {
			t.Errorf("event %q, want %q", got, want)
		}
	}
}

// Two autoscalers of the same pods would undo each other's work: neither works, and both say so, until one of them is gone.
func TestTwoOfTheSamePods(t *testing.T) {
	c := newCluster(t, "1")
	hpa, err := c.api.AutoscalingV2().HorizontalPodAutoscalers("ns").Get(t.Context(), "h", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	other := hpa.DeepCopy()
	other.Name = "other"
	if _, err := c.api.AutoscalingV2().HorizontalPodAutoscalers("ns").Create(t.Context(), other, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	known := func(there bool) func() bool {
		return func() bool {
			_, err := c.controller.scalers.HorizontalPodAutoscalers("ns").Get("other")
			return (err == nil) == there
		}
	}
	until(t, known(true))
	for _, key := range []string{"ns/h", "ns/other", "ns/h"} {
		c.replicas = 1
		if err := c.controller.sync(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if _, got := c.status(t); c.replicas != 1 || !strings.Contains(got, "ScalingActive=False/AmbiguousSelector") {
		t.Errorf("%d replicas, conditions %s", c.replicas, got)
	}
	var last string
	for len(c.events.Events) > 0 {
		last = <-c.events.Events
	}
	if want := "Warning AmbiguousSelector pods by selector app=d are controlled by multiple HPAs: [ns/h ns/other]"; last != want {
		t.Errorf("event %q", last)
	}
	if err := c.api.AutoscalingV2().HorizontalPodAutoscalers("ns").Delete(t.Context(), "other", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, known(false))
	for _, key := range []string{"ns/other", "ns/h"} {
		if err := c.controller.sync(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if _, got := c.status(t); c.replicas != 2 || !strings.Contains(got, "ScalingActive=True/ValidMetricFound") {
		t.Errorf("alone: %d replicas, conditions %s", c.replicas, got)
	}
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("not within 10 s")
}

func TestARefusedScaleIsTriedAgain(t *testing.T) {
	c := newCluster(t, "1")
	c.refuse = errors.New("conflict")
	if err := c.controller.sync(t.Context(), "ns/h"); err == nil {
		t.Error("no error, so it would not be tried again soon")
	}
	if _, got := c.status(t); !strings.HasPrefix(got, "AbleToScale=False/FailedUpdateScale") {
		t.Errorf("conditions %s", got)
	}
	c.refuse = nil
	if err := c.controller.sync(t.Context(), "ns/h"); err != nil || c.replicas != 2 {
		t.Errorf("%d replicas, %v", c.replicas, err)
	}
}

func TestABoundIsKeptWithoutMetrics(t *testing.T) {
	c := newCluster(t, "")
	c.replicas = 9
	if err := c.controller.sync(t.Context(), "ns/h"); err != nil || c.replicas != 5 {
		t.Errorf("%d replicas, want 5: %v", c.replicas, err)
	}
	c.replicas, c.updates = 0, 0 // switched off by its owner
	if err := c.controller.sync(t.Context(), "ns/h"); err != nil || c.updates != 0 {
		t.Errorf("it woke a workload of zero replicas (%v)", err)
	}
}

func TestAGoneAutoscalerIsForgotten(t *testing.T) {
	c := newCluster(t, "1")
	c.controller.remembered("ns/gone")
	if err := c.controller.sync(t.Context(), "ns/gone"); err != nil || c.controller.history["ns/gone"] != nil {
		t.Errorf("%v %v", err, c.controller.history)
	}
}
