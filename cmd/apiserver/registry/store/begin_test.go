package store_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Who creates or updates begins before anything else happens; who reads does not.
func TestBegin(t *testing.T) {
	begun := 0
	s, _, _ := openPods(t, func() { begun++ })
	ctx := request.WithNamespace(t.Context(), "n")
	want := func(what string, n int) {
		t.Helper()
		if begun != n {
			t.Errorf("%s: begun %d times, want %d", what, begun, n)
		}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}}
	valid := func(context.Context, runtime.Object) error { want("validation of a create", 1); return nil }
	if _, err := s.Create(ctx, pod, valid, &metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, "p", &metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	for i, updater := range []rest.Updater{s, s.Status()} {
		change := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
			want("change of an update", i+2)
			return old, nil
		})
		if _, _, err := updater.Update(ctx, "p", change, rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	want("in all", 3)
}
