// Package tainteviction deletes pods from nodes with NoExecute taints, when the time that
// they tolerate has passed.
//
// The time runs from when the taint was added, as the node says, so that a restart or a
// change of leader neither shortens nor lengthens it. Of a taint without that time, such as
// one that a person has put there, it runs from when it was first seen here.
package tainteviction

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

const byNode = "spec.nodeName"

// Controller syncs all pods on tainted nodes.
type Controller struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	pods   corelisters.PodLister
	index  cache.Indexer
	events record.EventRecorder
	loop   *loop.Loop
	synced []cache.InformerSynced

	mu      sync.Mutex
	pending map[types.UID]time.Time // pods whose time runs, and when that was first seen
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	nodes, pods := shared.Core().V1().Nodes(), shared.Core().V1().Pods()
	c := &Controller{
		client: client, nodes: nodes.Lister(), pods: pods.Lister(), index: pods.Informer().GetIndexer(), events: events,
		synced: []cache.InformerSynced{nodes.Informer().HasSynced, pods.Informer().HasSynced}, pending: map[types.UID]time.Time{},
	}
	c.loop = loop.New("taint-eviction", c.sync, log)
	err0 := pods.Informer().AddIndexers(cache.Indexers{byNode: func(obj any) ([]string, error) {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
			return []string{pod.Spec.NodeName}, nil
		}
		return nil, nil
	}})
	_, err1 := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { c.nodeChanged(nil, obj.(*corev1.Node)) },
		UpdateFunc: func(old, obj any) {
			c.nodeChanged(noExecute(old.(*corev1.Node)), obj.(*corev1.Node))
		},
	})
	_, err2 := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { c.podChanged(obj.(*corev1.Pod)) },
		UpdateFunc: func(old, obj any) {
			if a, b := old.(*corev1.Pod), obj.(*corev1.Pod); a.UID != b.UID || a.Spec.NodeName != b.Spec.NodeName || len(a.Spec.Tolerations) != len(b.Spec.Tolerations) {
				c.podChanged(b)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if pod, ok := obj.(*corev1.Pod); ok {
				c.mu.Lock()
				delete(c.pending, pod.UID)
				c.mu.Unlock()
			}
		},
	})
	return c, errors.Join(err0, err1, err2)
}

// Run evicts until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 8, c.synced...) }

func noExecute(node *corev1.Node) []corev1.Taint {
	return slices.DeleteFunc(slices.Clone(node.Spec.Taints), func(t corev1.Taint) bool { return t.Effect != corev1.TaintEffectNoExecute })
}

func (c *Controller) nodeChanged(before []corev1.Taint, node *corev1.Node) {
	after := noExecute(node)
	if len(before) == 0 && len(after) == 0 || slices.EqualFunc(before, after, func(a, b corev1.Taint) bool { return a.MatchTaint(&b) }) {
		return
	}
	pods, err := c.index.ByIndex(byNode, node.Name)
	if err != nil {
		return
	}
	for _, pod := range pods {
		c.loop.AddObject(pod)
	}
}

func (c *Controller) podChanged(pod *corev1.Pod) {
	if node, err := c.nodes.Get(pod.Spec.NodeName); err == nil && len(noExecute(node)) > 0 {
		c.loop.AddObject(pod)
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && pod.DeletionTimestamp != nil {
		return nil
	} else if err != nil {
		return err
	}
	node, err := c.nodes.Get(pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	c.mu.Lock()
	seen, waited := c.pending[pod.UID]
	if !waited {
		seen = time.Now()
	}
	due, stays := Deadline(pod, noExecute(node), seen)
	if stays {
		delete(c.pending, pod.UID)
	} else {
		c.pending[pod.UID] = seen
	}
	c.mu.Unlock()
	if stays {
		if waited {
			c.events.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s", key)
		}
		return nil
	}
	if wait := time.Until(due); wait > 0 {
		c.loop.AddAfter(key, wait)
		return nil
	}
	return c.evict(ctx, pod, key)
}

func (c *Controller) evict(ctx context.Context, pod *corev1.Pod, key string) error {
	c.events.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s", key)
	patch := fmt.Sprintf(`{"metadata":{"uid":%q},"status":{"conditions":[{"type":%q,"status":"True","reason":"DeletionByTaintManager",`+
		`"message":"Taint manager: deleting due to NoExecute taint","lastTransitionTime":%q,"observedGeneration":%d}]}}`,
		pod.UID, corev1.DisruptionTarget, time.Now().UTC().Format(time.RFC3339), pod.Generation)
	_, err := c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("mark pod as disrupted: %w", err)
	}
	err = c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("evict pod: %w", err)
	}
	return nil
}

// Deadline returns when pod must leave a node with those taints, or that it may stay. seen is
// when a taint that does not say when it was added counts from.
func Deadline(pod *corev1.Pod, taints []corev1.Taint, seen time.Time) (due time.Time, stays bool) {
	stays = true
	for i := range taints {
		t := &taints[i]
		begin := seen
		if t.TimeAdded != nil {
			begin = t.TimeAdded.Time
		}
		if created := pod.CreationTimestamp.Time; begin.Before(created) {
			begin = created
		}
		seconds, forever := tolerated(pod, t)
		if forever {
			continue
		}
		if end := begin.Add(time.Duration(seconds) * time.Second); stays || end.Before(due) {
			due = end
		}
		stays = false
	}
	return due, stays
}

// tolerated returns for how many seconds pod stands t: the least of its tolerations that match.
func tolerated(pod *corev1.Pod, t *corev1.Taint) (seconds int64, forever bool) {
	matched, bounded := false, false
	for i := range pod.Spec.Tolerations {
		own := pod.Spec.Tolerations[i]
		if !corehelpers.TolerationsTolerateTaint(klog.Background(), []corev1.Toleration{own}, t, true) {
			continue
		}
		matched = true
		if s := own.TolerationSeconds; s != nil && (!bounded || *s < seconds) {
			seconds, bounded = max(*s, 0), true
		}
	}
	return seconds, matched && !bounded
}
