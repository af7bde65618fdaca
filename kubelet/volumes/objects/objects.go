// Package objects gives the API objects that pods on this node are made of: ConfigMaps, Secrets, claims, volumes, trust
// bundles and certificates.
//
// A ConfigMap or Secret that is asked for is watched from then on, and let go when nobody asked for some time, as the
// node may read only those that its pods name, each by itself. So a second pod of a namespace starts without a request,
// and a change is known at once. Claims and persistent volumes are read afresh, for they matter at a pod's start only.
package objects

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Kind is a kind of object that is watched.
type Kind string

// The kinds, by the names that upstream's messages give them.
const (
	ConfigMap          Kind = "configmap"
	Secret             Kind = "secret"
	TrustBundle        Kind = "clustertrustbundle"
	CertificateRequest Kind = "podcertificaterequest"
)

// Key names one watched object; without a name, all of the kind.
type Key struct {
	Kind      Kind
	Namespace string
	Name      string
}

// Config says where objects come from.
type Config struct {
	// Client reaches the API server; nil where the kubelet runs without one, and every method returns ErrNoServer.
	Client kubernetes.Interface
	// Node is this node's name, and NodeUID gives its UID, empty before it is registered. Certificates are asked for in
	// its name.
	Node    string
	NodeUID func() types.UID
	// Changed is called when a watched object has changed, was made, or is gone, after the new state can be read. It
	// must not block. May be nil.
	Changed func(Key)
	// Idle is how long an object is watched after it was asked for the last time; zero is 5 minutes. It should be longer
	// than the time between two refreshes of a pod's volumes, else each refresh lists anew.
	Idle time.Duration
	// Needed says whether a namespace has a pod here. Where none is left the node has no right to look any more, and its
	// objects are let go soon. Nil is always.
	Needed func(namespace string) bool
	// Wait is how long to wait for the first answer; zero is 10 s.
	Wait time.Duration
	// Log is told of watches that end. Required.
	Log *slog.Logger
}

// ErrNoServer is the error of every method if there is no API server.
var ErrNoServer = errors.New("this kubelet runs without an API server")

// Objects reads and watches. Its methods may be called at the same time.
type Objects struct {
	cfg    Config
	starts chan func(context.Context) // watches that Run is to run
	// bundles and requests are nil where there is no API server.
	bundles, requests *collection

	mu      sync.Mutex
	entries map[Key]*entry
}

// New returns Objects that watch once Run runs.
func New(cfg Config) *Objects {
	if cfg.Idle == 0 {
		cfg.Idle = 5 * time.Minute
	}
	if cfg.Wait == 0 {
		cfg.Wait = 10 * time.Second
	}
	if cfg.Needed == nil {
		cfg.Needed = func(string) bool { return true }
	}
	if cfg.Changed == nil {
		cfg.Changed = func(Key) {}
	}
	o := &Objects{cfg: cfg, starts: make(chan func(context.Context)), entries: map[Key]*entry{}}
	if cfg.Client != nil {
		o.bundles, o.requests = o.trustBundles(), o.certificateRequests()
	}
	return o
}

// Run keeps the watches until ctx ends, then waits for the last of them.
func (o *Objects) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	sweep := time.NewTicker(min(o.cfg.Idle/4, leftFor))
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case follow := <-o.starts:
			group.Go(func() { follow(ctx) })
		case <-sweep.C:
			o.dropIdle(time.Now())
		}
	}
}

// leftFor is how long objects are watched after the last pod of a namespace went: often another follows.
const leftFor = 15 * time.Second

func (o *Objects) dropIdle(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, e := range o.entries {
		if e.idleSince(now.Add(-o.cfg.Idle)) || e.idleSince(now.Add(-leftFor)) && !o.cfg.Needed(key.Namespace) {
			e.drop()
			delete(o.entries, key)
		}
	}
}

