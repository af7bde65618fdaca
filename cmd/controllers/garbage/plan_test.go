package garbage

import (
	"log/slog"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata/fake"
	"k8s.io/client-go/tools/record"
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

// Of those that own each other and are deleted after their dependents, none waits for another; all wait for the others.
func TestCircle(t *testing.T) {
	g := newGraph()
	foreground := func(uid types.UID, owner types.UID) {
		o := owned(uid, true, owner)
		o.deleting, o.finalizers = true, []string{metav1.FinalizerDeleteDependents}
		g.put(o)
	}
	foreground("a", "c")
	foreground("b", "a")
	g.put(owned("c", true, "b"))
	g.put(owned("leaf", true, "a"))
	if got := g.circle("a"); len(got) != 0 {
		t.Errorf("one of them is not being deleted yet: %v", got)
	}
	foreground("c", "b")
	if got := g.circle("a"); len(got) != 1 || !got["b"] {
		t.Errorf("the circle goes on at %v", got)
	}
	if got := g.circle("leaf"); len(got) != 0 {
		t.Errorf("a leaf is in the circle %v", got)
	}
}

// A monitor that lists anew forgets what went while it did not watch, and only that.
func TestMonitorReplaces(t *testing.T) {
	c := New(nil, nil, nil, nil, slog.New(slog.DiscardHandler))
	pods, sets := schema.GroupVersionResource{Resource: "pods"}, schema.GroupVersionResource{Resource: "replicasets"}
	known := func(uid types.UID, owner types.UID) *metav1.PartialObjectMetadata {
		o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{UID: uid}}
		if owner != "" {
			o.OwnerReferences = []metav1.OwnerReference{{UID: owner}}
		}
		return o
	}
	ofSets, ofPods := &monitor{c: c, gvr: sets}, &monitor{c: c, gvr: pods}
	_ = ofSets.Add(known("s", ""))
	_ = ofPods.Add(known("a", "s"))
	_ = ofPods.Add(known("b", "s"))
	if ofPods.synced() {
		t.Error("synced before the first list")
	}
	_ = ofPods.Replace([]any{known("b", "s"), known("c", "s")}, "")
	_, dependents := c.graph.get("s")
	var uids []types.UID
	for _, d := range dependents {
		uids = append(uids, d.uid)
	}
	slices.Sort(uids)
	if !slices.Equal(uids, []types.UID{"b", "c"}) || !ofPods.synced() {
		t.Errorf("the set has %v, synced: %v", uids, ofPods.synced())
	}
	if set, _ := c.graph.get("s"); set == nil {
		t.Error("a list of pods took a set away")
	}
	_ = ofPods.Delete(known("b", "s"))
	if _, dependents := c.graph.get("s"); len(dependents) != 1 || dependents[0].uid != "c" {
		t.Errorf("after the end of one: %v", dependents)
	}
}

// An owner in another namespace is none, and the dependent is told so.
func TestOwnerInAnotherNamespace(t *testing.T) {
	events := record.NewFakeRecorder(5)
	maps := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	client := fake.NewSimpleMetadataClient(fake.NewTestScheme())
	c := New(nil, nil, client, events, slog.New(slog.DiscardHandler))
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, meta.RESTScopeNamespace)
	c.mapper = mapper
	c.graph.put(&object{identity: identity{maps, "theirs", "owner", "u"}})
	child := &object{identity: identity{maps, "ours", "child", "v"}, owners: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: "u"}}}
	states, err := c.states(t.Context(), child)
	if err != nil || states["u"] != absent {
		t.Errorf("the owner is %v (%v)", states, err)
	}
	const want = `Warning OwnerRefInvalidNamespace ownerRef [v1/ConfigMap, namespace: theirs, name: owner, uid: u] does not exist in namespace "ours"`
	if got := <-events.Events; got != want {
		t.Errorf("told %q", got)
	}
	child.namespace = "" // an object of the cluster is left alone
	if states, err = c.states(t.Context(), child); err != nil || states["u"] != alive {
		t.Errorf("the owner of the cluster's is %v (%v)", states, err)
	}
}
