package statefulset

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func pod(n int, revision string, ready bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s-%d", n), Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: revision}}}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return p
}

func TestDecide(t *testing.T) {
	three := int32(3)
	leaving := pod(3, "new", true)
	now := metav1.Now()
	leaving.DeletionTimestamp = &now
	for _, tc := range []struct {
		name     string
		parallel bool
		pods     []*corev1.Pod
		create   []int
		del      []string
	}{
		{"first only", false, nil, []int{0}, nil},
		{"all at once", true, nil, []int{0, 1, 2}, nil},
		{"waits for the one before", false, []*corev1.Pod{pod(0, "new", false)}, nil, nil},
		{"next", false, []*corev1.Pod{pod(0, "new", true)}, []int{1}, nil},
		{"fills a gap", false, []*corev1.Pod{pod(0, "new", true), pod(2, "new", true)}, []int{1}, nil},
		{"the highest goes first", false, []*corev1.Pod{pod(0, "new", true), pod(1, "new", true), pod(2, "new", true), pod(3, "new", true), pod(4, "new", true)}, nil, []string{"s-4"}},
		{"one end at a time", false, []*corev1.Pod{pod(0, "new", true), pod(1, "new", true), pod(2, "new", true), leaving}, nil, nil},
		{"the highest is updated first", false, []*corev1.Pod{pod(0, "old", true), pod(1, "old", true), pod(2, "old", true)}, nil, []string{"s-2"}},
		{"then the next", false, []*corev1.Pod{pod(0, "old", true), pod(1, "old", true), pod(2, "new", true)}, nil, []string{"s-1"}},
		{"not while one is not ready", false, []*corev1.Pod{pod(0, "old", true), pod(1, "old", true), pod(2, "new", false)}, nil, nil},
		{"done", false, []*corev1.Pod{pod(0, "new", true), pod(1, "new", true), pod(2, "new", true)}, nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: appsv1.StatefulSetSpec{Replicas: &three}}
			if tc.parallel {
				set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
			}
			plan := Decide(set, tc.pods, "new", time.Now())
			var create []int
			for _, c := range plan.Create {
				create = append(create, c.ordinal)
			}
			var del []string
			for _, p := range plan.Delete {
				del = append(del, p.Name)
			}
			if diff := cmp.Diff(tc.create, create) + cmp.Diff(tc.del, del); diff != "" {
				t.Error(diff)
			}
		})
	}
}
