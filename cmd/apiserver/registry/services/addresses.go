package services

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// managedBy is upstream's value, so that tools that know IPAddress objects know ours.
const managedBy = "ipallocator.k8s.io"

// AddressResource describes IPAddress objects: each is the claim of one Service on one cluster IP.
func AddressResource() *store.Resource {
	return &store.Resource{
		GV: networkingv1.SchemeGroupVersion, Kind: "IPAddress", Plural: "ipaddresses", Singular: "ipaddress", Short: []string{"ip"},
		Cluster: true, Generation: true,
		Name: func(name string, _ bool) []string {
			if ip, err := netip.ParseAddr(name); err != nil || ip.String() != name {
				return []string{"must be a valid IP address in canonical form"}
			}
			return nil
		},
		Validate: func(_ context.Context, obj runtime.Object) field.ErrorList {
			ref := obj.(*networkingv1.IPAddress).Spec.ParentRef
			at := field.NewPath("spec", "parentRef")
			switch {
			case ref == nil:
				return field.ErrorList{field.Required(at, "")}
			case ref.Resource == "":
				return field.ErrorList{field.Required(at.Child("resource"), "")}
			case ref.Name == "":
				return field.ErrorList{field.Required(at.Child("name"), "")}
			}
			return nil
		},
	}
}

// addresses hands out the addresses of prefix.
type addresses struct {
	prefix netip.Prefix
	store  *store.Storage
}

// reserved is how many addresses from the first on are left to Services that name theirs: as upstream, a sixteenth,
// at least 16 and at most 256.
func (a *addresses) reserved() uint64 { return min(max(16, a.size()/16), 256, a.size()/2) }

// size is the number of addresses, cut off where more would not help.
func (a *addresses) size() uint64 {
	return uint64(1) << min(a.prefix.Addr().BitLen()-a.prefix.Bits(), 32)
}

// nth is the address at an offset into the range.
func (a *addresses) nth(n uint64) netip.Addr {
	b := new(big.Int).SetBytes(a.prefix.Addr().AsSlice())
	raw := b.Add(b, new(big.Int).SetUint64(n)).FillBytes(make([]byte, a.prefix.Addr().BitLen()/8))
	ip, _ := netip.AddrFromSlice(raw)
	return ip
}

// usable says whether a Service may have the offset: not the network's own address, nor the broadcast address.
func (a *addresses) usable(n uint64) bool {
	return n > 0 && (a.prefix.Addr().Is6() || n < a.size()-1)
}

// next takes any free address. Random choices come first, because several API servers choose at once and the range is
// mostly empty; a full walk from a random place is the fallback.
func (a *addresses) next(ctx context.Context, svc *corev1.Service, dry bool) (string, error) {
	low, size := a.reserved(), a.size()
	try := func(n uint64) (string, bool, error) {
		if !a.usable(n) {
			return "", false, nil
		}
		ip := a.nth(n).String()
		err := a.take(ctx, ip, svc, dry)
		if errors.Is(err, errTaken) {
			return "", false, nil
		}
		return ip, err == nil, err
	}
	for range 16 {
		if ip, ok, err := try(low + rand.Uint64N(size-low)); ok || err != nil {
			return ip, err
		}
	}
	start := rand.Uint64N(size)
	for i := range min(size, 1<<16) {
		if ip, ok, err := try((start + i) % size); ok || err != nil {
			return ip, err
		}
	}
	return "", errors.New("range is full")
}

var errTaken = errors.New("provided IP is already allocated")

// take claims ip for svc, or returns errTaken.
func (a *addresses) take(ctx context.Context, ip string, svc *corev1.Service, dry bool) error {
	parsed, err := netip.ParseAddr(ip)
	if err != nil {
		return fmt.Errorf("%q is not an IP address", ip)
	}
	if !a.prefix.Contains(parsed) || parsed == a.prefix.Addr() {
		return fmt.Errorf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", ip, a.prefix)
	}
	if dry {
		if _, err := a.store.Get(ctx, ip, &metav1.GetOptions{}); err == nil {
			return errTaken
		} else if !apierrors.IsNotFound(err) {
			return err
		}
		return nil
	}
	_, err = a.store.Create(ctx, claim(parsed, svc.Namespace, svc.Name), rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return errTaken
	}
	return err
}

func claim(ip netip.Addr, namespace, name string) *networkingv1.IPAddress {
	family := corev1.IPv4Protocol
	if ip.Is6() {
		family = corev1.IPv6Protocol
	}
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip.String(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(family), networkingv1.LabelManagedBy: managedBy,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: namespace, Name: name}},
	}
}

// release gives ip back. What fails here is mended by Repair.
func (a *addresses) release(ctx context.Context, ip string) {
	_, _, err := a.store.Delete(ctx, ip, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		klog.FromContext(ctx).Error(err, "release cluster IP", "ip", ip)
	}
}

// list returns all claims that this allocator made.
func (a *addresses) list(ctx context.Context) ([]networkingv1.IPAddress, error) {
	obj, err := a.store.List(ctx, &internalversion.ListOptions{})
	if err != nil {
		return nil, err
	}
	var out []networkingv1.IPAddress
	for _, ip := range obj.(*networkingv1.IPAddressList).Items {
		if strings.HasPrefix(ip.Labels[networkingv1.LabelManagedBy], managedBy) {
			out = append(out, ip)
		}
	}
	return out, nil
}
