// Package ephemeralvolume makes the claims that pods' ephemeral volumes describe.
//
// A claim is owned by its pod, with which the garbage collector deletes it. A claim of that name that belongs to
// somebody else is left alone, and an event on the pod says so.
package ephemeralvolume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Controller watches all pods.
type Controller struct {
	client kubernetes.Interface
	pods   corelisters.PodLister
	claims corelisters.PersistentVolumeClaimLister
	events record.EventRecorder
	loop   *loop.Loop
	synced []cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	pods, claims := shared.Core().V1().Pods(), shared.Core().V1().PersistentVolumeClaims()
	c := &Controller{client: client, pods: pods.Lister(), claims: claims.Lister(), events: events,
		synced: []cache.InformerSynced{pods.Informer().HasSynced, claims.Informer().HasSynced}}
	c.loop = loop.New("ephemeral-volume", c.sync, log)
	_, err1 := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) {
		if pod := obj.(*corev1.Pod); len(Claims(pod)) > 0 { // the volumes of a pod never change
			c.loop.AddObject(pod)
		}
	}})
	_, err2 := claims.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if claim, ok := obj.(*corev1.PersistentVolumeClaim); ok {
			if ref := metav1.GetControllerOfNoCopy(claim); ref != nil && ref.Kind == "Pod" {
				c.loop.Add(claim.Namespace + "/" + ref.Name)
			}
		}
	}})
	return c, errors.Join(err1, err2)
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 2, c.synced...) }

// Claims returns the claims that pod's ephemeral volumes want; none for a pod that is being deleted.
func Claims(pod *corev1.Pod) (claims []*corev1.PersistentVolumeClaim) {
	if pod.DeletionTimestamp != nil {
		return nil
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		template := v.Ephemeral.VolumeClaimTemplate.DeepCopy()
		claims = append(claims, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: ephemeral.VolumeClaimName(pod, v), Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		}, Spec: template.Spec})
	}
	return claims
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	var errs []error
	for _, want := range Claims(pod) {
		errs = append(errs, c.ensure(ctx, pod, want))
	}
	return errors.Join(errs...)
}

func (c *Controller) ensure(ctx context.Context, pod *corev1.Pod, want *corev1.PersistentVolumeClaim) error {
	there, err := c.claims.PersistentVolumeClaims(pod.Namespace).Get(want.Name)
	if apierrors.IsNotFound(err) {
		_, err = c.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Create(ctx, want, metav1.CreateOptions{})
		if err != nil {
			c.events.Eventf(pod, corev1.EventTypeWarning, "FailedToCreateClaim", "ephemeral volume: create PVC %s: %v", want.Name, err)
			return fmt.Errorf("create claim %s: %w", want.Name, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if !metav1.IsControlledBy(there, pod) {
		err := fmt.Errorf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", there.Namespace, there.Name, pod.Namespace, pod.Name)
		c.events.Event(pod, corev1.EventTypeWarning, "FailedToCreateClaim", err.Error())
		return err
	}
	return nil
}
