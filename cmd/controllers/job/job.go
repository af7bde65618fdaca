// Package job runs the pods of a Job until it is decided how the Job ends.
//
// Decide is the whole policy: it takes a Job and its pods, and returns the next status and the pods to make, end and
// let go. Each pod carries a finalizer until the Job's status has its UID, so that no end is missed or counted twice,
// whoever deletes the pod and whenever this program stops. Jobs that spec.managedBy gives to another are left alone.
package job

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
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
	memory memory
	loop   *loop.Loop
	// strays are pods with our finalizer whose Job is gone.
	strays *loop.Loop
	synced []cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	jobs, pods := shared.Batch().V1().Jobs(), shared.Core().V1().Pods()
	c := &Controller{
		client: client, jobs: jobs.Lister(), pods: pods.Lister(), act: podset.Pods{Client: client, Events: events},
		synced: []cache.InformerSynced{jobs.Informer().HasSynced, pods.Informer().HasSynced},
	}
	// A pod that was refused would be refused again at once: a quota, or a webhook, must not be asked 200 times a second.
	c.loop, c.strays = loop.NewPatient("job", c.sync, time.Second, log), loop.New("job-strays", c.syncStray, log)
	_, err1 := jobs.Informer().AddEventHandler(c.loop.Handler())
	_, err2 := jobs.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: c.jobGone})
	seen, err3 := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { c.podSeen(nil, obj.(*corev1.Pod)) },
		UpdateFunc: func(old, obj any) {
			if old.(*corev1.Pod).ResourceVersion != obj.(*corev1.Pod).ResourceVersion {
				c.podSeen(old.(*corev1.Pod), obj.(*corev1.Pod))
			}
		},
		DeleteFunc: c.podGone,
	})
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	// The first pods must have been seen, not only be in the cache: one seen later would count as one that was just made.
	c.synced = append(c.synced, seen.HasSynced)
	return c, nil
}

// Run syncs until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- c.strays.Run(ctx, 1, c.synced...) }()
	err := c.loop.Run(ctx, 5, c.synced...)
	return errors.Join(err, <-ended)
}

// owner is the key of the Job that controls pod, "" where none does.
func owner(pod *corev1.Pod) string {
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && ref.Kind == "Job" && ref.APIVersion == batchv1.SchemeGroupVersion.String() {
		return pod.Namespace + "/" + ref.Name
	}
	return ""
}

// podSeen handles a pod that was added (old is nil) or changed.
func (c *Controller) podSeen(old, pod *corev1.Pod) {
	key := owner(pod)
	if old == nil {
		c.expect.Created(key)
	} else if before := owner(old); before != "" && before != key {
		c.loop.Add(before)
	}
	if pod.DeletionTimestamp != nil {
		c.expect.Deleted(key, pod.UID)
	}
	if key != "" {
		c.loop.Add(key)
	} else if metav1.GetControllerOfNoCopy(pod) == nil {
		c.orphanSeen(pod)
	}
	if tracked(pod) {
		if _, err := c.jobOf(pod); apierrors.IsNotFound(err) {
			c.strays.AddAfter(pod.Namespace+"/"+pod.Name, time.Second) // its Job's event may come later
		}
	}
}

// orphanSeen wakes the Jobs that would adopt pod.
func (c *Controller) orphanSeen(pod *corev1.Pod) {
	jobs, err := c.jobs.Jobs(pod.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, job := range jobs {
		if selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector); err == nil && !selector.Empty() && selector.Matches(labels.Set(pod.Labels)) {
			c.loop.AddObject(job)
		}
	}
}

func (c *Controller) podGone(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	if pod, ok := obj.(*corev1.Pod); ok {
		if key := owner(pod); key != "" {
			c.expect.Deleted(key, pod.UID)
			c.loop.Add(key)
		}
	}
}

// jobGone lets the pods of a Job go that was deleted without them.
func (c *Controller) jobGone(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	job, ok := obj.(*batchv1.Job)
	if !ok {
		return
	}
	pods, err := c.pods.Pods(job.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, pod := range pods {
		if tracked(pod) {
			c.strays.AddObject(pod)
		}
	}
}

// jobOf returns the Job that pod belongs to or may be adopted by, or a NotFound error.
func (c *Controller) jobOf(pod *corev1.Pod) (*batchv1.Job, error) {
	none := apierrors.NewNotFound(batchv1.Resource("jobs"), pod.Name)
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref != nil {
		job, err := c.jobs.Jobs(pod.Namespace).Get(ref.Name)
		if err == nil && job.UID != ref.UID || ref.Kind != "Job" {
			return nil, none
		}
		return job, err
	}
	jobs, err := c.jobs.Jobs(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	for _, job := range jobs {
		selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) && !done(job) {
			return job, nil
		}
	}
	return nil, none
}

// syncStray lets a pod go whose Job is gone.
func (c *Controller) syncStray(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && !tracked(pod) {
		return nil
	} else if err != nil {
		return err
	}
	if _, err := c.jobOf(pod); !apierrors.IsNotFound(err) {
		return err
	}
	if err := c.release(ctx, pod); err != nil {
		return err
	}
	// A conflict is no error there, as a sync of its Job comes again. Here nothing else would.
	c.strays.AddAfter(key, strayPause)
	return nil
}

// strayPause is when a stray is looked at again, if it is still there.
const strayPause = 10 * time.Second

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	job, err := c.jobs.Jobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.expect.Forget(key)
		c.memory.forget(key)
		return nil
	} else if err != nil {
		return err
	}
	if m := job.Spec.ManagedBy; m != nil && *m != batchv1.JobControllerName || c.memory.behind(key, job.ResourceVersion) {
		return nil
	}
	left := c.expect.Left(key) // before the pods are listed, lest it be true of a later cache only
	settled := left == 0
	if !settled {
		c.loop.AddAfter(key, left)
	}
	pods, err := c.claim(ctx, job)
	if err != nil {
		return err
	}
	if done(job) || job.DeletionTimestamp != nil {
		return c.releaseAll(ctx, pods)
	}
	plan := Decide(View{Job: job, Pods: pods, Row: c.memory.row(key), Settled: settled, Now: time.Now()})
	if plan.Again > 0 {
		c.loop.AddAfter(key, plan.Again)
	}
	if err := c.writeStatus(ctx, key, job, plan); err != nil {
		return err
	}
	c.memory.keepRow(key, plan.Row) // only now: a failure is new until it is written
	return errors.Join(c.releaseAll(ctx, plan.Release), c.carryOut(ctx, key, job, plan))
}

// done tells that the Job has ended, and no count of its status changes any more.
func done(job *batchv1.Job) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
	})
}
