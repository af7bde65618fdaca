package validation

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	dracel "k8s.io/dynamic-resource-allocation/cel"
)

// deviceRules are the rules of resource.k8s.io: those that k8s.io/api publishes as code, and those that it only describes.
func deviceRules(obj runtime.Object) (rules, bool) {
	switch obj.(type) {
	case *resourcev1.DeviceClass:
		return kind(func(c *resourcev1.DeviceClass) field.ErrorList {
			return published(resourcev1.Validate_DeviceClassSpec, &c.Spec, nil, deviceClass(&c.Spec))
		}, func(c, old *resourcev1.DeviceClass) field.ErrorList {
			return published(resourcev1.Validate_DeviceClassSpec, &c.Spec, &old.Spec, deviceClass(&c.Spec))
		}, nil), true
	case *resourcev1.ResourceClaim:
		return kind(func(c *resourcev1.ResourceClaim) field.ErrorList {
			return published(resourcev1.Validate_ResourceClaimSpec, &c.Spec, nil, deviceClaim(&c.Spec.Devices, spec().Child("devices")))
		}, func(c, old *resourcev1.ResourceClaim) field.ErrorList {
			return immutable(spec(), c.Spec, old.Spec)
		}, deviceClaimStatus), true
	case *resourcev1.ResourceClaimTemplate:
		return kind(func(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
			errs := templateMetadata(&t.Spec.ObjectMeta, spec().Child("metadata"))
			errs = append(errs, deviceClaim(&t.Spec.Spec.Devices, spec().Child("spec", "devices"))...)
			return published(resourcev1.Validate_ResourceClaimTemplateSpec, &t.Spec, nil, errs)
		}, func(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
			return immutable(spec(), t.Spec, old.Spec)
		}, nil), true
	case *resourcev1.ResourceSlice:
		return kind(func(s *resourcev1.ResourceSlice) field.ErrorList {
			return published(resourcev1.Validate_ResourceSliceSpec, &s.Spec, nil, resourceSlice(&s.Spec))
		}, func(s, old *resourcev1.ResourceSlice) field.ErrorList {
			errs := published(resourcev1.Validate_ResourceSliceSpec, &s.Spec, &old.Spec, resourceSlice(&s.Spec))
			errs = append(errs, immutable(spec().Child("driver"), s.Spec.Driver, old.Spec.Driver)...)
			errs = append(errs, immutable(spec().Child("pool", "name"), s.Spec.Pool.Name, old.Spec.Pool.Name)...)
			return append(errs, immutable(spec().Child("nodeName"), s.Spec.NodeName, old.Spec.NodeName)...)
		}, nil), true
	case *resourcev1.DeviceTaintRule:
		return kind(func(r *resourcev1.DeviceTaintRule) field.ErrorList {
			return published(resourcev1.Validate_DeviceTaintRuleSpec, &r.Spec, nil, taintRule(&r.Spec))
		}, func(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
			return published(resourcev1.Validate_DeviceTaintRuleSpec, &r.Spec, &old.Spec, taintRule(&r.Spec))
		}, func(r, _ *resourcev1.DeviceTaintRule) field.ErrorList {
			at := status().Child("conditions")
			errs := metavalidation.ValidateConditions(r.Status.Conditions, at)
			if n := len(r.Status.Conditions); n > resourcev1.DeviceTaintRuleStatusMaxConditions {
				errs = append(errs, field.TooMany(at, n, resourcev1.DeviceTaintRuleStatusMaxConditions))
			}
			return errs
		}), true
	}
	return rules{}, false
}

// published adds to written what the generated code of k8s.io/api says of a spec. Generated rules of the alpha stage only
// repeat written ones, and of two errors that say the same of one field one is enough.
func published[T any](check func(context.Context, operation.Operation, *field.Path, *T, *T) field.ErrorList, obj, old *T, written field.ErrorList) field.ErrorList {
	return publishedAt(spec(), check, obj, old, written)
}

