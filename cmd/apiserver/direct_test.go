package apiserver

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

// podsInMemory is storage with some pods, and changes to them.
type podsInMemory struct {
	rest.Lister
	cached  map[string]*corev1.Pod // by namespace/name, as a get of version 0 gives them
	list    corev1.PodList
	changes *watch.FakeWatcher
	watched atomic.Pointer[metainternalversion.ListOptions]
}

func (p *podsInMemory) List(context.Context, *metainternalversion.ListOptions) (runtime.Object, error) {
	return p.list.DeepCopy(), nil
}

func (p *podsInMemory) Watch(_ context.Context, o *metainternalversion.ListOptions) (watch.Interface, error) {
	if o.SendInitialEvents != nil && *o.SendInitialEvents {
		return nil, errors.New("no lists by watching")
	}
	p.watched.Store(o)
	return p.changes, nil
}

func (p *podsInMemory) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	if pod := p.cached[apirequest.NamespaceValue(ctx)+"/"+name]; pod != nil && o.ResourceVersion == "0" {
		shallow := *pod
		return &shallow, nil
	}
	return nil, errors.New("not there")
}

// sharedObject is how the watch cache hands on what several watch.
type sharedObject struct{ *corev1.Pod }

func (s sharedObject) GetObject() runtime.Object { return s.Pod }
func (s sharedObject) CacheEncode(runtime.Identifier, func(runtime.Object, io.Writer) error, io.Writer) error {
	return errors.New("nobody encodes")
}

// The informer of pods waits for the storage, then has what is there and what changes, without the owners of fields.
func TestPodsAreReadDirectly(t *testing.T) {
	pod := func(name, version string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, ResourceVersion: version, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}}}
	}
	client := fake.NewClientset(pod("of the client", "1"))
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(forgetFieldOwners))
	d := newDirect()
	informPods(factory, d)
	pods := factory.Core().V1().Pods()
	informer := pods.Informer()
	ctx, cancel := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	defer func() { cancel(); factory.Shutdown() }()
	time.Sleep(20 * time.Millisecond)
	if informer.HasSynced() {
		t.Error("synced before there was storage")
	}
	storage := &podsInMemory{changes: watch.NewFake(), list: corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}, Items: []corev1.Pod{*pod("a", "5")}}}
	d.open(storage)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Fatal("not synced")
	}
	storage.changes.Add(sharedObject{pod("b", "8")})
	storage.changes.Modify(pod("a", "9"))
	has := func(name, version string) bool {
		p, err := pods.Lister().Pods("n").Get(name)
		return err == nil && p.ResourceVersion == version && len(p.ManagedFields) == 0
	}
	for end := time.Now().Add(10 * time.Second); !has("a", "9") || !has("b", "8"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the informer has %v", informer.GetStore().List())
		}
	}
	if n := len(informer.GetStore().List()); n != 2 {
		t.Errorf("%d pods, want 2: none of the client's", n)
	}
	if o := storage.watched.Load(); o.ResourceVersion != "7" || !o.AllowWatchBookmarks {
		t.Errorf("watched with %+v", o)
	}
}

// A pod of which an event tells is taken from the watch cache, whole, where it is the very one; else the event gives its copy.
func TestSharedEventsAreNotCopied(t *testing.T) {
	pod := func(uid types.UID, version string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "a", UID: uid, ResourceVersion: version, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	}
	cached, d := pod("1", "9"), newDirect()
	d.open(&podsInMemory{cached: map[string]*corev1.Pod{"n/a": cached}})
	for _, tc := range []struct {
		name string
		what watch.EventType
		told *corev1.Pod
		want *corev1.Pod // whose containers are had
	}{
		{"the same", watch.Modified, pod("1", "9"), cached},
		{"an older one", watch.Modified, pod("1", "8"), nil},
		{"another of that name", watch.Added, pod("2", "9"), nil},
		{"one that is gone", watch.Deleted, pod("1", "9"), nil},
	} {
		if tc.want == nil {
			tc.want = tc.told
		}
		got := d.unwrap(t.Context(), tc.what, sharedObject{tc.told}).(*corev1.Pod)
		if got.ResourceVersion != tc.told.ResourceVersion || got.UID != tc.told.UID || &got.Spec.Containers[0] != &tc.want.Spec.Containers[0] {
			t.Errorf("%s: got version %s of %s", tc.name, got.ResourceVersion, got.UID)
		}
		if _, err := forgetFieldOwners(got); err != nil || len(cached.ManagedFields) == 0 {
			t.Errorf("%s: the informer changed what is cached: %v", tc.name, err)
		}
	}
}

func TestReadsEndWithTheirContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d := newDirect()
	if _, err := d.list(ctx, metav1.ListOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
	if _, err := d.watch(ctx, metav1.ListOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("watch: %v", err)
	}
}
