package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// writeStatus writes plan's status and tells what it says.
func (c *Controller) writeStatus(ctx context.Context, key string, job *batchv1.Job, plan Plan) error {
	if equality.Semantic.DeepEqual(job.Status, plan.Status) {
		return nil
	}
	changed := job.DeepCopy()
	changed.Status = plan.Status
	written, err := c.client.BatchV1().Jobs(job.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	c.memory.wrote(key, written.ResourceVersion)
	for _, e := range plan.Events {
		c.act.Events.Event(job, e.kind, e.reason, e.message)
	}
	return nil
}

// carryOut makes and deletes pods.
func (c *Controller) carryOut(ctx context.Context, key string, job *batchv1.Job, plan Plan) error {
	going := append(plan.Drop[:len(plan.Drop):len(plan.Drop)], plan.Kill...)
	if len(plan.Create)+len(going) == 0 {
		return nil
	}
	c.expect.Expect(key, len(plan.Create), podset.UIDs(going))
	made, err := podset.SlowStart(len(plan.Create), func(i int) error {
		_, err := c.act.Create(ctx, job, podFor(job, plan.Create[i]))
		return err
	})
	c.expect.CreatedN(key, len(plan.Create)-made)
	errs := make([]error, len(going))
	var wg sync.WaitGroup
	for i, pod := range going {
		wg.Go(func() {
			coming := false
			if i < len(plan.Drop) {
				errs[i] = c.release(ctx, pod)
			}
			if errs[i] == nil {
				coming, errs[i] = c.act.Delete(ctx, job, pod)
			}
			if !coming {
				c.expect.Deleted(key, pod.UID)
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, err)...)
}

// releaseAll takes the tracking finalizer off pods.
func (c *Controller) releaseAll(ctx context.Context, pods []*corev1.Pod) error {
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, pod := range pods {
		wg.Go(func() { errs[i] = c.release(ctx, pod) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *Controller) release(ctx context.Context, pod *corev1.Pod) error {
	if !tracked(pod) {
		return nil
	}
	return c.patch(ctx, "release", pod, map[string]any{"$deleteFromPrimitiveList/finalizers": []string{batchv1.JobTrackingFinalizer}})
}

// patch changes pod's metadata. A pod that is gone, or another of its name, is left alone.
func (c *Controller) patch(ctx context.Context, act string, pod *corev1.Pod, metadata map[string]any) error {
	metadata["uid"] = pod.UID
	body, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("%s pod %s/%s: %w", act, pod.Namespace, pod.Name, err)
	}
	return nil
}

// claim returns the pods that job controls, after it adopted those that match and belong to nobody, and let those go
// that match no longer.
func (c *Controller) claim(ctx context.Context, job *batchv1.Job) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector: %w", err)
	}
	all, err := c.pods.Pods(job.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	claims := claimsOf(job, selector, all)
	var errs []error
	for _, pod := range claims.Release {
		errs = append(errs, c.patch(ctx, "release", pod, map[string]any{
			"ownerReferences":                     []any{map[string]any{"$patch": "delete", "uid": job.UID}},
			"$deleteFromPrimitiveList/finalizers": []string{batchv1.JobTrackingFinalizer},
		}))
	}
	if len(claims.Adopt) == 0 {
		return claims.Owned, errors.Join(errs...)
	}
	// The cache may hold a Job that was deleted and made again: ask.
	live, err := c.client.BatchV1().Jobs(job.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read before adopting: %w", err)
	}
	if live.UID != job.UID || live.DeletionTimestamp != nil {
		return claims.Owned, errors.Join(errs...)
	}
	ref := metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))
	for _, pod := range claims.Adopt {
		// The next sync sees it, with its owner and its finalizer.
		errs = append(errs, c.patch(ctx, "adopt", pod, map[string]any{
			"ownerReferences": []any{ref}, "finalizers": []string{batchv1.JobTrackingFinalizer},
		}))
	}
	return claims.Owned, errors.Join(errs...)
}

// claimsOf sorts the pods of job's namespace. Unlike podset.Claim it adopts pods that have ended too: they count.
func claimsOf(job *batchv1.Job, selector labels.Selector, all []*corev1.Pod) podset.Claims {
	claims := podset.Claims{}
	for _, pod := range all {
		ref, matches := metav1.GetControllerOfNoCopy(pod), selector.Matches(labels.Set(pod.Labels))
		switch {
		case ref != nil && ref.UID != job.UID:
		case ref != nil && (matches || job.DeletionTimestamp != nil || done(job)):
			claims.Owned = append(claims.Owned, pod)
		case ref != nil:
			claims.Release = append(claims.Release, pod)
		case matches && !selector.Empty() && pod.DeletionTimestamp == nil && job.DeletionTimestamp == nil && !done(job):
			claims.Adopt = append(claims.Adopt, pod)
		}
	}
	return claims
}