func publishedAt[T any](at *field.Path, check func(context.Context, operation.Operation, *field.Path, *T, *T) field.ErrorList,
	obj, old *T, written field.ErrorList) field.ErrorList {
	op := operation.Operation{Type: operation.Create, Options: map[string]bool{"DRAPartitionableDevicesType": false}}
	if old != nil {
		op.Type = operation.Update
	}
	for _, e := range check(context.Background(), op, at, obj, old) {
		same := func(w *field.Error) bool { return w.Field == e.Field && w.Type == e.Type }
		if !e.IsAlpha() && !slices.ContainsFunc(written, same) {
			written = append(written, e)
		}
	}
	return written
}

func shaped[T ~string](at *field.Path, value T, shape func(context.Context, operation.Operation, *field.Path, *T, *T) field.ErrorList) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return shape(context.Background(), operation.Operation{Type: operation.Create}, at, &value, nil)
}

func driverName(at *field.Path, driver string) field.ErrorList {
	errs := shaped(at, driver, validate.LongNameCaseless)
	if len(driver) > resourcev1.DriverNameMaxLength {
		errs = append(errs, field.TooLong(at, driver, resourcev1.DriverNameMaxLength))
	}
	return errs
}

func deviceClass(c *resourcev1.DeviceClassSpec) field.ErrorList {
	errs := deviceSelectors(spec().Child("selectors"), c.Selectors)
	for i := range c.Config {
		errs = append(errs, deviceConfiguration(spec().Child("config").Index(i), &c.Config[i].DeviceConfiguration)...)
	}
	return errs
}

func deviceSelectors(at *field.Path, selectors []resourcev1.DeviceSelector) field.ErrorList {
	var errs field.ErrorList
	if len(selectors) > resourcev1.DeviceSelectorsMaxSize {
		return field.ErrorList{field.TooMany(at, len(selectors), resourcev1.DeviceSelectorsMaxSize)}
	}
	for i, s := range selectors {
		if s.CEL == nil {
			errs = append(errs, field.Required(at.Index(i).Child("cel"), ""))
			continue
		}
		errs = append(errs, deviceExpression(at.Index(i).Child("cel", "expression"), s.CEL.Expression)...)
	}
	return errs
}

// deviceExpression compiles a selector as the scheduler will, so that a mistake shows when it is written.
func deviceExpression(at *field.Path, expression string) field.ErrorList {
	if len(expression) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(at, "" /* too long to show */, resourcev1.CELSelectorExpressionMaxLength)}
	}
	kind := environment.NewExpressions
	result := dracel.GetCompiler(dracel.Features{EnableConsumableCapacity: true}).CompileCELExpression(expression, dracel.Options{EnvType: &kind})
	switch {
	case result.Error != nil && result.Error.Type == apiservercel.ErrorTypeInternal:
		return field.ErrorList{field.InternalError(at, result.Error)}
	case result.Error != nil && result.Error.Type == apiservercel.ErrorTypeRequired:
		return field.ErrorList{field.Required(at, result.Error.Detail)}
	case result.Error != nil:
		return field.ErrorList{field.Invalid(at, expression, result.Error.Detail)}
	case result.MaxCost > resourcev1.CELSelectorExpressionMaxCost:
		return field.ErrorList{field.Forbidden(at, "too complex, exceeds cost limit")}
	}
	return nil
}

func deviceConfiguration(at *field.Path, c *resourcev1.DeviceConfiguration) field.ErrorList {
	if c.Opaque == nil {
		return field.ErrorList{field.Required(at.Child("opaque"), "")}
	}
	errs := driverName(at.Child("opaque", "driver"), c.Opaque.Driver)
	return append(errs, rawObject(at.Child("opaque", "parameters"), c.Opaque.Parameters, resourcev1.OpaqueParametersMaxLength)...)
}

