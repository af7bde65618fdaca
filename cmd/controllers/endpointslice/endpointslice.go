// Package endpointslice keeps the EndpointSlices of every Service that has a selector.
//
// What the slices say is decided by k8s.io/endpointslice, as upstream; this package
// finds out when to ask it.
package endpointslice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	upstream "k8s.io/endpointslice"
	"k8s.io/endpointslice/topologycache"
	"k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

const (
	// managedBy marks the slices that are ours.
	managedBy   = "endpointslice-controller.k8s.io"
	maxPerSlice = 100
	// patience is how long the cache may be behind what was written here. A slice that came and went between two watches never
	// shows up in it: after that the API server is asked.
	patience = 10 * time.Second
)

// Controller syncs the slices of all Services.
type Controller struct {
	client     kubernetes.Interface
	services   corelisters.ServiceLister
	pods       corelisters.PodLister
	nodes      corelisters.NodeLister
	slices     discoverylisters.EndpointSliceLister
	events     record.EventRecorder
	tracker    *util.EndpointSliceTracker
	triggers   *util.TriggerTimeTracker
	topology   *topologycache.TopologyCache
	reconciler *upstream.Reconciler
	loop       *loop.Loop
	synced     []cache.InformerSynced

	mu sync.Mutex
	// behind is since when the cache is behind, by Service.
	behind map[string]time.Time
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) (*Controller, error) {
	services, pods := shared.Core().V1().Services(), shared.Core().V1().Pods()
	nodes, slicesInformer := shared.Core().V1().Nodes(), shared.Discovery().V1().EndpointSlices()
	c := &Controller{
		client: client, behind: map[string]time.Time{},
		services: services.Lister(), pods: pods.Lister(), nodes: nodes.Lister(), slices: slicesInformer.Lister(), events: events,
		tracker: util.NewEndpointSliceTracker(), triggers: util.NewTriggerTimeTracker(), topology: topologycache.NewTopologyCache(),
		synced: []cache.InformerSynced{services.Informer().HasSynced, pods.Informer().HasSynced,
			nodes.Informer().HasSynced, slicesInformer.Informer().HasSynced},
	}
	c.reconciler = upstream.NewReconciler(client, c.nodes, maxPerSlice, c.tracker, c.topology, events, managedBy,
		upstream.WithPreferSameTrafficDistributionEnabled(true))
	c.loop = loop.New("endpointslice", c.sync, log)
	_, err1 := services.Informer().AddEventHandler(c.loop.Handler())
	_, err2 := slicesInformer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.sliceSeen(obj.(*discoveryv1.EndpointSlice)) },
		UpdateFunc: func(old, obj any) { c.sliceChanged(old.(*discoveryv1.EndpointSlice), obj.(*discoveryv1.EndpointSlice)) },
		DeleteFunc: c.sliceGone,
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
	_, err4 := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { c.nodesChanged() },
		UpdateFunc: func(old, obj any) { c.nodeChanged(old.(*corev1.Node), obj.(*corev1.Node)) },
		DeleteFunc: func(any) { c.nodesChanged() },
	})
	return c, errors.Join(err1, err2, err3, err4)
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

func (c *Controller) sliceSeen(slice *discoveryv1.EndpointSlice) {
	if slice.Labels[discoveryv1.LabelManagedBy] == managedBy && c.tracker.ShouldSync(slice) {
		c.addService(slice)
	}
}

// sliceChanged takes in a slice that changed. One that was taken from us, or from its Service, leaves a gap there.
func (c *Controller) sliceChanged(old, slice *discoveryv1.EndpointSlice) {
	for _, label := range []string{discoveryv1.LabelManagedBy, discoveryv1.LabelServiceName} {
		if old.Labels[label] != slice.Labels[label] && old.Labels[discoveryv1.LabelManagedBy] == managedBy {
			c.tracker.HandleDeletion(old)
			c.addService(old)
		}
	}
	c.sliceSeen(slice)
}

