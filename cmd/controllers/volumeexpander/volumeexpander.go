// Package volumeexpander says of claims that ask for more than their volumes have who is to make them larger.
//
// No kind of volume is enlarged here: for those of CSI drivers there is the driver's own resizer, and the claim's event
// says that it is waited for. Whether a claim may ask for more at all is its class's allowVolumeExpansion, which
// admission enforces.
package volumeexpander

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Controller watches all claims.
type Controller struct {
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	events  record.EventRecorder
	loop    *loop.Loop
	synced  []cache.InformerSynced

	mu   sync.Mutex
	told map[string]telling // by namespace and name
}

// telling is what was told of a claim last: it is told once for each size.
type telling struct {
	uid  types.UID
	size string
}

// New returns a Controller that has done nothing yet.
func New(shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	claims, volumes := shared.Core().V1().PersistentVolumeClaims(), shared.Core().V1().PersistentVolumes()
	c := &Controller{claims: claims.Lister(), volumes: volumes.Lister(), events: events, told: map[string]telling{},
		synced: []cache.InformerSynced{claims.Informer().HasSynced, volumes.Informer().HasSynced}}
	c.loop = loop.New("volume-expand", c.sync, log)
	_, err := claims.Informer().AddEventHandler(c.loop.Handler())
	return c, errors.Join(err)
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 1, c.synced...) }

// Wants tells whether claim, which is bound, asks for more than it has, and for how much.
func Wants(claim *corev1.PersistentVolumeClaim) (size string, more bool) {
	want, have := claim.Spec.Resources.Requests[corev1.ResourceStorage], claim.Status.Capacity[corev1.ResourceStorage]
	return want.String(), claim.DeletionTimestamp == nil && claim.Status.Phase == corev1.ClaimBound && want.Cmp(have) > 0
}

// Verdict is the event for a claim of volume that asks for more.
func Verdict(volume *corev1.PersistentVolume) (kind, message string) {
	kind = corev1.EventTypeWarning // nobody is known who could
	if volume.Spec.CSI != nil {
		kind = corev1.EventTypeNormal
	}
	return kind, "Ignoring the PVC: didn't find a plugin capable of expanding the volume; waiting for an external controller to process this PVC."
}

func (c *Controller) sync(_ context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		delete(c.told, key)
		return nil
	} else if err != nil {
		return err
	}
	size, more := Wants(claim)
	if !more {
		delete(c.told, key)
		return nil
	}
	volume, err := c.volumes.Get(claim.Spec.VolumeName)
	if apierrors.IsNotFound(err) {
		return nil // the claim is lost, which the binder says
	} else if err != nil {
		return err
	}
	if now := (telling{claim.UID, size}); c.told[key] != now {
		kind, message := Verdict(volume)
		c.events.Event(claim, kind, "ExternalExpanding", message)
		c.told[key] = now
	}
	return nil
}
