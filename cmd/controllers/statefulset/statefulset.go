// Package statefulset keeps numbered pods, each with its own name and claims.
//
// Ordered sets take one step at a time: a pod is made when all before it are available,
// and the highest goes first. Claims are made before their pod. It deletes none: where
// persistentVolumeClaimRetentionPolicy says so, it gives them an owner with which they go.
package statefulset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
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

// errClaimGoes says that a claim is about to be deleted with its former pod.
var errClaimGoes = errors.New("claim is going")

// claimPause is how long to wait for such a claim to be gone.
const claimPause = time.Second

// Controller syncs all StatefulSets. Pods have fixed names, so making one twice fails.
type Controller struct {
	client  kubernetes.Interface
	sets    appslisters.StatefulSetLister
	pods    corelisters.PodLister
	claims  corelisters.PersistentVolumeClaimLister
	records history.Records
	events  record.EventRecorder
	failed  *flowcontrol.Backoff
	loop    *loop.Loop
	synced  []cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	sets, revisions := shared.Apps().V1().StatefulSets(), shared.Apps().V1().ControllerRevisions()
	pods, claims := shared.Core().V1().Pods(), shared.Core().V1().PersistentVolumeClaims()
	c := &Controller{
		client: client, sets: sets.Lister(), pods: pods.Lister(), claims: claims.Lister(), events: events,
		records: history.Records{Client: client, Lister: revisions.Lister()},
		failed:  flowcontrol.NewBackOff(time.Second, 30*time.Second),
		synced: []cache.InformerSynced{sets.Informer().HasSynced, revisions.Informer().HasSynced,
			pods.Informer().HasSynced, claims.Informer().HasSynced},
	}
	c.loop = loop.New("statefulset", c.sync, log)
	_, err1 := sets.Informer().AddEventHandler(c.loop.Handler())
	_, err2 := pods.Informer().AddEventHandler(loop.On(func(pod *corev1.Pod) {
		if ref := metav1.GetControllerOfNoCopy(pod); ref == nil {
			c.orphanSeen(pod)
		} else if ref.Kind == "StatefulSet" {
			c.loop.Add(pod.Namespace + "/" + ref.Name)
		}
	}))
	return c, errors.Join(err1, err2)
}

// Run syncs until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 5, c.synced...) }

