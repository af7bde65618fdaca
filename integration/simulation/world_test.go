package simulation

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// object is what the API keeps. One that is stored is never changed, only replaced.
type object interface {
	runtime.Object
	metav1.Object
}

// entry is a change, as watches tell of it.
type entry struct {
	version int64
	what    watch.EventType
	obj     object
}

// table is all objects of one resource, and its history.
type table struct {
	objects map[string]object
	history []entry
	// forgotten is the version before which watches cannot begin.
	forgotten int64
}

// call is a write that waits for the story to go on.
type call struct {
	from  *program
	label string
	// shown is up to which version the caller had been shown pods when it called.
	shown int64
	do    func() error
	err   error
	done  chan struct{}
}

// world is the API server.
type world struct {
	mu      sync.Mutex
	version int64
	made    int
	tables  map[string]*table
	calls   []*call
	watches []*watcher
	trace   []string
	began   time.Time
}

func newWorld() *world { return &world{tables: map[string]*table{}, began: time.Now()} }

// note remembers the latest of what happened.
func (w *world) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%9.3fs ", time.Since(w.began).Seconds())+fmt.Sprintf(format, args...))
}

func (w *world) table(resource string) *table {
	t := w.tables[resource]
	if t == nil {
		t = &table{objects: map[string]object{}}
		w.tables[resource] = t
	}
	return t
}

func gone(resource, name string) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: resource}, name)
}

func exists(resource, name string) error {
	return apierrors.NewAlreadyExists(schema.GroupResource{Resource: resource}, name)
}

func stale(resource, name string) error {
	return apierrors.NewConflict(schema.GroupResource{Resource: resource}, name, fmt.Errorf("the object has been modified"))
}

// put stores obj, which belongs to the world from now on.
func (w *world) put(resource string, obj object) {
	t := w.table(resource)
	what := watch.Modified
	if t.objects[obj.GetName()] == nil {
		what = watch.Added
		w.made++
		obj.SetUID(types.UID(fmt.Sprintf("u%04d", w.made)))
		obj.SetCreationTimestamp(metav1.Now())
	}
	w.version++
	obj.SetResourceVersion(strconv.FormatInt(w.version, 10))
	t.objects[obj.GetName()] = obj
	t.history = append(t.history, entry{w.version, what, obj})
}

// drop ends the object of that name.
func (w *world) drop(resource, name string) {
	t := w.table(resource)
	last := t.objects[name].DeepCopyObject().(object)
	delete(t.objects, name)
	w.version++
	last.SetResourceVersion(strconv.FormatInt(w.version, 10))
	t.history = append(t.history, entry{w.version, watch.Deleted, last})
}

// all lists a resource in order of name.
func all[T object](w *world, resource string) []T {
	var out []T
	for _, obj := range w.table(resource).objects {
		out = append(out, obj.(T))
	}
	slices.SortFunc(out, func(a, b T) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out
}

// ask waits until the story lets do happen, or not.
func (w *world) ask(from *program, label string, do func() error) error {
	w.mu.Lock()
	if from.dead {
		w.mu.Unlock()
		return errKilled
	}
	c := &call{from: from, label: label, do: do, done: make(chan struct{})}
	for _, v := range w.watches {
		if v.from == from && v.resource == "pods" {
			c.shown = v.seen
		}
	}
	w.calls = append(w.calls, c)
	w.mu.Unlock()
	<-c.done
	return c.err
}

// waiting lists the calls in an order that does not depend on which goroutine came first.
func (w *world) waiting() []*call {
	slices.SortStableFunc(w.calls, func(a, b *call) int { return cmp.Compare(a.label, b.label) })
	return w.calls
}

// watcher is one watch of one program. It is shown one change at a time.
type watcher struct {
	world    *world
	resource string
	from     *program
	seen     int64
	out      chan watch.Event
	ended    bool
}

func (v *watcher) ResultChan() <-chan watch.Event { return v.out }

func (v *watcher) Stop() {
	v.world.mu.Lock()
	defer v.world.mu.Unlock()
	v.end()
}

func (v *watcher) end() {
	if !v.ended {
		v.ended = true
		close(v.out)
		v.world.watches = slices.DeleteFunc(v.world.watches, func(o *watcher) bool { return o == v })
	}
}

// next is the first change that v has not shown.
func (v *watcher) next() *entry {
	history := v.world.table(v.resource).history
	i, _ := slices.BinarySearchFunc(history, v.seen+1, func(e entry, version int64) int { return cmp.Compare(e.version, version) })
	if i == len(history) {
		return nil
	}
	return &history[i]
}

func (v *watcher) show(e *entry) {
	v.seen = max(v.seen, e.version)
	v.out <- watch.Event{Type: e.what, Object: e.obj}
}

func (w *world) watch(from *program, resource, since string) (watch.Interface, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if from.dead {
		return nil, errKilled
	}
	version, err := strconv.ParseInt(since, 10, 64)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if version < w.table(resource).forgotten {
		return nil, apierrors.NewResourceExpired("too old resource version")
	}
	v := &watcher{world: w, resource: resource, from: from, seen: version, out: make(chan watch.Event, 4)}
	w.watches = append(w.watches, v)
	slices.SortFunc(w.watches, func(a, b *watcher) int {
		return cmp.Or(cmp.Compare(a.from.name, b.from.name), cmp.Compare(a.resource, b.resource))
	})
	return v, nil
}
