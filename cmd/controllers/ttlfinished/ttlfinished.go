// Package ttlfinished deletes Jobs, and what they own, once their ttlSecondsAfterFinished has passed.
package ttlfinished

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Controller watches all Jobs.
type Controller struct {
	client kubernetes.Interface
	jobs   batchlisters.JobLister
	loop   *loop.Loop
	synced cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger) (*Controller, error) {
	jobs := shared.Batch().V1().Jobs()
	c := &Controller{client: client, jobs: jobs.Lister(), synced: jobs.Informer().HasSynced}
	c.loop = loop.New("ttl-after-finished", c.sync, log)
	_, err := jobs.Informer().AddEventHandler(c.loop.Handler())
	return c, err
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 1, c.synced) }

// Due tells whether job must go, ever, and when.
func Due(job *batchv1.Job) (at time.Time, ever bool) {
	if job.Spec.TTLSecondsAfterFinished == nil || job.DeletionTimestamp != nil {
		return time.Time{}, false
	}
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second), true
		}
	}
	return time.Time{}, false
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	job, err := c.jobs.Jobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	if !c.isDue(key, job) {
		return nil
	}
	// The cache may not have seen that somebody gave the Job longer: ask.
	if job, err = c.client.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read before deleting: %w", err)
	}
	if !c.isDue(key, job) {
		return nil
	}
	foreground := metav1.DeletePropagationForeground
	err = c.client.BatchV1().Jobs(namespace).Delete(ctx, name, metav1.DeleteOptions{
		PropagationPolicy: &foreground, Preconditions: metav1.NewUIDPreconditions(string(job.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete finished Job: %w", err)
	}
	return nil
}

// isDue tells whether job must go now; where it must later, it will be looked at then.
func (c *Controller) isDue(key string, job *batchv1.Job) bool {
	at, ever := Due(job)
	wait := time.Until(at)
	if ever && wait > 0 {
		c.loop.AddAfter(key, wait)
	}
	return ever && wait <= 0
}
