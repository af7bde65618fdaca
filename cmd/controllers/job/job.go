// Package job runs the pods of a Job until enough of them have succeeded.
//
// Each pod carries a finalizer until the Job's status has its UID, so that no end is
// missed or counted twice, whoever deletes the pod and whenever this program stops.
// Jobs with completionMode Indexed or a podFailurePolicy are not run; an event says so.
package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
	"github.com/orlop-io/orlop/cmd/controllers/podset"
)

// Controller syncs all Jobs.
type Controller struct {
	client kubernetes.Interface
	jobs   batchlisters.JobLister
	pods   corelisters.PodLister
	act    podset.Pods
	expect podset.Expectations
	loop   *loop.Loop
	synced []cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	jobs, pods := shared.Batch().V1().Jobs(), shared.Core().V1().Pods()
	c := &Controller{
		client: client, jobs: jobs.Lister(), pods: pods.Lister(), act: podset.Pods{Client: client, Events: events},
		synced: []cache.InformerSynced{jobs.Informer().HasSynced, pods.Informer().HasSynced},
	}
	c.loop = loop.New("job", c.sync, log)
	_, err1 := jobs.Informer().AddEventHandler(c.loop.Handler())
	seen := func(obj any, act func(key string, uid types.UID)) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			return
		}
		if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && ref.Kind == "Job" {
			key := pod.Namespace + "/" + ref.Name
			act(key, pod.UID)
			c.loop.Add(key)
		}
	}
	_, err2 := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { seen(obj, func(key string, _ types.UID) { c.expect.Created(key) }) },
		UpdateFunc: func(_, obj any) {
			seen(obj, func(key string, uid types.UID) {
				if obj.(*corev1.Pod).DeletionTimestamp != nil {
					c.expect.Deleted(key, uid)
				}
			})
		},
		DeleteFunc: func(obj any) { seen(obj, c.expect.Deleted) },
	})
	return c, errors.Join(err1, err2)
}

// Run syncs until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 5, c.synced...) }

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	job, err := c.jobs.Jobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.expect.Forget(key)
		return c.releaseOrphans(ctx, namespace, name)
	} else if err != nil {
		return err
	}
	pods, err := c.owned(job)
	if err != nil {
		return err
	}
	if done(job) || job.DeletionTimestamp != nil {
		return c.release(ctx, pods)
	}
	if what := unsupported(job); what != "" {
		c.act.Events.Event(job, corev1.EventTypeWarning, "Unsupported", what+" is not implemented here; the Job is not run")
		return nil
	}
	if job.Spec.ManagedBy != nil && *job.Spec.ManagedBy != batchv1.JobControllerName {
		return nil
	}
	if !c.expect.Satisfied(key) {
		return nil
	}
	plan := Decide(job, pods, time.Now())
	if plan.Again > 0 {
		c.loop.AddAfter(key, plan.Again)
	}
	if err := c.writeStatus(ctx, job, plan); err != nil {
		return err
	}
	return errors.Join(c.release(ctx, plan.Release), c.carryOut(ctx, key, job, plan))
}

func done(job *batchv1.Job) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
	})
}

func (c *Controller) owned(job *batchv1.Job) ([]*corev1.Pod, error) {
	all, err := c.pods.Pods(job.Namespace).List(labels.Everything())
	return slices.DeleteFunc(all, func(pod *corev1.Pod) bool {
		ref := metav1.GetControllerOfNoCopy(pod)
		return ref == nil || ref.UID != job.UID
	}), err
}

func (c *Controller) writeStatus(ctx context.Context, job *batchv1.Job, plan Plan) error {
	if equality.Semantic.DeepEqual(job.Status, plan.Status) {
		return nil
	}
	changed := job.DeepCopy()
	changed.Status = plan.Status
	if _, err := c.client.BatchV1().Jobs(job.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	if f := plan.Finished; f != nil && f.Type == batchv1.JobComplete {
		c.act.Events.Event(job, corev1.EventTypeNormal, "Completed", "Job completed")
	} else if f != nil {
		c.act.Events.Event(job, corev1.EventTypeWarning, f.Reason, f.Message)
	}
	return nil
}

func (c *Controller) carryOut(ctx context.Context, key string, job *batchv1.Job, plan Plan) error {
	if plan.Create == 0 && len(plan.Delete) == 0 {
		return nil
	}
	c.expect.Expect(key, plan.Create, podset.UIDs(plan.Delete))
	ref := metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))
	made, err := podset.SlowStart(plan.Create, func(int) error {
		pod := podset.FromTemplate(&job.Spec.Template, job, ref)
		pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
		_, err := c.act.Create(ctx, job, pod)
		return err
	})
	c.expect.CreatedN(key, plan.Create-made)
	errs := []error{err}
	for _, pod := range plan.Delete {
		if err := c.release(ctx, []*corev1.Pod{pod}); err != nil {
			errs = append(errs, err)
		}
		if err := c.act.Delete(ctx, job, pod); err != nil {
			c.expect.Deleted(key, pod.UID)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// release takes the tracking finalizer off pods.
func (c *Controller) release(ctx context.Context, pods []*corev1.Pod) error {
	var errs []error
	for _, pod := range pods {
		if !slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer) {
			continue
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": pod.UID, "$deleteFromPrimitiveList/finalizers": []string{batchv1.JobTrackingFinalizer},
		}})
		if err == nil {
			_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("release pod %s: %w", pod.Name, err))
		}
	}
	return errors.Join(errs...)
}

// releaseOrphans lets the pods of a Job go that was deleted without them.
func (c *Controller) releaseOrphans(ctx context.Context, namespace, name string) error {
	all, err := c.pods.Pods(namespace).List(labels.Everything())
	if err != nil {
		return err
	}
	return c.release(ctx, slices.DeleteFunc(all, func(pod *corev1.Pod) bool {
		ref := metav1.GetControllerOfNoCopy(pod)
		return ref == nil || ref.Kind != "Job" || ref.Name != name
	}))
}

func stamp(t time.Time) metav1.Time { return metav1.NewTime(t) }

// finish adds the final condition, and the one that announces it.
func finish(status *batchv1.JobStatus, c *batchv1.JobCondition, now time.Time) {
	c.LastProbeTime, c.LastTransitionTime = stamp(now), stamp(now)
	announced := *c
	announced.Type = batchv1.JobSuccessCriteriaMet
	if c.Type == batchv1.JobFailed {
		announced.Type = batchv1.JobFailureTarget
	}
	status.Conditions = append(status.Conditions, announced, *c)
	// The verdict counts all that were seen; none will be counted after it.
	u := status.UncountedTerminatedPods
	status.Succeeded += int32(len(u.Succeeded))
	status.Failed += int32(len(u.Failed))
	status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	end := stamp(now)
	status.CompletionTime = &end
}
