package components

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
)

func TestEachComponentIsAsked(t *testing.T) {
	r := New(map[string]Check{
		"scheduler": func(context.Context) Answer { return Answer{Message: "connection refused"} },
		"etcd-0":    func(context.Context) Answer { return Answer{Healthy: true, Message: "ok"} },
	}, rest.NewDefaultTableConvertor(schema.GroupResource{Resource: "componentstatuses"}))
	got, err := r.List(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	items := got.(*corev1.ComponentStatusList).Items
	if len(items) != 2 || items[0].Name != "etcd-0" || items[0].Conditions[0].Status != corev1.ConditionTrue ||
		items[1].Conditions[0].Status != corev1.ConditionFalse || items[1].Conditions[0].Message != "connection refused" {
		t.Errorf("items = %+v", items)
	}
	got, err = r.List(t.Context(), &internalversion.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", "scheduler")})
	if items := got.(*corev1.ComponentStatusList).Items; err != nil || len(items) != 1 || items[0].Name != "scheduler" {
		t.Errorf("selected = %+v, %v", items, err)
	}
	if _, err := r.Get(t.Context(), "nobody", nil); err == nil {
		t.Error("a component that does not exist was found")
	}
}
