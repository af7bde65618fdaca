package endpoints

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func pod(ip string, ready bool, port int32) *corev1.Pod {
	p := &corev1.Pod{}
	p.Status.PodIP, p.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: port, Protocol: corev1.ProtocolTCP}}}}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return p
}

func TestSubsets(t *testing.T) {
	svc := &corev1.Service{}
	svc.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("web"), Protocol: corev1.ProtocolTCP}}
	leaving := pod("10.0.0.9", true, 80)
	now := metav1.Now()
	leaving.DeletionTimestamp = &now
	pods := []*corev1.Pod{pod("10.0.0.2", true, 80), pod("10.0.0.1", true, 80), pod("10.0.0.3", false, 80), pod("10.0.0.4", true, 81), pod("", true, 80), leaving}
	got := Subsets(svc, pods)
	if len(got) != 2 {
		t.Fatalf("two port numbers, but %d subsets: %+v", len(got), got)
	}
	first := got[0]
	if len(first.Addresses) != 2 || first.Addresses[0].IP != "10.0.0.1" || len(first.NotReadyAddresses) != 1 || first.Ports[0].Port != 80 {
		t.Errorf("first subset: %+v", first)
	}
	if got[1].Addresses[0].IP != "10.0.0.4" || got[1].Ports[0].Port != 81 {
		t.Errorf("second subset: %+v", got[1])
	}
	svc.Spec.PublishNotReadyAddresses = true
	if got := Subsets(svc, pods); len(got[0].NotReadyAddresses) != 0 || len(got[0].Addresses) != 4 {
		t.Errorf("publishing those not ready: %+v", got[0])
	}
}
