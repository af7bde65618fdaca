package objects

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
)

// entry is one watched object: the store of its reflector, of at most one object.
type entry struct {
	key     Key
	changed func(Key)
	synced  chan struct{} // closed when the first list is in

	mu      sync.Mutex
	started bool
	done    bool // synced is closed
	dropped bool
	stop    context.CancelFunc
	used    time.Time
	obj     runtime.Object
	err     error
}

// first tells, once, that the watch must be started.
func (e *entry) first() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	was := e.started
	e.started = true
	return !was
}

func (e *entry) unstart() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.started = false
}

func (e *entry) setStop(stop context.CancelFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stop = stop
	if e.dropped {
		stop()
	}
}

func (e *entry) touch(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used = now
}

// idleSince says whether nobody asked for the object since before.
func (e *entry) idleSince(before time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.used.Before(before)
}

// drop ends the watch.
func (e *entry) drop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dropped = true
	if e.stop != nil {
		e.stop()
	}
}

func (e *entry) object() runtime.Object {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.obj
}

func (e *entry) setError(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = err
}

func (e *entry) lastError() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

func (e *entry) set(obj any) error {
	var o runtime.Object
	if obj != nil {
		var ok bool
		if o, ok = obj.(runtime.Object); !ok {
			return fmt.Errorf("watch of %s %s/%s gave a %T", e.key.Kind, e.key.Namespace, e.key.Name, obj)
		}
	}
	e.mu.Lock()
	again := e.done
	e.obj = o
	if !e.done {
		e.done = true
		close(e.synced)
	}
	e.mu.Unlock()
	if again {
		e.changed(e.key)
	}
	return nil
}

// Add, Update, Delete, Replace and Resync make entry a cache.ReflectorStore.
func (e *entry) Add(obj any) error    { return e.set(obj) }
func (e *entry) Update(obj any) error { return e.set(obj) }
func (e *entry) Delete(any) error     { return e.set(nil) }
func (e *entry) Resync() error        { return nil }

func (e *entry) Replace(list []any, _ string) error {
	if len(list) == 0 {
		return e.set(nil)
	}
	return e.set(list[0])
}
