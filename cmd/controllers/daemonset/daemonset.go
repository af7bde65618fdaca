// Package daemonset keeps one pod of each DaemonSet on every node that fits it.
//
// It makes the pods, pinned to their nodes by affinity; the scheduler binds them.
// Old pods are replaced as the update strategy allows.
package daemonset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/orlop-io/orlop/cmd/controllers/history"
	"github.com/orlop-io/orlop/cmd/controllers/loop"
	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// burst is the most pods made or deleted in one sync.
const burst = 250

// Controller syncs all DaemonSets.
type Controller struct {
	client  kubernetes.Interface
	sets    appslisters.DaemonSetLister
	pods    corelisters.PodLister
	nodes   corelisters.NodeLister
	records history.Records
	act     podset.Pods
	expect  podset.Expectations
	failed  *flowcontrol.Backoff
	loop    *loop.Loop
	synced  []cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	sets, revisions := shared.Apps().V1().DaemonSets(), shared.Apps().V1().ControllerRevisions()
	pods, nodes := shared.Core().V1().Pods(), shared.Core().V1().Nodes()
	c := &Controller{
		client: client, sets: sets.Lister(), pods: pods.Lister(), nodes: nodes.Lister(),
		records: history.Records{Client: client, Lister: revisions.Lister()},
		act:     podset.Pods{Client: client, Events: events},
		failed:  flowcontrol.NewBackOff(time.Second, 15*time.Minute),
		synced: []cache.InformerSynced{sets.Informer().HasSynced, revisions.Informer().HasSynced,
			pods.Informer().HasSynced, nodes.Informer().HasSynced},
	}
	c.loop = loop.New("daemonset", c.sync, log)
	_, err1 := sets.Informer().AddEventHandler(c.loop.Handler())
	_, err2 := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { c.addAll() },
		UpdateFunc: func(old, obj any) { c.nodeChanged(old.(*corev1.Node), obj.(*corev1.Node)) },
		DeleteFunc: func(any) { c.addAll() },
	})
	seen, err3 := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.podSeen(obj.(*corev1.Pod), true) },
		UpdateFunc: func(_, obj any) { c.podSeen(obj.(*corev1.Pod), false) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if pod, ok := obj.(*corev1.Pod); ok {
				c.podGone(pod)
			}
		},
	})
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	// The first pods must have been seen, not only be in the cache: one seen later would count as one that was just made.
	c.synced = append(c.synced, seen.HasSynced)
	return c, nil
}

// Run syncs until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 2, c.synced...) }

func (c *Controller) addAll() {
	sets, err := c.sets.List(labels.Everything())
	if err != nil {
		return
	}
	for _, ds := range sets {
		c.loop.AddObject(ds)
	}
}

// nodeChanged ignores heartbeats.
func (c *Controller) nodeChanged(old, node *corev1.Node) {
	if !reflect.DeepEqual(old.Labels, node.Labels) || !reflect.DeepEqual(old.Spec, node.Spec) {
		c.addAll()
	}
}

func ownerKey(pod *corev1.Pod) string {
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && ref.Kind == "DaemonSet" {
		return pod.Namespace + "/" + ref.Name
	}
	return ""
}

func (c *Controller) podSeen(pod *corev1.Pod, added bool) {
	if pod.DeletionTimestamp != nil {
		c.podGone(pod)
		return
	}
	if key := ownerKey(pod); key != "" {
		if added {
			c.expect.Created(key)
		}
		c.loop.Add(key)
		return
	}
	if metav1.GetControllerOfNoCopy(pod) != nil || len(pod.Labels) == 0 {
		return
	}
	sets, err := c.sets.DaemonSets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, ds := range sets {
		if selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector); err == nil && selector.Matches(labels.Set(pod.Labels)) {
			c.loop.AddObject(ds)
		}
	}
}

func (c *Controller) podGone(pod *corev1.Pod) {
	if key := ownerKey(pod); key != "" {
		c.expect.Deleted(key, pod.UID)
		c.loop.Add(key)
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	ds, err := c.sets.DaemonSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.expect.Forget(key)
		return nil
	} else if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		return fmt.Errorf("selector: %w", err)
	}
	if ds.DeletionTimestamp != nil || selector.Empty() {
		return nil
	}
	current, others, err := c.records.Current(ctx, history.Owner{
		Meta: ds, GVK: appsv1.SchemeGroupVersion.WithKind("DaemonSet"), Selector: selector,
		Template: &ds.Spec.Template, Collisions: ds.Status.CollisionCount,
	})
	if err != nil {
		return err
	}
	hash := current.Labels[appsv1.ControllerRevisionHashLabelKey]
	left := c.expect.Left(key)
	settled := left == 0
	if !settled {
		c.loop.AddAfter(key, left)
	}
	byNode, inUse, err := c.claim(ctx, ds, selector)
	if err != nil {
		return err
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	now := time.Now()
	var actErr error
	if settled {
		actErr = c.carryOut(ctx, key, ds, hash, Decide(ds, nodes, byNode, hash, now))
		if limit := ds.Spec.RevisionHistoryLimit; limit != nil && actErr == nil {
			actErr = c.records.Trim(ctx, others, max(int(*limit)-live(others, inUse), 0), inUse)
		}
	}
	status, wait := Observe(ds, nodes, byNode, hash, now)
	if wait > 0 {
		c.loop.AddAfter(key, wait)
	}
	return errors.Join(actErr, c.writeStatus(ctx, ds, status))
}

