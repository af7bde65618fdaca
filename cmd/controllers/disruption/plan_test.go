package disruption

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func TestDemandOf(t *testing.T) {
	least := func(v intstr.IntOrString) policyv1.PodDisruptionBudgetSpec {
		return policyv1.PodDisruptionBudgetSpec{MinAvailable: &v}
	}
	most := func(v intstr.IntOrString) policyv1.PodDisruptionBudgetSpec {
		return policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &v}
	}
	for _, tc := range []struct {
		name  string
		spec  policyv1.PodDisruptionBudgetSpec
		pods  int
		scale int32
		want  Demand
	}{
		{"a number available counts pods", least(intstr.FromInt32(2)), 3, 0, Demand{3, 2}},
		{"a part available is of the scale, rounded up", least(intstr.FromString("28%")), 1, 7, Demand{7, 2}},
		{"a number unavailable", most(intstr.FromInt32(1)), 1, 5, Demand{5, 4}},
		{"a part unavailable is rounded up", most(intstr.FromString("30%")), 7, 7, Demand{7, 4}},
		{"more unavailable than there are", most(intstr.FromInt32(9)), 7, 7, Demand{7, 0}},
	} {
		if got, err := DemandOf(tc.spec, tc.pods, tc.scale); got != tc.want || err != nil {
			t.Errorf("%s: %+v, %v; want %+v", tc.name, got, err, tc.want)
		}
	}
}

func pod(name string, isReady bool, mutate ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if isReady {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	for _, m := range mutate {
		m(p)
	}
	return p
}

func TestObserve(t *testing.T) {
	now := time.Unix(10000, 0)
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	leaving := func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(ago(0)) }
	b := func(disrupted map[string]metav1.Time) *policyv1.PodDisruptionBudget {
		return &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Generation: 3}, Status: policyv1.PodDisruptionBudgetStatus{DisruptedPods: disrupted}}
	}
	for _, tc := range []struct {
		name             string
		budget           *policyv1.PodDisruptionBudget
		pods             []*corev1.Pod
		demand           Demand
		healthy, allowed int32
		reason           string
		late             int
	}{
		{"none there", b(nil), nil, Demand{0, 0}, 0, 0, policyv1.InsufficientPodsReason, 0},
		{"one to spare", b(nil), []*corev1.Pod{pod("a", true), pod("b", true)}, Demand{2, 1}, 2, 1, policyv1.SufficientPodsReason, 0},
		{"none to spare", b(nil), []*corev1.Pod{pod("a", true), pod("b", false)}, Demand{2, 1}, 1, 0, policyv1.InsufficientPodsReason, 0},
		{"too few", b(nil), []*corev1.Pod{pod("a", false)}, Demand{1, 1}, 0, 0, policyv1.InsufficientPodsReason, 0},
		{"one leaves", b(nil), []*corev1.Pod{pod("a", true), pod("b", true, leaving)}, Demand{2, 1}, 1, 0, policyv1.InsufficientPodsReason, 0},
		{"one was evicted a moment ago", b(map[string]metav1.Time{"b": ago(time.Second)}), []*corev1.Pod{pod("a", true), pod("b", true)}, Demand{2, 1}, 1, 0,
			policyv1.InsufficientPodsReason, 0},
		{"one was evicted and did not go", b(map[string]metav1.Time{"b": ago(time.Hour)}), []*corev1.Pod{pod("a", true), pod("b", true)}, Demand{2, 1}, 2, 1,
			policyv1.SufficientPodsReason, 1},
		{"one was evicted and is gone", b(map[string]metav1.Time{"c": ago(time.Second)}), []*corev1.Pod{pod("a", true), pod("b", true)}, Demand{2, 1}, 2, 1,
			policyv1.SufficientPodsReason, 0},
	} {
		out := Observe(tc.budget, tc.pods, nil, tc.demand, now)
		s := out.Status
		if s.CurrentHealthy != tc.healthy || s.DisruptionsAllowed != tc.allowed || s.Conditions[0].Reason != tc.reason || len(out.Late) != tc.late ||
			s.ObservedGeneration != 3 || s.ExpectedPods != tc.demand.Expected || s.DesiredHealthy != tc.demand.Healthy {
			t.Errorf("%s: %+v", tc.name, out)
		}
		if waits := len(s.DisruptedPods) > 0; waits != !out.Again.IsZero() {
			t.Errorf("%s: waits for %v, again at %v", tc.name, s.DisruptedPods, out.Again)
		}
		settled := tc.budget.DeepCopy()
		settled.Status = s
		if again := Observe(settled, tc.pods, nil, tc.demand, now.Add(time.Second)); !same(again.Status, s) {
			t.Errorf("%s: a second look differs: %+v", tc.name, again.Status)
		}
	}
}

func TestFailedAllowsNothing(t *testing.T) {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 4}}
	s := Failed(b, errors.New("why"), time.Unix(1, 0))
	if s.DisruptionsAllowed != 0 || s.Conditions[0].Reason != policyv1.SyncFailedReason || s.Conditions[0].Message != "why" {
		t.Errorf("%+v", s)
	}
}

func TestStaleAt(t *testing.T) {
	marked := func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Unix(100, 0))}}
	}
	if at, ok := staleAt(pod("a", false, marked)); !ok || !at.Equal(time.Unix(220, 0)) {
		t.Errorf("marked: %v, %t", at, ok)
	}
	if _, ok := staleAt(pod("a", false, marked, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })); ok {
		t.Error("a pod that ended keeps its mark")
	}
	if _, ok := staleAt(pod("a", true)); ok {
		t.Error("no mark, nothing to take back")
	}
}
