package podgc

import (
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestSurplus(t *testing.T) {
	pod := func(name, node string, phase corev1.PodPhase, age int64) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(1000-age, 0)}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
	}
	unplaced := pod("unplaced", "", corev1.PodPending, 0)
	unplaced.DeletionTimestamp = &metav1.Time{}
	got := ""
	for _, p := range Surplus([]*corev1.Pod{pod("lost", "gone", corev1.PodRunning, 0), pod("runs", "n", corev1.PodRunning, 0), unplaced,
		pod("young", "n", corev1.PodSucceeded, 1), pod("old", "n", corev1.PodFailed, 9)}, map[string]bool{"gone": true}, 1) {
		got += p.Name + " "
	}
	if got != "lost unplaced old " {
		t.Errorf("surplus: %s", got)
	}
}

// A pod that has not ended is marked as failed before it goes, by a patch of its status: upstream's role allows no update.
func TestMarksFailed(t *testing.T) {
	for _, orphan := range []bool{true, false} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", UID: "u"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		client := fake.NewClientset(pod)
		c := New(client, informers.NewSharedInformerFactory(client, 0), 0, slog.New(slog.DiscardHandler))
		if err := c.remove(t.Context(), pod, orphan); err != nil {
			t.Fatal(err)
		}
		verbs := ""
		for _, a := range client.Actions() {
			if a.GetVerb() == "patch" || a.GetVerb() == "delete" || a.GetVerb() == "update" {
				verbs += a.GetVerb() + " " + a.GetSubresource() + " "
			}
		}
		if verbs != "patch status delete  " {
			t.Errorf("it did: %s", verbs)
		}
		b, err := json.Marshal(failed(pod, orphan, metav1.Unix(0, 0)))
		if err != nil {
			t.Fatal(err)
		}
		var patched corev1.Pod
		if err := json.Unmarshal(b, &patched); err != nil || patched.Status.Phase != corev1.PodFailed || (len(patched.Status.Conditions) == 1) != orphan {
			t.Errorf("%s: %v", b, err)
		}
	}
}

// Nodes are asked for in the same order each time, however pods name them.
func TestLostNodesAreAskedForInOrder(t *testing.T) {
	client := fake.NewClientset()
	shared := informers.NewSharedInformerFactory(client, 0)
	c := New(client, shared, 0, slog.New(slog.DiscardHandler))
	for _, node := range []string{"c", "a", "e", "b", "d", "g", "f"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: node}, Spec: corev1.PodSpec{NodeName: node}}
		if err := shared.Core().V1().Pods().Informer().GetStore().Add(pod); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	for _, at := range []time.Time{began, began.Add(quarantine)} {
		_ = c.once(t.Context(), at) // the pods are in the cache alone
	}
	names := ""
	for _, a := range client.Actions() {
		if get, ok := a.(clienttesting.GetAction); ok && a.GetResource().Resource == "nodes" {
			names += get.GetName()
		}
	}
	if names != "abcdefg" {
		t.Errorf("asked for %s", names)
	}
}
