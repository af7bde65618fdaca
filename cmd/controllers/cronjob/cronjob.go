// Package cronjob makes a Job each time a CronJob's schedule says so, and deletes those that its history has no room for.
//
// Decide is the whole policy. A Job's name tells its time, so that no time is served twice.
package cronjob

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
	_ "time/tzdata" // images without a zone database must know zones too

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Controller syncs all CronJobs.
type Controller struct {
	client kubernetes.Interface
	crons  batchlisters.CronJobLister
	jobs   batchlisters.JobLister
	events record.EventRecorder
	loop   *loop.Loop
	synced []cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	crons, jobs := shared.Batch().V1().CronJobs(), shared.Batch().V1().Jobs()
	c := &Controller{client: client, crons: crons.Lister(), jobs: jobs.Lister(), events: events,
		synced: []cache.InformerSynced{crons.Informer().HasSynced, jobs.Informer().HasSynced}}
	c.loop = loop.New("cronjob", c.sync, log)
	_, err1 := crons.Informer().AddEventHandler(c.loop.Handler())
	_, err2 := jobs.Informer().AddEventHandler(loop.On(func(job *batchv1.Job) {
		if ref := metav1.GetControllerOfNoCopy(job); ref != nil && ref.Kind == "CronJob" {
			c.loop.Add(job.Namespace + "/" + ref.Name)
		}
	}))
	return c, errors.Join(err1, err2)
}

// Run syncs until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 5, c.synced...) }

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	cron, err := c.crons.CronJobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	jobs, err := c.owned(ctx, cron)
	if err != nil {
		return err
	}
	plan := Decide(View{CronJob: cron, Jobs: jobs, Now: time.Now()})
	if plan.Again > 0 {
		c.loop.AddAfter(key, plan.Again)
	}
	for _, e := range plan.Events {
		c.events.Event(cron, e.kind, e.reason, e.message)
	}
	var errs []error
	for _, job := range plan.Delete {
		errs = append(errs, c.delete(ctx, cron, job))
	}
	if err := errors.Join(errs...); err != nil {
		return err // a Job that is to be replaced may still run
	}
	if plan.Start != nil {
		made, err := c.create(ctx, cron, jobAt(cron, *plan.Start))
		if made == nil || err != nil {
			return err
		}
		if ended(made) == nil {
			plan.Status.Active = append(plan.Status.Active, reference(made))
		}
	}
	return c.writeStatus(ctx, cron, plan.Status)
}

// owned lists cron's Jobs. Those that its status calls active and that the cache has not seen are asked for.
func (c *Controller) owned(ctx context.Context, cron *batchv1.CronJob) ([]*batchv1.Job, error) {
	jobs, err := c.jobs.Jobs(cron.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	jobs = slices.DeleteFunc(jobs, func(job *batchv1.Job) bool {
		ref := metav1.GetControllerOfNoCopy(job)
		return ref == nil || ref.UID != cron.UID
	})
	for _, ref := range cron.Status.Active {
		if slices.ContainsFunc(jobs, func(job *batchv1.Job) bool { return job.UID == ref.UID }) {
			continue
		}
		job, err := c.client.BatchV1().Jobs(cron.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("read active Job %s: %w", ref.Name, err)
		}
		if err == nil && job.UID == ref.UID {
			jobs = append(jobs, job)
		}
	}
	return jobs, nil
}

func (c *Controller) delete(ctx context.Context, cron *batchv1.CronJob, job *batchv1.Job) error {
	background := metav1.DeletePropagationBackground
	err := c.client.BatchV1().Jobs(job.Namespace).Delete(ctx, job.Name, metav1.DeleteOptions{
		PropagationPolicy: &background, Preconditions: metav1.NewUIDPreconditions(string(job.UID))})
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return nil
	case err != nil:
		c.events.Eventf(cron, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return fmt.Errorf("delete Job %s: %w", job.Name, err)
	}
	c.events.Eventf(cron, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", job.Name)
	return nil
}

// create makes job and returns it, or the one of its name that cron made before; nil where there can be none.
func (c *Controller) create(ctx context.Context, cron *batchv1.CronJob, job *batchv1.Job) (*batchv1.Job, error) {
	made, err := c.client.BatchV1().Jobs(job.Namespace).Create(ctx, job, metav1.CreateOptions{})
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, nil
	case apierrors.IsAlreadyExists(err):
		there, getErr := c.client.BatchV1().Jobs(job.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
		if getErr != nil {
			return nil, fmt.Errorf("read Job %s: %w", job.Name, getErr)
		}
		if ref := metav1.GetControllerOfNoCopy(there); ref != nil && ref.UID == cron.UID {
			return there, nil
		}
		fallthrough
	case err != nil:
		c.events.Eventf(cron, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return nil, fmt.Errorf("create Job %s: %w", job.Name, err)
	}
	c.events.Eventf(cron, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", made.Name)
	return made, nil
}

func (c *Controller) writeStatus(ctx context.Context, cron *batchv1.CronJob, status batchv1.CronJobStatus) error {
	if equality.Semantic.DeepEqual(cron.Status, status) {
		return nil
	}
	changed := cron.DeepCopy()
	changed.Status = status
	_, err := c.client.BatchV1().CronJobs(cron.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}
