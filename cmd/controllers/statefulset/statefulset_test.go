package statefulset

import (
	"errors"
	"log/slog"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
)

// A pod whose deletion is refused keeps those that come after it in a rollout, and in a Parallel set's scaling nobody.
func TestRefusedDeletion(t *testing.T) {
	for _, tt := range []struct {
		name    string
		inOrder bool
		want    []string
	}{
		{"in order", true, []string{"s-2"}},
		{"at once", false, []string{"s-2", "s-1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var list []runtime.Object
			plan := Plan{InOrder: tt.inOrder}
			for _, p := range pods("2:old 1:old") {
				p.Namespace = "ns"
				list = append(list, p)
				plan.Delete = append(plan.Delete, deletion{pod: p})
			}
			client := fake.NewClientset(list...)
			var asked []string
			client.PrependReactor("delete", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
				name := a.(clienttesting.DeleteAction).GetName()
				asked = append(asked, name)
				if name == "s-2" {
					return true, nil, errors.New("a webhook says no")
				}
				return false, nil, nil
			})
			c, err := New(client, informers.NewSharedInformerFactory(client, 0), record.NewFakeRecorder(10), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}}
			if err := c.carryOut(t.Context(), set, nil, plan, nil, nil); err == nil {
				t.Error("nobody learns that it was refused")
			}
			if !slices.Equal(asked, tt.want) {
				t.Errorf("asked to delete %v, want %v", asked, tt.want)
			}
		})
	}
}

// The status must not call current what somebody deleted, and what only the cache lacks is current still.
func TestOldRevision(t *testing.T) {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", UID: "s"}, Status: appsv1.StatefulSetStatus{CurrentRevision: "s-old"}}
	revision := func(name string) *appsv1.ControllerRevision {
		return &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))}}}
	}
	for _, tt := range []struct {
		name   string
		cached []*appsv1.ControllerRevision
		there  []runtime.Object
		want   string
	}{
		{"known", []*appsv1.ControllerRevision{revision("s-old")}, nil, "s-old"},
		{"not in the cache", nil, []runtime.Object{revision("s-old")}, "s-old"},
		{"deleted", nil, nil, "s-new"},
	} {
		client := fake.NewClientset(tt.there...)
		c, err := New(client, informers.NewSharedInformerFactory(client, 0), record.NewFakeRecorder(10), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if old, err := c.oldRevision(t.Context(), set, revision("s-new"), tt.cached); err != nil || old.Name != tt.want {
			t.Errorf("%s: the old revision is %s, want %s (%v)", tt.name, old.Name, tt.want, err)
		}
	}
}
