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
