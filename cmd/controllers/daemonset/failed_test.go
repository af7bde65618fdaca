package daemonset

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
)

// world is a DaemonSet on one node, and its controller with caches that show what the test puts there.
type world struct {
	*Controller
	shared informers.SharedInformerFactory
	events *record.FakeRecorder
	ds     *appsv1.DaemonSet
}

func newWorld(t *testing.T) *world {
	t.Helper()
	labels := map[string]string{"app": "agent"}
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "agent", UID: "agent", Generation: 1}}
	ds.Spec = appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}}}
	client := fake.NewClientset(ds)
	w := &world{shared: informers.NewSharedInformerFactory(client, 0), events: record.NewFakeRecorder(100), ds: ds}
	var err error
	if w.Controller, err = New(client, w.shared, w.events, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	w.failed = flowcontrol.NewBackOff(time.Hour, time.Hour)
	for _, err := range []error{w.shared.Apps().V1().DaemonSets().Informer().GetIndexer().Add(ds),
		w.shared.Core().V1().Nodes().Informer().GetIndexer().Add(node("n"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// ends shows a pod that has ended, syncs, and returns the events of that.
func (w *world) ends(t *testing.T, name string, how corev1.PodPhase) string {
	t.Helper()
	p := pod(name, "h", false)
	p.Namespace, p.UID, p.Spec.NodeName, p.Status.Phase = "ns", "u", "n", how
	p.Labels["app"] = "agent"
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(w.ds, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))}
	pods := w.shared.Core().V1().Pods().Informer().GetIndexer()
	if err := pods.Add(p); err != nil {
		t.Fatal(err)
	}
	if err := w.sync(t.Context(), "ns/agent"); err != nil {
		t.Fatal(err)
	}
	if err := pods.Delete(p); err != nil {
		t.Fatal(err)
	}
	w.podGone(p)
	var all []string
	for len(w.events.Events) > 0 {
		all = append(all, <-w.events.Events)
	}
	return strings.Join(all, "\n")
}

// A pod that failed is replaced ever later, but what its user changes is tried at once. One that succeeded did no harm.
func TestEndedPodsAreReplaced(t *testing.T) {
	w := newWorld(t)
	const failed = "Warning FailedDaemonPod Found failed daemon pod ns/a on node n, will try to kill it"
	if got := w.ends(t, "a", corev1.PodFailed); !strings.Contains(got, failed) {
		t.Errorf("the first: %s", got)
	}
	if got := w.ends(t, "a", corev1.PodFailed); strings.Contains(got, failed) {
		t.Errorf("the second, at once: %s", got)
	}
	if got := w.ends(t, "b", corev1.PodSucceeded); got != "Normal SucceededDaemonPod Found succeeded daemon pod ns/b on node n, will try to delete it" {
		t.Errorf("one that succeeded: %s", got)
	}
	changed := w.ds.DeepCopy()
	changed.Generation = 2
	if err := w.shared.Apps().V1().DaemonSets().Informer().GetIndexer().Update(changed); err != nil {
		t.Fatal(err)
	}
	if got := w.ends(t, "a", corev1.PodFailed); !strings.Contains(got, failed) {
		t.Errorf("the first of another generation: %s", got)
	}
}