// orphanSeen wakes the set that pod's name and labels fit.
func (c *Controller) orphanSeen(pod *corev1.Pod) {
	sets, err := c.sets.StatefulSets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, set := range sets {
		selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
		if err == nil && ordinal(set, pod) >= 0 && selector.Matches(labels.Set(pod.Labels)) {
			c.loop.AddObject(set)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	set, err := c.sets.StatefulSets(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && set.DeletionTimestamp != nil {
		return nil
	} else if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return fmt.Errorf("selector: %w", err)
	}
	newest, others, err := c.records.Current(ctx, history.Owner{
		Meta: set, GVK: appsv1.SchemeGroupVersion.WithKind("StatefulSet"), Selector: selector,
		Template: &set.Spec.Template, Collisions: set.Status.CollisionCount,
	})
	if err != nil {
		return err
	}
	pods, err := c.claim(ctx, set, selector)
	if err != nil {
		return err
	}
	old, err := c.oldRevision(ctx, set, newest, others)
	if err != nil {
		return err
	}
	current := old.Name
	inUse := map[string]bool{current: true}
	for _, pod := range pods {
		inUse[revisionOf(pod)] = true
	}
	now := time.Now()
	actErr := c.carryOut(ctx, set, pods, Decide(set, pods, newest.Name, now), newest, old)
	if limit := set.Spec.RevisionHistoryLimit; limit != nil && actErr == nil {
		actErr = c.records.Trim(ctx, others, int(*limit), inUse)
	}
	status, wait := Observe(set, pods, current, newest.Name, now)
	if wait > 0 {
		c.loop.AddAfter(key, wait)
	}
	return errors.Join(actErr, c.writeStatus(ctx, set, status))
}

// oldRevision is the one that pods have which no rollout has reached: that of set's status, unless somebody deleted it.
func (c *Controller) oldRevision(ctx context.Context, set *appsv1.StatefulSet, newest *appsv1.ControllerRevision, others []*appsv1.ControllerRevision,
) (*appsv1.ControllerRevision, error) {
	name := set.Status.CurrentRevision
	if name == "" || name == newest.Name {
		return newest, nil
	}
	for _, rev := range others {
		if rev.Name == name {
			return rev, nil
		}
	}
	// A cache that is late must not have pods made of a template that is not their turn.
	there, err := c.client.AppsV1().ControllerRevisions(set.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && !metav1.IsControlledBy(there, set) {
		return newest, nil
	} else if err != nil {
		return nil, fmt.Errorf("read ControllerRevision %s: %w", name, err)
	}
	return there, nil
}

// claim returns set's pods. Those that fit and belong to nobody it adopts; those that fit no longer it lets go.
func (c *Controller) claim(ctx context.Context, set *appsv1.StatefulSet, selector labels.Selector) ([]*corev1.Pod, error) {
	all, err := c.pods.Pods(set.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	claims := podset.Claim(set, selector, all)
	act := podset.Pods{Client: c.client, Events: c.events}
	var errs []error
	for _, pod := range claims.Release {
		errs = append(errs, act.Release(ctx, pod, set.UID))
	}
	claims.Adopt = slices.DeleteFunc(claims.Adopt, func(pod *corev1.Pod) bool { return ordinal(set, pod) < 0 })
	if len(claims.Adopt) == 0 {
		return claims.Owned, errors.Join(errs...)
	}
	// The cache may hold a set that was deleted and made again: ask.
	live, err := c.client.AppsV1().StatefulSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read before adopting: %w", err)
	}
	if live.UID != set.UID || live.DeletionTimestamp != nil {
		return claims.Owned, errors.Join(errs...)
	}
	ref := metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))
	for _, pod := range claims.Adopt {
		if err := act.Adopt(ctx, pod, ref); err != nil {
			errs = append(errs, err)
			continue
		}
		claims.Owned = append(claims.Owned, pod)
	}
	return claims.Owned, errors.Join(errs...)
}

func (c *Controller) carryOut(ctx context.Context, set *appsv1.StatefulSet, pods []*corev1.Pod, plan Plan, newest, old *appsv1.ControllerRevision) error {
	// A claim must know that it goes with its pod before the pod goes.
	if err := c.keepClaims(ctx, set, pods); err != nil {
		return err
	}
	var errs []error
	for _, next := range plan.Create {
		rev := old
		if next.updated {
			rev = newest
		}
		errs = append(errs, c.create(ctx, set, next.ordinal, rev))
	}
	for _, d := range plan.Delete {
		if kind := map[string]string{"RecreatingFailedPod": "failed", "RecreatingTerminatedPod": "terminated"}[d.why]; kind != "" {
			if wait := c.pause(set, d.pod.Name); wait > 0 {
				c.loop.AddAfter(set.Namespace+"/"+set.Name, wait)
				continue
			}
			c.events.Eventf(set, corev1.EventTypeWarning, d.why, "StatefulSet %s/%s is recreating %s Pod %s", set.Namespace, set.Name, kind, d.pod.Name)
		}
		err := c.client.CoreV1().Pods(d.pod.Namespace).Delete(ctx, d.pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(d.pod.UID))})
		if apierrors.IsNotFound(err) {
			continue
		}
		if !apierrors.IsConflict(err) { // of a conflict the cache will tell
			c.tell(set, err, "Delete", "delete Pod %s in StatefulSet %s", d.pod.Name, set.Name)
			errs = append(errs, err)
		}
		if err != nil && plan.InOrder {
			break
		}
	}
	return errors.Join(errs...)
}

// pause is how long to wait before the pod of that name is made again: a node that refuses it does so at once, each time.
func (c *Controller) pause(set *appsv1.StatefulSet, pod string) time.Duration {
	id, now := string(set.UID)+"/"+pod, time.Now()
	if c.failed.IsInBackOffSinceUpdate(id, now) {
		return c.failed.Get(id)
	}
	c.failed.GC()
	c.failed.Next(id, now)
	return 0
}

