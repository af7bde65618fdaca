package validation

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func quota(q *corev1.ResourceQuota) field.ErrorList {
	errs := quotaList(q.Spec.Hard, spec().Child("hard"))
	errs = append(errs, quotaScopes(&q.Spec, spec().Child("scopes"))...)
	if q.Spec.ScopeSelector != nil {
		errs = append(errs, quotaSelector(&q.Spec, spec().Child("scopeSelector", "matchExpressions"))...)
	}
	return errs
}

func quotaList(l corev1.ResourceList, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, n := range sortedNames(l) {
		at := p.Key(string(n))
		errs = append(errs, resourceName(n, at)...)
		if !strings.Contains(string(n), "/") && !isQuota(n) {
			errs = append(errs, field.Invalid(at, n, "must be a standard resource for quotas"))
		}
		errs = append(errs, resourceQuantity(at, n, l[n])...)
	}
	return errs
}

// isQuota is true of the resources without a domain that can be limited: all but bare storage, which only claims have.
func isQuota(n corev1.ResourceName) bool { return isStandard(n) && n != corev1.ResourceStorage }

// conflicts are the pairs of scopes that no object is in.
func conflicts() [][2]corev1.ResourceQuotaScope {
	return [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	}
}

func isQuotaScope(s corev1.ResourceQuotaScope) bool {
	return slices.Contains([]corev1.ResourceQuotaScope{
		corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity, corev1.ResourceQuotaScopeVolumeAttributesClass,
	}, s)
}

// scopeKnows says whether the objects in a scope use a resource.
func scopeKnows(s corev1.ResourceQuotaScope, n corev1.ResourceName) bool {
	compute := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory}
	switch s {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return n == corev1.ResourcePods || slices.Contains(compute, n)
	case corev1.ResourceQuotaScopeBestEffort:
		return n == corev1.ResourcePods
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return n == corev1.ResourcePersistentVolumeClaims || n == corev1.ResourceRequestsStorage
	}
	return true
}

// misfit says whether a scope cannot be for a resource that the quota limits.
func misfit(s corev1.ResourceQuotaScope, hard corev1.ResourceList) bool {
	for n := range hard {
		if !strings.Contains(string(n), "/") && isQuota(n) && !scopeKnows(s, n) {
			return true
		}
	}
	return false
}

func quotaScopes(s *corev1.ResourceQuotaSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, scope := range s.Scopes {
		if !isQuotaScope(scope) {
			errs = append(errs, field.Invalid(p, s.Scopes, "unsupported scope"))
		}
		if misfit(scope, s.Hard) {
			errs = append(errs, field.Invalid(p, s.Scopes, "unsupported scope applied to resource"))
		}
	}
	return append(errs, conflicting(s.Scopes, s.Scopes, p)...)
}

func conflicting(scopes []corev1.ResourceQuotaScope, value any, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, pair := range conflicts() {
		if slices.Contains(scopes, pair[0]) && slices.Contains(scopes, pair[1]) {
			errs = append(errs, field.Invalid(p, value, "conflicting scopes"))
		}
	}
	return errs
}

func quotaSelector(s *corev1.ResourceQuotaSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	var scopes []corev1.ResourceQuotaScope
	for _, r := range s.ScopeSelector.MatchExpressions {
		scopes = append(scopes, r.ScopeName)
		if !isQuotaScope(r.ScopeName) {
			errs = append(errs, field.Invalid(p.Child("scopeName"), r.ScopeName, "unsupported scope"))
		}
		if misfit(r.ScopeName, s.Hard) {
			errs = append(errs, field.Invalid(p, s.ScopeSelector, "unsupported scope applied to resource"))
		}
		switch r.ScopeName {
		case corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating,
			corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
			if r.Operator != corev1.ScopeSelectorOpExists {
				errs = append(errs, field.Invalid(p.Child("operator"), r.Operator, "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "+
					"ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
			}
		}
		switch r.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(r.Values) == 0 {
				errs = append(errs, field.Required(p.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				errs = append(errs, field.Invalid(p.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
			}
		default:
			errs = append(errs, field.Invalid(p.Child("operator"), r.Operator, "not a valid selector operator"))
		}
	}
	return append(errs, conflicting(scopes, s.Scopes, p)...)
}

// quotaUpdate keeps which objects a quota counts.
func quotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	errs := quota(q)
	if !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
		errs = append(errs, field.Invalid(spec().Child("scopes"), q.Spec.Scopes, apivalidation.FieldImmutableErrorMsg))
	}
	return append(errs, immutable(spec().Child("scopeSelector"), q.Spec.ScopeSelector, old.Spec.ScopeSelector)...)
}

func quotaStatus(q, _ *corev1.ResourceQuota) field.ErrorList {
	return append(quotaList(q.Status.Hard, status().Child("hard")), quotaList(q.Status.Used, status().Child("used"))...)
}