// rawObject demands a JSON object of at most limit bytes.
func rawObject(at *field.Path, raw runtime.RawExtension, limit int) field.ErrorList {
	var object map[string]any
	switch {
	case len(raw.Raw) == 0:
		return field.ErrorList{field.Required(at, "")}
	case len(raw.Raw) > limit:
		return field.ErrorList{field.TooLong(at, "" /* too long to show */, limit)}
	}
	var anything any
	if err := json.Unmarshal(raw.Raw, &anything); err != nil {
		return field.ErrorList{field.Invalid(at, "<value omitted>", "error parsing data as JSON: "+err.Error())}
	}
	object, ok := anything.(map[string]any)
	if !ok || object == nil {
		return field.ErrorList{field.Invalid(at, "<value omitted>", "must be a valid JSON object")}
	}
	return nil
}

// claimRequests are the names that the other parts of a claim may refer to: requests, and those of alternatives.
type claimRequests struct{ main, sub sets.Set[string] }

func (r claimRequests) refer(at *field.Path, names []string) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, n := range names {
		p := at.Index(i)
		for part := range strings.SplitSeq(n, "/") {
			errs = append(errs, invalid(p, n, validation.IsDNS1123Label(part))...)
		}
		if !r.main.Has(n) && !r.sub.Has(n) {
			errs = append(errs, field.Invalid(p, n, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"))
		}
		if seen.Has(n) {
			errs = append(errs, field.Duplicate(p, n))
		}
		seen.Insert(n)
	}
	return errs
}

func namesOf(c *resourcev1.DeviceClaim) claimRequests {
	known := claimRequests{sets.New[string](), sets.New[string]()}
	for _, r := range c.Requests {
		known.main.Insert(r.Name)
		for _, s := range r.FirstAvailable {
			known.sub.Insert(r.Name + "/" + s.Name)
		}
	}
	return known
}

func deviceClaim(c *resourcev1.DeviceClaim, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range c.Requests {
		p := at.Child("requests").Index(i)
		if seen.Has(c.Requests[i].Name) {
			errs = append(errs, field.Duplicate(p, c.Requests[i].Name))
		}
		seen.Insert(c.Requests[i].Name)
		errs = append(errs, deviceRequest(&c.Requests[i], p)...)
	}
	known := namesOf(c)
	for i, constraint := range c.Constraints {
		p := at.Child("constraints").Index(i)
		errs = append(errs, known.refer(p.Child("requests"), constraint.Requests)...)
		switch {
		case constraint.MatchAttribute != nil && constraint.DistinctAttribute != nil:
			errs = append(errs, field.Invalid(p, nil, "must specify one of matchAttribute or distinctAttribute, but not both"))
		case constraint.MatchAttribute == nil && constraint.DistinctAttribute == nil:
			errs = append(errs, field.Required(p.Child("matchAttribute"), ""))
		}
	}
	for i := range c.Config {
		p := at.Child("config").Index(i)
		errs = append(errs, known.refer(p.Child("requests"), c.Config[i].Requests)...)
		errs = append(errs, deviceConfiguration(p, &c.Config[i].DeviceConfiguration)...)
	}
	return errs
}

func deviceRequest(r *resourcev1.DeviceRequest, at *field.Path) field.ErrorList {
	errs := invalid(at.Child("name"), r.Name, validation.IsDNS1123Label(r.Name))
	switch {
	case r.Exactly == nil && len(r.FirstAvailable) == 0:
		return append(errs, field.Required(at, "exactly one of `exactly` or `firstAvailable` is required"))
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		return append(errs, field.Invalid(at, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"))
	case r.Exactly != nil:
		e := r.Exactly
		errs = append(errs, wantedDevices(at.Child("exactly"), e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations)...)
		return append(errs, wantedCapacity(at.Child("exactly"), e.Capacity)...)
	}
	seen := sets.New[string]()
	for i := range r.FirstAvailable {
		s, p := &r.FirstAvailable[i], at.Child("firstAvailable").Index(i)
		errs = append(errs, invalid(p.Child("name"), s.Name, validation.IsDNS1123Label(s.Name))...)
		if seen.Has(s.Name) {
			errs = append(errs, field.Duplicate(p, s.Name))
		}
		seen.Insert(s.Name)
		errs = append(errs, wantedDevices(p, s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations)...)
		errs = append(errs, wantedCapacity(p, s.Capacity)...)
	}
	return errs
}

func wantedCapacity(at *field.Path, c *resourcev1.CapacityRequirements) field.ErrorList {
	if c == nil {
		return nil
	}
	var errs field.ErrorList
	for _, key := range slices.Sorted(maps.Keys(c.Requests)) {
		p, q := at.Child("capacity", "requests").Key(string(key)), c.Requests[key]
		errs = append(errs, qualifiedName(p, key)...)
		if q.Sign() < 0 {
			errs = append(errs, field.Invalid(p, q.String(), "must be greater than or equal to 0"))
		}
	}
	return errs
}

func wantedDevices(at *field.Path, class string, selectors []resourcev1.DeviceSelector, mode resourcev1.DeviceAllocationMode, count int64,
	tolerations []resourcev1.DeviceToleration) field.ErrorList {
	errs := requiredName(at.Child("deviceClassName"), class, validation.IsDNS1123Subdomain)
	errs = append(errs, deviceSelectors(at.Child("selectors"), selectors)...)
	switch mode {
	case resourcev1.DeviceAllocationModeAll:
		if count != 0 {
			errs = append(errs, field.Invalid(at.Child("count"), count, "must not be specified when allocationMode is 'All'"))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		if count <= 0 {
			errs = append(errs, field.Invalid(at.Child("count"), count, "must be greater than zero"))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("allocationMode"), mode,
			[]resourcev1.DeviceAllocationMode{resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount}))
	}
	for i, t := range tolerations {
		errs = append(errs, deviceToleration(at.Child("tolerations").Index(i), t)...)
	}
	return errs
}

func deviceToleration(at *field.Path, t resourcev1.DeviceToleration) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, invalid(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
		if t.Key == "" {
			errs = append(errs, field.Invalid(at.Child("operator"), t.Operator, "must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
	case "":
		errs = append(errs, field.Required(at.Child("operator"), ""))
	default:
		errs = append(errs, field.NotSupported(at.Child("operator"), t.Operator,
			[]resourcev1.DeviceTolerationOperator{resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists}))
	}
	if t.Effect != "" {
		errs = append(errs, deviceTaintEffect(at.Child("effect"), t.Effect)...)
	}
	return errs
}

func deviceTaintEffect(at *field.Path, e resourcev1.DeviceTaintEffect) field.ErrorList {
	return oneOf(at, e, resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone)
}

func deviceTaint(at *field.Path, t *resourcev1.DeviceTaint) field.ErrorList {
	errs := metavalidation.ValidateLabelName(t.Key, at.Child("key"))
	errs = append(errs, invalid(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
	return append(errs, deviceTaintEffect(at.Child("effect"), t.Effect)...)
}

func taintRule(r *resourcev1.DeviceTaintRuleSpec) field.ErrorList {
	var errs field.ErrorList
	if s, at := r.DeviceSelector, spec().Child("deviceSelector"); s != nil {
		if s.Driver != nil {
			errs = append(errs, driverName(at.Child("driver"), *s.Driver)...)
		}
		if s.Pool != nil {
			errs = append(errs, shaped(at.Child("pool"), *s.Pool, validate.ResourcePoolName)...)
		}
		if s.Device != nil {
			errs = append(errs, shaped(at.Child("device"), *s.Device, validate.ShortName)...)
		}
	}
	return append(errs, deviceTaint(spec().Child("taint"), &r.Taint)...)
}

// templateMetadata lets a template say only what can be copied into a claim.
func templateMetadata(m *metav1.ObjectMeta, at *field.Path) field.ErrorList {
	rest := m.DeepCopy()
	rest.Labels, rest.Annotations = nil, nil
	if !equality.Semantic.DeepEqual(*rest, metav1.ObjectMeta{}) {
		return field.ErrorList{field.Forbidden(at, "only labels and annotations may be set")}
	}
	return metavalidation.ValidateLabels(m.Labels, at.Child("labels"))
}
