package simulation

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/informers/apps"
	"k8s.io/client-go/informers/autoscaling"
	"k8s.io/client-go/informers/batch"
	"k8s.io/client-go/informers/coordination"
	"k8s.io/client-go/informers/core"
	"k8s.io/client-go/informers/discovery"
	"k8s.io/client-go/informers/internalinterfaces"
	"k8s.io/client-go/informers/policy"
	"k8s.io/client-go/informers/storage"
	"k8s.io/client-go/tools/cache"
)

// factory makes the informers of one program. What nobody in the simulation asks for panics.
type factory struct {
	informers.SharedInformerFactory
	from      *program
	informers []*informer
}

func (f *factory) Apps() apps.Interface                 { return apps.New(f, "", nil) }
func (f *factory) Autoscaling() autoscaling.Interface   { return autoscaling.New(f, "", nil) }
func (f *factory) Batch() batch.Interface               { return batch.New(f, "", nil) }
func (f *factory) Coordination() coordination.Interface { return coordination.New(f, "", nil) }
func (f *factory) Core() core.Interface                 { return core.New(f, "", nil) }
func (f *factory) Discovery() discovery.Interface       { return discovery.New(f, "", nil) }
func (f *factory) Policy() policy.Interface             { return policy.New(f, "", nil) }
func (f *factory) Storage() storage.Interface           { return storage.New(f, "", nil) }

// InformerFor returns the informer of obj's kind.
func (f *factory) InformerFor(obj runtime.Object, _ internalinterfaces.NewInformerFunc) cache.SharedIndexInformer {
	resource := resourceOf(obj)
	for _, in := range f.informers {
		if in.resource == resource && in.of == "" {
			return in
		}
	}
	return f.add(&informer{resource: resource})
}

// add takes in an informer that has learned nothing yet.
func (f *factory) add(in *informer) *informer {
	in.from = f.from
	in.store = shuffled{cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}), f.from.order}
	f.informers = append(f.informers, in)
	slices.SortFunc(f.informers, func(a, b *informer) int {
		return cmp.Or(cmp.Compare(a.resource, b.resource), cmp.Compare(a.of, b.of))
	})
	return in
}

func resourceOf(obj runtime.Object) string {
	switch obj.(type) {
	case *corev1.Pod:
		return "pods"
	case *corev1.Node:
		return "nodes"
	case *corev1.Namespace:
		return "namespaces"
	case *corev1.Service:
		return "services"
	case *corev1.PersistentVolume:
		return "persistentvolumes"
	case *corev1.PersistentVolumeClaim:
		return "persistentvolumeclaims"
	case *corev1.ReplicationController:
		return "replicationcontrollers"
	case *corev1.ResourceQuota:
		return "resourcequotas"
	case *appsv1.Deployment:
		return "deployments"
	case *appsv1.ReplicaSet:
		return "replicasets"
	case *appsv1.StatefulSet:
		return "statefulsets"
	case *appsv1.DaemonSet:
		return "daemonsets"
	case *appsv1.ControllerRevision:
		return "controllerrevisions"
	case *batchv1.Job:
		return "jobs"
	case *batchv1.CronJob:
		return "cronjobs"
	case *policyv1.PodDisruptionBudget:
		return "poddisruptionbudgets"
	case *corev1.ConfigMap:
		return "configmaps"
	case *autoscalingv2.HorizontalPodAutoscaler:
		return "horizontalpodautoscalers"
	case *coordinationv1.Lease:
		return "leases"
	case *discoveryv1.EndpointSlice:
		return "endpointslices"
	case *storagev1.StorageClass:
		return "storageclasses"
	case *storagev1.CSINode:
		return "csinodes"
	case *storagev1.VolumeAttachment:
		return "volumeattachments"
	}
	panic(fmt.Sprintf("the simulation has no %T", obj))
}

// shuffled is a cache that lists in an order that is no order of anything, and the same for the same seed.
type shuffled struct {
	cache.Indexer
	order uint64
}

func (s shuffled) mix(objs []any) []any {
	rank := func(obj any) uint64 {
		h := fnv.New64a()
		fmt.Fprint(h, s.order, obj.(object).GetUID())
		return h.Sum64()
	}
	ranks := make(map[any]uint64, len(objs))
	for _, obj := range objs {
		ranks[obj] = rank(obj)
	}
	slices.SortFunc(objs, func(a, b any) int { return cmp.Compare(ranks[a], ranks[b]) })
	return objs
}

func (s shuffled) List() []any { return s.mix(s.Indexer.List()) }

func (s shuffled) Index(name string, obj any) ([]any, error) {
	objs, err := s.Indexer.Index(name, obj)
	return s.mix(objs), err
}

func (s shuffled) ByIndex(name, value string) ([]any, error) {
	objs, err := s.Indexer.ByIndex(name, value)
	return s.mix(objs), err
}

