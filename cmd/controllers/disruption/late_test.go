package disruption

import (
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
)

// A cache that has not seen for an hour what an eviction did must not have the pod counted again: another could go.
func TestACacheThatIsLateGivesNothingBack(t *testing.T) {
	web := map[string]string{"app": "web"}
	named := func(name string) *corev1.Pod {
		return pod(name, true, func(p *corev1.Pod) { p.Namespace, p.Labels = "ns", web })
	}
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "ns"}}
	b.Spec = policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: web}}
	b.Status.DisruptedPods = map[string]metav1.Time{"gone": {Time: time.Now().Add(-time.Hour)}}
	for name, tc := range map[string]struct {
		live    *corev1.Pod
		allowed int32
	}{
		"gone":    {nil, 0},
		"going":   {pod("gone", true, func(p *corev1.Pod) { p.Namespace, p.DeletionTimestamp = "ns", ptr.To(metav1.Now()) }), 0},
		"another": {pod("gone", true, func(p *corev1.Pod) { p.Namespace, p.UID = "ns", "new" }), 0},
		"stays":   {pod("gone", true, func(p *corev1.Pod) { p.Namespace = "ns" }), 1},
	} {
		client := fake.NewClientset(b)
		if tc.live != nil {
			if err := client.Tracker().Add(tc.live); err != nil {
				t.Fatal(err)
			}
		}
		shared := informers.NewSharedInformerFactory(client, 0)
		c, err := New(client, Scales{}, shared, &record.FakeRecorder{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []*corev1.Pod{named("stays"), named("gone")} {
			if err := shared.Core().V1().Pods().Informer().GetStore().Add(p); err != nil {
				t.Fatal(err)
			}
		}
		out, err := c.observe(t.Context(), b, time.Now())
		if err != nil || out.Status.DisruptionsAllowed != tc.allowed {
			t.Errorf("%s: %d allowed, want %d (%v)", name, out.Status.DisruptionsAllowed, tc.allowed, err)
		}
		if kept := len(out.Status.DisruptedPods) == 1; kept != (tc.allowed == 0) || kept == (len(out.Late) > 0) || kept == out.Again.IsZero() {
			t.Errorf("%s: %+v", name, out)
		}
	}
}