// live counts the revisions that pods were made from: they are of the history that ds keeps.
func live(revisions []*appsv1.ControllerRevision, inUse map[string]bool) (n int) {
	for _, rev := range revisions {
		if inUse[rev.Labels[appsv1.ControllerRevisionHashLabelKey]] {
			n++
		}
	}
	return n
}

// claim returns ds's pods by node, and the hashes of their templates.
func (c *Controller) claim(ctx context.Context, ds *appsv1.DaemonSet, selector labels.Selector) (map[string][]*corev1.Pod, map[string]bool, error) {
	all, err := c.pods.Pods(ds.Namespace).List(labels.Everything())
	if err != nil {
		return nil, nil, err
	}
	claims := podset.Claim(ds, selector, all)
	var errs []error
	for _, pod := range claims.Release {
		errs = append(errs, c.act.Release(ctx, pod, ds.UID))
	}
	if len(claims.Adopt) > 0 {
		live, err := c.client.AppsV1().DaemonSets(ds.Namespace).Get(ctx, ds.Name, metav1.GetOptions{})
		if err != nil {
			return nil, nil, fmt.Errorf("read before adopting: %w", err)
		}
		if live.UID == ds.UID && live.DeletionTimestamp == nil {
			ref := metav1.NewControllerRef(ds, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))
			for _, pod := range claims.Adopt {
				if err := c.act.Adopt(ctx, pod, ref); err != nil {
					errs = append(errs, err)
					continue
				}
				claims.Owned = append(claims.Owned, pod)
			}
		}
	}
	byNode, inUse := map[string][]*corev1.Pod{}, map[string]bool{}
	for _, pod := range claims.Owned {
		byNode[nodeOf(pod)] = append(byNode[nodeOf(pod)], pod)
		inUse[pod.Labels[appsv1.ControllerRevisionHashLabelKey]] = true
	}
	return byNode, inUse, errors.Join(errs...)
}

func (c *Controller) carryOut(ctx context.Context, key string, ds *appsv1.DaemonSet, hash string, plan Plan) error {
	now := time.Now()
	for _, pod := range plan.Failed {
		if pod.Status.Phase == corev1.PodSucceeded {
			c.act.Events.Eventf(ds, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, nodeOf(pod))
			continue
		}
		id := fmt.Sprintf("%s/%d/%s", ds.UID, ds.Generation, nodeOf(pod)) // what its user changes is tried at once
		if c.failed.IsInBackOffSinceUpdate(id, now) {
			c.loop.AddAfter(key, c.failed.Get(id))
			plan.Delete = slices.DeleteFunc(plan.Delete, func(p *corev1.Pod) bool { return p.UID == pod.UID })
			continue
		}
		c.failed.Next(id, now)
		c.act.Events.Eventf(ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, nodeOf(pod))
	}
	create, del := plan.Create[:min(len(plan.Create), burst)], plan.Delete[:min(len(plan.Delete), burst)]
	if len(create) == 0 && len(del) == 0 {
		return nil
	}
	c.expect.Expect(key, len(create), podset.UIDs(del))
	made, err := podset.SlowStart(len(create), func(i int) error {
		_, err := c.act.Create(ctx, ds, podFor(ds, create[i], hash))
		return err
	})
	c.expect.CreatedN(key, len(create)-made)
	errs := make([]error, len(del))
	var wg sync.WaitGroup
	for i, pod := range del {
		wg.Go(func() {
			coming, err := c.act.Delete(ctx, ds, pod)
			if errs[i] = err; !coming {
				c.expect.Deleted(key, pod.UID)
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, err)...)
}

func (c *Controller) writeStatus(ctx context.Context, ds *appsv1.DaemonSet, status appsv1.DaemonSetStatus) error {
	if equality.Semantic.DeepEqual(ds.Status, status) {
		return nil
	}
	changed := ds.DeepCopy()
	changed.Status = status
	_, err := c.client.AppsV1().DaemonSets(ds.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}