// informer is one program's cache of one resource. The story tells it what happened, and when it tells its listeners.
type informer struct {
	cache.SharedIndexInformer
	from     *program
	resource string
	// of is whose it is, "" where all of the program share it.
	of    string
	store shuffled
	// listed tells that it was filled, and watching that it goes on from there.
	listed, watching bool
	seen             int64
	// missed tells that an event was lost: only the next list shows it.
	missed    bool
	listeners []*listener
	// relisting tells that what is told is of a list, which a replacer is told as a whole.
	relisting bool
}

// replacer is a handler that is told of lists as a whole.
type replacer interface{ replaced(all []object) }

// listener is one controller's handler. It may be told later than the cache shows.
type listener struct {
	in      *informer
	handler cache.ResourceEventHandler
	pending []func()
	// first is how many of pending are still of the first list.
	first int
}

// HasSynced tells that the handler has been told all of the first list.
func (l *listener) HasSynced() bool { return l.in.listed && l.first == 0 }

// HasSyncedChecker has no caller.
func (l *listener) HasSyncedChecker() cache.DoneChecker { panic("not in this simulation") }

func (in *informer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	l := &listener{in: in, handler: h}
	in.listeners = append(in.listeners, l)
	return l, nil
}

// AddIndexers adds ways to find what the cache holds.
func (in *informer) AddIndexers(more cache.Indexers) error { return in.store.Indexer.AddIndexers(more) }

func (in *informer) GetIndexer() cache.Indexer { return in.store }
func (in *informer) GetStore() cache.Store     { return in.store }
func (in *informer) HasSynced() bool           { return in.listed }

func (in *informer) String() string { return in.from.name + "'s " + in.of + in.resource }

// next is the first change that in has not been shown.
func (in *informer) next(w *world) *entry {
	history := w.table(in.resource).history
	i, _ := slices.BinarySearchFunc(history, in.seen+1, func(e entry, version int64) int { return cmp.Compare(e.version, version) })
	if i == len(history) {
		return nil
	}
	return &history[i]
}

// behind tells that in has something to learn.
func (in *informer) behind(w *world) bool { return !in.listed || !in.watching || in.next(w) != nil }

func (in *informer) tell(f func(h cache.ResourceEventHandler)) {
	for _, l := range in.listeners {
		if _, whole := l.handler.(replacer); whole && in.relisting {
			continue
		}
		l.pending = append(l.pending, func() { f(l.handler) })
	}
}

// take brings one change into the cache.
func (in *informer) take(e *entry) {
	in.seen = max(in.seen, e.version)
	key := cache.MetaObjectToName(e.obj).String()
	old, known, _ := in.store.GetByKey(key)
	switch {
	case e.what == watch.Deleted && !known: // its coming was lost, too
	case e.what == watch.Deleted:
		_ = in.store.Delete(e.obj)
		in.tell(func(h cache.ResourceEventHandler) { h.OnDelete(e.obj) })
	case known:
		_ = in.store.Update(e.obj)
		in.tell(func(h cache.ResourceEventHandler) { h.OnUpdate(old, e.obj) })
	default:
		_ = in.store.Add(e.obj)
		in.tell(func(h cache.ResourceEventHandler) { h.OnAdd(e.obj, false) })
	}
}

// relist makes the cache what the world is now.
func (in *informer) relist(w *world) {
	have := in.objects()
	objects := w.table(in.resource).objects
	in.relisting = true
	defer func() { in.relisting = false }()
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		obj, old := objects[name], have[name]
		_ = in.store.Update(obj)
		if old != nil {
			in.tell(func(h cache.ResourceEventHandler) { h.OnUpdate(old, obj) })
		} else {
			in.tell(func(h cache.ResourceEventHandler) { h.OnAdd(obj, !in.listed) })
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if old := have[name]; objects[name] == nil {
			_ = in.store.Delete(old)
			lost := cache.DeletedFinalStateUnknown{Key: cache.MetaObjectToName(old).String(), Obj: old}
			in.tell(func(h cache.ResourceEventHandler) { h.OnDelete(lost) })
		}
	}
	for _, l := range in.listeners {
		if r, ok := l.handler.(replacer); ok {
			all := all[object](w, in.resource)
			l.pending = append(l.pending, func() { r.replaced(all) })
		}
	}
	if !in.listed {
		for _, l := range in.listeners {
			l.first = len(l.pending)
		}
	}
	in.listed, in.watching, in.missed, in.seen = true, true, false, w.version
}

func (in *informer) objects() map[string]object {
	have := map[string]object{}
	for _, obj := range in.store.Indexer.List() {
		have[obj.(object).GetName()] = obj.(object)
	}
	return have
}

// deliver tells the handler of one change.
func (l *listener) deliver() {
	f := l.pending[0]
	l.pending = l.pending[1:]
	f()
	l.first = max(l.first-1, 0)
}
