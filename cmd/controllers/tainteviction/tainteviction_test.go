package tainteviction

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
)

func TestDeadline(t *testing.T) {
	added := metav1.Unix(1000, 0)
	taint := corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoExecute, TimeAdded: &added}
	tolerate := func(key string, seconds ...int64) corev1.Toleration {
		own := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
		if len(seconds) > 0 {
			own.TolerationSeconds = &seconds[0]
		}
		return own
	}
	for _, tc := range []struct {
		name        string
		created     int64
		tolerations []corev1.Toleration
		due         int64
		stays       bool
	}{
		{"intolerant", 0, nil, 1000, false},
		{"for ten seconds", 0, []corev1.Toleration{tolerate("k", 10)}, 1010, false},
		{"the shortest counts", 0, []corev1.Toleration{tolerate("k", 10), tolerate("k"), tolerate("k", 5)}, 1005, false},
		{"for ever", 0, []corev1.Toleration{tolerate("k")}, 0, true},
		{"another taint", 0, []corev1.Toleration{tolerate("j")}, 1000, false},
		{"came after the taint", 2000, []corev1.Toleration{tolerate("k", 10)}, 2010, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Unix(tc.created, 0)}}
			pod.Spec.Tolerations = tc.tolerations
			due, stays := Deadline(pod, []corev1.Taint{taint}, time.Unix(5000, 0))
			if stays != tc.stays || !stays && !due.Equal(time.Unix(tc.due, 0)) {
				t.Errorf("got %v, %v", due, stays)
			}
		})
	}
	if _, stays := Deadline(&corev1.Pod{}, nil, time.Unix(5000, 0)); !stays {
		t.Error("a pod must leave a node without taints")
	}
	// A person's taint does not say since when it is there: the pod's age must not count.
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Unix(4000, 0)}}
	pod.Spec.Tolerations = []corev1.Toleration{tolerate("k", 10)}
	if due, _ := Deadline(pod, []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoExecute}}, time.Unix(5000, 0)); !due.Equal(time.Unix(5010, 0)) {
		t.Errorf("of a taint without a time it is due at %v", due.Unix())
	}
}

// A pod that took the name of one that tolerates the node's taint must leave, though no watch told of the first one's end.
func TestAPodTakesTheNameOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoExecute}}}}
		past := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", UID: "first", ResourceVersion: "1"}}
		past.Spec = corev1.PodSpec{NodeName: "node", Tolerations: []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}}
		next := past.DeepCopy()
		next.UID, next.ResourceVersion, next.Generation, next.Spec.Tolerations[0].Key = "second", "2", 4, "j"
		client := fake.NewClientset(node, past)
		shared := informers.NewSharedInformerFactory(client, 0)
		c, err := New(client, shared, &record.FakeRecorder{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		shared.Start(t.Context().Done())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = c.Run(t.Context()) }()
		t.Cleanup(func() { <-ended; shared.Shutdown() })
		time.Sleep(time.Second)
		if _, err := client.CoreV1().Pods("n").Get(t.Context(), "p", metav1.GetOptions{}); err != nil {
			t.Fatalf("one that tolerates the taint went: %v", err)
		}
		if err := client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), next, "n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, err := client.CoreV1().Pods("n").Get(t.Context(), "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Fatalf("it stays on a node that it does not tolerate: %v", err)
		}
		for _, a := range client.Actions() {
			if mark, ok := a.(clienttesting.PatchAction); ok && !strings.Contains(string(mark.GetPatch()), `"observedGeneration":4`) {
				t.Errorf("marked with %s", mark.GetPatch())
			}
		}
	})
}
