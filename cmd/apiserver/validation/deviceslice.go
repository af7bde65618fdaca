package validation

import (
	"maps"
	"slices"
	"strings"

	"github.com/blang/semver/v4"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
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
	for i, set := range s.SharedCounters {
		errs = append(errs, counters(spec().Child("sharedCounters").Index(i), set.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet)...)
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
		// What nobody else can have a part of is not requested in parts.
		if shared := d.AllowMultipleAllocations; d.Capacity[key].RequestPolicy != nil && (shared == nil || !*shared) {
			errs = append(errs, field.Forbidden(p.Child("requestPolicy"), "allowMultipleAllocations must be true"))
			continue
		}
		errs = append(errs, requestPolicy(p.Child("requestPolicy"), d.Capacity[key])...)
	}
	seen := sets.New[string]()
	for i, c := range d.ConsumesCounters {
		p := at.Child("consumesCounters").Index(i)
		if seen.Has(c.CounterSet) {
			errs = append(errs, field.Duplicate(p, c.CounterSet))
		}
		seen.Insert(c.CounterSet)
		errs = append(errs, counters(p, c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption)...)
	}
	if n := len(d.Taints); n > resourcev1.DeviceTaintsMaxLength {
		errs = append(errs, field.TooMany(at.Child("taints"), n, resourcev1.DeviceTaintsMaxLength))
	}
	for i := range d.Taints {
		errs = append(errs, deviceTaint(at.Child("taints").Index(i), &d.Taints[i])...)
	}
	for name, conditions := range map[string][]string{"bindingConditions": d.BindingConditions, "bindingFailureConditions": d.BindingFailureConditions} {
		for i, c := range conditions {
			errs = append(errs, invalid(at.Child(name).Index(i), c, validation.IsQualifiedName(c))...)
		}
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

func counters(at *field.Path, all map[string]resourcev1.Counter, limit int) field.ErrorList {
	var errs field.ErrorList
	if n := len(all); n > limit {
		errs = append(errs, field.TooMany(at.Child("counters"), n, limit))
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if q := all[name].Value; q.Sign() < 0 {
			errs = append(errs, field.Invalid(at.Child("counters").Key(name), q.String(), "must be greater than or equal to 0"))
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

// deviceAttribute checks the values; that there is exactly one is a published rule.
func deviceAttribute(at *field.Path, a resourcev1.DeviceAttribute) field.ErrorList {
	var errs field.ErrorList
	if v := a.StringValue; v != nil && len(*v) > resourcev1.DeviceAttributeMaxValueLength {
		errs = append(errs, field.TooLong(at.Child("string"), *v, resourcev1.DeviceAttributeMaxValueLength))
	}
	if v := a.VersionValue; v != nil {
		errs = append(errs, semanticVersion(at.Child("version"), *v)...)
	}
	for i, v := range a.VersionValues {
		errs = append(errs, semanticVersion(at.Child("versions").Index(i), v)...)
	}
	return errs
}

func semanticVersion(at *field.Path, v string) field.ErrorList {
	if len(v) > resourcev1.DeviceAttributeMaxValueLength {
		return field.ErrorList{field.TooLong(at, v, resourcev1.DeviceAttributeMaxValueLength)}
	}
	if _, err := semver.Parse(v); err != nil {
		return field.ErrorList{field.Invalid(at, v, "must be a string compatible with semver.org spec 2.0.0")}
	}
	return nil
}

// maxValidValues is how many values a request policy may list.
const maxValidValues = 10

// requestPolicy holds the amounts that claims may take of a capacity to what there is.
func requestPolicy(at *field.Path, c resourcev1.DeviceCapacity) field.ErrorList {
	p := c.RequestPolicy
	if p == nil {
		return nil
	}
	switch {
	case p.ValidRange != nil && len(p.ValidValues) > 0:
		return field.ErrorList{field.Forbidden(at, "exactly one policy can be specified, cannot specify `validValues` and `validRange` at the same time")}
	case p.ValidRange == nil && len(p.ValidValues) == 0:
		if p.Default != nil && p.Default.Cmp(c.Value) > 0 {
			return field.ErrorList{field.Invalid(at.Child("default"), p.Default.String(), "must be less than or equal to the capacity value: "+c.Value.String())}
		}
		return nil
	case p.Default == nil:
		return field.ErrorList{field.Required(at.Child("default"), "required when `validValues` or `validRange` is defined")}
	case p.ValidRange != nil:
		return validRange(at, *p.Default, *p.ValidRange, c.Value)
	}
	var errs field.ErrorList
	values := at.Child("validValues")
	if n := len(p.ValidValues); n > maxValidValues {
		errs = append(errs, field.TooMany(values, n, maxValidValues))
	}
	listed := false
	for i, v := range p.ValidValues {
		listed = listed || v.Cmp(*p.Default) == 0
		if v.Cmp(c.Value) > 0 {
			errs = append(errs, field.Invalid(values.Index(i), v.String(), "must be less than or equal to the capacity value: "+c.Value.String()))
		}
		if i > 0 && v.Cmp(p.ValidValues[i-1]) <= 0 {
			errs = append(errs, field.Invalid(values.Index(i), v.String(), "values must be sorted in ascending order"))
		}
	}
	if !listed {
		errs = append(errs, field.Invalid(at.Child("default"), p.Default.String(), "must be one of `validValues`"))
	}
	return errs
}

func validRange(at *field.Path, usual resource.Quantity, r resourcev1.CapacityRequestPolicyRange, whole resource.Quantity) field.ErrorList {
	var errs field.ErrorList
	p := at.Child("validRange")
	if r.Min == nil {
		return field.ErrorList{field.Required(p.Child("min"), "")}
	}
	if r.Min.Sign() < 0 {
		errs = append(errs, field.Invalid(p.Child("min"), r.Min.String(), "must be greater than or equal to zero"))
	}
	if r.Min.Cmp(whole) > 0 {
		errs = append(errs, field.Invalid(p.Child("min"), r.Min.String(), "must be less than or equal to the capacity value: "+whole.String()))
	}
	if usual.Cmp(*r.Min) < 0 {
		errs = append(errs, field.Invalid(at.Child("default"), usual.String(), "must be greater than or equal to min: "+r.Min.String()))
	}
	if r.Max != nil {
		if r.Max.Cmp(whole) > 0 {
			errs = append(errs, field.Invalid(p.Child("max"), r.Max.String(), "must be less than or equal to the capacity value: "+whole.String()))
		}
		if r.Min.Cmp(*r.Max) > 0 {
			errs = append(errs, field.Invalid(p.Child("max"), r.Max.String(), "must be greater than or equal to min: "+r.Min.String()))
		}
		if usual.Cmp(*r.Max) > 0 {
			errs = append(errs, field.Invalid(at.Child("default"), usual.String(), "must be less than or equal to max: "+r.Max.String()))
		}
	}
	if r.Step == nil {
		return errs
	}
	if r.Step.Sign() <= 0 {
		return append(errs, field.Invalid(p.Child("step"), r.Step.String(), "must be greater than zero"))
	}
	steps := func(q resource.Quantity) bool { return (q.MilliValue()-r.Min.MilliValue())%r.Step.MilliValue() == 0 }
	if !steps(usual) {
		errs = append(errs, field.Invalid(at.Child("default"), usual.String(), "must be a multiple of step: "+r.Step.String()))
	}
	if r.Max != nil && !steps(*r.Max) {
		errs = append(errs, field.Invalid(p.Child("max"), r.Max.String(), "must be a multiple of step: "+r.Step.String()))
	}
	next := r.Min.DeepCopy()
	next.Add(*r.Step)
	if next.Cmp(whole) > 0 {
		errs = append(errs, field.Invalid(p.Child("step"), r.Step.String(), "one step above min must be less than or equal to the capacity value: "+whole.String()))
	}
	return errs
}
