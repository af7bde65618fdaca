package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
)

const namespace = "default"

var (
	errKilled = errors.New("the program is dead")
	errLost   = errors.New("connection reset by peer")
	errAway   = errors.New("connection refused")
)

// client is one program's way to the world. What nobody in the simulation calls panics.
type client struct {
	kubernetes.Interface
	world *world
	from  *program
}

// resource is one resource of the API for one program.
type resource[T any] struct {
	client
	name string
}

func as[T any](obj object) *T { return any(obj).(*T) }
func of[T any](obj *T) object { return any(obj).(object) }

// ask sends a request. It returns what do returns.
func (r resource[T]) ask(ctx context.Context, c *call, do func() (object, error)) (*T, error) {
	c.resource = r.name
	c.do = func() (err error) { c.out, err = do(); return err }
	if err := r.send(ctx, c); err != nil {
		return new(T), err
	}
	return as[T](c.out.DeepCopyObject().(object)), nil
}

// send waits for the answer, and remembers what the caller can see when it has it.
func (c client) send(ctx context.Context, sent *call) error {
	sent.from = c.from
	seen, paced := ctx.Value(sightKey{}).(*[]sight)
	if paced {
		sent.saw = slices.Clone(*seen)
	}
	err := c.world.ask(sent)
	if paced {
		*seen = append(*seen, c.from.look())
	}
	return err
}

func (r resource[T]) Get(ctx context.Context, name string, _ metav1.GetOptions) (*T, error) {
	return r.ask(ctx, &call{verb: "get", name: name}, func() (object, error) {
		if obj := r.world.table(r.name).objects[name]; obj != nil {
			return obj, nil
		}
		return nil, gone(r.name, name)
	})
}

func (r resource[T]) Create(ctx context.Context, in *T, _ metav1.CreateOptions) (*T, error) {
	obj := of(in).DeepCopyObject().(object)
	return r.ask(ctx, &call{verb: "create", name: obj.GetName() + obj.GetGenerateName(), in: text(obj)}, func() (object, error) {
		if obj.GetName() == "" {
			obj.SetName(fmt.Sprintf("%s%04d", obj.GetGenerateName(), r.world.made+1))
		}
		if r.world.table(r.name).objects[obj.GetName()] != nil {
			return nil, exists(r.name, obj.GetName())
		}
		if err := r.world.closed(obj.GetName()); err != nil {
			return nil, err
		}
		obj.SetNamespace(namespace)
		if pod, ok := obj.(*corev1.Pod); ok {
			if err := r.world.admit(pod); err != nil {
				return nil, err
			}
			pod.Status.Phase = corev1.PodPending
		}
		r.world.put(r.name, obj)
		return obj, nil
	})
}

func (r resource[T]) Update(ctx context.Context, in *T, _ metav1.UpdateOptions) (*T, error) {
	return r.write(ctx, "update", of(in), func(was, obj object) object {
		give(obj, was, "Status")
		obj.SetGeneration(was.GetGeneration())
		for _, field := range []string{"Spec", "Endpoints", "Ports"} { // what an EndpointSlice wants to say has no Spec
			if !equality.Semantic.DeepEqual(*part(was, field), *part(obj, field)) {
				obj.SetGeneration(was.GetGeneration() + 1)
			}
		}
		return obj
	})
}

func (r resource[T]) UpdateStatus(ctx context.Context, in *T, _ metav1.UpdateOptions) (*T, error) {
	return r.write(ctx, "status", of(in), func(was, obj object) object {
		out := was.DeepCopyObject().(object)
		give(out, obj, "Status")
		return out
	})
}

func (r resource[T]) write(ctx context.Context, verb string, in object, merge func(was, obj object) object) (*T, error) {
	obj := in.DeepCopyObject().(object)
	return r.ask(ctx, &call{verb: verb, name: in.GetName(), in: text(obj)}, func() (object, error) {
		was := r.world.table(r.name).objects[in.GetName()]
		switch {
		case was == nil:
			return nil, gone(r.name, in.GetName())
		case in.GetResourceVersion() == "" && in.GetUID() == "": // whatever is there is replaced
			obj.SetUID(was.GetUID())
			obj.SetNamespace(was.GetNamespace())
			obj.SetCreationTimestamp(was.GetCreationTimestamp())
		case was.GetResourceVersion() != in.GetResourceVersion() || was.GetUID() != in.GetUID():
			return nil, stale(r.name, in.GetName())
		}
		out := merge(was, obj)
		r.world.put(r.name, out)
		return out, nil
	})
}

