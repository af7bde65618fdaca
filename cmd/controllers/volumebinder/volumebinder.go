// Package volumebinder binds PersistentVolumeClaims to PersistentVolumes, and reclaims volumes whose claim is gone.
//
// It changes API objects only: a volume of the policy Delete is deleted as an object, and what is behind it is its
// provisioner's to remove. A claim of a class that waits for its first consumer is bound once something has annotated
// it with a node, or to a volume that is reserved for it.
package volumebinder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Controller syncs all claims and volumes.
type Controller struct {
	client  kubernetes.Interface
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	events  record.EventRecorder
	// recyclers empty volumes, and failed is when each may be tried again, by UID.
	recyclers Recyclers
	failed    *flowcontrol.Backoff
	byClaim   *loop.Loop
	byName    *loop.Loop
	synced    []cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, recyclers Recyclers, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	claims, volumes := shared.Core().V1().PersistentVolumeClaims(), shared.Core().V1().PersistentVolumes()
	classes := shared.Storage().V1().StorageClasses()
	if err := recyclers.Validate(); err != nil {
		return nil, err
	}
	c := &Controller{client: client, recyclers: recyclers, failed: flowcontrol.NewBackOff(10*time.Second, 10*time.Minute), claims: claims.Lister(), volumes: volumes.Lister(), classes: classes.Lister(), events: events,
		synced: []cache.InformerSynced{claims.Informer().HasSynced, volumes.Informer().HasSynced, classes.Informer().HasSynced}}
	c.byClaim, c.byName = loop.New("persistentvolumeclaim", c.syncClaim, log), loop.New("persistentvolume", c.syncVolume, log)
	_, err1 := claims.Informer().AddEventHandler(loop.On(func(claim *corev1.PersistentVolumeClaim) {
		c.byClaim.AddObject(claim)
		if claim.Spec.VolumeName != "" {
			c.byName.Add(claim.Spec.VolumeName)
		}
	}))
	_, err2 := volumes.Informer().AddEventHandler(loop.On(func(v *corev1.PersistentVolume) {
		c.byName.AddObject(v)
		if ref := v.Spec.ClaimRef; ref != nil {
			c.byClaim.Add(ref.Namespace + "/" + ref.Name)
			return
		}
		c.wakeWaiting()
	}))
	_, err3 := classes.Informer().AddEventHandler(loop.On(func(*storagev1.StorageClass) { c.wakeWaiting() }))
	return c, errors.Join(err1, err2, err3)
}

// Run works until ctx ends. Claims are taken one by one, so that two do not run for the same volume.
func (c *Controller) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- c.byName.Run(ctx, 1, c.synced...) }()
	err := c.byClaim.Run(ctx, 1, c.synced...)
	return errors.Join(err, <-ended)
}

// wakeWaiting looks again at all claims that are not bound.
func (c *Controller) wakeWaiting() {
	all, err := c.claims.List(labels.Everything())
	if err != nil {
		return
	}
	for _, claim := range all {
		if claim.Annotations[bindCompleted] == "" {
			c.byClaim.AddObject(claim)
		}
	}
}

func (c *Controller) syncClaim(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	volumes, err := c.volumes.List(labels.Everything())
	if err != nil {
		return err
	}
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	gone := apierrors.IsNotFound(err)
	if err != nil && !gone {
		return err
	}
	for _, v := range volumes { // one that was kept for the claim may not be named by it yet; another claim may have the name by now
		if ref := v.Spec.ClaimRef; ref != nil && ref.Namespace == namespace && ref.Name == name && (gone || ref.UID != "" && ref.UID != claim.UID) {
			c.byName.Add(v.Name)
		}
	}
	if gone {
		return nil
	}
	if unclassed(claim) {
		all, err := c.classes.List(labels.Everything())
		if err != nil {
			return err
		}
		if class := defaultClass(all); class != nil {
			claim = claim.DeepCopy()
			claim.Spec.StorageClassName = &class.Name
			if _, err := c.client.CoreV1().PersistentVolumeClaims(namespace).Update(ctx, claim, metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("give claim the default class: %w", err)
			}
			return nil // its change brings it here again
		}
	}
	class, err := c.classes.Get(className(claim))
	if apierrors.IsNotFound(err) {
		class = nil
	} else if err != nil {
		return err
	}
	return c.carryOut(ctx, claim, DecideClaim(claim, volumes, class))
}

func (c *Controller) syncVolume(ctx context.Context, name string) error {
	v, err := c.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		return c.volumeGone(name)
	} else if err != nil {
		return err
	}
	var claim *corev1.PersistentVolumeClaim
	if ref := v.Spec.ClaimRef; ref != nil {
		claim, err = c.claims.PersistentVolumeClaims(ref.Namespace).Get(ref.Name)
		if apierrors.IsNotFound(err) || err == nil && (ref.UID != "" && claim.UID != ref.UID || claim.Spec.VolumeName != v.Name) {
			// The cache may be behind, and what follows may cost data: ask.
			claim, err = c.client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		}
		if apierrors.IsNotFound(err) {
			claim = nil
		} else if err != nil {
			return fmt.Errorf("read claim of volume: %w", err)
		}
	}
	plan := DecideVolume(v, claim)
	if err := c.carryOut(ctx, v, plan); err != nil {
		return err
	}
	switch {
	case plan.Recycle:
		return c.recycle(ctx, v)
	case !plan.Delete:
		return nil
	}
	err = c.client.CoreV1().PersistentVolumes().Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(v.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		c.events.Eventf(v, corev1.EventTypeWarning, "VolumeFailedDelete", "%v", err)
		return fmt.Errorf("delete released volume: %w", err)
	}
	return nil
}

// volumeGone looks at the claims that were bound to a volume that is no more.
func (c *Controller) volumeGone(name string) error {
	all, err := c.claims.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, claim := range all {
		if claim.Spec.VolumeName == name {
			c.byClaim.AddObject(claim)
		}
	}
	return nil
}

// carryOut writes what plan says; about is what its events are told of. Each object may be written twice, its status
// after its spec, so the second takes the version that the first one got.
func (c *Controller) carryOut(ctx context.Context, about runtime.Object, plan Plan) error {
	for _, e := range plan.Events {
		c.events.Event(about, e.kind, e.reason, e.message)
	}
	volumes := c.client.CoreV1().PersistentVolumes()
	if v := plan.Volume; v != nil {
		written, err := volumes.Update(ctx, v, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("bind volume %s: %w", v.Name, err)
		}
		if s := plan.VolumeStatus; s != nil {
			written.Status = s.Status
			plan.VolumeStatus = written
		}
	}
	if v := plan.VolumeStatus; v != nil {
		if _, err := volumes.UpdateStatus(ctx, v, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("write status of volume %s: %w", v.Name, err)
		}
	}
	if claim := plan.Claim; claim != nil {
		written, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("bind claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
		if s := plan.ClaimStatus; s != nil {
			written.Status = s.Status
			plan.ClaimStatus = written
		}
	}
	if claim := plan.ClaimStatus; claim != nil {
		if _, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("write status of claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
	}
	return nil
}
