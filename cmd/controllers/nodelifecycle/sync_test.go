package nodelifecycle

import (
	"log/slog"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// A kubelet that says that its node is not ready still speaks, and its pods are as it says. Only a silent one's are
// marked: a pod marked beside its kubelet stays so, for the kubelet has nothing new to tell.
func TestWhosePodsAreMarked(t *testing.T) {
	for ready, want := range map[corev1.ConditionStatus]bool{corev1.ConditionTrue: true, corev1.ConditionFalse: true, corev1.ConditionUnknown: false} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", CreationTimestamp: metav1.Now()}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, LastHeartbeatTime: metav1.Now()}}}}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n"},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
		client := fake.NewClientset(node, pod, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "n"}})
		shared := informers.NewSharedInformerFactory(client, 0)
		c, err := New(Config{Grace: time.Minute, StartupGrace: time.Minute, Period: time.Second}, client, shared, shared.Coordination().V1().Leases(), record.NewFakeRecorder(10), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		shared.Start(t.Context().Done())
		shared.WaitForCacheSync(t.Context().Done())
		if err := c.sync(t.Context(), "n"); err != nil {
			t.Fatal(err)
		}
		got, err := client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{})
		if err != nil || podset.Ready(got) != want {
			t.Errorf("node %s: the pod is ready %v, want %v (%v)", ready, podset.Ready(got), want, err)
		}
	}
}

// A node is told of once when it comes, and once when it goes.
func TestNodesAreTold(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", CreationTimestamp: metav1.Now()}}
	client, events := fake.NewClientset(node), record.NewFakeRecorder(10)
	shared := informers.NewSharedInformerFactory(client, 0)
	c, err := New(Config{Grace: time.Minute, StartupGrace: time.Minute, Period: time.Second}, client, shared, shared.Coordination().V1().Leases(), events, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	shared.Start(t.Context().Done())
	shared.WaitForCacheSync(t.Context().Done())
	for range 2 {
		c.silence(node, time.Now())
	}
	if err := client.CoreV1().Nodes().Delete(t.Context(), "n", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Normal RegisteredNode Node n event: Registered Node n in Controller", "Normal RemovingNode Node n event: Removing Node n from Controller"} {
		select {
		case got := <-events.Events:
			if got != want {
				t.Errorf("told %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("not told: %s", want)
		}
	}
}
