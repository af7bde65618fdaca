package garbage

import (
	"context"
	"sync"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
)

// monitor follows one resource. It keeps no objects: what it is told goes into the graph. There is one for each
// resource of the cluster, so an informer, with a store and queues of its own, would be most of a small cluster's
// memory.
type monitor struct {
	c      *Collector
	gvr    schema.GroupVersionResource
	stop   context.CancelFunc
	filled atomic.Bool
	// namespaced is guarded by the collector's mutex.
	namespaced bool
}

func (c *Collector) startMonitor(ctx context.Context, gvr schema.GroupVersionResource, wg *sync.WaitGroup) *monitor {
	own, stop := context.WithCancel(ctx)
	m := &monitor{c: c, gvr: gvr, stop: stop}
	wg.Go(func() { c.follow(own, gvr, m) })
	return m
}

// Watching lists and watches by client.
func Watching(client metadata.Interface) Follow {
	return func(ctx context.Context, gvr schema.GroupVersionResource, store cache.ReflectorStore) {
		resource := client.Resource(gvr)
		source := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return resource.List(ctx, o) },
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return resource.Watch(ctx, o)
			},
		}, client)
		cache.NewReflectorWithOptions(source, &metav1.PartialObjectMetadata{}, store, cache.ReflectorOptions{Name: "garbage of " + gvr.String()}).RunWithContext(ctx)
	}
}

// synced tells whether all that was there in the beginning has been seen.
func (m *monitor) synced() bool { return m.filled.Load() }

// Add takes in a new object.
func (m *monitor) Add(obj any) error {
	if o, ok := obj.(*metav1.PartialObjectMetadata); ok {
		m.c.look(m.c.graph.put(fromMetadata(m.gvr, o)))
	}
	return nil
}

// Update takes in a changed object.
func (m *monitor) Update(obj any) error { return m.Add(obj) }

// Delete forgets an object.
func (m *monitor) Delete(obj any) error {
	if o, ok := obj.(*metav1.PartialObjectMetadata); ok {
		m.c.look(m.c.graph.remove(o.UID))
	}
	return nil
}

// Replace takes in all that there is, and forgets what is not among it.
func (m *monitor) Replace(all []any, _ string) error {
	there := make(map[types.UID]bool, len(all))
	for _, obj := range all {
		if o, ok := obj.(*metav1.PartialObjectMetadata); ok {
			there[o.UID] = true
		}
		_ = m.Add(obj) // it has no error to give
	}
	for _, uid := range m.c.graph.missing(m.gvr, there) {
		m.c.look(m.c.graph.remove(uid))
	}
	m.filled.Store(true)
	return nil
}

// Resync has nothing to do: what must be looked at again is in the queue.
func (m *monitor) Resync() error { return nil }
