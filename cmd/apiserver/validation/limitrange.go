package validation

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func limitRange(l *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	types := sets.New[corev1.LimitType]()
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], spec().Child("limits").Index(i)
		errs = append(errs, limitType(item.Type, at.Child("type"))...)
		if types.Has(item.Type) {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		types.Insert(item.Type)
		errs = append(errs, limitLists(item, at)...)
		errs = append(errs, limitOrder(item, at)...)
	}
	return errs
}

func limitType(t corev1.LimitType, p *field.Path) field.ErrorList {
	errs := invalid(p, t, validation.IsQualifiedName(string(t)))
	if len(errs) > 0 || strings.Contains(string(t), "/") {
		return errs
	}
	switch t {
	case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
		return nil
	}
	return field.ErrorList{field.Invalid(p, t, "must be a standard limit type or fully qualified")}
}

// limitLists validates the names in each list of an item, and which lists its type may and must have.
func limitLists(item *corev1.LimitRangeItem, p *field.Path) field.ErrorList {
	name := resourceName
	if item.Type == corev1.LimitTypePod || item.Type == corev1.LimitTypeContainer {
		name = containerResourceName
	}
	var errs field.ErrorList
	names := func(child string, l corev1.ResourceList) {
		for _, n := range sortedNames(l) {
			errs = append(errs, name(n, p.Child(child).Key(string(n)))...)
		}
	}
	names("max", item.Max)
	names("min", item.Min)
	if item.Type == corev1.LimitTypePod {
		if len(item.Default) > 0 {
			errs = append(errs, field.Forbidden(p.Child("default"), "may not be specified when `type` is 'Pod'"))
		}
		if len(item.DefaultRequest) > 0 {
			errs = append(errs, field.Forbidden(p.Child("defaultRequest"), "may not be specified when `type` is 'Pod'"))
		}
	} else {
		names("default", item.Default)
		names("defaultRequest", item.DefaultRequest)
	}
	if item.Type == corev1.LimitTypePersistentVolumeClaim {
		_, least := item.Min[corev1.ResourceStorage]
		_, most := item.Max[corev1.ResourceStorage]
		if !least && !most {
			errs = append(errs, field.Required(p.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
		}
	}
	names("maxLimitRequestRatio", item.MaxLimitRequestRatio)
	return errs
}

// limitOrder holds min <= default request <= default <= max for each resource.
func limitOrder(item *corev1.LimitRangeItem, p *field.Path) field.ErrorList {
	keys := map[corev1.ResourceName]bool{}
	for _, l := range []corev1.ResourceList{item.Min, item.Max, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio} {
		for n := range l {
			keys[n] = true
		}
	}
	var errs field.ErrorList
	for _, n := range slices.Sorted(maps.Keys(keys)) {
		errs = append(errs, limitOrderOf(n, item, p)...)
	}
	return errs
}

func limitOrderOf(n corev1.ResourceName, item *corev1.LimitRangeItem, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	least, hasMin := item.Min[n]
	most, hasMax := item.Max[n]
	limit, hasDefault := item.Default[n]
	request, hasRequest := item.DefaultRequest[n]
	ordered := func(both bool, low, high resource.Quantity, lowText, highText, list string, bad resource.Quantity) {
		if both && low.Cmp(high) > 0 {
			errs = append(errs, field.Invalid(p.Child(list).Key(string(n)), bad.String(), fmt.Sprintf("%s value %s is greater than %s value %s", lowText, low.String(), highText, high.String())))
		}
	}
	ordered(hasMin && hasMax, least, most, "min", "max", "min", least)
	ordered(hasRequest && hasMin, least, request, "min", "default request", "defaultRequest", request)
	ordered(hasRequest && hasMax, request, most, "default request", "max", "defaultRequest", request)
	ordered(hasRequest && hasDefault, request, limit, "default request", "default limit", "defaultRequest", request)
	ordered(hasDefault && hasMin, least, limit, "min", "default", "default", least)
	ordered(hasDefault && hasMax, limit, most, "default", "max", "default", most)
	ratio, hasRatio := item.MaxLimitRequestRatio[n]
	if hasRatio && ratio.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) < 0 {
		errs = append(errs, field.Invalid(p.Child("maxLimitRequestRatio").Key(string(n)), ratio.String(), fmt.Sprintf("ratio %s is less than 1", ratio.String())))
	}
	if hasRatio && hasMin && hasMax {
		if span := most.AsApproximateFloat64() / least.AsApproximateFloat64(); ratio.AsApproximateFloat64() > span {
			errs = append(errs, field.Invalid(p.Child("maxLimitRequestRatio").Key(string(n)), ratio.String(), fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), span)))
		}
	}
	if !mayOvercommit(n) && hasDefault && hasRequest && limit.Cmp(request) != 0 {
		errs = append(errs, field.Invalid(p.Child("defaultRequest").Key(string(n)), request.String(),
			fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", limit.String(), request.String(), n)))
	}
	return errs
}
