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
