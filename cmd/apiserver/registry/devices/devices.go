// Package devices describes the resources of resource.k8s.io: device classes, slices, claims, their templates and taint
// rules. It owns the rules that depend on more than the object; the others are in package validation.
package devices

import (
	"context"
	"fmt"
	"slices"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// Labels reads the labels of a namespace.
type Labels func(ctx context.Context, namespace string) (map[string]string, error)

// Resources describes the resources of the group. namespaces says which namespaces may ask for admin access, authz who may
// write which part of a claim's status.
func Resources(namespaces Labels, authz authorizer.Authorizer) []*store.Resource {
	gv := resourcev1.SchemeGroupVersion
	return []*store.Resource{
		{GV: gv, Kind: "DeviceClass", Plural: "deviceclasses", Singular: "deviceclass", Cluster: true, Generation: true},
		{GV: gv, Kind: "DeviceTaintRule", Plural: "devicetaintrules", Singular: "devicetaintrule", Cluster: true, Generation: true,
			PrepareCreate: func(_ context.Context, obj runtime.Object) { stampTaint(&obj.(*resourcev1.DeviceTaintRule).Spec.Taint) },
			PrepareUpdate: func(_ context.Context, obj, old runtime.Object) {
				restampTaint(&obj.(*resourcev1.DeviceTaintRule).Spec.Taint, &old.(*resourcev1.DeviceTaintRule).Spec.Taint)
			}},
		{GV: gv, Kind: "ResourceClaim", Plural: "resourceclaims", Singular: "resourceclaim",
			PrepareCreate: func(_ context.Context, obj runtime.Object) {
				dropDerivedAttributes(&obj.(*resourcev1.ResourceClaim).Spec)
			},
			PrepareStatus: func(_ context.Context, obj, old runtime.Object) {
				dropGone(&obj.(*resourcev1.ResourceClaim).Status, &old.(*resourcev1.ResourceClaim).Status)
			},
			Validate: func(ctx context.Context, obj runtime.Object) field.ErrorList {
				spec := &obj.(*resourcev1.ResourceClaim).Spec
				return adminAccess(ctx, namespaces, spec, field.NewPath("spec"))
			},
			ValidateStatus: func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
				return statusRights(ctx, authz, obj.(*resourcev1.ResourceClaim), old.(*resourcev1.ResourceClaim))
			}},
		{GV: gv, Kind: "ResourceClaimTemplate", Plural: "resourceclaimtemplates", Singular: "resourceclaimtemplate",
			PrepareCreate: func(_ context.Context, obj runtime.Object) {
				dropDerivedAttributes(&obj.(*resourcev1.ResourceClaimTemplate).Spec.Spec)
			},
			Validate: func(ctx context.Context, obj runtime.Object) field.ErrorList {
				spec := &obj.(*resourcev1.ResourceClaimTemplate).Spec.Spec
				return adminAccess(ctx, namespaces, spec, field.NewPath("spec", "spec"))
			}},
		{GV: gv, Kind: "ResourceSlice", Plural: "resourceslices", Singular: "resourceslice", Cluster: true, Generation: true,
			Fields: sliceFields, Index: resourcev1.ResourceSliceSelectorNodeName,
			PrepareCreate: func(_ context.Context, obj runtime.Object) {
				stampDevices(obj.(*resourcev1.ResourceSlice).Spec.Devices)
			},
			PrepareUpdate: func(_ context.Context, obj, old runtime.Object) {
				restampSlice(&obj.(*resourcev1.ResourceSlice).Spec, &old.(*resourcev1.ResourceSlice).Spec)
			}},
	}
}

func sliceFields(obj runtime.Object) fields.Set {
	spec := &obj.(*resourcev1.ResourceSlice).Spec
	node := ""
	if spec.NodeName != nil {
		node = *spec.NodeName
	}
	return fields.Set{
		resourcev1.ResourceSliceSelectorNodeName: node,
		resourcev1.ResourceSliceSelectorDriver:   spec.Driver,
		resourcev1.ResourceSliceSelectorPoolName: spec.Pool.Name,
	}
}

