package validation

import (
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validate"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// deviceClaimStatus holds a claim to what the scheduler and the drivers rely on: an allocation never changes under its users.
func deviceClaimStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	errs := reservations(c, old)
	if a := c.Status.Allocation; a != nil && old.Status.Allocation == nil {
		errs = append(errs, allocation(a, namesOf(&c.Spec.Devices), status().Child("allocation"))...)
	}
	for i := range c.Status.Devices {
		errs = append(errs, deviceStatus(&c.Status.Devices[i], status().Child("devices").Index(i))...)
	}
	errs = append(errs, reportedDevices(&c.Status)...)
	return publishedAt(status(), resourcev1.Validate_ResourceClaimStatus, &c.Status, &old.Status, errs)
}

func reservations(c, old *resourcev1.ResourceClaim) field.ErrorList {
	var errs field.ErrorList
	at := status().Child("reservedFor")
	if n := len(c.Status.ReservedFor); n > resourcev1.ResourceClaimReservedForMaxSize {
		errs = append(errs, field.TooMany(at, n, resourcev1.ResourceClaimReservedForMaxSize))
	}
	before, seen := sets.New[types.UID](), sets.New[types.UID]()
	for _, r := range old.Status.ReservedFor {
		before.Insert(r.UID)
	}
	added := false
	for i, r := range c.Status.ReservedFor {
		p := at.Index(i)
		errs = append(errs, required(p.Child("resource"), r.Resource)...)
		errs = append(errs, required(p.Child("name"), r.Name)...)
		errs = append(errs, required(p.Child("uid"), string(r.UID))...)
		if seen.Has(r.UID) {
			errs = append(errs, field.Duplicate(p.Child("uid"), r.UID))
		}
		seen.Insert(r.UID)
		added = added || !before.Has(r.UID)
	}
	switch {
	case len(c.Status.ReservedFor) > 0 && c.Status.Allocation == nil:
		errs = append(errs, field.Forbidden(at, "may not be specified when `allocated` is not set"))
	case added && c.DeletionTimestamp != nil:
		errs = append(errs, field.Forbidden(at, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
	}
	return errs
}

func allocation(a *resourcev1.AllocationResult, known claimRequests, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, r := range a.Devices.Results {
		p := at.Child("devices", "results").Index(i)
		if !known.main.Has(r.Request) && !known.sub.Has(r.Request) {
			errs = append(errs, field.Invalid(p.Child("request"), r.Request, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"))
		}
		errs = append(errs, driverName(p.Child("driver"), r.Driver)...)
		errs = append(errs, shaped(p.Child("pool"), r.Pool, validate.ResourcePoolName)...)
		errs = append(errs, shaped(p.Child("device"), r.Device, validate.ShortName)...)
	}
	for i := range a.Devices.Config {
		c, p := &a.Devices.Config[i], at.Child("devices", "config").Index(i)
		errs = append(errs, known.refer(p.Child("requests"), c.Requests)...)
		errs = append(errs, deviceConfiguration(p, &c.DeviceConfiguration)...)
	}
	if a.NodeSelector != nil {
		errs = append(errs, nodeSelector(a.NodeSelector, at.Child("nodeSelector"))...)
	}
	return errs
}

// reportedDevices lets drivers report on allocated devices only, and on each once.
func reportedDevices(s *resourcev1.ResourceClaimStatus) field.ErrorList {
	var errs field.ErrorList
	key := func(driver, pool, device, share string) string {
		return strings.Join([]string{driver, pool, device, share}, "/")
	}
	allocated, seen := sets.New[string](), sets.New[string]()
	if s.Allocation != nil {
		for _, r := range s.Allocation.Devices.Results {
			share := ""
			if r.ShareID != nil {
				share = string(*r.ShareID)
			}
			allocated.Insert(key(r.Driver, r.Pool, r.Device, share))
		}
	}
	for i, d := range s.Devices {
		share := ""
		if d.ShareID != nil {
			share = *d.ShareID
		}
		p, k := status().Child("devices").Index(i), key(d.Driver, d.Pool, d.Device, share)
		if !allocated.Has(k) {
			errs = append(errs, field.Invalid(p, strings.TrimSuffix(k, "/"), "must be an allocated device in the claim"))
		}
		if seen.Has(k) {
			errs = append(errs, field.Duplicate(p, strings.TrimSuffix(k, "/")))
		}
		seen.Insert(k)
	}
	return errs
}

func deviceStatus(d *resourcev1.AllocatedDeviceStatus, at *field.Path) field.ErrorList {
	errs := driverName(at.Child("driver"), d.Driver)
	errs = append(errs, shaped(at.Child("pool"), d.Pool, validate.ResourcePoolName)...)
	errs = append(errs, shaped(at.Child("device"), d.Device, validate.ShortName)...)
	if n := len(d.Conditions); n > resourcev1.AllocatedDeviceStatusMaxConditions {
		errs = append(errs, field.TooMany(at.Child("conditions"), n, resourcev1.AllocatedDeviceStatusMaxConditions))
	}
	errs = append(errs, metavalidation.ValidateConditions(d.Conditions, at.Child("conditions"))...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		errs = append(errs, rawObject(at.Child("data"), *d.Data, resourcev1.AllocatedDeviceStatusDataMaxLength)...)
	}
	if d.NetworkData != nil {
		for i, ip := range d.NetworkData.IPs {
			errs = append(errs, validation.IsValidInterfaceAddress(at.Child("networkData", "ips").Index(i), ip)...)
		}
	}
	return errs
}
