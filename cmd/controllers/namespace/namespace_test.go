package namespace

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestConditions(t *testing.T) {
	before, now := metav1.Unix(1000, 0), metav1.Unix(2000, 0)
	told := func(conditions []corev1.NamespaceCondition) map[string]string {
		out := map[string]string{}
		for _, c := range conditions {
			at := ""
			if c.LastTransitionTime.Equal(&before) {
				at = ", since before"
			}
			out[string(c.Type)] = string(c.Status) + " " + c.Reason + ": " + c.Message + at
		}
		return out
	}
	well := map[string]string{
		"NamespaceDeletionDiscoveryFailure":           "False ResourcesDiscovered: All resources successfully discovered",
		"NamespaceDeletionGroupVersionParsingFailure": "False ParsedGroupVersions: All legacy kube types successfully parsed",
		"NamespaceDeletionContentFailure":             "False ContentDeleted: All content successfully deleted, may be waiting on finalization",
		"NamespaceContentRemaining":                   "False ContentRemoved: All content successfully removed",
		"NamespaceFinalizersRemaining":                "False ContentHasNoFinalizers: All content-preserving finalizers finished",
	}
	if diff := cmp.Diff(well, told(Conditions(nil, found{}, now))); diff != "" {
		t.Errorf("all is well: %s", diff)
	}
	ill := map[string]string{
		"NamespaceDeletionDiscoveryFailure":           "True DiscoveryFailed: Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: metrics.k8s.io/v1beta1: away",
		"NamespaceDeletionGroupVersionParsingFailure": "False ParsedGroupVersions: All legacy kube types successfully parsed, since before",
		"NamespaceDeletionContentFailure":             "True ContentDeletionFailed: Failed to delete all resource types, 2 remaining: [list a: no, list b: no]",
		"NamespaceContentRemaining":                   "True SomeResourcesRemain: Some resources are remaining: pods. has 2 resource instances, widgets.example.com has 1 resource instances",
		"NamespaceFinalizersRemaining":                "True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
	}
	trouble := found{
		discovery: []error{&discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{{Group: "metrics.k8s.io", Version: "v1beta1"}: errors.New("away")}}},
		deletion:  []error{errors.New("list a: no"), errors.New("list b: no")},
		remaining: map[string]int{"widgets.example.com": 1, "pods.": 2}, finalizers: map[string]int{"example.com/hold": 1},
	}
	current := append(Conditions(nil, found{}, before), corev1.NamespaceCondition{Type: "Users", Status: corev1.ConditionTrue, Reason: "own", LastTransitionTime: now})
	ill["Users"] = "True own: "
	if diff := cmp.Diff(ill, told(Conditions(current, trouble, now))); diff != "" {
		t.Errorf("trouble: %s", diff)
	}
	if current[0].Status != corev1.ConditionFalse {
		t.Error("the conditions that were given were changed")
	}
}

func TestPause(t *testing.T) {
	for ending, want := range map[time.Duration]time.Duration{
		-time.Minute: time.Second, 0: time.Second, 8 * time.Second: time.Second, 32 * time.Second: 4 * time.Second, time.Hour: 15 * time.Second,
	} {
		if got := pause(ending); got != want {
			t.Errorf("after %v: %v, want %v", ending, got, want)
		}
	}
}

// cluster is an API with namespace "shop", and what is in it.
type cluster struct {
	*fake.Clientset
	contents *metadatafake.FakeMetadataClient
	served   discovered
	// shown is the namespace in the cache.
	shown *corev1.Namespace
}

// discovered answers what resources there are.
type discovered struct {
	discovery.DiscoveryInterfaces
	lists []*metav1.APIResourceList
	err   error
}

func (d discovered) ServerPreferredNamespacedResources() ([]*metav1.APIResourceList, error) {
	return d.lists, d.err
}

func (w *cluster) Discovery() discovery.DiscoveryInterfaces { return w.served }

