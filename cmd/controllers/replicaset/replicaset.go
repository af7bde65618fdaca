// Package replicaset keeps as many pods as a ReplicaSet or ReplicationController asks for.
//
// Both kinds are one controller over a small value, Set; what differs is how they
// are read and how their status is written. It never changes their spec.
package replicaset

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
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// burst is the most pods made or deleted in one sync.
const burst = 500

// Set is what the controller needs to know of a ReplicaSet or ReplicationController.
type Set struct {
	Object   runtime.Object
	Meta     metav1.Object
	Selector labels.Selector
	Replicas int
	MinReady time.Duration
	Template *corev1.PodTemplateSpec
	// Status is what the API server shows now.
	Status Status
}

// Status is what the controller writes.
type Status struct {
	Replicas, FullyLabeled, Ready, Available int32
	Terminating                              *int32
	ObservedGeneration                       int64
	// Failure is the reason of a ReplicaFailure condition, empty where all is well.
	Failure, FailureMessage string
}

// Kind is how one of the two kinds is read and written.
type Kind struct {
	GVK      schema.GroupVersionKind
	Informer cache.SharedIndexInformer
	// Fetch returns the object under key from the cache; nil when there is none.
	Fetch func(namespace, name string) (*Set, error)
	// Live returns the object's UID and whether it is being deleted, past the cache.
	Live func(ctx context.Context, namespace, name string) (metav1.Object, error)
	// TellsTerminating says that its status counts the pods that are on their way out.
	TellsTerminating bool
	// WriteStatus writes set's status.
	WriteStatus func(ctx context.Context, set *Set, status Status) error
}

// Controller syncs all objects of one kind.
type Controller struct {
	kind   Kind
	pods   podset.Pods
	lister corelisters.PodLister
	expect podset.Expectations
	loop   *loop.Loop
	synced []cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(name string, kind Kind, client kubernetes.Interface, pods coreinformers.PodInformer,
	events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	c := &Controller{
		kind: kind, pods: podset.Pods{Client: client, Events: events}, lister: pods.Lister(),
		synced: []cache.InformerSynced{kind.Informer.HasSynced, pods.Informer().HasSynced},
	}
	c.loop = loop.New(name, c.sync, log)
	_, err1 := kind.Informer.AddEventHandler(c.loop.Handler())
	seen, err2 := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.podAdded(obj.(*corev1.Pod)) },
		UpdateFunc: func(old, obj any) { c.podUpdated(old.(*corev1.Pod), obj.(*corev1.Pod)) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if pod, ok := obj.(*corev1.Pod); ok {
				c.podDeleted(pod)
			}
		},
	})
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	// The first pods must have been seen, not only be in the cache: one seen later would count as one that was just made.
	c.synced = append(c.synced, seen.HasSynced)
	return c, nil
}

// Run syncs until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 5, c.synced...) }

// owner returns the key of the object of our kind that controls pod, or "".
func (c *Controller) owner(pod *corev1.Pod) string {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != c.kind.GVK.Kind {
		return ""
	}
	if gv, err := schema.ParseGroupVersion(ref.APIVersion); err != nil || gv.Group != c.kind.GVK.Group {
		return ""
	}
	return pod.Namespace + "/" + ref.Name
}

func (c *Controller) podAdded(pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		c.podDeleted(pod)
		return
	}
	if key := c.owner(pod); key != "" {
		c.expect.Created(key)
		c.loop.Add(key)
		return
	}
	c.orphanSeen(pod)
}

// orphanSeen wakes the sets whose selector matches a pod that has no controller.
func (c *Controller) orphanSeen(pod *corev1.Pod) {
	if metav1.GetControllerOfNoCopy(pod) != nil || len(pod.Labels) == 0 {
		return
	}
	objs, err := c.kind.Informer.GetIndexer().ByIndex(cache.NamespaceIndex, pod.Namespace)
	if err != nil {
		return
	}
	for _, obj := range objs {
		meta := obj.(metav1.Object)
		set, err := c.kind.Fetch(meta.GetNamespace(), meta.GetName())
		if err == nil && set != nil && set.Selector.Matches(labels.Set(pod.Labels)) {
			c.loop.AddObject(obj)
		}
	}
}

func (c *Controller) podUpdated(old, pod *corev1.Pod) {
	if old.ResourceVersion == pod.ResourceVersion {
		return
	}
	if pod.DeletionTimestamp != nil {
		c.podDeleted(pod)
		return
	}
	oldKey, key := c.owner(old), c.owner(pod)
	if oldKey != "" && oldKey != key {
		c.loop.Add(oldKey)
	}
	if key == "" {
		c.orphanSeen(pod)
		return
	}
	c.loop.Add(key)
	if !podset.Ready(old) && podset.Ready(pod) {
		if set, err := c.kind.Fetch(pod.Namespace, metav1.GetControllerOfNoCopy(pod).Name); err == nil && set != nil && set.MinReady > 0 {
			c.loop.AddAfter(key, set.MinReady+time.Second)
		}
	}
}

