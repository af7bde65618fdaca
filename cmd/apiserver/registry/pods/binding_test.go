package pods

import (
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A binding gives the pod its node, and leaves alone what it shares with the pod as it was.
func TestBind(t *testing.T) {
	now := metav1.Now()
	was := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Generation: 3, Annotations: map[string]string{"a": "1"}},
		Status:     corev1.PodStatus{NominatedNodeName: "m", Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable"}, {Type: corev1.PodReady}}},
	}
	before, pod := was.DeepCopy(), *was
	if err := bind(&pod, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"b": "2"}}, Target: corev1.ObjectReference{Name: "n"}}); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(was, before) {
		t.Errorf("the pod as it was became %+v", was)
	}
	if c := pod.Status.Conditions; pod.Spec.NodeName != "n" || pod.Status.NominatedNodeName != "" || len(pod.Annotations) != 2 || len(c) != 2 || c[0].Status != corev1.ConditionTrue || c[0].Reason != "" || c[0].ObservedGeneration != 3 {
		t.Errorf("bound: %+v", pod)
	}
	for _, tc := range []struct {
		want string
		pod  corev1.Pod
	}{
		{"pod p is being deleted, cannot be assigned to a host", corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", DeletionTimestamp: &now}}},
		{`pod p is already assigned to node "m"`, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeName: "m"}}},
		{"pod p has non-empty .spec.schedulingGates", corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{SchedulingGates: []corev1.PodSchedulingGate{{Name: "g"}}}}},
	} {
		if err := bind(&tc.pod, &corev1.Binding{}); err == nil || !strings.HasSuffix(err.Error(), tc.want) {
			t.Errorf("got %v, want %s", err, tc.want)
		}
	}
}
