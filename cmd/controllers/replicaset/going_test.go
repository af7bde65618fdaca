package replicaset

import (
	"log/slog"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

// A set that scales down says at once that the pods it deletes are available no more: a rollout that is turned back would
// count on them.
func TestStatusDoesNotCountWhatItDeletes(t *testing.T) {
	none, yes := int32(0), true
	labels := map[string]string{"app": "web"}
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "web", Generation: 2}}
	rs.Spec = appsv1.ReplicaSetSpec{Replicas: &none, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}}}
	rs.Status = appsv1.ReplicaSetStatus{Replicas: 1, ReadyReplicas: 1, AvailableReplicas: 1, ObservedGeneration: 1}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p", Labels: labels,
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "web", Controller: &yes}}}}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	client := fake.NewClientset(rs, pod)
	shared := informers.NewSharedInformerFactory(client, 0) // never started: the caches stay behind
	sets, pods := shared.Apps().V1().ReplicaSets(), shared.Core().V1().Pods()
	c, err := New("replicaset", ReplicaSets(client, sets), client, pods, &record.FakeRecorder{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := sets.Informer().GetIndexer().Add(rs); err != nil {
		t.Fatal(err)
	}
	if err := pods.Informer().GetIndexer().Add(pod); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it waits for the event
		if err := c.sync(t.Context(), "ns/web"); err != nil {
			t.Fatal(err)
		}
		got, err := client.AppsV1().ReplicaSets("ns").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Status.ObservedGeneration != 2 || got.Status.AvailableReplicas != 0 {
			t.Errorf("status %+v", got.Status)
		}
	}
}
