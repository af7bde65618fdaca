package simulation

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
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

// world is the API server.
type world struct {
	mu      sync.Mutex
	version int64
	made    int
	tables  map[string]*table
	calls   []*call
	trace   []string
	began   time.Time
	// kinds are the resources that discovery tells of.
	kinds []string
	// admit says why a pod is not taken in.
	admit func(*corev1.Pod) error
}

func newWorld() *world {
	return &world{tables: map[string]*table{}, began: time.Now(), admit: open}
}

// note remembers what happened.
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

// now is the time as the API writes it.
func now() metav1.Time { return metav1.Now().Rfc3339Copy() }

// put stores obj, which belongs to the world from now on. What waited for the last of its finalizers ends with it.
func (w *world) put(resource string, obj object) {
	t := w.table(resource)
	what := watch.Modified
	if t.objects[obj.GetName()] == nil {
		what = watch.Added
		w.made++
		obj.SetUID(types.UID(fmt.Sprintf("u%04d", w.made)))
		obj.SetCreationTimestamp(now())
		obj.SetGeneration(1)
	}
	w.version++
	obj.SetResourceVersion(strconv.FormatInt(w.version, 10))
	t.objects[obj.GetName()] = obj
	t.history = append(t.history, entry{w.version, what, obj})
	if obj.GetDeletionTimestamp() != nil && !held(obj) && *obj.GetDeletionGracePeriodSeconds() == 0 {
		w.drop(resource, obj.GetName())
	}
}

