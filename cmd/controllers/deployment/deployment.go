// Package deployment rolls a Deployment's pods over to its present template.
//
// It owns the Deployment's ReplicaSets: it makes one for each template, decides their
// sizes (Decide), and deletes those beyond the history limit. It touches no pods.
package deployment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Controller syncs all Deployments.
type Controller struct {
	client      kubernetes.Interface
	deployments appslisters.DeploymentLister
	sets        appslisters.ReplicaSetLister
	pods        corelisters.PodLister
	events      record.EventRecorder
	loop        *loop.Loop
	written     written
	synced      []cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder,
	log *slog.Logger) (*Controller, error) {
	deployments, sets, pods := shared.Apps().V1().Deployments(), shared.Apps().V1().ReplicaSets(), shared.Core().V1().Pods()
	c := &Controller{
		client: client, deployments: deployments.Lister(), sets: sets.Lister(), pods: pods.Lister(), events: events,
		synced: []cache.InformerSynced{deployments.Informer().HasSynced, sets.Informer().HasSynced, pods.Informer().HasSynced},
	}
	c.loop = loop.New("deployment", c.sync, log)
	_, err1 := deployments.Informer().AddEventHandler(c.loop.Handler())
	_, err2 := sets.Informer().AddEventHandler(loop.On(c.setChanged))
	_, err3 := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: c.podDeleted})
	return c, errors.Join(err1, err2, err3)
}

// Run syncs until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 5, c.synced...) }

