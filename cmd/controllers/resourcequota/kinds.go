package resourcequota

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/discovery"
	resourceinformers "k8s.io/client-go/informers/resource/v1"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/quota"
)

const (
	// rediscover is how often discovery is asked for a resource that it did not know.
	rediscover = 3 * time.Second
	// patience is how long one count waits for a new kind to be listed.
	patience = 10 * time.Second
)

// kinds are the resources that are counted, each with an informer.
type kinds struct {
	clients Clients
	changed func(gr schema.GroupResource, namespace string, gone bool)
	log     *slog.Logger

	mu sync.Mutex
	// run runs an informer until the returned function is called; nil before and after Run.
	run       func(cache.SharedIndexInformer) context.CancelFunc
	informers map[schema.GroupResource]kind
	served    map[schema.GroupResource]schema.GroupVersionResource
	asked     time.Time
}

// kind is one resource's informer; stop is nil where somebody else runs it.
type kind struct {
	informer cache.SharedIndexInformer
	stop     context.CancelFunc
}

func newKinds(clients Clients, changed func(schema.GroupResource, string, bool), log *slog.Logger) *kinds {
	return &kinds{clients: clients, changed: changed, log: log, informers: map[schema.GroupResource]kind{}}
}

// during runs f; informers may start only meanwhile, and have ended when it returns.
func (k *kinds) during(ctx context.Context, f func() error) error {
	ctx, stopAll := context.WithCancel(ctx)
	var wg sync.WaitGroup
	set := func(run func(cache.SharedIndexInformer) context.CancelFunc) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.run = run
	}
	set(func(informer cache.SharedIndexInformer) context.CancelFunc {
		own, stop := context.WithCancel(ctx)
		wg.Go(func() { informer.RunWithContext(own) })
		return stop
	})
	err := f()
	set(nil)
	stopAll()
	wg.Wait()
	return err
}

// adopt takes an informer that runs anyway.
func (k *kinds) adopt(gr schema.GroupResource, informer cache.SharedIndexInformer) error {
	k.informers[gr] = kind{informer: informer}
	return k.listen(gr, informer)
}

func (k *kinds) listen(gr schema.GroupResource, informer cache.SharedIndexInformer) error {
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { k.tell(gr, obj, false) },
		UpdateFunc: func(old, obj any) {
			if frees(old, obj) {
				k.tell(gr, obj, true)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			k.tell(gr, obj, true)
		},
	})
	return err
}

func (k *kinds) tell(gr schema.GroupResource, obj any, gone bool) {
	if o, ok := obj.(metav1.Object); ok {
		k.changed(gr, o.GetNamespace(), gone)
	}
}

// frees tells whether an update may change what is used. Most kinds count only by number.
func frees(old, obj any) bool {
	switch b := obj.(type) {
	case *corev1.Pod:
		a := old.(*corev1.Pod)
		return quota.Counts(a, time.Now()) && !quota.Counts(b, time.Now()) || a.Generation != b.Generation
	case *corev1.Service:
		a := old.(*corev1.Service)
		return a.Spec.Type != b.Spec.Type || len(a.Spec.Ports) != len(b.Spec.Ports)
	case *corev1.PersistentVolumeClaim:
		return quota.ClaimFrees(old.(*corev1.PersistentVolumeClaim), b)
	case *resourcev1.ResourceClaim:
		return !equality.Semantic.DeepEqual(old.(*resourcev1.ResourceClaim).Spec, b.Spec)
	}
	return false
}

// lists lists the objects of gr as the informer has them.
func (k *kinds) lists(gr schema.GroupResource) generic.ListFuncByNamespace {
	return func(namespace string) ([]runtime.Object, error) {
		k.mu.Lock()
		kind, ok := k.informers[gr]
		k.mu.Unlock()
		if !ok {
			return nil, fmt.Errorf("%s is not served", gr)
		}
		return listIn(kind.informer, namespace)
	}
}

// watch sees to it that gr is watched, and tells whether the API server has it.
func (k *kinds) watch(ctx context.Context, gr schema.GroupResource) (served bool, err error) {
	informer, err := k.start(gr)
	if informer == nil || err != nil {
		return false, err
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if !cache.WaitForCacheSync(limited.Done(), informer.HasSynced) {
		return true, fmt.Errorf("not listed within %s", patience)
	}
	return true, nil
}

func (k *kinds) start(gr schema.GroupResource) (cache.SharedIndexInformer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if known, ok := k.informers[gr]; ok {
		return known.informer, nil
	}
	gvr, ok := k.findLocked(gr)
	if !ok || k.run == nil {
		return nil, nil
	}
	byNamespace := cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}
	var informer cache.SharedIndexInformer
	if gvr == resourcev1.SchemeGroupVersion.WithResource("resourceclaims") { // counted by their contents
		informer = resourceinformers.NewResourceClaimInformer(k.clients.Watch, metav1.NamespaceAll, 0, byNamespace)
	} else {
		informer = metadatainformer.NewFilteredMetadataInformer(k.clients.Metadata, gvr, metav1.NamespaceAll, 0, byNamespace, nil).Informer()
		if err := informer.SetTransform(bare); err != nil {
			return nil, err
		}
	}
	if err := k.listen(gr, informer); err != nil {
		return nil, err
	}
	k.informers[gr] = kind{informer, k.run(informer)}
	return informer, nil
}

// bare keeps what makes an object countable.
func bare(obj any) (any, error) {
	if o, ok := obj.(*metav1.PartialObjectMetadata); ok {
		return &metav1.PartialObjectMetadata{TypeMeta: o.TypeMeta, ObjectMeta: metav1.ObjectMeta{
			Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion,
		}}, nil
	}
	return obj, nil
}

// findLocked asks discovery for the version of gr to watch.
func (k *kinds) findLocked(gr schema.GroupResource) (schema.GroupVersionResource, bool) {
	if gvr, ok := k.served[gr]; ok {
		return gvr, true
	}
	if time.Since(k.asked) < rediscover {
		return schema.GroupVersionResource{}, false
	}
	k.asked = time.Now()
	lists, err := discovery.ServerPreferredNamespacedResources(k.clients.Watch.Discovery())
	if err != nil && len(lists) == 0 {
		k.log.Warn("discover resources", "controller", "resourcequota", "err", err)
	}
	k.served = map[schema.GroupResource]schema.GroupVersionResource{}
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"create", "list", "watch", "delete"}}, lists) {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			gvr := gv.WithResource(r.Name)
			k.served[gvr.GroupResource()] = gvr
		}
	}
	gvr, ok := k.served[gr]
	return gvr, ok
}

// keep stops watching what is not counted, nor served, any more.
func (k *kinds) keep(counted map[schema.GroupResource]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for gr, kind := range k.informers {
		if kind.stop != nil && !counted[gr] {
			kind.stop()
			delete(k.informers, gr)
		}
	}
}
