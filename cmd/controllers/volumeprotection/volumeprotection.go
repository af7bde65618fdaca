// Package volumeprotection keeps claims that pods use, volumes that are bound, and volume attributes classes that either
// names, until they are used no more.
//
// It owns the finalizers kubernetes.io/pvc-protection, pv-protection and vac-protection, which admission puts on new
// objects: it adds them where they are missing and removes them from deleted objects that nobody uses.
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
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// The finalizers.
const (
	OfClaims  = "kubernetes.io/pvc-protection"
	OfVolumes = "kubernetes.io/pv-protection"
)

// Decide says what an object's finalizers must be, and whether they differ from those it has. used tells that somebody
// needs the object.
func Decide(object metav1.Object, finalizer string, used bool) (finalizers []string, changed bool) {
	has := slices.Contains(object.GetFinalizers(), finalizer)
	switch deleted := object.GetDeletionTimestamp() != nil; {
	case deleted && has && !used:
		return slices.DeleteFunc(slices.Clone(object.GetFinalizers()), func(f string) bool { return f == finalizer }), true
	case !deleted && !has:
		return append(slices.Clone(object.GetFinalizers()), finalizer), true
	}
	return object.GetFinalizers(), false
}

// Uses tells whether pod, which must be on a node for it, uses the claim of that name.
func Uses(pod *corev1.Pod, claim string) bool {
	return pod.Spec.NodeName != "" && slices.Contains(claimsOf(pod), claim)
}

func claimsOf(pod *corev1.Pod) (names []string) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, ephemeral.VolumeClaimName(pod, v))
		}
	}
	return names
}

// Claims protects PersistentVolumeClaims.
type Claims struct {
	client kubernetes.Interface
	claims corelisters.PersistentVolumeClaimLister
	pods   corelisters.PodLister
	loop   *loop.Loop
	synced []cache.InformerSynced
}

// NewClaims returns a Claims that has done nothing yet.
func NewClaims(client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger) (*Claims, error) {
	claims, pods := shared.Core().V1().PersistentVolumeClaims(), shared.Core().V1().Pods()
	c := &Claims{client: client, claims: claims.Lister(), pods: pods.Lister(), synced: []cache.InformerSynced{claims.Informer().HasSynced, pods.Informer().HasSynced}}
	c.loop = loop.New("pvc-protection", c.sync, log)
	_, err1 := claims.Informer().AddEventHandler(c.loop.Handler())
	_, err2 := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, obj any) { // one that took the name of another, whose end no watch told of
			if past := old.(*corev1.Pod); past.UID != obj.(*corev1.Pod).UID {
				c.podGone(past)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if pod, ok := obj.(*corev1.Pod); ok {
				c.podGone(pod)
			}
		},
	})
	return c, errors.Join(err1, err2)
}

// podGone looks at the claims of a pod that is no more.
func (c *Claims) podGone(pod *corev1.Pod) {
	for _, name := range claimsOf(pod) {
		c.loop.Add(pod.Namespace + "/" + name)
	}
}

// Run works until ctx ends.
func (c *Claims) Run(ctx context.Context) error { return c.loop.Run(ctx, 1, c.synced...) }

func (c *Claims) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	used := false
	if claim.DeletionTimestamp != nil && slices.Contains(claim.Finalizers, OfClaims) {
		if used, err = c.used(ctx, namespace, name); err != nil {
			return err
		}
	}
	finalizers, changed := Decide(claim, OfClaims, used)
	if !changed {
		return nil
	}
	claim = claim.DeepCopy()
	claim.Finalizers = finalizers
	if _, err := c.client.CoreV1().PersistentVolumeClaims(namespace).Update(ctx, claim, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write finalizers: %w", err)
	}
	return nil
}

// used asks the cache, and then, as it may not have seen the newest pod, the API server.
func (c *Claims) used(ctx context.Context, namespace, name string) (bool, error) {
	cached, err := c.pods.Pods(namespace).List(labels.Everything())
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(cached, func(pod *corev1.Pod) bool { return Uses(pod, name) }) {
		return true, nil
	}
	live, err := c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list pods before letting go: %w", err)
	}
	return slices.ContainsFunc(live.Items, func(pod corev1.Pod) bool { return Uses(&pod, name) }), nil
}

// Volumes protects PersistentVolumes.
type Volumes struct {
	client  kubernetes.Interface
	volumes corelisters.PersistentVolumeLister
	loop    *loop.Loop
	synced  cache.InformerSynced
}

// NewVolumes returns a Volumes that has done nothing yet.
func NewVolumes(client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger) (*Volumes, error) {
	volumes := shared.Core().V1().PersistentVolumes()
	v := &Volumes{client: client, volumes: volumes.Lister(), synced: volumes.Informer().HasSynced}
	v.loop = loop.New("pv-protection", v.sync, log)
	_, err := volumes.Informer().AddEventHandler(v.loop.Handler())
	return v, err
}

// Run works until ctx ends.
func (v *Volumes) Run(ctx context.Context) error { return v.loop.Run(ctx, 1, v.synced) }

func (v *Volumes) sync(ctx context.Context, name string) error {
	volume, err := v.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	finalizers, changed := Decide(volume, OfVolumes, volume.Status.Phase == corev1.VolumeBound)
	if !changed {
		return nil
	}
	volume = volume.DeepCopy()
	volume.Finalizers = finalizers
	if _, err := v.client.CoreV1().PersistentVolumes().Update(ctx, volume, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write finalizers: %w", err)
	}
	return nil
}
