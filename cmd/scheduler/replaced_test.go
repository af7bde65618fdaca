package scheduler

import (
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/events"
)

// A pod that was deleted and made again under its name while no watch told of it, as a StatefulSet's is, leaves nothing of
// the first: neither a place in the queue, which would be tried for ever, nor one on a node.
func TestAPodTakesTheNameOfAnother(t *testing.T) {
	client := fake.NewClientset()
	recorders := map[string]Recorder{corev1.DefaultSchedulerName: &events.FakeRecorder{}}
	s, err := New(Defaults(), client, informers.NewSharedInformerFactory(client, 0), recorders, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	waits, again := testPod("p", minor, cpu("1")), testPod("p", minor, cpu("1"))
	waits.UID, again.UID = "first", "second"
	s.podSeen(nil, waits)
	s.podChanged(waits, again)
	if n := s.queue.sizes()[queueActive]; n != 1 {
		t.Errorf("%d pods wait, and one is there", n)
	}
	bound, third := again.DeepCopy(), testPod("p", minor, cpu("1"))
	bound.Spec.NodeName, third.UID = "a", "third"
	s.podChanged(again, bound)
	s.podChanged(bound, third)
	if s.cluster.has(bound.UID) || s.queue.sizes()[queueActive] != 1 {
		t.Errorf("the second has its place on the node: %t; %v wait", s.cluster.has(bound.UID), s.queue.sizes())
	}
}
