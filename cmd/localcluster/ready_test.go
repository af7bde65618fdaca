package localcluster

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestWhichAgentIsNotReady(t *testing.T) {
	pod := func(name, node string, status corev1.PodStatus) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name, Labels: map[string]string{"k8s-app": "orlop-agent"}},
			Spec: corev1.PodSpec{NodeName: node}, Status: status}
	}
	ready := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	waiting := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "gone"}}}}}
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "orlop-agent"}, Status: appsv1.DaemonSetStatus{NumberReady: 1}}
	client := fake.NewClientset(set, pod("a", "n-1", ready), pod("b", "n-2", waiting), pod("c", "n-3", corev1.PodStatus{Phase: corev1.PodRunning}))
	err := addonsReady(t.Context(), client, 3)
	want := "the network agent is ready on 1 of 3 nodes: pod a on n-1 is ready; pod b on n-2 waits: ErrImagePull gone; pod c on n-3 is Running and not ready"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := addonsReady(t.Context(), fake.NewClientset(set), 3); err == nil || !strings.Contains(err.Error(), "it has no pod yet") {
		t.Errorf("got %v", err)
	}
}
