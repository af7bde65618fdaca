// Package servicecidr keeps ServiceCIDRs from going while Services have addresses of them, and says which are ready.
//
// It gives out no address: the API server does, from ServiceCIDRs that are not going and that nobody marked as not ready.
package servicecidr

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Controller syncs all ServiceCIDRs.
type Controller struct {
	client    kubernetes.Interface
	cidrs     networkinglisters.ServiceCIDRLister
	addresses networkinglisters.IPAddressLister
	loop      *loop.Loop
	synced    []cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger) (*Controller, error) {
	cidrs, addresses := shared.Networking().V1().ServiceCIDRs(), shared.Networking().V1().IPAddresses()
	c := &Controller{client: client, cidrs: cidrs.Lister(), addresses: addresses.Lister(),
		synced: []cache.InformerSynced{cidrs.Informer().HasSynced, addresses.Informer().HasSynced}}
	c.loop = loop.New("servicecidr", c.sync, log)
	// Whether one may go depends on the others, too.
	if _, err := cidrs.Informer().AddEventHandler(loop.On(func(*networkingv1.ServiceCIDR) { c.addAll(false) })); err != nil {
		return nil, fmt.Errorf("follow ServiceCIDRs: %w", err)
	}
	// New addresses come only from ServiceCIDRs that stay: those that go are waited for.
	_, err := addresses.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(any) { c.addAll(true) }})
	if err != nil {
		return nil, fmt.Errorf("follow IPAddresses: %w", err)
	}
	return c, nil
}

// Run syncs until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 1, c.synced...) }

func (c *Controller) addAll(onlyGoing bool) {
	list, err := c.cidrs.List(labels.Everything())
	if err != nil {
		return // a cache cannot fail to list
	}
	for _, cidr := range list {
		if !onlyGoing || cidr.DeletionTimestamp != nil {
			c.loop.AddObject(cidr)
		}
	}
}

func (c *Controller) sync(ctx context.Context, name string) error {
	cidr, err := c.cidrs.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := c.cidrs.List(labels.Everything())
	if err != nil {
		return err
	}
	var taken []netip.Addr
	if cidr.DeletionTimestamp != nil {
		if taken, err = c.taken(ctx, cidr); err != nil {
			return err
		}
	}
	v := decide(cidr, all, taken, time.Now())
	if v.again > 0 {
		c.loop.AddAfter(name, v.again)
	}
	if v.protect != slices.Contains(cidr.Finalizers, finalizer) {
		if cidr, err = c.protect(ctx, cidr, v.protect); err != nil || !v.protect {
			return err
		}
	}
	return c.show(ctx, cidr, v.ready)
}

// taken lists the addresses that are in use; before the last word about a ServiceCIDR it asks the server, because the
// cache may lag behind.
func (c *Controller) taken(ctx context.Context, cidr *networkingv1.ServiceCIDR) ([]netip.Addr, error) {
	var out []netip.Addr
	add := func(name string) {
		if ip, err := netip.ParseAddr(name); err == nil {
			out = append(out, ip)
		}
	}
	if time.Now().After(cidr.DeletionTimestamp.Add(grace)) {
		list, err := c.client.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		for i := range list.Items {
			add(list.Items[i].Name)
		}
		return out, nil
	}
	list, err := c.addresses.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		add(a.Name)
	}
	return out, nil
}

func (c *Controller) protect(ctx context.Context, cidr *networkingv1.ServiceCIDR, on bool) (*networkingv1.ServiceCIDR, error) {
	changed := cidr.DeepCopy()
	if on {
		changed.Finalizers = append(changed.Finalizers, finalizer)
	} else {
		changed.Finalizers = slices.DeleteFunc(changed.Finalizers, func(f string) bool { return f == finalizer })
	}
	changed, err := c.client.NetworkingV1().ServiceCIDRs().Update(ctx, changed, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return cidr, nil
	}
	if err != nil {
		return nil, fmt.Errorf("set finalizer of ServiceCIDR %s: %w", cidr.Name, err)
	}
	return changed, nil
}

// show writes the condition where it differs in more than its words: the API server's own about its ranges may stay.
func (c *Controller) show(ctx context.Context, cidr *networkingv1.ServiceCIDR, ready *metav1.Condition) error {
	if ready == nil {
		return nil
	}
	if have := apimeta.FindStatusCondition(cidr.Status.Conditions, ready.Type); have != nil && have.Status == ready.Status {
		return nil
	}
	changed := cidr.DeepCopy()
	apimeta.SetStatusCondition(&changed.Status.Conditions, *ready)
	_, err := c.client.NetworkingV1().ServiceCIDRs().UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status of ServiceCIDR %s: %w", cidr.Name, err)
	}
	return nil
}
