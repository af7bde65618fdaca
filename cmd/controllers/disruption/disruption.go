// Package disruption keeps the status of PodDisruptionBudgets: how many of a budget's pods
// are healthy, and so how many may be evicted.
//
// It lets nobody go itself: the eviction subresource spends what the status allows. It also
// takes back marks of disruption that nothing came of.
package disruption

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Controller keeps all budgets.
type Controller struct {
	client  kubernetes.Interface
	owners  *owners
	budgets policylisters.PodDisruptionBudgetLister
	pods    corelisters.PodLister
	events  record.EventRecorder
	loop    *loop.Loop
	stale   *loop.Loop // pods with a mark that may be stale
	synced  []cache.InformerSynced
}

// New returns a Controller that has done nothing yet. scales reads the scale of owners of other kinds.
func New(client kubernetes.Interface, scales Scales, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	budgets, pods := shared.Policy().V1().PodDisruptionBudgets(), shared.Core().V1().Pods()
	c := &Controller{
		client: client, owners: newOwners(shared, scales), budgets: budgets.Lister(), pods: pods.Lister(), events: events,
	}
	c.synced = append(c.owners.synced, budgets.Informer().HasSynced, pods.Informer().HasSynced)
	c.loop = loop.New("disruption", c.sync, log)
	c.stale = loop.New("disruption-recheck", c.unmark, log)
	_, err1 := budgets.Informer().AddEventHandler(c.loop.Handler())
	_, err2 := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { c.podChanged(nil, obj.(*corev1.Pod)) },
		UpdateFunc: func(old, obj any) {
			c.podChanged(old.(*corev1.Pod), obj.(*corev1.Pod))
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if pod, ok := obj.(*corev1.Pod); ok {
				c.podChanged(nil, pod)
			}
		},
	})
	return c, errors.Join(err1, err2)
}

// Run keeps budgets until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- c.stale.Run(ctx, 1, c.synced...) }()
	err := c.loop.Run(ctx, 2, c.synced...)
	return errors.Join(err, <-ended)
}

func (c *Controller) podChanged(old, pod *corev1.Pod) {
	if at, ok := staleAt(pod); ok {
		c.stale.AddAfter(pod.Namespace+"/"+pod.Name, time.Until(at))
	}
	budgets, err := c.budgets.PodDisruptionBudgets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, b := range budgets {
		selector, err := selectorOf(b)
		if err != nil {
			continue
		}
		if selector.Matches(labels.Set(pod.Labels)) || old != nil && selector.Matches(labels.Set(old.Labels)) {
			c.loop.AddObject(b)
		}
	}
}

func selectorOf(b *policyv1.PodDisruptionBudget) (labels.Selector, error) {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("read selector: %w", err)
	}
	return selector, nil
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	b, err := c.budgets.PodDisruptionBudgets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	now := time.Now()
	out, err := c.observe(ctx, b, now)
	if err != nil {
		// A budget that cannot be worked out must not let anybody go on old numbers.
		return errors.Join(err, c.write(ctx, b, Failed(b, err, now)))
	}
	if !out.Again.IsZero() {
		c.loop.AddAfter(key, out.Again.Sub(now))
	}
	for _, pod := range out.Late {
		c.events.Eventf(pod, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", b.Namespace, b.Name)
	}
	return c.write(ctx, b, out.Status)
}

func (c *Controller) observe(ctx context.Context, b *policyv1.PodDisruptionBudget, now time.Time) (Outcome, error) {
	selector, err := selectorOf(b)
	if err != nil {
		return Outcome{}, err
	}
	pods, err := c.pods.Pods(b.Namespace).List(selector)
	if err != nil {
		return Outcome{}, err
	}
	if len(pods) == 0 {
		c.events.Event(b, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	scale := int32(0)
	if NeedsScale(b.Spec) {
		wanted, strays, err := c.owners.scale(ctx, b.Namespace, pods)
		if err != nil {
			c.events.Eventf(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
			return Outcome{}, err
		}
		if len(strays) > 0 {
			c.events.Eventf(b, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value. Pods: %s",
				selector, strings.Join(strays, ", "))
		}
		scale = wanted
	}
	demand, err := DemandOf(b.Spec, len(pods), scale)
	if err != nil {
		return Outcome{}, err
	}
	going, err := c.going(ctx, Overdue(b, pods, now))
	if err != nil {
		return Outcome{}, err
	}
	return Observe(b, pods, going, demand, now), nil
}

// going asks which of pods are gone, or being deleted. A cache that shows them as they were may be older than the patience
// with evictions, and each pod that it gives back to its budget lets another go.
func (c *Controller) going(ctx context.Context, pods []*corev1.Pod) (map[types.UID]bool, error) {
	going := map[types.UID]bool{}
	for _, pod := range pods {
		live, err := c.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			going[pod.UID] = true
		case err != nil:
			return nil, fmt.Errorf("read evicted pod %s: %w", pod.Name, err)
		default:
			going[pod.UID] = live.UID != pod.UID || live.DeletionTimestamp != nil
		}
	}
	return going, nil
}

// write stores status if it says anything new. It must be of the budget as it was read: an
// eviction in between has spent something that would be given back.
func (c *Controller) write(ctx context.Context, b *policyv1.PodDisruptionBudget, status policyv1.PodDisruptionBudgetStatus) error {
	if same(status, b.Status) {
		return nil
	}
	changed := b.DeepCopy()
	changed.Status = status
	_, err := c.client.PolicyV1().PodDisruptionBudgets(b.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// unmark takes the mark of disruption back from a pod that nobody disrupted.
func (c *Controller) unmark(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	at, marked := staleAt(pod)
	if !marked {
		return nil
	}
	if wait := time.Until(at); wait > 0 {
		c.stale.AddAfter(key, wait)
		return nil
	}
	patch := fmt.Sprintf(`{"metadata":{"uid":%q},"status":{"conditions":[{"type":%q,"status":"False","lastTransitionTime":%q,"observedGeneration":%d}]}}`,
		pod.UID, corev1.DisruptionTarget, time.Now().UTC().Format(time.RFC3339), pod.Generation)
	_, err = c.client.CoreV1().Pods(namespace).Patch(ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("take back disruption of pod: %w", err)
	}
	return nil
}