func (c *Controller) sliceGone(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelManagedBy] != managedBy {
		return
	}
	// What an earlier life of this program made is not in the tracker.
	if known := c.tracker.Has(slice); !c.tracker.HandleDeletion(slice) || !known {
		c.addService(slice)
	}
}

func (c *Controller) addService(slice *discoveryv1.EndpointSlice) {
	if key, err := upstream.ServiceControllerKey(slice); err == nil {
		c.loop.Add(key)
	}
}

func (c *Controller) nodeChanged(old, node *corev1.Node) {
	zone := func(n *corev1.Node) string { return n.Labels[corev1.LabelTopologyZone] }
	ready := func(n *corev1.Node) bool {
		return slices.ContainsFunc(n.Status.Conditions, func(cond corev1.NodeCondition) bool {
			return cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue
		})
	}
	if zone(old) != zone(node) || ready(old) != ready(node) {
		c.nodesChanged()
	}
}

func (c *Controller) nodesChanged() {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	c.topology.SetNodes(klog.Background(), nodes)
	for _, key := range c.topology.GetOverloadedServices() {
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
		// The garbage collector deletes the slices, which the Service owns.
		c.triggers.DeleteService(namespace, name)
		c.tracker.DeleteService(namespace, name)
		c.reconciler.DeleteService(namespace, name)
		c.late(key, false)
		return nil
	} else if err != nil {
		return err
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.Selector == nil {
		return nil // somebody else's
	}
	ours, err := c.ours(ctx, svc)
	if err != nil {
		return err
	}
	pods, err := c.pods.Pods(namespace).List(labels.Set(svc.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return err
	}
	triggered := c.triggers.ComputeEndpointLastChangeTriggerTime(namespace, svc, pods)
	err = c.reconciler.Reconcile(klog.Background(), svc, pods, ours, triggered)
	if err != nil {
		c.events.Eventf(svc, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s/%s: %v", namespace, name, err)
	}
	return err
}

// ours are the slices of svc that this controller made and that stay. It is an error when nobody can tell.
func (c *Controller) ours(ctx context.Context, svc *corev1.Service) ([]*discoveryv1.EndpointSlice, error) {
	selector := labels.Set{discoveryv1.LabelServiceName: svc.Name, discoveryv1.LabelManagedBy: managedBy}.AsSelectorPreValidated()
	shown, err := c.slices.EndpointSlices(svc.Namespace).List(selector)
	if err != nil {
		return nil, err
	}
	shown = c.staying(shown)
	stale := c.tracker.StaleSlices(svc, shown)
	late := c.late(svc.Namespace+"/"+svc.Name, stale)
	switch {
	case !stale:
		return shown, nil
	case !late:
		return nil, fmt.Errorf("cache of EndpointSlices is behind: %w", apierrors.NewConflict(discoveryv1.Resource("endpointslices"), svc.Name, nil))
	}
	list, err := c.client.DiscoveryV1().EndpointSlices(svc.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, fmt.Errorf("list EndpointSlices: %w", err)
	}
	c.tracker.DeleteService(svc.Namespace, svc.Name)
	live := make([]*discoveryv1.EndpointSlice, 0, len(list.Items))
	for i := range list.Items {
		live = append(live, &list.Items[i])
	}
	return c.staying(live), nil
}

// staying leaves out what is being deleted.
func (c *Controller) staying(all []*discoveryv1.EndpointSlice) []*discoveryv1.EndpointSlice {
	return slices.DeleteFunc(all, func(s *discoveryv1.EndpointSlice) bool {
		if s.DeletionTimestamp == nil {
			return false
		}
		c.tracker.ExpectDeletion(s) // a finalizer may keep it for long
		return true
	})
}

// late tells whether the cache has been behind for too long for a Service.
func (c *Controller) late(key string, behind bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	since, was := c.behind[key]
	switch {
	case behind && !was:
		c.behind[key] = time.Now()
		return false
	case behind && time.Since(since) < patience:
		return false
	}
	delete(c.behind, key)
	return behind
}
