package garbage

import (
	"log/slog"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata/fake"
	"k8s.io/client-go/tools/record"
)

// A dependent that the graph has not seen, because its monitor is not filled, say, is let go like the others: when its owner
// was gone it would be collected, and it was to stay.
func TestOrphansTheGraphDoesNotKnow(t *testing.T) {
	kind := metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
	maps := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	child := &metav1.PartialObjectMetadata{TypeMeta: kind, ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "child", UID: "c",
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: "o"}, {APIVersion: "v1", Kind: "ConfigMap", Name: "other", UID: "p"}}}}
	scheme := fake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	client := fake.NewSimpleMetadataClient(scheme, child)
	c := New(nil, nil, client, record.NewFakeRecorder(5), slog.New(slog.DiscardHandler))
	c.monitors[maps] = &monitor{c: c, gvr: maps, namespaced: true}
	c.monitors[schema.GroupVersionResource{Version: "v1", Resource: "nodes"}] = &monitor{c: c}
	owner := &object{identity: identity{maps, "ns", "owner", "o"}}
	if err := c.free(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	got, err := client.Resource(maps).Namespace("ns").Get(t.Context(), "child", metav1.GetOptions{})
	if err != nil || len(got.OwnerReferences) != 1 || got.OwnerReferences[0].UID != "p" {
		t.Errorf("its owners are %v (%v)", got.OwnerReferences, err)
	}
	for _, action := range client.Actions() {
		if action.GetResource().Resource == "nodes" {
			t.Error("looked for a namespace's dependents among the cluster's")
		}
	}
}
