// Package resourcequota counts what each namespace uses of its ResourceQuotas.
//
// Admission charges what is made; this controller gives back what is gone, and counts anew
// whatever else may have gone wrong. It watches only kinds that some quota counts, found
// through discovery, so custom resources count too.
package resourcequota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	library "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
	"github.com/orlop-io/orlop/cmd/quota"
)

// made is how long after a creation its namespace is counted anew: by then admission's charge
// and the object itself have been seen, so that the count agrees with the charge.
const made = time.Second

// Controller keeps the status of all quotas.
type Controller struct {
	client   kubernetes.Interface
	quotas   corelisters.ResourceQuotaLister
	registry library.Registry
	kinds    *kinds
	period   time.Duration
	loop     *loop.Loop
	synced   []cache.InformerSynced
}

// Clients are what a Controller acts and watches with.
type Clients struct {
	// Act writes the status of quotas.
	Act kubernetes.Interface
	// Watch lists, watches and discovers whatever a quota may count; Metadata is the same one's.
	Watch    kubernetes.Interface
	Metadata metadata.Interface
}

// New returns a Controller that has done nothing yet. Every period it counts everything anew.
func New(clients Clients, shared informers.SharedInformerFactory, period time.Duration, log *slog.Logger) (*Controller, error) {
	if period <= 0 {
		return nil, errors.New("the time between full counts must be above zero")
	}
	core := shared.Core().V1()
	quotas := core.ResourceQuotas()
	c := &Controller{client: clients.Act, quotas: quotas.Lister(), period: period, synced: []cache.InformerSynced{quotas.Informer().HasSynced}}
	c.loop = loop.New("resourcequota", c.sync, log)
	c.kinds = newKinds(clients, c.changed, log)
	own := map[schema.GroupResource]cache.SharedIndexInformer{
		corev1.Resource("pods"): core.Pods().Informer(), corev1.Resource("services"): core.Services().Informer(),
		corev1.Resource("persistentvolumeclaims"): core.PersistentVolumeClaims().Informer(),
	}
	var errs []error
	for gr, informer := range own {
		errs = append(errs, c.kinds.adopt(gr, informer))
		c.synced = append(c.synced, informer.HasSynced)
	}
	c.registry = generic.NewRegistry(quota.Evaluators(c.kinds.lists, time.Now))
	_, err := quotas.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: c.loop.AddObject,
		UpdateFunc: func(old, obj any) {
			// What admission writes into used is nothing to look at.
			a, b := old.(*corev1.ResourceQuota), obj.(*corev1.ResourceQuota)
			if !library.Equals(a.Spec.Hard, b.Spec.Hard) || !library.Equals(b.Spec.Hard, b.Status.Hard) {
				c.loop.AddObject(obj)
			}
		},
	})
	return c, errors.Join(append(errs, err)...)
}

// Run counts until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	return c.kinds.during(ctx, func() error {
		ended := make(chan struct{})
		go func() { defer close(ended); c.resync(ctx) }()
		err := c.loop.Run(ctx, 5, c.synced...)
		<-ended
		return err
	})
}

// resync counts all from time to time, and stops watching kinds that no quota counts any more.
func (c *Controller) resync(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.period):
		}
		all, err := c.quotas.List(labels.Everything())
		if err != nil {
			continue
		}
		counted := map[schema.GroupResource]bool{}
		for _, q := range all {
			for _, gr := range Counted(q.Spec.Hard) {
				counted[gr] = true
			}
			c.loop.AddObject(q)
		}
		c.kinds.keep(counted)
	}
}

// changed says that an object of gr in namespace changed; gone that it uses less now.
func (c *Controller) changed(gr schema.GroupResource, namespace string, gone bool) {
	quotas, err := c.quotas.ResourceQuotas(namespace).List(labels.Everything())
	if err != nil || len(quotas) == 0 {
		return
	}
	e := c.registry.Get(gr)
	if e == nil {
		return
	}
	for _, q := range quotas {
		if len(e.MatchingResources(library.ResourceNames(q.Spec.Hard))) == 0 {
			continue
		}
		key := q.Namespace + "/" + q.Name
		if gone {
			c.loop.Add(key)
		} else {
			c.loop.AddAfter(key, made)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	q, err := c.quotas.ResourceQuotas(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	var trouble []error
	for _, gr := range Counted(q.Spec.Hard) {
		served, err := c.kinds.watch(ctx, gr)
		if err != nil {
			trouble = append(trouble, fmt.Errorf("watch %s: %w", gr, err))
		}
		if !served && err == nil {
			// Its definition may come any moment, and until it is counted admission lets none in.
			c.loop.AddAfter(key, rediscover)
		}
		if served && c.registry.Get(gr) == nil {
			c.registry.Add(generic.NewObjectCountEvaluator(gr, c.kinds.lists(gr), ""))
		}
	}
	used, err := library.CalculateUsage(namespace, q.Spec.Scopes, q.Spec.Hard, c.registry, q.Spec.ScopeSelector)
	if err != nil {
		trouble = append(trouble, fmt.Errorf("count: %w", err)) // what could be counted is written nevertheless
	}
	status, differs := Status(q, used)
	if differs {
		written := q.DeepCopy()
		written.Status = status
		if _, err := c.client.CoreV1().ResourceQuotas(namespace).UpdateStatus(ctx, written, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			trouble = append(trouble, fmt.Errorf("write status: %w", err))
		}
	}
	return errors.Join(trouble...)
}

// listIn lists an informer's objects in a namespace.
func listIn(informer cache.SharedIndexInformer, namespace string) ([]runtime.Object, error) {
	if !informer.HasSynced() {
		return nil, errors.New("not yet listed")
	}
	items, err := informer.GetIndexer().ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		return nil, err
	}
	objs := make([]runtime.Object, 0, len(items))
	for _, item := range items {
		if obj, ok := item.(runtime.Object); ok {
			objs = append(objs, obj)
		}
	}
	return objs, nil
}