func shop(uid string, ending bool) *corev1.Namespace {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", UID: types.UID(uid)}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
		Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}}
	if ending {
		began := metav1.NewTime(time.Now())
		ns.DeletionTimestamp, ns.Status.Phase = &began, corev1.NamespaceTerminating
	}
	return ns
}

func thing(apiVersion, kind, name string, finalizers ...string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: apiVersion, Kind: kind}, ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Finalizers: finalizers}}
}

// newCluster has an API that takes in collections of all kinds but widgets, as upstream's does of some.
func newCluster(t *testing.T, ns *corev1.Namespace, contents ...runtime.Object) *cluster {
	t.Helper()
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	w := &cluster{Clientset: fake.NewClientset(), contents: metadatafake.NewSimpleMetadataClient(scheme, contents...), shown: shop("u", true)}
	if ns != nil {
		if err := w.Tracker().Add(ns); err != nil {
			t.Fatal(err)
		}
	}
	all := metav1.Verbs{"create", "delete", "deletecollection", "get", "list", "watch"}
	w.served.lists = []*metav1.APIResourceList{
		{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "configmaps", Namespaced: true, Kind: "ConfigMap", Verbs: all},
			{Name: "pods", Namespaced: true, Kind: "Pod", Verbs: all}, {Name: "pods/status", Namespaced: true, Kind: "Pod", Verbs: all},
			{Name: "bindings", Namespaced: true, Kind: "Binding", Verbs: metav1.Verbs{"create"}}}},
		{GroupVersion: "example.com/v1", APIResources: []metav1.APIResource{{Name: "widgets", Namespaced: true, Kind: "Widget", Verbs: all}}},
	}
	// As the server does: what has a finalizer stays.
	w.contents.PrependReactor("delete-collection", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		gvr := a.GetResource()
		if gvr.Resource == "widgets" {
			return true, nil, apierrors.NewMethodNotSupported(gvr.GroupResource(), "deletecollection")
		}
		for _, obj := range contents {
			if item := obj.(*metav1.PartialObjectMetadata); len(item.Finalizers) == 0 && strings.ToLower(item.Kind)+"s" == gvr.Resource {
				_ = w.contents.Tracker().Delete(gvr, "shop", item.Name) // it may be gone
			}
		}
		return true, nil, nil
	})
	return w
}

