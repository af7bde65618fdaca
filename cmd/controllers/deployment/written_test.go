package deployment

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func setAt(name, version string) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: version}}
}

// What was written is waited for until the cache is as new, and then never again.
func TestWrittenIsSeen(t *testing.T) {
	var w written
	w.note("ns/d", setAt("a", "9"))
	w.note("ns/d", setAt("a", "10"))
	for _, tc := range []struct {
		name   string
		cached map[string]*appsv1.ReplicaSet
		unseen int
	}{
		{"not there", nil, 1},
		{"older", map[string]*appsv1.ReplicaSet{"a": setAt("a", "9")}, 1},
		{"another", map[string]*appsv1.ReplicaSet{"b": setAt("b", "11")}, 1},
		{"as new", map[string]*appsv1.ReplicaSet{"a": setAt("a", "10")}, 0},
		{"afterwards", nil, 0},
	} {
		if got := w.settle("ns/d", tc.cached); len(got) != tc.unseen {
			t.Errorf("%s: %d unseen", tc.name, len(got))
		}
	}
	w.note("ns/d", setAt("a", "12"))
	if w.forget("ns/d"); len(w.settle("ns/d", nil)) > 0 {
		t.Error("a Deployment that is gone is waited for")
	}
}

// A status of before the scaling down counts pods that are as good as gone.
func TestLookBelievesNoMoreThanIsWanted(t *testing.T) {
	one, rs := int32(1), setAt("a", "1")
	rs.Spec.Replicas, rs.Status.AvailableReplicas = &one, 3
	if v := look(&appsv1.Deployment{}, rs, nil); v.New.Available != 1 {
		t.Errorf("%d available of 1", v.New.Available)
	}
}
