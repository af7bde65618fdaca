package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/klog/v2"
	netutils "k8s.io/utils/net"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// managedBy is upstream's value, so that tools that know IPAddress objects know ours.
const managedBy = "ipallocator.k8s.io"

var (
	errTaken    = errors.New("provided IP is already allocated")
	errFull     = errors.New("range is full")
	errOutside  = errors.New("the provided network does not match the current range")
	errNotReady = errors.New("allocator not ready")
)

// parseIP reads an address as old clients write it, with leading zeros, too.
func parseIP(text string) (netip.Addr, error) {
	parsed := netutils.ParseIPSloppy(text)
	ip, ok := netip.AddrFromSlice(parsed)
	if !ok {
		return ip, fmt.Errorf("%q is not an IP address", text)
	}
	return ip.Unmap(), nil
}

// addresses hands out the addresses of all ServiceCIDR objects that are ready. It keeps nothing itself: which addresses
// there are say the ServiceCIDRs, which are taken say the IPAddress objects, and creating one is taking it.
type addresses struct {
	claims *store.Storage // IPAddress objects
	cidrs  *store.Storage // ServiceCIDR objects
}

// Versions of the list of ServiceCIDRs: what the cache has does nearly always, and costs no wait for etcd.
const cached, newest = "0", ""

// blocks lists the ranges of a family that addresses may be taken from, the cluster's own first.
func (a *addresses) blocks(ctx context.Context, family corev1.IPFamily, version string) ([]block, error) {
	obj, err := a.cidrs.List(ctx, &internalversion.ListOptions{ResourceVersion: version})
	if err != nil {
		return nil, fmt.Errorf("list service CIDRs: %w", err)
	}
	out := usableBlocks(obj.(*networkingv1.ServiceCIDRList).Items, family)
	if len(out) == 0 {
		return nil, errNotReady
	}
	return out, nil
}

// usableBlocks picks the ranges of a family out of ServiceCIDRs that are ready: nobody has said yet that a new one is
// not, which must do where no controller runs.
func usableBlocks(cidrs []networkingv1.ServiceCIDR, family corev1.IPFamily) []block {
	slices.SortStableFunc(cidrs, func(x, y networkingv1.ServiceCIDR) int {
		return x.CreationTimestamp.Compare(y.CreationTimestamp.Time)
	})
	var out []block
	for i := range cidrs {
		c := &cidrs[i]
		if c.DeletionTimestamp != nil || apimeta.IsStatusConditionFalse(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
			continue
		}
		for _, text := range c.Spec.CIDRs {
			p, err := netip.ParsePrefix(text)
			if err == nil && familyOf(p.Addr()) == family {
				out = append(out, block{p.Masked()})
			}
		}
	}
	return out
}

// next takes any free address of a family. Random choices come first, because several API servers choose at once and
// ranges are mostly empty; a look at all that is taken comes when they fail.
func (a *addresses) next(ctx context.Context, svc *corev1.Service, family corev1.IPFamily, dry bool) (netip.Addr, error) {
	blocks, err := a.blocks(ctx, family, cached)
	if err == nil {
		var ip netip.Addr
		if ip, err = a.nextOf(ctx, blocks, svc, dry); err == nil {
			return ip, nil
		}
	}
	if !errors.Is(err, errNotReady) && !errors.Is(err, errFull) {
		return netip.Addr{}, err
	}
	fresh, again := a.blocks(ctx, family, newest)
	if again != nil || slices.Equal(fresh, blocks) {
		return netip.Addr{}, cmp.Or(again, err)
	}
	return a.nextOf(ctx, fresh, svc, dry)
}

