// Package slicemirror copies Endpoints that people write by hand, for Services without
// a selector, into EndpointSlices, which is all that proxies and DNS read.
package slicemirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// managedBy marks the slices that are ours.
const managedBy = "endpointslicemirroring-controller.k8s.io"

// Controller syncs all Endpoints.
type Controller struct {
	client    kubernetes.Interface
	endpoints corelisters.EndpointsLister
	services  corelisters.ServiceLister
	slices    discoverylisters.EndpointSliceLister
	loop      *loop.Loop
	synced    []cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger) (*Controller, error) {
	endpoints, services, slices := shared.Core().V1().Endpoints(), shared.Core().V1().Services(), shared.Discovery().V1().EndpointSlices()
	c := &Controller{
		client: client, endpoints: endpoints.Lister(), services: services.Lister(), slices: slices.Lister(),
		synced: []cache.InformerSynced{endpoints.Informer().HasSynced, services.Informer().HasSynced, slices.Informer().HasSynced},
	}
	c.loop = loop.New("endpointslicemirroring", c.sync, log)
	_, err1 := endpoints.Informer().AddEventHandler(c.loop.Handler())
	_, err2 := services.Informer().AddEventHandler(c.loop.Handler())
	_, err3 := slices.Informer().AddEventHandler(loop.On(func(s *discoveryv1.EndpointSlice) {
		if s.Labels[discoveryv1.LabelManagedBy] == managedBy {
			c.loop.Add(s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName])
		}
	}))
	return c, errors.Join(err1, err2, err3)
}

// Run syncs until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 2, c.synced...) }

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	wanted := map[string]*discoveryv1.EndpointSlice{}
	endpoints, err := c.endpoints.Endpoints(namespace).Get(name)
	if err == nil {
		svc, svcErr := c.services.Services(namespace).Get(name)
		if svcErr == nil && Mirrored(svc, endpoints) {
			wanted = Slices(endpoints)
		}
	} else if !apierrors.IsNotFound(err) {
		return err
	}
	have, err := c.slices.EndpointSlices(namespace).List(labels.Set{
		discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: managedBy,
	}.AsSelectorPreValidated())
	if err != nil {
		return err
	}
	return c.apply(ctx, namespace, wanted, have)
}

// apply writes first and deletes last, so that no endpoint is missing in between.
func (c *Controller) apply(ctx context.Context, namespace string, wanted map[string]*discoveryv1.EndpointSlice, have []*discoveryv1.EndpointSlice) error {
	client := c.client.DiscoveryV1().EndpointSlices(namespace)
	there := map[string]*discoveryv1.EndpointSlice{}
	for _, s := range have {
		there[s.Name] = s
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		var err error
		switch want, old := wanted[name], there[name]; {
		case old == nil:
			_, err = client.Create(ctx, want, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				err = nil
			}
		case !equality.Semantic.DeepEqual(old.Endpoints, want.Endpoints) || !equality.Semantic.DeepEqual(old.Ports, want.Ports) ||
			!maps.Equal(old.Labels, want.Labels) || !maps.Equal(old.Annotations, want.Annotations):
			changed := old.DeepCopy()
			changed.Endpoints, changed.Ports, changed.Labels, changed.Annotations = want.Endpoints, want.Ports, want.Labels, want.Annotations
			_, err = client.Update(ctx, changed, metav1.UpdateOptions{})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("write EndpointSlice %s: %w", name, err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(there)) {
		if wanted[name] != nil {
			continue
		}
		if err := client.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete EndpointSlice %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
