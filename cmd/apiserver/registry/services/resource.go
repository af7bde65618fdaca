package services

import (
	"context"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

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