func (a *addresses) nextOf(ctx context.Context, blocks []block, svc *corev1.Service, dry bool) (netip.Addr, error) {
	for _, b := range blocks {
		if b.count() == 0 {
			continue
		}
		for range 8 {
			ip := b.random(rand.Uint64N)
			if err := a.claim(ctx, ip, svc, dry); !errors.Is(err, errTaken) {
				return ip, err
			}
		}
		taken, err := a.taken(ctx)
		if err != nil {
			return netip.Addr{}, err
		}
		for ip := range b.all(rand.Uint64N) {
			if taken[ip.String()] {
				continue
			}
			if err := a.claim(ctx, ip, svc, dry); !errors.Is(err, errTaken) {
				return ip, err
			}
		}
	}
	return netip.Addr{}, errFull
}

// take claims an address that svc names, or returns errTaken, or errOutside where no ready range has it.
func (a *addresses) take(ctx context.Context, ip netip.Addr, svc *corev1.Service, dry bool) error {
	for _, version := range []string{cached, newest} {
		blocks, err := a.blocks(ctx, familyOf(ip), version)
		switch {
		case errors.Is(err, errNotReady) && version == cached:
		case err != nil:
			return err
		case slices.ContainsFunc(blocks, func(b block) bool { return b.usable(ip) }):
			return a.claim(ctx, ip, svc, dry)
		}
	}
	return errOutside
}

// claim creates the object that says that svc has ip. A dry run only looks whether it is there.
func (a *addresses) claim(ctx context.Context, ip netip.Addr, svc *corev1.Service, dry bool) error {
	if dry {
		_, err := a.claims.Get(ctx, ip.String(), &metav1.GetOptions{})
		switch {
		case err == nil:
			return errTaken
		case apierrors.IsNotFound(err):
			return nil
		}
		return err
	}
	err := a.create(ctx, claimOf(ip, svc.Namespace, svc.Name))
	if apierrors.IsAlreadyExists(err) {
		return errTaken
	}
	return err
}

func (a *addresses) create(ctx context.Context, c *networkingv1.IPAddress) error {
	// The request's namespace is that of the Service; claims have none, which must be said.
	_, err := a.claims.Create(request.WithNamespace(ctx, metav1.NamespaceNone), c, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	return err
}

func claimOf(ip netip.Addr, namespace, name string) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip.String(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(familyOf(ip)), networkingv1.LabelManagedBy: managedBy,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: namespace, Name: name}},
	}
}

// ours says whether the allocator of Services made a claim: others may have claims of their own.
func ours(c *networkingv1.IPAddress) bool {
	return strings.HasPrefix(c.Labels[networkingv1.LabelManagedBy], managedBy)
}

// of says whether a claim is that of a Service.
func of(c *networkingv1.IPAddress, namespace, name string) bool {
	ref := c.Spec.ParentRef
	return ref != nil && ref.Group == "" && ref.Resource == "services" && ref.Namespace == namespace && ref.Name == name
}

// release gives back what the Service has. A claim that became another's meanwhile is left alone; what fails here is
// mended by Repair.
func (a *addresses) release(ctx context.Context, ip, namespace, name string) {
	log := klog.FromContext(ctx)
	obj, err := a.claims.Get(ctx, ip, &metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return
	}
	if err != nil {
		log.Error(err, "release cluster IP", "ip", ip)
		return
	}
	c := obj.(*networkingv1.IPAddress)
	if !ours(c) || !of(c, namespace, name) {
		return
	}
	if err := a.drop(ctx, c); err != nil {
		log.Error(err, "release cluster IP", "ip", ip)
	}
}

// drop deletes a claim, if it is still the same one.
func (a *addresses) drop(ctx context.Context, c *networkingv1.IPAddress) error {
	uid := c.UID
	_, _, err := a.claims.Delete(ctx, c.Name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (a *addresses) list(ctx context.Context) ([]networkingv1.IPAddress, error) {
	obj, err := a.claims.List(ctx, &internalversion.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list claims of cluster IPs: %w", err)
	}
	return obj.(*networkingv1.IPAddressList).Items, nil
}

func (a *addresses) taken(ctx context.Context) (map[string]bool, error) {
	claims, err := a.list(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for i := range claims {
		out[claims[i].Name] = true
	}
	return out, nil
}
