package objects

import (
	"context"
	"errors"
	"fmt"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// collection is all objects of a kind that the node may list. It is watched from the first time that somebody asks, for
// most nodes have no pod that needs any. It is the store of its reflector.
type collection struct {
	kind    Kind
	lister  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watcher func(context.Context, metav1.ListOptions) (watch.Interface, error)
	example runtime.Object
	changed func(Key)
	synced  chan struct{} // closed when the first list is in

	mu      sync.Mutex
	started bool
	done    bool // synced is closed
	err     error
	objs    map[types.NamespacedName]runtime.Object
	moved   chan struct{} // closed, and made anew, by every change
}

func newCollection(kind Kind, example runtime.Object, changed func(Key)) *collection {
	return &collection{kind: kind, example: example, changed: changed, synced: make(chan struct{}), moved: make(chan struct{}),
		objs: map[types.NamespacedName]runtime.Object{}}
}

func (o *Objects) trustBundles() *collection {
	c := newCollection(TrustBundle, &certificatesv1.ClusterTrustBundle{}, o.cfg.Changed)
	client := o.cfg.Client.CertificatesV1().ClusterTrustBundles()
	c.lister = func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return client.List(ctx, opts)
	}
	c.watcher = client.Watch
	return c
}

// certificateRequests are those of this node: others it may not list.
func (o *Objects) certificateRequests() *collection {
	c := newCollection(CertificateRequest, &certificatesv1.PodCertificateRequest{}, o.cfg.Changed)
	client := o.cfg.Client.CertificatesV1().PodCertificateRequests(metav1.NamespaceAll)
	own := fields.OneTermEqualSelector("spec.nodeName", o.cfg.Node).String()
	c.lister = func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		opts.FieldSelector = own
		return client.List(ctx, opts)
	}
	c.watcher = func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
		opts.FieldSelector = own
		return client.Watch(ctx, opts)
	}
	return c
}

// ready starts the collection's watch, if that was not done before, and waits for its first list.
func (o *Objects) ready(ctx context.Context, c *collection) error {
	ctx, cancel := context.WithTimeout(ctx, o.cfg.Wait)
	defer cancel()
	if c.begin() {
		select {
		case o.starts <- func(ctx context.Context) { o.follow(ctx, c) }:
		case <-ctx.Done():
			c.unbegin()
			return fmt.Errorf("failed to sync %s cache: %w", c.kind, ctx.Err())
		}
	}
	select {
	case <-c.synced:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("failed to sync %s cache: %w", c.kind, errors.Join(c.lastError(), ctx.Err()))
	}
}

func (o *Objects) follow(ctx context.Context, c *collection) {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			out, err := c.lister(ctx, opts)
			c.setError(err)
			return out, err
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			w, err := c.watcher(ctx, opts)
			c.setError(err)
			return w, err
		},
	}
	cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, o.cfg.Client), c.example, c,
		cache.ReflectorOptions{Name: string(c.kind)}).RunWithContext(ctx)
}

// TrustBundles gives all ClusterTrustBundles, in no order. They must not be changed.
func (o *Objects) TrustBundles(ctx context.Context) ([]*certificatesv1.ClusterTrustBundle, error) {
	if o.cfg.Client == nil {
		return nil, ErrNoServer
	}
	if err := o.ready(ctx, o.bundles); err != nil {
		return nil, err
	}
	objs, _ := o.bundles.all()
	out := make([]*certificatesv1.ClusterTrustBundle, 0, len(objs))
	for _, obj := range objs {
		out = append(out, obj.(*certificatesv1.ClusterTrustBundle))
	}
	return out, nil
}

