package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/proxy"
)

// watch follows services, endpoint slices and nodes.
type watch struct {
	node    string
	proxy   bool // services and endpoints, too
	factory informers.SharedInformerFactory
	started []cache.InformerSynced // of handlers: true once the first list has gone through them
	nodes   func()                 // tells of all nodes
	kinds   map[byte]*following
	tell    func([]*corev1.Node)
	stale   chan struct{} // something has changed; holds one
	primed  chan struct{} // closed once the last state has gone through the handlers
	once    sync.Once
	began   time.Time
}

// following is one kind of object.
type following struct {
	store cache.Store
	set   func(key string, p *packed) // tells of an object; nil of one that is gone, or is a node
	// recalled are those of the last state, until the first list.
	recalled []string
}

func newWatch(client kubernetes.Interface, o options) *watch {
	w := &watch{began: time.Now(), node: o.node, proxy: o.proxy, kinds: map[byte]*following{}, stale: make(chan struct{}, 1), primed: make(chan struct{})}
	w.factory = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(w.pack))
	return w
}

// handle tells p of services and endpoints, servers of the API servers among those, and nodes of all nodes after each change.
func (w *watch) handle(p *proxy.Proxy, servers func(proxy.PackedSlice), nodes func([]*corev1.Node)) error {
	nodeInformer := w.factory.Core().V1().Nodes()
	w.tell = nodes
	w.nodes = func() {
		if all, err := nodeInformer.Lister().List(labels.Everything()); err == nil {
			nodes(all)
		}
	}
	err := w.add(kindNode, nodeInformer.Informer(), func(string, *packed) {
		if nodeInformer.Informer().HasSynced() { // a part of the nodes would take routes to the others away
			w.nodes()
		}
	})
	if !w.proxy {
		return err
	}
	return errors.Join(err,
		w.add(kindService, w.factory.InformerFor(&corev1.Service{}, func(c kubernetes.Interface, _ time.Duration) cache.SharedIndexInformer {
			return coreinformers.NewServiceInformer(c, "", 0, cache.Indexers{}) // of no index: nobody asks by namespace
		}), func(key string, o *packed) { p.SetService(key, proxy.PackedService(o.said())) }),
		w.add(kindSlice, w.factory.InformerFor(&discoveryv1.EndpointSlice{}, func(c kubernetes.Interface, _ time.Duration) cache.SharedIndexInformer {
			return discoveryinformers.NewEndpointSliceInformer(c, "", 0, cache.Indexers{})
		}), func(key string, o *packed) {
			s := proxy.PackedSlice(o.said())
			servers(s)
			p.SetSlice(key, s)
		}),
	)
}

// service is what an Event says of a Service as last seen; nil when there is none.
func (w *watch) service(namespace, name string) *corev1.Service {
	f := w.kinds[kindService]
	if f == nil {
		return nil
	}
	obj, known, err := f.store.GetByKey(namespace + "/" + name)
	if err != nil || !known {
		return nil
	}
	p, is := obj.(*packed)
	if !is {
		return nil
	}
	return &corev1.Service{ObjectMeta: p.meta()}
}

// add calls set with the newest object of a key, or nil when it is gone.
func (w *watch) add(kind byte, informer cache.SharedIndexInformer, set func(key string, p *packed)) error {
	w.kinds[kind] = &following{store: informer.GetStore(), set: set}
	changed := func(obj any) {
		w.touch()
		if p, is := obj.(*packed); is {
			set(p.keyText(), p)
		} else if key, err := cache.MetaNamespaceKeyFunc(obj); err == nil {
			set(key, nil)
		}
	}
	reg, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    changed,
		UpdateFunc: func(_, obj any) { changed(obj) },
		DeleteFunc: func(obj any) {
			w.touch()
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

func (w *watch) touch() {
	select {
	case w.stale <- struct{}{}:
	default:
	}
}

func (w *watch) stores() map[byte]cache.Store {
	out := map[byte]cache.Store{}
	for kind, f := range w.kinds {
		out[kind] = f.store
	}
	return out
}

// prime gives the handlers objects that were there once. What the first list does not have goes then. It comes before run.
func (w *watch) prime(last state) {
	for _, p := range last.packed {
		if f := w.kinds[p.kind]; f != nil {
			f.recalled = append(f.recalled, p.keyText())
			f.set(p.keyText(), p)
		}
	}
	w.tell(last.nodes)
	w.once.Do(func() { close(w.primed) })
}

func (w *watch) run(ctx context.Context) error {
	w.factory.Start(ctx.Done())
	if w.listed(ctx) == nil {
		w.nodes() // the handler may have seen the last node a moment before the informer called itself synced
		for _, f := range w.kinds {
			for _, key := range f.recalled {
				if _, is, err := f.store.GetByKey(key); err == nil && !is {
					f.set(key, nil)
				}
			}
			f.recalled = nil
		}
	}
	<-ctx.Done()
	w.factory.Shutdown()
	return ctx.Err()
}

// synced waits until the first lists have gone through the handlers, or the last state has.
func (w *watch) synced(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	listed := make(chan error, 1)
	go func() { listed <- w.listed(ctx) }()
	select {
	case <-w.primed:
		cancel()
		<-listed
		return nil
	case err := <-listed:
		return err
	}
}

// listed waits until the first lists have gone through the handlers.
func (w *watch) listed(ctx context.Context) error {
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
