package garbage

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func owned(uid types.UID, block bool, by ...types.UID) *object {
	o := &object{identity: identity{uid: uid}}
	for _, owner := range by {
		o.owners = append(o.owners, metav1.OwnerReference{UID: owner, BlockOwnerDeletion: &block})
	}
	return o
}

func TestDecide(t *testing.T) {
	child := []*object{owned("c", true, "o")}
	foreground := &object{identity: identity{uid: "o"}, deleting: true, finalizers: []string{metav1.FinalizerDeleteDependents}}
	for _, tc := range []struct {
		name       string
		object     *object
		dependents []*object
		owners     map[types.UID]state
		step       step
		policy     metav1.DeletionPropagation
	}{
		{"owner alive", owned("o", true, "a"), nil, map[types.UID]state{"a": alive}, nothing, ""},
		{"owner gone", owned("o", true, "a"), nil, map[types.UID]state{"a": absent}, remove, metav1.DeletePropagationBackground},
		{"one of two gone", owned("o", true, "a", "b"), nil, map[types.UID]state{"a": absent, "b": alive}, disown, ""},
		{"owner waits, no dependents", owned("o", true, "a"), nil, map[types.UID]state{"a": waiting}, remove, metav1.DeletePropagationBackground},
		{"owner waits, dependents", owned("o", true, "a"), child, map[types.UID]state{"a": waiting}, remove, metav1.DeletePropagationForeground},
		{"foreground with a blocking child", foreground, child, nil, wait, ""},
		{"foreground with a child that does not block", foreground, []*object{owned("c", false, "o")}, nil, finish, ""},
		{"foreground alone", foreground, nil, nil, finish, ""},
		{"orphaning", &object{deleting: true, finalizers: []string{metav1.FinalizerOrphanDependents}}, child, nil, freeDependents, ""},
		{"being deleted anyway", &object{deleting: true, owners: []metav1.OwnerReference{{UID: "a"}}}, nil, nil, nothing, ""},
		{"nobody's", owned("o", true), nil, nil, nothing, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := decide(tc.object, tc.dependents, tc.owners); d.step != tc.step || d.policy != tc.policy {
				t.Errorf("got %+v", d)
			}
		})
	}
}

func TestGraphLooksAtDependents(t *testing.T) {
	g := newGraph()
	g.put(owned("deployment", true))
	if look := g.put(owned("set", true, "deployment")); !slices.Equal(look, []types.UID{"set"}) {
		t.Errorf("a new dependent: look at %v", look)
	}
	g.put(owned("pod", true, "set"))
	if look := g.remove("deployment"); !slices.Equal(look, []types.UID{"set"}) {
		t.Errorf("the owner's end: look at %v", look)
	}
	waiting := owned("set", true, "deployment")
	waiting.deleting, waiting.finalizers = true, []string{metav1.FinalizerDeleteDependents}
	if look := g.put(waiting); !slices.Contains(look, "pod") || !slices.Contains(look, "set") {
		t.Errorf("foreground deletion: look at %v", look)
	}
	if look := g.remove("pod"); !slices.Equal(look, []types.UID{"set"}) {
		t.Errorf("the last dependent's end: look at %v", look)
	}
	if len(g.dependents["set"]) != 0 {
		t.Errorf("the graph keeps what is gone: %v", g.dependents)
	}
}