func (c *Controller) podDeleted(pod *corev1.Pod) {
	if key := c.owner(pod); key != "" {
		c.expect.Deleted(key, pod.UID)
		c.loop.Add(key)
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	set, err := c.kind.Fetch(namespace, name)
	if err != nil {
		return err
	}
	if set == nil {
		c.expect.Forget(key)
		return nil
	}
	left := c.expect.Left(key)
	settled := left == 0
	if !settled {
		c.loop.AddAfter(key, left)
	}
	owned, err := c.claim(ctx, set)
	if err != nil {
		return err
	}
	active := make([]*corev1.Pod, 0, len(owned))
	terminating := int32(0)
	for _, pod := range owned {
		if podset.Active(pod) {
			active = append(active, pod)
		} else if pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			terminating++
		}
	}
	var manageErr error
	if settled && set.Meta.GetDeletionTimestamp() == nil {
		manageErr = c.manage(ctx, key, set, active)
	}
	// Those that were deleted are available no more, though the cache may not show it: a rollout counts on the others.
	active, going := c.expect.Going(key, active)
	terminating += int32(len(going))
	now := time.Now()
	status, wait := Observe(set, active, now, manageErr)
	if c.kind.TellsTerminating && (terminating > 0 || set.Status.Terminating != nil) {
		status.Terminating = &terminating
	}
	if !status.equal(set.Status) {
		if err := c.kind.WriteStatus(ctx, set, status); err != nil && !apierrors.IsNotFound(err) {
			return errors.Join(manageErr, fmt.Errorf("write status: %w", err))
		}
	}
	if wait > 0 {
		c.loop.AddAfter(key, wait)
	}
	return manageErr
}

// claim returns the pods that are set's after adopting and releasing.
func (c *Controller) claim(ctx context.Context, set *Set) ([]*corev1.Pod, error) {
	all, err := c.lister.Pods(set.Meta.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	claims := podset.Claim(set.Meta, set.Selector, all)
	owned := claims.Owned
	var errs []error
	for _, pod := range claims.Release {
		errs = append(errs, c.pods.Release(ctx, pod, set.Meta.GetUID()))
	}
	if len(claims.Adopt) > 0 {
		// The cache may hold a set that was deleted and made again: ask.
		live, err := c.kind.Live(ctx, set.Meta.GetNamespace(), set.Meta.GetName())
		if err != nil {
			return nil, fmt.Errorf("read before adopting: %w", err)
		}
		if live.GetUID() != set.Meta.GetUID() || live.GetDeletionTimestamp() != nil {
			return owned, errors.Join(errs...)
		}
		ref := metav1.NewControllerRef(set.Meta, c.kind.GVK)
		for _, pod := range claims.Adopt {
			if err := c.pods.Adopt(ctx, pod, ref); err != nil {
				if !apierrors.IsNotFound(err) {
					errs = append(errs, err)
				}
				continue
			}
			owned = append(owned, pod)
		}
	}
	return owned, errors.Join(errs...)
}

// manage makes or deletes the difference between what is wanted and active.
func (c *Controller) manage(ctx context.Context, key string, set *Set, active []*corev1.Pod) error {
	plan := Decide(set.Replicas, active, c.related(set), time.Now())
	if plan.Create > 0 {
		ref := metav1.NewControllerRef(set.Meta, c.kind.GVK)
		c.expect.Expect(key, plan.Create, nil)
		made, err := podset.SlowStart(plan.Create, func(int) error {
			_, err := c.pods.Create(ctx, set.Object, podset.FromTemplate(set.Template, set.Meta, ref))
			if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				c.expect.Created(key)
				return nil
			}
			return err
		})
		c.expect.CreatedN(key, plan.Create-made) // what failed and what slow start skipped will not be seen
		return err
	}
	if len(plan.Delete) == 0 {
		return nil
	}
	c.expect.Expect(key, 0, podset.UIDs(plan.Delete))
	errs := make([]error, len(plan.Delete))
	done := make(chan struct{})
	for i, pod := range plan.Delete {
		go func() {
			defer func() { done <- struct{}{} }()
			coming, err := c.pods.Delete(ctx, set.Object, pod)
			if errs[i] = err; !coming {
				c.expect.Deleted(key, pod.UID)
			}
		}()
	}
	for range plan.Delete {
		<-done
	}
	return errors.Join(errs...)
}

// related lists the active pods of all sets of the same owner (a Deployment's old and
// new ReplicaSets), so that scaling down thins out nodes with many of them.
func (c *Controller) related(set *Set) []*corev1.Pod {
	owner := metav1.GetControllerOfNoCopy(set.Meta)
	sets := map[string]bool{string(set.Meta.GetUID()): true}
	if owner != nil {
		objs, err := c.kind.Informer.GetIndexer().ByIndex(cache.NamespaceIndex, set.Meta.GetNamespace())
		if err != nil {
			return nil
		}
		for _, obj := range objs {
			other := obj.(metav1.Object)
			if ref := metav1.GetControllerOfNoCopy(other); ref != nil && ref.UID == owner.UID {
				sets[string(other.GetUID())] = true
			}
		}
	}
	all, err := c.lister.Pods(set.Meta.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil
	}
	var related []*corev1.Pod
	for _, pod := range all {
		if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && sets[string(ref.UID)] {
			related = append(related, pod)
		}
	}
	return related
}
