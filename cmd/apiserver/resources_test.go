package apiserver

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// An autoscaler written by either version is the same object to both, and the store has v2.
func TestAutoscalersHaveTwoVersions(t *testing.T) {
	ns, ctx := namespace(t, "hpa"), t.Context()
	v1, v2 := shared.client.AutoscalingV1().HorizontalPodAutoscalers(ns), shared.client.AutoscalingV2().HorizontalPodAutoscalers(ns)
	old := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{Kind: "Deployment", Name: "d", APIVersion: "apps/v1"}, MaxReplicas: 3}}
	got, err := v1.Create(ctx, old, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if p := got.Spec.TargetCPUUtilizationPercentage; p == nil || *p != 80 || *got.Spec.MinReplicas != 1 {
		t.Errorf("defaults of v1: %+v", got.Spec)
	}
	now, err := v2.Get(ctx, "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(now.Spec.Metrics) != 1 || *now.Spec.Metrics[0].Resource.Target.AverageUtilization != 80 || len(now.Annotations) != 0 {
		t.Errorf("v2 = %+v", now)
	}
	ten, window := resource.MustParse("10"), int32(60)
	now.Spec.Metrics = append(now.Spec.Metrics, autoscalingv2.MetricSpec{Type: "Pods", Pods: &autoscalingv2.PodsMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "rps"}, Target: autoscalingv2.MetricTarget{Type: "AverageValue", AverageValue: &ten}}})
	now.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window}}
	if now, err = v2.Update(ctx, now, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err = v1.Get(ctx, "a", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if want := `[{"type":"Pods","pods":{"metricName":"rps","targetAverageValue":"10"}}]`; got.Annotations["autoscaling.alpha.kubernetes.io/metrics"] != want ||
		!strings.Contains(got.Annotations["autoscaling.alpha.kubernetes.io/behavior"], `"StabilizationWindowSeconds":60`) {
		t.Errorf("annotations = %v", got.Annotations)
	}
	// A client of v1 that writes back what it read changes nothing.
	if _, err := v1.Update(ctx, got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	again, err := v2.Get(ctx, "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(now.Spec, again.Spec); diff != "" || len(again.Annotations) != 0 {
		t.Errorf("after a round trip through v1: %s, annotations %v", diff, again.Annotations)
	}
	keys := inStore(t, "/registry/horizontalpodautoscalers/"+ns)
	if len(keys) != 1 {
		t.Errorf("keys = %v", keys)
	}
	patch := []byte(`{"apiVersion":"autoscaling/v1","kind":"HorizontalPodAutoscaler","spec":{"maxReplicas":9}}`)
	if got, err = v1.Patch(ctx, "a", types.ApplyPatchType, patch, metav1.PatchOptions{FieldManager: "test", Force: new(true)}); err != nil || got.Spec.MaxReplicas != 9 {
		t.Errorf("apply to v1: %v", err)
	}
}

// warningTexts collects Warning headers.
type warningTexts struct {
	mu   sync.Mutex
	text []string
}

func (w *warningTexts) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

// Nobody shall think that pods are isolated which are not.
func TestNetworkPolicySaysThatNothingEnforcesIt(t *testing.T) {
	ns, ctx := namespace(t, "netpol"), t.Context()
	heard := &warningTexts{}
	config := rest.CopyConfig(shared.admin)
	config.WarningHandler = heard
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "deny"}}
	if _, err := client.NetworkingV1().NetworkPolicies(ns).Create(ctx, policy, metav1.CreateOptions{DryRun: []string{"All"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.NetworkingV1().NetworkPolicies(ns).Create(ctx, policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(heard.text) != 2 || !strings.Contains(heard.text[1], "nothing in this cluster enforces") {
		t.Errorf("warnings = %q", heard.text)
	}
	var events *corev1.EventList
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		events, err = client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=NetworkPolicy,involvedObject.name=deny"})
		if err != nil {
			t.Fatal(err)
		}
		if len(events.Items) > 0 {
			break
		}
	}
	if len(events.Items) != 1 || events.Items[0].Reason != "NotEnforced" || events.Items[0].Count != 1 {
		t.Errorf("events = %+v", events.Items)
	}
}

func TestDevices(t *testing.T) {
	ns, ctx := namespace(t, "devices"), t.Context()
	api := shared.client.ResourceV1()
	for _, node := range []string{"dra-a", "dra-b"} {
		slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{GenerateName: node + "-"}, Spec: resourcev1.ResourceSliceSpec{NodeName: &node, Driver: "gpu.example.com",
			Pool:    resourcev1.ResourcePool{Name: node, ResourceSliceCount: 1},
			Devices: []resourcev1.Device{{Name: "gpu-0", Taints: []resourcev1.DeviceTaint{{Key: "sick", Effect: "NoExecute"}}}}}}
		got, err := api.ResourceSlices().Create(ctx, slice, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Generation != 1 || got.Spec.Devices[0].Taints[0].TimeAdded == nil {
			t.Errorf("slice = %+v", got)
		}
	}
	for _, selector := range []string{"spec.nodeName=dra-a", "spec.pool.name=dra-a,spec.driver=gpu.example.com"} {
		list, err := api.ResourceSlices().List(ctx, metav1.ListOptions{FieldSelector: selector})
		if err != nil || len(list.Items) != 1 || *list.Items[0].Spec.NodeName != "dra-a" {
			t.Errorf("%s: %d slices, %v", selector, len(list.Items), err)
		}
	}
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{
		Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AdminAccess: new(true)}}}}}}
	_, err := api.ResourceClaims(ns).Create(ctx, claim, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "admin access to devices requires the `resource.kubernetes.io/admin-access: true` label") {
		t.Errorf("admin access in a namespace without the label: %v", err)
	}
	claim.Spec.Devices.Requests[0].Exactly.AdminAccess = nil
	claim, err = api.ResourceClaims(ns).Create(ctx, claim, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if e := claim.Spec.Devices.Requests[0].Exactly; e.Count != 1 || e.AllocationMode != resourcev1.DeviceAllocationModeExactCount {
		t.Errorf("defaults: %+v", e)
	}
	claim.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Request: "r", Driver: "gpu.example.com", Pool: "dra-a", Device: "gpu-0"}}}}
	claim.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "gpu.example.com", Pool: "dra-a", Device: "gpu-0"}}
	if claim, err = api.ResourceClaims(ns).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	claim.Status.Allocation = nil
	if claim, err = api.ResourceClaims(ns).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil || len(claim.Status.Devices) != 0 {
		t.Errorf("what a claim no longer holds is reported: %+v, %v", claim.Status, err)
	}
}

func TestMigrationsKeepTheirTarget(t *testing.T) {
	api, ctx := shared.client.StoragemigrationV1().StorageVersionMigrations(), t.Context()
	m := &storagemigrationv1.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Spec: storagemigrationv1.StorageVersionMigrationSpec{
		Resource: metav1.GroupResource{Resource: "secrets"}}}
	m.Status.ResourceVersion = "7"
	m, err := api.Create(ctx, m, metav1.CreateOptions{})
	if err != nil || m.Status.ResourceVersion != "" {
		t.Fatalf("create: %v, %+v", err, m)
	}
	m.Spec.Resource.Resource = "configmaps"
	if _, err := api.Update(ctx, m, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("another target: %v", err)
	}
}