// stampTaint says since when a taint is there, which tolerations with a time count from.
func stampTaint(t *resourcev1.DeviceTaint) {
	if t.TimeAdded == nil {
		now := metav1.NewTime(time.Now().Truncate(time.Second))
		t.TimeAdded = &now
	}
}

// restampTaint lets the time of a rule's taint begin anew with another effect, but not with another key or value: what
// evicts for it has begun or has not, whatever the taint is called.
func restampTaint(t, old *resourcev1.DeviceTaint) {
	if t.Effect != old.Effect && t.TimeAdded.Equal(old.TimeAdded) {
		t.TimeAdded = nil
	}
	if t.Effect == old.Effect && t.TimeAdded == nil {
		t.TimeAdded = old.TimeAdded
	}
	stampTaint(t)
}

func stampDevices(devices []resourcev1.Device) {
	for i := range devices {
		for j := range devices[i].Taints {
			stampTaint(&devices[i].Taints[j])
		}
	}
}

// restampSlice leaves the times of taints that were there before.
func restampSlice(spec, old *resourcev1.ResourceSliceSpec) {
	type taint struct{ device, key, value, effect string }
	before := map[taint]*metav1.Time{}
	for _, d := range old.Devices {
		for _, t := range d.Taints {
			before[taint{d.Name, t.Key, t.Value, string(t.Effect)}] = t.TimeAdded
		}
	}
	for i := range spec.Devices {
		for j := range spec.Devices[i].Taints {
			if t := &spec.Devices[i].Taints[j]; t.TimeAdded == nil {
				t.TimeAdded = before[taint{spec.Devices[i].Name, t.Key, t.Value, string(t.Effect)}]
			}
		}
	}
	stampDevices(spec.Devices)
}

// dropGone removes what drivers said about devices that the claim held and holds no longer. What is said of any other device
// that is not allocated is left for validation to refuse.
func dropGone(status, old *resourcev1.ResourceClaimStatus) {
	before, now := heldDevices(old.Allocation), heldDevices(status.Allocation)
	status.Devices = slices.DeleteFunc(status.Devices, func(d resourcev1.AllocatedDeviceStatus) bool {
		at := heldDevice{d.Driver, d.Pool, d.Device, ""}
		if d.ShareID != nil {
			at.share = *d.ShareID
		}
		return before[at] && !now[at]
	})
	if len(status.Devices) == 0 {
		status.Devices = nil
	}
}

type heldDevice struct{ driver, pool, device, share string }

func heldDevices(a *resourcev1.AllocationResult) map[heldDevice]bool {
	if a == nil {
		return nil
	}
	held := map[heldDevice]bool{}
	for _, r := range a.Devices.Results {
		at := heldDevice{r.Driver, r.Pool, r.Device, ""}
		if r.ShareID != nil {
			at.share = string(*r.ShareID)
		}
		held[at] = true
	}
	return held
}

// adminAccess lets only those namespaces ask for devices that are in use elsewhere that an administrator marked.
func adminAccess(ctx context.Context, namespaces Labels, spec *resourcev1.ResourceClaimSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, r := range spec.Devices.Requests {
		if r.Exactly == nil || r.Exactly.AdminAccess == nil || !*r.Exactly.AdminAccess {
			continue
		}
		p := at.Child("devices", "requests").Index(i).Child("adminAccess")
		labels, err := namespaces(ctx, request.NamespaceValue(ctx))
		if err != nil {
			return append(errs, field.InternalError(p, fmt.Errorf("could not retrieve namespace: %w", err)))
		}
		if labels[resourcev1.DRAAdminNamespaceLabelKey] != "true" {
			errs = append(errs, field.Forbidden(p, fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace",
				resourcev1.DRAAdminNamespaceLabelKey)))
		}
	}
	return errs
}
