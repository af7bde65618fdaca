package history

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// A cache that does not show the last revision must not have its number given to another: undo goes by numbers.
func TestNumbersAreGivenOnce(t *testing.T) {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db", UID: "db"}}
	gvk := appsv1.SchemeGroupVersion.WithKind("StatefulSet")
	template := func(image string) *corev1.PodTemplateSpec {
		return &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "db"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}}
	}
	revision := func(image string, number int64) *appsv1.ControllerRevision {
		data, err := Encode(template(image))
		if err != nil {
			t.Fatal(err)
		}
		return &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db-" + image, Labels: map[string]string{"app": "db"},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, gvk)}}, Data: runtime.RawExtension{Raw: data}, Revision: number}
	}
	for _, tc := range []struct {
		name, image string
		want        int64
	}{{"a new template", "c", 3}, {"an old one", "a", 3}, {"the one that the cache lacks", "b", 2}} {
		client := fake.NewClientset(revision("a", 1), revision("b", 2))
		lister := informers.NewSharedInformerFactory(client, 0).Apps().V1().ControllerRevisions()
		if err := lister.Informer().GetIndexer().Add(revision("a", 1)); err != nil {
			t.Fatal(err)
		}
		if tc.image == "a" { // it must not seem to be the newest
			if err := lister.Informer().GetIndexer().Add(revision("z", 1)); err != nil {
				t.Fatal(err)
			}
		}
		r := Records{Client: client, Lister: lister.Lister()}
		current, _, err := r.Current(t.Context(), Owner{Meta: set, GVK: gvk, Selector: labels.SelectorFromSet(labels.Set{"app": "db"}), Template: template(tc.image)})
		if err != nil || current.Revision != tc.want {
			t.Errorf("%s: number %d, want %d (%v)", tc.name, current.Revision, tc.want, err)
		}
	}
}
