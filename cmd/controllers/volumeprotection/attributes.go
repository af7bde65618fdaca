package volumeprotection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// OfAttributes is the finalizer of VolumeAttributesClasses.
const OfAttributes = "kubernetes.io/vac-protection"

// Attributes protects VolumeAttributesClasses that claims or volumes name.
type Attributes struct {
	client  kubernetes.Interface
	classes storagelisters.VolumeAttributesClassLister
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	loop    *loop.Loop
	synced  []cache.InformerSynced
}

// NewAttributes returns an Attributes that has done nothing yet.
func NewAttributes(client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger) (*Attributes, error) {
	classes := shared.Storage().V1().VolumeAttributesClasses()
	claims, volumes := shared.Core().V1().PersistentVolumeClaims(), shared.Core().V1().PersistentVolumes()
	a := &Attributes{client: client, classes: classes.Lister(), claims: claims.Lister(), volumes: volumes.Lister(),
		synced: []cache.InformerSynced{classes.Informer().HasSynced, claims.Informer().HasSynced, volumes.Informer().HasSynced}}
	a.loop = loop.New("volumeattributesclass-protection", a.sync, log)
	_, err1 := classes.Informer().AddEventHandler(a.loop.Handler())
	_, err2 := claims.Informer().AddEventHandler(a.released())
	_, err3 := volumes.Informer().AddEventHandler(a.released())
	return a, errors.Join(err1, err2, err3)
}

// released looks at the classes that an object named before it changed or went.
func (a *Attributes) released() cache.ResourceEventHandler {
	look := func(obj any) {
		for _, name := range AttributesOf(obj) {
			a.loop.Add(name)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, _ any) { look(old) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			look(obj)
		},
	}
}

// AttributesOf are the classes that a claim has, wants or is on the way to, or that a volume has, each once.
func AttributesOf(object any) (names []string) {
	var all []*string
	switch o := object.(type) {
	case *corev1.PersistentVolumeClaim:
		all = append(all, o.Spec.VolumeAttributesClassName, o.Status.CurrentVolumeAttributesClassName)
		if m := o.Status.ModifyVolumeStatus; m != nil {
			all = append(all, &m.TargetVolumeAttributesClassName)
		}
	case *corev1.PersistentVolume:
		all = append(all, o.Spec.VolumeAttributesClassName)
	}
	for _, name := range all {
		if name != nil && *name != "" && !slices.Contains(names, *name) {
			names = append(names, *name)
		}
	}
	return names
}

// Run works until ctx ends.
func (a *Attributes) Run(ctx context.Context) error { return a.loop.Run(ctx, 1, a.synced...) }

func (a *Attributes) sync(ctx context.Context, name string) error {
	class, err := a.classes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	used := false
	if class.DeletionTimestamp != nil && slices.Contains(class.Finalizers, OfAttributes) {
		if used, err = a.used(ctx, name); err != nil {
			return err
		}
	}
	finalizers, changed := Decide(class, OfAttributes, used)
	if !changed {
		return nil
	}
	class = class.DeepCopy()
	class.Finalizers = finalizers
	if _, err := a.client.StorageV1().VolumeAttributesClasses().Update(ctx, class, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write finalizers: %w", err)
	}
	return nil
}

// used asks the caches, and then, as they may not have seen the newest claim, the API server.
func (a *Attributes) used(ctx context.Context, class string) (bool, error) {
	claims, err := a.claims.List(labels.Everything())
	if err != nil {
		return false, err
	}
	volumes, err := a.volumes.List(labels.Everything())
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(claims, func(c *corev1.PersistentVolumeClaim) bool { return slices.Contains(AttributesOf(c), class) }) ||
		slices.ContainsFunc(volumes, func(v *corev1.PersistentVolume) bool { return slices.Contains(AttributesOf(v), class) }) {
		return true, nil
	}
	live, err := a.client.CoreV1().PersistentVolumeClaims("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list claims before letting go: %w", err)
	}
	return slices.ContainsFunc(live.Items, func(c corev1.PersistentVolumeClaim) bool { return slices.Contains(AttributesOf(&c), class) }), nil
}