// ConfigMap gives a ConfigMap, which must not be changed.
func (o *Objects) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	obj, err := o.get(ctx, Key{ConfigMap, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*v1.ConfigMap), nil
}

// Secret gives a Secret, which must not be changed.
func (o *Objects) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	obj, err := o.get(ctx, Key{Secret, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*v1.Secret), nil
}

// Claim reads a claim.
func (o *Objects) Claim(ctx context.Context, namespace, name string) (*v1.PersistentVolumeClaim, error) {
	if o.cfg.Client == nil {
		return nil, ErrNoServer
	}
	return o.cfg.Client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Volume reads a persistent volume.
func (o *Objects) Volume(ctx context.Context, name string) (*v1.PersistentVolume, error) {
	if o.cfg.Client == nil {
		return nil, ErrNoServer
	}
	return o.cfg.Client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
}

// Token asks for a token of a service account.
func (o *Objects) Token(ctx context.Context, namespace, account string, req *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	if o.cfg.Client == nil {
		return nil, ErrNoServer
	}
	return o.cfg.Client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, req, metav1.CreateOptions{})
}

// get waits until the object is known, or known to be absent.
func (o *Objects) get(ctx context.Context, key Key) (runtime.Object, error) {
	if o.cfg.Client == nil {
		return nil, ErrNoServer
	}
	ctx, cancel := context.WithTimeout(ctx, o.cfg.Wait)
	defer cancel()
	o.mu.Lock()
	e := o.entries[key]
	if e == nil {
		e = &entry{key: key, synced: make(chan struct{}), changed: o.cfg.Changed}
		o.entries[key] = e
	}
	e.touch(time.Now())
	o.mu.Unlock()
	if e.first() {
		select {
		case o.starts <- func(ctx context.Context) { o.followEntry(ctx, e) }:
		case <-ctx.Done():
			e.unstart()
			return nil, fmt.Errorf("failed to sync %s cache: %w", key.Kind, ctx.Err())
		}
	}
	select {
	case <-e.synced:
	case <-ctx.Done():
		return nil, fmt.Errorf("failed to sync %s cache: %w", key.Kind, errors.Join(e.lastError(), ctx.Err()))
	}
	if obj := e.object(); obj != nil {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource(string(key.Kind)), key.Name)
}

func (o *Objects) followEntry(ctx context.Context, e *entry) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	e.setStop(stop)
	o.reflector(e).RunWithContext(ctx)
}

// reflector lists and watches one object into e.
func (o *Objects) reflector(e *entry) *cache.Reflector {
	only := fields.OneTermEqualSelector(metav1.ObjectNameField, e.key.Name).String()
	list := func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		opts.FieldSelector = only
		var out runtime.Object
		var err error
		if e.key.Kind == Secret {
			out, err = o.cfg.Client.CoreV1().Secrets(e.key.Namespace).List(ctx, opts)
		} else {
			out, err = o.cfg.Client.CoreV1().ConfigMaps(e.key.Namespace).List(ctx, opts)
		}
		e.setError(err)
		return out, err
	}
	follow := func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
		opts.FieldSelector = only
		var w watch.Interface
		var err error
		if e.key.Kind == Secret {
			w, err = o.cfg.Client.CoreV1().Secrets(e.key.Namespace).Watch(ctx, opts)
		} else {
			w, err = o.cfg.Client.CoreV1().ConfigMaps(e.key.Namespace).Watch(ctx, opts)
		}
		e.setError(err)
		return w, err
	}
	lw := &cache.ListWatch{ListWithContextFunc: list, WatchFuncWithContext: follow, DisableChunking: true}
	var example runtime.Object = &v1.ConfigMap{}
	if e.key.Kind == Secret {
		example = &v1.Secret{}
	}
	return cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, o.cfg.Client), example, e, cache.ReflectorOptions{Name: string(e.key.Kind) + "/" + e.key.Namespace + "/" + e.key.Name})
}