// keepClaims makes the claims that waiting pods lack, and gives all claims the owners that their retention asks for.
func (c *Controller) keepClaims(ctx context.Context, set *appsv1.StatefulSet, pods []*corev1.Pod) error {
	var errs []error
	for _, pod := range pods {
		for i := range set.Spec.VolumeClaimTemplates {
			template := &set.Spec.VolumeClaimTemplates[i]
			claim, err := c.claims.PersistentVolumeClaims(set.Namespace).Get(claimName(template.Name, pod.Name))
			if apierrors.IsNotFound(err) {
				if pod.Status.Phase == corev1.PodPending && pod.DeletionTimestamp == nil {
					errs = append(errs, c.ensureClaim(ctx, set, template, pod.Name))
				}
				continue
			}
			if err != nil || claim.DeletionTimestamp != nil {
				continue
			}
			owners, changed := ownersOf(set, claim, pod)
			if !changed {
				continue
			}
			claim = claim.DeepCopy()
			claim.OwnerReferences = owners
			if _, err := c.client.CoreV1().PersistentVolumeClaims(set.Namespace).Update(ctx, claim, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("set owners of claim %s: %w", claim.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// tell records an event about a pod, in upstream's words.
func (c *Controller) tell(set *appsv1.StatefulSet, err error, verb, format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if err != nil {
		c.events.Eventf(set, corev1.EventTypeWarning, "Failed"+verb, "%s failed error: %v", what, err)
		return
	}
	c.events.Eventf(set, corev1.EventTypeNormal, "Successful"+verb, "%s successful", what)
}

func (c *Controller) create(ctx context.Context, set *appsv1.StatefulSet, n int, rev *appsv1.ControllerRevision) error {
	template, err := history.Decode(rev)
	if err != nil {
		return err
	}
	pod := podOf(set, template, n, rev.Name)
	for i := range set.Spec.VolumeClaimTemplates {
		err := c.ensureClaim(ctx, set, &set.Spec.VolumeClaimTemplates[i], pod.Name)
		if errors.Is(err, errClaimGoes) {
			c.loop.AddAfter(set.Namespace+"/"+set.Name, claimPause)
			return nil
		}
		if err != nil {
			return err
		}
	}
	_, err = c.client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // the cache had not seen it
	}
	c.tell(set, err, "Create", "create Pod %s in StatefulSet %s", pod.Name, set.Name)
	return err
}

func (c *Controller) ensureClaim(ctx context.Context, set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, pod string) error {
	name := claimName(template.Name, pod)
	if there, err := c.claims.PersistentVolumeClaims(set.Namespace).Get(name); err == nil || !apierrors.IsNotFound(err) {
		if err == nil && stale(there, pod) {
			return errClaimGoes
		}
		return err
	}
	claim := template.DeepCopy()
	claim.ObjectMeta = metav1.ObjectMeta{Namespace: set.Namespace, Name: name, Labels: maps.Clone(template.Labels), Annotations: template.Annotations}
	if claim.Labels == nil {
		claim.Labels = map[string]string{}
	}
	maps.Copy(claim.Labels, set.Spec.Selector.MatchLabels)
	if p := set.Spec.PersistentVolumeClaimRetentionPolicy; p != nil && p.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		claim.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))}
	}
	_, err := c.client.CoreV1().PersistentVolumeClaims(set.Namespace).Create(ctx, claim, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if what := fmt.Sprintf("create Claim %s Pod %s in StatefulSet %s", name, pod, set.Name); err != nil {
		c.events.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "%s failed error: %v", what, err)
	} else { // upstream's word is another one for claims
		c.events.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "%s success", what)
	}
	return err
}

// podOf returns set's n-th pod, of that revision.
func podOf(set *appsv1.StatefulSet, template *corev1.PodTemplateSpec, n int, revision string) *corev1.Pod {
	pod := podset.FromTemplate(template, set, metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("StatefulSet")))
	pod.GenerateName, pod.Name = "", fmt.Sprintf("%s-%d", set.Name, n)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(n)
	pod.Labels[appsv1.ControllerRevisionHashLabelKey] = revision
	pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, set.Spec.ServiceName
	for _, t := range set.Spec.VolumeClaimTemplates {
		volume := corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(t.Name, pod.Name)},
		}}
		replaced := false
		for i := range pod.Spec.Volumes {
			if pod.Spec.Volumes[i].Name == t.Name {
				pod.Spec.Volumes[i], replaced = volume, true
			}
		}
		if !replaced {
			pod.Spec.Volumes = append(pod.Spec.Volumes, volume)
		}
	}
	return pod
}

func (c *Controller) writeStatus(ctx context.Context, set *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error {
	if equality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	changed := set.DeepCopy()
	changed.Status = status
	_, err := c.client.AppsV1().StatefulSets(set.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}