func (w *cluster) of(t *testing.T, gvr schema.GroupVersionResource) []metav1.PartialObjectMetadata {
	t.Helper()
	list, err := w.contents.Resource(gvr).Namespace("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// sync looks at the namespace once.
func (w *cluster) sync(t *testing.T) error {
	t.Helper()
	shared := informers.NewSharedInformerFactory(w, 0)
	c, err := New(w, w.contents, shared.Core().V1().Namespaces(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := shared.Core().V1().Namespaces().Informer().GetStore().Add(w.shown); err != nil {
		t.Fatal(err)
	}
	return c.sync(t.Context(), "shop")
}

// state says whether the namespace may go, and what it says of its contents.
func (w *cluster) state(t *testing.T) string {
	t.Helper()
	ns, err := w.CoreV1().Namespaces().Get(t.Context(), "shop", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text := string(ns.Status.Phase)
	if len(ns.Spec.Finalizers) == 0 {
		text = "may go"
	}
	for _, c := range ns.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			text += ", " + c.Message
		}
	}
	return text
}

var (
	pods    = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	configs = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	widgets = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}
)

// Pods go first; what they use is still there while one of them is.
func TestPodsGoFirst(t *testing.T) {
	w := newCluster(t, shop("u", true), thing("v1", "Pod", "p"), thing("v1", "Pod", "slow", "example.com/hold"), thing("v1", "ConfigMap", "c"), thing("example.com/v1", "Widget", "w"))
	if err := w.sync(t); err != nil {
		t.Fatal(err)
	}
	want := "Terminating, Some resources are remaining: pods. has 1 resource instances, Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
	if got := w.state(t); got != want || len(w.of(t, configs)) != 1 || len(w.of(t, widgets)) != 1 {
		t.Errorf("%s; %v %v", got, w.of(t, configs), w.of(t, widgets))
	}
	if err := w.contents.Tracker().Delete(pods, "shop", "slow"); err != nil {
		t.Fatal(err)
	}
	if err := w.sync(t); err != nil {
		t.Fatal(err)
	}
	if got := w.state(t); got != "may go" || len(w.of(t, configs)) != 0 || len(w.of(t, widgets)) != 0 {
		t.Errorf("%s; %v %v", got, w.of(t, configs), w.of(t, widgets))
	}
}

// A cache that is late shows a namespace that is gone. Another has its name by now, and keeps what is in it.
func TestALateCacheEmptiesNoOtherNamespace(t *testing.T) {
	w := newCluster(t, shop("new", false), thing("v1", "ConfigMap", "c"))
	if err := w.sync(t); err != nil {
		t.Fatal(err)
	}
	if got := w.state(t); got != "Active" || len(w.of(t, configs)) != 1 {
		t.Errorf("%s; %v", got, w.of(t, configs))
	}
	if w = newCluster(t, nil); w.sync(t) != nil {
		t.Error("a namespace that is gone is no trouble")
	}
}

// Who else has a finalizer on the namespace is waited for, and ours is not put on again.
func TestOnlyOurFinalizerIsTaken(t *testing.T) {
	ns := shop("u", true)
	ns.Spec.Finalizers = append(ns.Spec.Finalizers, "example.com/audit")
	w := newCluster(t, ns)
	if err := w.sync(t); err != nil {
		t.Fatal(err)
	}
	got, err := w.CoreV1().Namespaces().Get(t.Context(), "shop", metav1.GetOptions{})
	if err != nil || len(got.Spec.Finalizers) != 1 || got.Spec.Finalizers[0] != "example.com/audit" {
		t.Errorf("%v %v", got.Spec.Finalizers, err)
	}
	w.contents.ClearActions()
	if err := w.sync(t); err != nil || len(w.contents.Actions()) > 0 {
		t.Errorf("%v, and did %v", err, w.contents.Actions())
	}
}

// What cannot be listed, deleted or discovered keeps the namespace, not the rest of its contents.
func TestTrouble(t *testing.T) {
	for name, tc := range map[string]struct {
		verb, resource string
		want           string
	}{
		"list":   {"list", "widgets", "Terminating, Failed to delete all resource types, 1 remaining: list widgets.example.com: no"},
		"delete": {"delete", "widgets", "Terminating, Failed to delete all resource types, 1 remaining: delete widgets.example.com: no"},
	} {
		w := newCluster(t, shop("u", true), thing("v1", "ConfigMap", "c"), thing("example.com/v1", "Widget", "w"))
		w.contents.PrependReactor(tc.verb, tc.resource, func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("no") })
		if err := w.sync(t); err == nil || !strings.Contains(err.Error(), "widgets.example.com: no") {
			t.Errorf("%s: %v", name, err)
		}
		if got := w.state(t); got != tc.want || len(w.of(t, configs)) != 0 {
			t.Errorf("%s: %s; %v", name, got, w.of(t, configs))
		}
	}
	w := newCluster(t, shop("u", true), thing("v1", "ConfigMap", "c"))
	w.served.err = &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{{Group: "metrics.k8s.io", Version: "v1beta1"}: errors.New("away")}}
	if err := w.sync(t); err == nil || len(w.of(t, configs)) != 0 || !strings.HasSuffix(w.state(t), "1 failing: unable to retrieve the complete list of server APIs: metrics.k8s.io/v1beta1: away") {
		t.Errorf("%v; %s; %v", err, w.state(t), w.of(t, configs))
	}
}