// RequestCertificate asks for a pod's certificate: it fills in who the node and the account are, and creates req.
func (o *Objects) RequestCertificate(ctx context.Context, req *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
	if o.cfg.Client == nil {
		return nil, ErrNoServer
	}
	if err := o.ready(ctx, o.requests); err != nil {
		return nil, err
	}
	account, err := o.cfg.Client.CoreV1().ServiceAccounts(req.Namespace).Get(ctx, req.Spec.ServiceAccountName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	req = req.DeepCopy()
	req.Spec.ServiceAccountUID, req.Spec.NodeName = account.UID, types.NodeName(o.cfg.Node)
	if req.Spec.NodeUID = o.cfg.NodeUID(); req.Spec.NodeUID == "" {
		return nil, fmt.Errorf("node %q is not registered yet", o.cfg.Node)
	}
	return o.cfg.Client.CertificatesV1().PodCertificateRequests(req.Namespace).Create(ctx, req, metav1.CreateOptions{})
}

// CertificateRequest waits until a request of this node was decided, and gives it. It is not found if it was deleted.
func (o *Objects) CertificateRequest(ctx context.Context, namespace, name string) (*certificatesv1.PodCertificateRequest, error) {
	if o.cfg.Client == nil {
		return nil, ErrNoServer
	}
	if err := o.ready(ctx, o.requests); err != nil {
		return nil, err
	}
	for seen := false; ; {
		objs, moved := o.requests.all()
		obj, ok := objs[types.NamespacedName{Namespace: namespace, Name: name}]
		if !ok && seen {
			return nil, apierrors.NewNotFound(certificatesv1.Resource("podcertificaterequests"), name)
		}
		if ok {
			seen = true
			if req := obj.(*certificatesv1.PodCertificateRequest); len(req.Status.Conditions) > 0 {
				return req, nil
			}
		}
		select {
		case <-moved:
		case <-ctx.Done():
			if !seen { // the watch has not brought it, or it went before
				req, err := o.cfg.Client.CertificatesV1().PodCertificateRequests(namespace).Get(context.WithoutCancel(ctx), name, metav1.GetOptions{})
				if err == nil && len(req.Status.Conditions) == 0 {
					err = ctx.Err()
				}
				return req, err
			}
			return nil, ctx.Err()
		}
	}
}

func (c *collection) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.started
	c.started = true
	return !was
}

func (c *collection) unbegin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started = false
}

func (c *collection) setError(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *collection) lastError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// all gives the objects as they are, and a channel that is closed when they have changed.
func (c *collection) all() (map[types.NamespacedName]runtime.Object, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.objs, c.moved
}

// change makes the objects those that edit makes of a copy of them: readers keep what they have.
func (c *collection) change(name types.NamespacedName, edit func(map[types.NamespacedName]runtime.Object)) {
	c.mu.Lock()
	objs := make(map[types.NamespacedName]runtime.Object, len(c.objs)+1)
	for k, v := range c.objs {
		objs[k] = v
	}
	edit(objs)
	c.objs = objs
	close(c.moved)
	c.moved = make(chan struct{})
	again := c.done
	if !c.done {
		c.done = true
		close(c.synced)
	}
	c.mu.Unlock()
	if again {
		c.changed(Key{Kind: c.kind, Namespace: name.Namespace, Name: name.Name})
	}
}

func named(obj any) (types.NamespacedName, runtime.Object, error) {
	o, ok := obj.(runtime.Object)
	m, err := meta.Accessor(obj)
	if !ok || err != nil {
		return types.NamespacedName{}, nil, fmt.Errorf("watch gave a %T", obj)
	}
	return types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}, o, nil
}

// Add, Update, Delete, Replace and Resync make collection a cache.ReflectorStore.
func (c *collection) Add(obj any) error { return c.Update(obj) }

// Update takes the newest state of one object.
func (c *collection) Update(obj any) error {
	name, o, err := named(obj)
	if err == nil {
		c.change(name, func(objs map[types.NamespacedName]runtime.Object) { objs[name] = o })
	}
	return err
}

// Delete forgets one object.
func (c *collection) Delete(obj any) error {
	name, _, err := named(obj)
	if err == nil {
		c.change(name, func(objs map[types.NamespacedName]runtime.Object) { delete(objs, name) })
	}
	return err
}

// Replace makes the objects those of the list.
func (c *collection) Replace(list []any, _ string) error {
	fresh := map[types.NamespacedName]runtime.Object{}
	for _, obj := range list {
		name, o, err := named(obj)
		if err != nil {
			return err
		}
		fresh[name] = o
	}
	c.change(types.NamespacedName{}, func(objs map[types.NamespacedName]runtime.Object) {
		clear(objs)
		for k, v := range fresh {
			objs[k] = v
		}
	})
	return nil
}

// Resync does nothing: there is no other copy.
func (c *collection) Resync() error { return nil }
