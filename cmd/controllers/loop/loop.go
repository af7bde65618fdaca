// Package loop runs a controller's sync function over the keys of changed objects.
//
// An event only says "look again": keys coalesce while they wait, one key is
// never synced twice at once, and a failed sync is tried again with back-off.
// Errors are logged here and nowhere else.
package loop

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Sync makes the object called key ("namespace/name") what it should be.
type Sync func(ctx context.Context, key string) error

// Loop is a queue of keys and the workers that sync them.
type Loop struct {
	name  string
	sync  Sync
	queue workqueue.TypedRateLimitingInterface[string]
	log   *slog.Logger
}

// New returns a Loop that has not started. It tries a key again 5 ms after its sync failed, then 10 ms, up to a minute.
func New(name string, sync Sync, log *slog.Logger) *Loop {
	return NewPatient(name, sync, 5*time.Millisecond, log)
}

// NewPatient is New, but the first pause after a failure is as long as said: for syncs whose failures cost something.
func NewPatient(name string, sync Sync, first time.Duration, log *slog.Logger) *Loop {
	backoff := workqueue.NewTypedItemExponentialFailureRateLimiter[string](first, time.Minute)
	return &Loop{
		name: name, sync: sync, log: log.With("controller", name),
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(backoff,
			workqueue.TypedRateLimitingQueueConfig[string]{Name: name}),
	}
}

// Add asks for a sync of key soon.
func (l *Loop) Add(key string) { l.queue.Add(key) }

// AddAfter asks for a sync of key once d has passed.
func (l *Loop) AddAfter(key string, d time.Duration) { l.queue.AddAfter(key, d) }

// AddObject asks for a sync of obj, which may be a tombstone.
func (l *Loop) AddObject(obj any) {
	if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
		l.queue.Add(key)
	}
}

// Handler asks for a sync of every object that changes.
func (l *Loop) Handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    l.AddObject,
		UpdateFunc: func(_, obj any) { l.AddObject(obj) },
		DeleteFunc: l.AddObject,
	}
}

// Run syncs with so many workers until ctx ends, beginning when all caches are filled.
func (l *Loop) Run(ctx context.Context, workers int, synced ...cache.InformerSynced) error {
	stop := context.AfterFunc(ctx, l.queue.ShutDown)
	defer stop()
	defer l.queue.ShutDown() // whoever sees ctx end first: stop may keep the other from running
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return ctx.Err()
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for l.next(ctx) {
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

// Turn waits until the Loop of that name may sync one of so many keys that wait, and returns the context for it.
type Turn func(ctx context.Context, name string, waiting func() int) context.Context

type turnKey struct{}

// Paced returns a context under which each Loop asks turn before each sync. A simulation lets one sync begin at a time, so
// that all happens again in the order in which it happened before.
func Paced(ctx context.Context, turn Turn) context.Context {
	return context.WithValue(ctx, turnKey{}, turn)
}

func (l *Loop) next(ctx context.Context) bool {
	if turn, ok := ctx.Value(turnKey{}).(Turn); ok {
		ctx = turn(ctx, l.name, l.queue.Len)
	}
	key, quit := l.queue.Get()
	if quit {
		return false
	}
	defer l.queue.Done(key)
	err := l.guarded(ctx, key)
	switch {
	case err == nil:
		l.queue.Forget(key)
		return true
	case ctx.Err() != nil:
		return true
	case apierrors.IsConflict(err) || apierrors.HasStatusCause(err, "NamespaceTerminating"):
		l.log.Debug("sync again", "key", key, "err", err)
	default:
		l.log.Warn("sync", "key", key, "err", err)
	}
	l.queue.AddRateLimited(key)
	return true
}

// guarded turns a panic into an error, so that one object cannot stop the others.
func (l *Loop) guarded(ctx context.Context, key string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			l.log.Error("sync panicked", "key", key, "panic", p)
		}
	}()
	return l.sync(ctx, key)
}

// On calls f with each object that is added, changed or deleted. Tombstones are opened.
func On[T any](f func(T)) cache.ResourceEventHandler {
	call := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if typed, ok := obj.(T); ok {
			f(typed)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: call, UpdateFunc: func(_, obj any) { call(obj) }, DeleteFunc: call,
	}
}
