// Package podgc deletes pods that no kubelet will: those of nodes that are gone, those that
// were deleted before they had a node, and the oldest ended ones beyond a number.
package podgc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

const (
	period = 20 * time.Second
	// quarantine is how long a node must be gone before its pods are deleted.
	quarantine = 40 * time.Second
)

// Collector deletes pods.
type Collector struct {
	client    kubernetes.Interface
	pods      corelisters.PodLister
	nodes     corelisters.NodeLister
	threshold int
	log       *slog.Logger
	synced    []cache.InformerSynced
	// missing says since when a node that pods name is not there. Only Run touches it.
	missing map[string]time.Time
}

// New returns a Collector that has done nothing yet. threshold is how many ended pods may stay, 0 for all.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, threshold int, log *slog.Logger) *Collector {
	pods, nodes := shared.Core().V1().Pods(), shared.Core().V1().Nodes()
	return &Collector{
		client: client, pods: pods.Lister(), nodes: nodes.Lister(), threshold: threshold, log: log, missing: map[string]time.Time{},
		synced: []cache.InformerSynced{pods.Informer().HasSynced, nodes.Informer().HasSynced},
	}
}

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), c.synced...) {
		return ctx.Err()
	}
	for {
		if err := c.once(ctx, time.Now()); err != nil && ctx.Err() == nil {
			c.log.Warn("collect pods", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(period):
		}
	}
}

func (c *Collector) once(ctx context.Context, now time.Time) error {
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(nodes))
	for _, node := range nodes {
		there[node.Name] = true
	}
	gone := map[string]bool{}
	for _, name := range c.note(pods, there, now) {
		_, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		gone[name] = apierrors.IsNotFound(err)
	}
	var errs []error
	for _, pod := range Surplus(pods, gone, c.threshold) {
		errs = append(errs, c.remove(ctx, pod, gone[pod.Spec.NodeName]))
	}
	return errors.Join(errs...)
}

// note keeps missing, and returns the nodes that have been gone for long enough, by name.
func (c *Collector) note(pods []*corev1.Pod, there map[string]bool, now time.Time) (long []string) {
	named := map[string]bool{}
	for _, pod := range pods {
		if name := pod.Spec.NodeName; name != "" && !there[name] {
			named[name] = true
		}
	}
	for name := range c.missing {
		if !named[name] {
			delete(c.missing, name)
		}
	}
	for name := range named {
		since, known := c.missing[name]
		if !known {
			c.missing[name] = now
		} else if now.Sub(since) >= quarantine {
			long = append(long, name)
		}
	}
	slices.Sort(long)
	return long
}

// Surplus lists the pods that must go. gone are nodes that are no more.
func Surplus(pods []*corev1.Pod, gone map[string]bool, threshold int) []*corev1.Pod {
	var result, ended []*corev1.Pod
	for _, pod := range pods {
		over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		switch {
		case gone[pod.Spec.NodeName]:
			result = append(result, pod)
		case pod.DeletionTimestamp != nil && pod.Spec.NodeName == "":
			result = append(result, pod)
		case over && pod.DeletionTimestamp == nil:
			ended = append(ended, pod)
		}
	}
	if excess := len(ended) - threshold; threshold > 0 && excess > 0 {
		slices.SortFunc(ended, func(a, b *corev1.Pod) int {
			return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
		result = append(result, ended[:excess]...)
	}
	return result
}

// remove deletes pod at once. One that has not ended is marked as failed first, so that its owner counts it so; where
// its node is gone, a condition says that.
func (c *Collector) remove(ctx context.Context, pod *corev1.Pod, orphan bool) error {
	if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		patch, err := json.Marshal(failed(pod, orphan, metav1.Now()))
		if err != nil {
			return err
		}
		// A patch: of a pod's status this account may write nothing else.
		_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("mark pod %s/%s failed: %w", pod.Namespace, pod.Name, err)
		}
	}
	now := int64(0)
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// failed is the patch that marks pod as failed.
func failed(pod *corev1.Pod, orphan bool, now metav1.Time) map[string]any {
	status := map[string]any{"phase": corev1.PodFailed}
	if orphan {
		status["conditions"] = []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC",
			Message: "PodGC: node no longer exists", LastTransitionTime: now, ObservedGeneration: pod.Generation,
		}}
	}
	return map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status}
}
