package apiserver

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// readable is storage of pods that one can get, list and watch.
type readable interface {
	rest.Getter
	rest.Lister
	rest.Watcher
}

// direct lets an informer of this server read from the server's own storage. As a client of itself it would encode, encrypt,
// decrypt and decode each change of each object.
type direct struct {
	storage readable
	opened  chan struct{} // closed when storage is there
	once    sync.Once
}

func newDirect() *direct { return &direct{opened: make(chan struct{})} }

// open says where to read from. Reads before that wait.
func (d *direct) open(storage readable) {
	d.once.Do(func() {
		d.storage = storage
		close(d.opened)
	})
}

func (d *direct) await(ctx context.Context) error {
	select {
	case <-d.opened:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *direct) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if err := d.await(ctx); err != nil {
		return nil, err
	}
	return d.storage.List(ctx, internalOptions(o))
}

func (d *direct) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	if err := d.await(ctx); err != nil {
		return nil, err
	}
	w, err := d.storage.Watch(ctx, internalOptions(o))
	if err != nil {
		return nil, err
	}
	return watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
		// What several watch comes with room for its encoded forms.
		if shared, ok := e.Object.(runtime.CacheableObject); ok {
			e.Object = d.unwrap(ctx, e.Type, shared)
		}
		return e, true
	}), nil
}

// unwrap is the pod that a shared event tells of. The event itself would give a copy of all of it; the pod in the watch cache,
// which is there before its event, is mostly the same one, and the informer needs no copy of what it does not change.
func (d *direct) unwrap(ctx context.Context, what watch.EventType, shared runtime.CacheableObject) runtime.Object {
	if m, ok := shared.(metav1.Object); ok && what != watch.Deleted {
		now, err := d.storage.Get(apirequest.WithNamespace(ctx, m.GetNamespace()), m.GetName(), &metav1.GetOptions{ResourceVersion: "0"})
		if pod, is := now.(*corev1.Pod); err == nil && is && pod.UID == m.GetUID() && pod.ResourceVersion == m.GetResourceVersion() {
			return pod
		}
	}
	return shared.GetObject()
}

// internalOptions has what reflectors say; they do not select here.
func internalOptions(o metav1.ListOptions) *metainternalversion.ListOptions {
	return &metainternalversion.ListOptions{
		ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch, Limit: o.Limit, Continue: o.Continue,
		AllowWatchBookmarks: o.AllowWatchBookmarks, SendInitialEvents: o.SendInitialEvents,
	}
}

// informPods makes the factory's informer of pods, which change more than all else, read from d.
func informPods(factory informers.SharedInformerFactory, d *direct) {
	factory.InformerFor(&corev1.Pod{}, func(_ kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
		return cache.NewSharedIndexInformer(&cache.ListWatch{ListWithContextFunc: d.list, WatchFuncWithContext: d.watch},
			&corev1.Pod{}, resync, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	})
}
