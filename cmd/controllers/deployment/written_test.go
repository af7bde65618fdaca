package deployment

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
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

// A write that failed may have been done all the same, or the cache is behind: no decision rests on it before it is known.
func TestWrittenIsDoubted(t *testing.T) {
	lost, api := setAt("lost", "12"), fake.NewClientset()
	lost.Namespace = "ns"
	if err := api.Tracker().Add(lost); err != nil {
		t.Fatal(err)
	}
	shared := informers.NewSharedInformerFactory(api, 0)
	sets := shared.Apps().V1().ReplicaSets()
	c := &Controller{client: api, sets: sets.Lister()}
	c.written.doubt("ns/d", "lost")
	c.written.doubt("ns/d", "never made")
	for _, tc := range []struct {
		cached *appsv1.ReplicaSet
		behind bool
	}{{nil, true}, {setAt("lost", "11"), true}, {setAt("lost", "12"), false}} {
		if tc.cached != nil {
			tc.cached.Namespace = "ns"
			if err := sets.Informer().GetIndexer().Add(tc.cached); err != nil {
				t.Fatal(err)
			}
		}
		behind, err := c.behind(t.Context(), "ns/d", "ns")
		if err != nil || behind != tc.behind {
			t.Errorf("cache %v: behind %t (%v)", tc.cached, behind, err)
		}
	}
	if left := c.written.doubted("ns/d"); len(left) > 0 {
		t.Errorf("still in doubt: %v", left)
	}
}

// A status of before the scaling down counts pods that are as good as gone.
func TestLookBelievesNoMoreThanIsWanted(t *testing.T) {
	one, rs := int32(1), setAt("a", "1")
	rs.Spec.Replicas, rs.Status.AvailableReplicas = &one, 3
	if v := look(&appsv1.Deployment{}, rs, nil); v.New.Available != 1 {
		t.Errorf("%d available of 1", v.New.Available)
	}
	rs.Generation = 7 // scaled down and up again, by an undo: which pods are left?
	if v := look(&appsv1.Deployment{}, rs, nil); v.New.Available != 0 || !v.New.Unobserved {
		t.Errorf("a status of another generation: %+v", v.New)
	}
}