// edit changes an object as its owner or its kubelet does.
func edit[T object](w *world, resource, name string, change func(T)) {
	was := w.table(resource).objects[name].(T)
	obj := was.DeepCopyObject().(T)
	change(obj)
	if !equality.Semantic.DeepEqual(*part(was, "Spec"), *part(obj, "Spec")) {
		obj.SetGeneration(was.GetGeneration() + 1)
	}
	w.put(resource, obj)
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

// held tells that something must be done before obj may end.
func held(obj object) bool {
	ns, ok := obj.(*corev1.Namespace)
	return len(obj.GetFinalizers()) > 0 || ok && len(ns.Spec.Finalizers) > 0
}

// remove is end in the way that nobody asks for another.
func (w *world) remove(resource, name string) { w.end(resource, name, metav1.DeleteOptions{}) }

// end begins the end of an object, or ends it: a pod on a node leaves when its kubelet says so, and nothing that has a
// finalizer leaves. Whoever asks for its dependents to go before, or to stay, gives it a finalizer.
func (w *world) end(resource, name string, o metav1.DeleteOptions) {
	was := w.table(resource).objects[name]
	grace := int64(0)
	if pod, ok := was.(*corev1.Pod); ok && pod.Spec.NodeName != "" && !ended(pod) {
		grace = 30
	}
	if o.GracePeriodSeconds != nil {
		grace = min(grace, *o.GracePeriodSeconds)
	}
	obj := was.DeepCopyObject().(object)
	if policy := ptr.Deref(o.PropagationPolicy, ""); was.GetDeletionTimestamp() == nil || policy != "" {
		own := slices.DeleteFunc(obj.GetFinalizers(), func(f string) bool {
			return policy != "" && (f == metav1.FinalizerDeleteDependents || f == metav1.FinalizerOrphanDependents)
		})
		switch policy {
		case metav1.DeletePropagationForeground:
			own = append(own, metav1.FinalizerDeleteDependents)
		case metav1.DeletePropagationOrphan:
			own = append(own, metav1.FinalizerOrphanDependents)
		}
		obj.SetFinalizers(own)
	}
	if grace == 0 && !held(obj) {
		w.drop(resource, name)
		return
	}
	if was.GetDeletionTimestamp() == nil || grace < *was.GetDeletionGracePeriodSeconds() || !slices.Equal(was.GetFinalizers(), obj.GetFinalizers()) {
		when := metav1.NewTime(now().Add(time.Duration(grace) * time.Second))
		obj.SetDeletionTimestamp(&when)
		obj.SetDeletionGracePeriodSeconds(&grace)
		w.put(resource, obj)
	}
}

// byUID finds an object of any resource.
func (w *world) byUID(uid types.UID) object {
	for _, t := range w.tables {
		for _, obj := range t.objects {
			if obj.GetUID() == uid {
				return obj
			}
		}
	}
	return nil
}

// part is obj's field of that name, an empty struct where it has none.
func part(obj object, field string) *any {
	var value any = struct{}{}
	if f := reflect.ValueOf(obj).Elem().FieldByName(field); f.IsValid() {
		value = f.Interface()
	}
	return &value
}

// give sets to's field of that name to from's.
func give(to, from object, field string) {
	if f := reflect.ValueOf(to).Elem().FieldByName(field); f.IsValid() {
		f.Set(reflect.ValueOf(from).Elem().FieldByName(field))
	}
}

// all lists a resource in order of name.
func all[T object](w *world, resource string) []T {
	out := make([]T, 0, len(w.table(resource).objects))
	for _, obj := range w.table(resource).objects {
		out = append(out, obj.(T))
	}
	slices.SortFunc(out, func(a, b T) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out
}

// find returns the object of that name, or nil.
func find[T object](w *world, resource, name string) (none T) {
	if obj := w.table(resource).objects[name]; obj != nil {
		return obj.(T)
	}
	return none
}

// call is a request that waits for the story to go on.
type call struct {
	from                 *program
	verb, resource, name string
	// in is what a write sends, by which two of the same object are told apart.
	in []byte
	// saw is what the caller's caches showed, each time that it went on and may have decided on this.
	saw []sight
	do  func() error
	// out is the object after it, and err what the caller is told.
	out  object
	err  error
	done chan struct{}
}

// brief says what a trace must tell of an object.
func brief(obj object) string {
	switch o := obj.(type) {
	case *appsv1.ReplicaSet:
		return fmt.Sprintf(": of %d, has %d, %d available", *o.Spec.Replicas, o.Status.Replicas, o.Status.AvailableReplicas)
	case *appsv1.StatefulSet:
		return fmt.Sprintf(": of %d, has %d, %d updated, %d available", *o.Spec.Replicas, o.Status.Replicas, o.Status.UpdatedReplicas, o.Status.AvailableReplicas)
	case *appsv1.DaemonSet:
		return fmt.Sprintf(": on %d, has %d, %d updated, %d available", o.Status.DesiredNumberScheduled, o.Status.CurrentNumberScheduled, o.Status.UpdatedNumberScheduled, o.Status.NumberAvailable)
	case *batchv1.Job:
		u := o.Status.UncountedTerminatedPods
		if u == nil {
			u = &batchv1.UncountedTerminatedPods{}
		}
		text := fmt.Sprintf(": %d active, %d+%d succeeded %s, %d+%d failed", o.Status.Active, o.Status.Succeeded, len(u.Succeeded), o.Status.CompletedIndexes, o.Status.Failed, len(u.Failed))
		for _, c := range o.Status.Conditions {
			text += fmt.Sprintf(", %s %s", c.Type, c.Status)
		}
		return text
	case *corev1.Pod:
		if o.Spec.NodeName == "" && o.Spec.Affinity != nil {
			return fmt.Sprintf(": %s for %s", o.Name, pinned(o))
		}
		return fmt.Sprintf(": %s on %q", o.Name, o.Spec.NodeName)
	}
	return ""
}

func (c *call) String() string { return strings.TrimSpace(c.verb + " " + c.resource + " " + c.name) }

func (c *call) writes() bool { return c.verb != "get" && c.verb != "list" }

// ask waits until the story lets do happen, or not.
func (w *world) ask(c *call) error {
	w.mu.Lock()
	if c.from.dead {
		w.mu.Unlock()
		return errKilled
	}
	c.done = make(chan struct{})
	if len(c.saw) == 0 {
		c.saw = []sight{c.from.look()}
	}
	w.calls = append(w.calls, c)
	w.mu.Unlock()
	<-c.done
	return c.err
}

// text is all that obj says.
func text(obj object) []byte {
	out, err := json.Marshal(obj)
	if err != nil {
		panic(fmt.Sprintf("encode %s: %v", obj.GetName(), err)) // the API's own types can be
	}
	return out
}

// waiting lists the calls in an order that does not depend on which goroutine came first.
func (w *world) waiting() []*call {
	slices.SortStableFunc(w.calls, func(a, b *call) int {
		return cmp.Or(cmp.Compare(a.from.name, b.from.name), cmp.Compare(a.String(), b.String()), bytes.Compare(a.in, b.in))
	})
	return w.calls
}
