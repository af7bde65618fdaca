package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/proxy"
)

// watch follows services, endpoint slices and nodes.
type watch struct {
	node    string
	factory informers.SharedInformerFactory
	started []cache.InformerSynced // of handlers: true once the first list has gone through them
	nodes   func()                 // tells of all nodes
}

func newWatch(client kubernetes.Interface, node string) *watch {
	return &watch{node: node, factory: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(slim))}
}

// slim drops what the agent never reads; it is most of an object.
func slim(obj any) (any, error) {
	if m, err := meta.Accessor(obj); err == nil {
		m.SetManagedFields(nil)
	}
	if n, ok := obj.(*corev1.Node); ok {
		n.Status.Images = nil
	}
	return obj, nil
}

// handle tells p of services and endpoints, and nodes of all nodes after each change.
func (w *watch) handle(p *proxy.Proxy, nodes func([]*corev1.Node)) error {
	services := w.factory.Core().V1().Services().Informer()
	slices := w.factory.Discovery().V1().EndpointSlices().Informer()
	nodeInformer := w.factory.Core().V1().Nodes()
	w.nodes = func() {
		if all, err := nodeInformer.Lister().List(labels.Everything()); err == nil {
			nodes(all)
		}
	}
	return errors.Join(
		w.add(services, func(key string, obj any) {
			if s, ok := obj.(*corev1.Service); ok {
				if svc, ours := proxy.FromService(s); ours {
					p.SetService(key, &svc)
					return
				}
			}
			p.SetService(key, nil)
		}),
		w.add(slices, func(key string, obj any) {
			if s, ok := obj.(*discoveryv1.EndpointSlice); ok {
				if slice, ours := proxy.FromSlice(s, w.node); ours {
					p.SetSlice(key, &slice)
					return
				}
			}
			p.SetSlice(key, nil)
		}),
		w.add(nodeInformer.Informer(), func(string, any) {
			if nodeInformer.Informer().HasSynced() { // a part of the nodes would take routes to the others away
				w.nodes()
			}
		}),
	)
}

// add calls set with the newest object of a key, or nil when it is gone.
func (w *watch) add(informer cache.SharedIndexInformer, set func(key string, obj any)) error {
	changed := func(obj any) {
		if key, err := cache.MetaNamespaceKeyFunc(obj); err == nil {
			set(key, obj)
		}
	}
	reg, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    changed,
		UpdateFunc: func(_, obj any) { changed(obj) },
		DeleteFunc: func(obj any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
				set(key, nil)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	w.started = append(w.started, reg.HasSynced)
	return nil
}

func (w *watch) run(ctx context.Context) error {
	w.factory.Start(ctx.Done())
	if w.synced(ctx) == nil {
		w.nodes() // the handler may have seen the last node a moment before the informer called itself synced
	}
	<-ctx.Done()
	w.factory.Shutdown()
	return ctx.Err()
}

// synced waits until the first lists have gone through the handlers.
func (w *watch) synced(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		all := true
		for _, done := range w.started {
			all = all && done()
		}
		if all {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