func (r resource[T]) Patch(ctx context.Context, name string, _ types.PatchType, data []byte, _ metav1.PatchOptions, sub ...string) (*T, error) {
	return r.ask(ctx, &call{verb: fmt.Sprint("patch", sub), name: name, in: data}, func() (object, error) {
		was := r.world.table(r.name).objects[name]
		if was == nil {
			return nil, gone(r.name, name)
		}
		old, err := json.Marshal(was)
		if err != nil {
			return nil, err
		}
		merged, err := strategicpatch.StrategicMergePatch(old, data, new(T))
		if err != nil {
			return nil, err
		}
		out := new(T)
		if err := json.Unmarshal(merged, out); err != nil {
			return nil, err
		}
		if of(out).GetUID() != was.GetUID() {
			return nil, stale(r.name, name)
		}
		r.world.put(r.name, of(out))
		return of(out), nil
	})
}

func (r resource[T]) Delete(ctx context.Context, name string, o metav1.DeleteOptions) error {
	_, err := r.ask(ctx, &call{verb: "delete", name: name}, func() (object, error) {
		was := r.world.table(r.name).objects[name]
		if was == nil {
			return nil, gone(r.name, name)
		}
		if o.Preconditions != nil && o.Preconditions.UID != nil && *o.Preconditions.UID != was.GetUID() {
			return nil, stale(r.name, name)
		}
		r.world.end(r.name, name, o)
		return was, nil
	})
	return err
}

// closed says why the namespace takes nothing in.
func (w *world) closed(name string) error {
	ns := find[*corev1.Namespace](w, "namespaces", namespace)
	switch {
	case ns == nil:
		return gone("namespaces", namespace)
	case ns.DeletionTimestamp == nil:
		return nil
	}
	err := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, name, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", namespace))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause, Field: "metadata.namespace"})
	return err
}

// open is an admission that takes in every pod.
func open(*corev1.Pod) error { return nil }

// list knows no selectors: those who list sort out what is theirs.
func (r resource[T]) list(ctx context.Context) (items []T, err error) {
	c := &call{verb: "list", resource: r.name}
	c.do = func() error {
		for _, obj := range all[object](r.world, r.name) {
			items = append(items, *as[T](obj.DeepCopyObject().(object)))
		}
		return nil
	}
	return items, r.send(ctx, c)
}

func (c controllerRevisionClient) List(ctx context.Context, _ metav1.ListOptions) (*appsv1.ControllerRevisionList, error) {
	items, err := c.list(ctx)
	return &appsv1.ControllerRevisionList{Items: items}, err
}

// List knows selectors by label: whose slices they are is told by them.
func (c sliceClient) List(ctx context.Context, o metav1.ListOptions) (*discoveryv1.EndpointSliceList, error) {
	selector, err := labels.Parse(o.LabelSelector)
	if err != nil {
		return nil, err
	}
	items, err := c.list(ctx)
	items = slices.DeleteFunc(items, func(e discoveryv1.EndpointSlice) bool { return !selector.Matches(labels.Set(e.Labels)) })
	return &discoveryv1.EndpointSliceList{Items: items}, err
}

// Bind puts a pod on a node, once.
func (c podClient) Bind(ctx context.Context, b *corev1.Binding, _ metav1.CreateOptions) error {
	_, err := c.ask(ctx, &call{verb: "bind", name: b.Name, in: []byte(b.UID)}, func() (object, error) {
		was := c.world.table("pods").objects[b.Name]
		if was == nil {
			return nil, gone("pods", b.Name)
		}
		pod := was.(*corev1.Pod).DeepCopy()
		if pod.Spec.NodeName != "" || pod.UID != b.UID || pod.DeletionTimestamp != nil {
			return nil, stale("pods", b.Name)
		}
		pod.Spec.NodeName = b.Target.Name
		pod.Status.Conditions = slices.DeleteFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodScheduled })
		c.world.put("pods", pod)
		return pod, nil
	})
	return err
}

func (c podClient) List(ctx context.Context, _ metav1.ListOptions) (*corev1.PodList, error) {
	items, err := c.list(ctx)
	return &corev1.PodList{Items: items}, err
}
