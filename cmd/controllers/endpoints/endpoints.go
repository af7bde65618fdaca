// Package endpoints keeps the Endpoints object of every Service that has a selector:
// the addresses of its ready pods, and of those not ready, by port.
package endpoints

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice/util"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

const (
	managedByLabel = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"
)

// Controller syncs the Endpoints of all Services.
type Controller struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister
	events    record.EventRecorder
	triggers  *util.TriggerTimeTracker
	loop      *loop.Loop
	synced    []cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	services, pods, endpoints := shared.Core().V1().Services(), shared.Core().V1().Pods(), shared.Core().V1().Endpoints()
	c := &Controller{
		client: client, services: services.Lister(), pods: pods.Lister(), endpoints: endpoints.Lister(), events: events, triggers: util.NewTriggerTimeTracker(),
		synced: []cache.InformerSynced{services.Informer().HasSynced, pods.Informer().HasSynced, endpoints.Informer().HasSynced},
	}
	c.loop = loop.New("endpoints", c.sync, log)
	_, err1 := services.Informer().AddEventHandler(c.loop.Handler())
	_, err2 := endpoints.Informer().AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, first bool) {
			if first { // its Service may have gone while nobody watched
				c.loop.AddObject(obj)
			}
		},
		DeleteFunc: c.loop.AddObject,
	})
	_, err3 := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.podChanged(nil, obj) },
		UpdateFunc: c.podChanged,
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			c.podChanged(nil, obj)
		},
	})
	return c, errors.Join(err1, err2, err3)
}

// Run syncs until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 5, c.synced...) }

func (c *Controller) podChanged(old, obj any) {
	keys, err := util.GetServicesToUpdate(c.services, util.GetPodUpdateProjectionKey(old, obj))
	if err != nil {
		return
	}
	for key := range keys {
		c.loop.Add(key)
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	svc, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.triggers.DeleteService(namespace, name)
		return c.remove(ctx, namespace, name)
	} else if err != nil {
		return err
	}
	if len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil // somebody else's
	}
	pods, err := c.pods.Pods(namespace).List(labels.Set(svc.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return err
	}
	return c.write(ctx, svc, Subsets(svc, pods), c.triggers.ComputeEndpointLastChangeTriggerTime(namespace, svc, pods))
}

// remove deletes the Endpoints of a Service that is no more.
func (c *Controller) remove(ctx context.Context, namespace, name string) error {
	if current, err := c.endpoints.Endpoints(namespace).Get(name); err == nil && current.Annotations[resourcelock.LeaderElectionRecordAnnotationKey] != "" {
		return nil // it is no Service's, but somebody's lock
	}
	// The cache may not show yet that there is a Service again, whose endpoints may be made by hand.
	_, err := c.client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		return nil
	} else if !apierrors.IsNotFound(err) {
		return fmt.Errorf("read service: %w", err)
	}
	err = c.client.CoreV1().Endpoints(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete endpoints: %w", err)
	}
	return nil
}

// write makes svc's Endpoints those, for the sake of a change that was made at that time, zero where nobody knows.
func (c *Controller) write(ctx context.Context, svc *corev1.Service, subsets []corev1.EndpointSubset, changed time.Time) error {
	wantLabels := maps.Clone(svc.Labels)
	if wantLabels == nil {
		wantLabels = map[string]string{}
	}
	wantLabels[managedByLabel] = managedBy
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		wantLabels[corev1.IsHeadlessService] = ""
	} else {
		delete(wantLabels, corev1.IsHeadlessService)
	}
	current, err := c.endpoints.Endpoints(svc.Namespace).Get(svc.Name)
	create := apierrors.IsNotFound(err)
	if err != nil && !create {
		return err
	}
	subsets, truncated := Fit(subsets)
	wantOver := ""
	if truncated {
		wantOver = "truncated"
	}
	if !create && equality.Semantic.DeepEqual(current.Subsets, subsets) && maps.Equal(current.Labels, wantLabels) && current.Annotations[corev1.EndpointsOverCapacity] == wantOver {
		return nil
	}
	next := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name}}
	if !create {
		next = current.DeepCopy()
	}
	next.Subsets, next.Labels = subsets, wantLabels
	delete(next.Annotations, corev1.EndpointsOverCapacity)
	delete(next.Annotations, corev1.EndpointsLastChangeTriggerTime)
	if !changed.IsZero() {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, changed.UTC().Format(time.RFC3339Nano))
	}
	if truncated {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.EndpointsOverCapacity, wantOver)
	}
	if create {
		_, err = c.client.CoreV1().Endpoints(svc.Namespace).Create(ctx, next, metav1.CreateOptions{})
	} else {
		_, err = c.client.CoreV1().Endpoints(svc.Namespace).Update(ctx, next, metav1.UpdateOptions{})
	}
	switch {
	case err == nil || apierrors.IsConflict(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
	case create:
		c.events.Eventf(next, corev1.EventTypeWarning, "FailedToCreateEndpoint", "Failed to create endpoint for service %v/%v: %v", svc.Namespace, svc.Name, err)
	default:
		c.events.Eventf(next, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %v/%v: %v", svc.Namespace, svc.Name, err)
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}
