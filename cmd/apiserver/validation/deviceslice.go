package validation

import (
	"maps"
	"slices"
	"strings"

	"github.com/blang/semver/v4"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func resourceSlice(s *resourcev1.ResourceSliceSpec) field.ErrorList {
	errs := driverName(spec().Child("driver"), s.Driver)
	pool := spec().Child("pool")
	errs = append(errs, shaped(pool.Child("name"), s.Pool.Name, validate.ResourcePoolName)...)
	if s.Pool.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(pool.Child("resourceSliceCount"), s.Pool.ResourceSliceCount, "must be greater than zero"))
	}
	if s.Pool.Generation < 0 {
		errs = append(errs, field.Invalid(pool.Child("generation"), s.Pool.Generation, "must be greater than or equal to zero"))
	}
	perDevice := s.PerDeviceNodeSelection != nil && *s.PerDeviceNodeSelection
	errs = append(errs, nodesOf(spec(), s.NodeName, s.NodeSelector, s.AllNodes, perDevice)...)
	if s.PerDeviceNodeSelection != nil && !*s.PerDeviceNodeSelection {
		errs = append(errs, field.Invalid(spec().Child("perDeviceNodeSelection"), false, "must be either unset or set to true"))
	}
	if len(s.Devices) > 0 && len(s.SharedCounters) > 0 {
		errs = append(errs, field.Invalid(spec(), nil, "only one of `sharedCounters` or `devices` is allowed"))
	}
	limit := resourcev1.ResourceSliceMaxDevices
	for _, d := range s.Devices {
		if len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 {
			limit = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
		}
	}
	if n := len(s.Devices); n > limit {
		return append(errs, field.TooMany(spec().Child("devices"), n, limit))
	}
	seen := sets.New[string]()
	for i := range s.Devices {
		at := spec().Child("devices").Index(i)
		if seen.Has(s.Devices[i].Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), s.Devices[i].Name))
		}
		seen.Insert(s.Devices[i].Name)
		errs = append(errs, sliceDevice(at, &s.Devices[i], perDevice)...)
	}
	return errs
}

// nodesOf demands exactly one answer to the question which nodes can reach devices.
func nodesOf(at *field.Path, node *string, selector *corev1.NodeSelector, all *bool, perDevice bool) field.ErrorList {
	var errs field.ErrorList
	var set []string
	if node != nil {
		set = append(set, "`nodeName`")
		errs = append(errs, requiredName(at.Child("nodeName"), *node, validation.IsDNS1123Subdomain)...)
	}
	if selector != nil {
		set = append(set, "`nodeSelector`")
		errs = append(errs, nodeSelector(selector, at.Child("nodeSelector"))...)
		if len(selector.NodeSelectorTerms) != 1 {
			errs = append(errs, field.Invalid(at.Child("nodeSelector", "nodeSelectorTerms"), selector.NodeSelectorTerms, "must have exactly one node selector term"))
		}
	}
	if all != nil {
		if *all {
			set = append(set, "`allNodes`")
		} else {
			errs = append(errs, field.Invalid(at.Child("allNodes"), false, "must be either unset or set to true"))
		}
	}
	if perDevice {
		set = append(set, "`perDeviceNodeSelection`")
	}
	switch {
	case len(set) == 0:
		errs = append(errs, field.Required(at, "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"))
	case len(set) > 1:
		errs = append(errs, field.Invalid(at, "{"+strings.Join(set, ", ")+"}",
			"exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set"))
	}
	return errs
}

func sliceDevice(at *field.Path, d *resourcev1.Device, perDevice bool) field.ErrorList {
	errs := shaped(at.Child("name"), d.Name, validate.ShortName)
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.Invalid(at, n, "the total number of attributes and capacities must not exceed 32"))
	}
	for _, key := range slices.Sorted(maps.Keys(d.Attributes)) {
		p := at.Child("attributes").Key(string(key))
		errs = append(errs, qualifiedName(p, key)...)
		errs = append(errs, deviceAttribute(p, d.Attributes[key])...)
	}
	for _, key := range slices.Sorted(maps.Keys(d.Capacity)) {
		p := at.Child("capacity").Key(string(key))
		errs = append(errs, qualifiedName(p, key)...)
	}
	if n := len(d.Taints); n > resourcev1.DeviceTaintsMaxLength {
		errs = append(errs, field.TooMany(at.Child("taints"), n, resourcev1.DeviceTaintsMaxLength))
	}
	for i := range d.Taints {
		errs = append(errs, deviceTaint(at.Child("taints").Index(i), &d.Taints[i])...)
	}
	if perDevice {
		return append(errs, nodesOf(at, d.NodeName, d.NodeSelector, d.AllNodes, false)...)
	}
	for _, only := range []struct {
		name string
		set  bool
	}{{"nodeName", d.NodeName != nil}, {"nodeSelector", d.NodeSelector != nil}, {"allNodes", d.AllNodes != nil}} {
		if only.set {
			errs = append(errs, field.Invalid(at.Child(only.name), nil, "`"+only.name+"` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"))
		}
	}
	return errs
}

// qualifiedName demands "id" or "domain/id".
func qualifiedName(at *field.Path, key resourcev1.QualifiedName) field.ErrorList {
	if key == "" {
		return field.ErrorList{field.Required(at, "name required")}
	}
	domain, id, ok := strings.Cut(string(key), "/")
	if !ok {
		return identifier(at, string(key))
	}
	var errs field.ErrorList
	switch {
	case domain == "":
		errs = append(errs, field.Required(at, "the domain must not be empty"))
	case len(domain) > resourcev1.DeviceMaxDomainLength:
		errs = append(errs, field.TooLong(at, domain, resourcev1.DeviceMaxDomainLength))
	default:
		errs = append(errs, invalid(at, domain, validation.IsDNS1123Subdomain(domain))...)
	}
	if id == "" {
		return append(errs, field.Required(at, "the name must not be empty"))
	}
	return append(errs, identifier(at, id)...)
}

func identifier(at *field.Path, id string) field.ErrorList {
	var errs field.ErrorList
	if len(id) > resourcev1.DeviceMaxIDLength {
		errs = append(errs, field.TooLong(at, id, resourcev1.DeviceMaxIDLength))
	}
	return append(errs, invalid(at, id, validation.IsCIdentifier(id))...)
}

// attribute checks the values; that there is exactly one is a published rule.
func deviceAttribute(at *field.Path, a resourcev1.DeviceAttribute) field.ErrorList {
	var errs field.ErrorList
	if v := a.StringValue; v != nil && len(*v) > resourcev1.DeviceAttributeMaxValueLength {
		errs = append(errs, field.TooLong(at.Child("string"), *v, resourcev1.DeviceAttributeMaxValueLength))
	}
	if v := a.VersionValue; v != nil {
		if len(*v) > resourcev1.DeviceAttributeMaxValueLength {
			errs = append(errs, field.TooLong(at.Child("version"), *v, resourcev1.DeviceAttributeMaxValueLength))
		}
		if _, err := semver.Parse(*v); err != nil {
			errs = append(errs, field.Invalid(at.Child("version"), *v, "must be a string compatible with semver.org spec 2.0.0"))
		}
	}
	return errs
}