func (c *Controller) setChanged(rs *appsv1.ReplicaSet) {
	if ref := metav1.GetControllerOfNoCopy(rs); ref != nil {
		if ref.Kind == "Deployment" {
			c.loop.Add(rs.Namespace + "/" + ref.Name)
		}
		return
	}
	all, err := c.deployments.Deployments(rs.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, d := range all {
		if selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil && selector.Matches(labels.Set(rs.Labels)) {
			c.loop.AddObject(d)
		}
	}
}

// podDeleted wakes a Deployment that waits for its old pods to be gone (Recreate).
func (c *Controller) podDeleted(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	rs, err := c.sets.ReplicaSets(pod.Namespace).Get(ref.Name)
	if err != nil {
		return
	}
	if owner := metav1.GetControllerOfNoCopy(rs); owner != nil && owner.Kind == "Deployment" {
		if d, err := c.deployments.Deployments(pod.Namespace).Get(owner.Name); err == nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
			c.loop.AddObject(d)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	d, err := c.deployments.Deployments(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.written.forget(key)
		return nil
	} else if err != nil {
		return err
	}
	if behind, err := c.behind(ctx, key, namespace); err != nil {
		return err
	} else if behind {
		c.loop.AddAfter(key, time.Second) // its event wakes us sooner, unless it is nobody's by then
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return fmt.Errorf("selector: %w", err)
	}
	if selector.Empty() {
		c.events.Eventf(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		return nil
	}
	d = d.DeepCopy()
	owned, err := c.claim(ctx, d, selector)
	if err != nil {
		return err
	}
	newRS, old := split(d, owned)
	if d.DeletionTimestamp != nil {
		return c.writeStatus(ctx, d, Observe(d, newRS, old, time.Now()))
	}
	note := ""
	if !d.Spec.Paused && newRS != nil {
		if newRS, err = c.renewRevision(ctx, d, newRS, old); err != nil {
			return err
		}
		if condition(d.Status, appsv1.DeploymentProgressing) == nil {
			note = fmt.Sprintf("Found new replica set %q", newRS.Name)
			setProgress(&d.Status, corev1.ConditionTrue, "FoundNewReplicaSet", note, time.Now())
		}
	}
	newRS, old, err = c.apply(ctx, d, newRS, old)
	if err != nil {
		return err
	}
	status := Observe(d, newRS, old, time.Now())
	if complete(d, status) {
		if err := c.trimHistory(ctx, d, old); err != nil {
			return err
		}
	}
	if wait := progressDeadlineIn(d, status, time.Now()); wait > 0 {
		c.loop.AddAfter(key, wait)
	}
	return c.writeStatus(ctx, d, status)
}

// apply carries out the next step and returns the ReplicaSets as they are then.
func (c *Controller) apply(ctx context.Context, d *appsv1.Deployment, newRS *appsv1.ReplicaSet, old []*appsv1.ReplicaSet,
) (*appsv1.ReplicaSet, []*appsv1.ReplicaSet, error) {
	view := look(d, newRS, old)
	if view.hasOld() || view.Recreate {
		pods, err := c.pods.Pods(d.Namespace).List(labels.Everything())
		if err != nil {
			return nil, nil, err
		}
		view.count(pods, time.Duration(d.Spec.MinReadySeconds)*time.Second, time.Now())
	}
	plan := Decide(view)
	if plan.CreateNew {
		made, err := c.createNew(ctx, d, old, plan.CreateReplicas)
		return made, old, err
	}
	old = slices.Clone(old)
	for i, rs := range old {
		want, ok := plan.Scale[rs.Name]
		if !ok {
			want = int(deref(rs.Spec.Replicas))
		}
		scaled, err := c.scale(ctx, d, rs, want, ok)
		if err != nil {
			return nil, nil, err
		}
		old[i] = scaled
	}
	if newRS != nil {
		want, ok := plan.Scale[newRS.Name]
		if !ok {
			want = int(deref(newRS.Spec.Replicas))
		}
		scaled, err := c.scale(ctx, d, newRS, want, true)
		if err != nil {
			return nil, nil, err
		}
		newRS = scaled
	}
	return newRS, old, nil
}

// scale sets rs to want replicas and notes the Deployment's size in it, where that changes anything.
func (c *Controller) scale(ctx context.Context, d *appsv1.Deployment, rs *appsv1.ReplicaSet, want int, annotate bool) (*appsv1.ReplicaSet, error) {
	have := int(deref(rs.Spec.Replicas))
	upToDate := sizeAnnotationsMatch(d, rs)
	if have == want && (upToDate || !annotate) {
		return rs, nil
	}
	changed := rs.DeepCopy()
	n := int32(want)
	changed.Spec.Replicas = &n
	setSizeAnnotations(d, changed)
	updated, err := c.update(ctx, d, changed)
	if err != nil {
		return nil, fmt.Errorf("scale ReplicaSet %s: %w", rs.Name, err)
	}
	if have != want {
		direction := "up"
		if want < have {
			direction = "down"
		}
		c.events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, rs.Name, have, want)
	}
	return updated, nil
}

// update writes rs, and remembers what came of it.
func (c *Controller) update(ctx context.Context, d *appsv1.Deployment, rs *appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
	updated, err := c.client.AppsV1().ReplicaSets(rs.Namespace).Update(ctx, rs, metav1.UpdateOptions{})
	if err != nil {
		c.written.doubt(d.Namespace+"/"+d.Name, rs.Name)
		return nil, err
	}
	c.written.note(d.Namespace+"/"+d.Name, updated)
	return updated, nil
}

// claim returns d's ReplicaSets after adopting those that match and releasing those
// that match no longer.
func (c *Controller) claim(ctx context.Context, d *appsv1.Deployment, selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	all, err := c.sets.ReplicaSets(d.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var owned []*appsv1.ReplicaSet
	var errs []error
	for _, rs := range all {
		ref, matches := metav1.GetControllerOfNoCopy(rs), selector.Matches(labels.Set(rs.Labels))
		switch {
		case ref != nil && ref.UID != d.UID:
		case ref != nil && matches:
			owned = append(owned, rs)
		case ref != nil && d.DeletionTimestamp == nil:
			patch := fmt.Sprintf(`{"metadata":{"uid":%q,"ownerReferences":[{"$patch":"delete","uid":%q}]}}`, rs.UID, d.UID)
			errs = append(errs, c.patchSet(ctx, rs, patch))
		case ref == nil && matches && d.DeletionTimestamp == nil && rs.DeletionTimestamp == nil:
			patch := fmt.Sprintf(`{"metadata":{"uid":%q,"ownerReferences":[{"apiVersion":"apps/v1","kind":"Deployment","name":%q,"uid":%q,`+
				`"controller":true,"blockOwnerDeletion":true}]}}`, rs.UID, d.Name, d.UID)
			live, err := c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
			if err != nil || live.UID != d.UID || live.DeletionTimestamp != nil {
				continue
			}
			if err := c.patchSet(ctx, rs, patch); err != nil {
				errs = append(errs, err)
				continue
			}
			owned = append(owned, rs)
		}
	}
	return owned, errors.Join(errs...)
}

func (c *Controller) patchSet(ctx context.Context, rs *appsv1.ReplicaSet, patch string) error {
	_, err := c.client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *Controller) trimHistory(ctx context.Context, d *appsv1.Deployment, old []*appsv1.ReplicaSet) error {
	var errs []error
	for _, rs := range surplus(d, old) {
		err := c.client.AppsV1().ReplicaSets(rs.Namespace).Delete(ctx, rs.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(rs.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete old ReplicaSet %s: %w", rs.Name, err))
		}
	}
	return errors.Join(errs...)
}
