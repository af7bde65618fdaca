package pods

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestGracePeriod(t *testing.T) {
	seconds := func(n int64) *int64 { return &n }
	on := func(mutate func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n", TerminationGracePeriodSeconds: seconds(30)}}
		mutate(p)
		return p
	}
	for _, tt := range []struct {
		name      string
		pod       *corev1.Pod
		requested *int64
		want      int64
	}{
		{"the pod's own", on(func(*corev1.Pod) {}), nil, 30},
		{"the request's", on(func(*corev1.Pod) {}), seconds(5), 5},
		{"at once", on(func(*corev1.Pod) {}), seconds(0), 0},
		{"negative means a second", on(func(*corev1.Pod) {}), seconds(-1), 1},
		{"nobody runs it", on(func(p *corev1.Pod) { p.Spec.NodeName = "" }), seconds(5), 0},
		{"it has ended", on(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), nil, 0},
	} {
		if got := gracePeriod(tt.pod, tt.requested); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestSpend(t *testing.T) {
	for _, tt := range []struct {
		name   string
		budget policyv1.PodDisruptionBudget
		refuse func(error) bool
	}{
		{"not yet counted", policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Generation: 1}, Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1}}, apierrors.IsTooManyRequests},
		{"used up", policyv1.PodDisruptionBudget{}, apierrors.IsTooManyRequests},
		{"negative", policyv1.PodDisruptionBudget{Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: -1}}, apierrors.IsForbidden},
		{"has one", policyv1.PodDisruptionBudget{Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1}}, nil},
	} {
		err := spend(&tt.budget, "p", metav1.Now())
		if tt.refuse != nil {
			if !tt.refuse(err) {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		if _, ok := tt.budget.Status.DisruptedPods["p"]; err != nil || !ok || tt.budget.Status.DisruptionsAllowed != 0 {
			t.Errorf("%s: %v, budget %v", tt.name, err, tt.budget.Status)
		}
	}
}

// People look for the cause in what kubectl drain tells them.
func TestWhyABudgetRefuses(t *testing.T) {
	stuck := policyv1.PodDisruptionBudgetStatus{Conditions: []metav1.Condition{{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse,
		Reason: policyv1.SyncFailedReason, Message: "found no controllers for pod \"p\""}}}
	for want, budget := range map[string]policyv1.PodDisruptionBudget{
		"The disruption budget b is still being processed by the server.": {ObjectMeta: metav1.ObjectMeta{Name: "b", Generation: 1}},
		"The disruption budget b needs 2 healthy pods and has 1 currently": {ObjectMeta: metav1.ObjectMeta{Name: "b"},
			Status: policyv1.PodDisruptionBudgetStatus{DesiredHealthy: 2, CurrentHealthy: 1}},
		"The disruption budget b does not allow evicting pods currently because it failed sync: found no controllers for pod \"p\"": {
			ObjectMeta: metav1.ObjectMeta{Name: "b"}, Status: stuck},
	} {
		status, ok := spend(&budget, "p", metav1.Now()).(apierrors.APIStatus)
		if !ok || status.Status().Message != "Cannot evict pod as it would violate the pod's disruption budget." {
			t.Fatalf("%v", status)
		}
		if causes := status.Status().Details.Causes; len(causes) != 1 || causes[0].Type != policyv1.DisruptionBudgetCause || causes[0].Message != want {
			t.Errorf("causes %v, want %s", causes, want)
		}
	}
}

func TestContainerOf(t *testing.T) {
	two := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "i"}}, Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}}}
	one := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}}}}
	for _, tt := range []struct {
		pod          *corev1.Pod
		wanted, want string
		err          string
	}{
		{pod: one, want: "a"},
		{pod: two, wanted: "i", want: "i"},
		{pod: two, err: "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"},
		{pod: two, wanted: "x", err: "container x is not valid for pod p"},
	} {
		got, err := containerOf(tt.pod, tt.wanted)
		if got != tt.want || (err == nil) != (tt.err == "") || (err != nil && err.Error() != tt.err) {
			t.Errorf("containerOf(%q) = %q, %v, want %q, %q", tt.wanted, got, err, tt.want, tt.err)
		}
	}
}
