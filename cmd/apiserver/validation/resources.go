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
	helper "k8s.io/component-helpers/resource"
)

const isNotInteger = "must be an integer"

func isHugePage(n corev1.ResourceName) bool {
	return strings.HasPrefix(string(n), corev1.ResourceHugePagesPrefix)
}

// isNative is true of names without a domain and of those under kubernetes.io.
func isNative(n corev1.ResourceName) bool {
	return !strings.Contains(string(n), "/") || strings.Contains(string(n), corev1.ResourceDefaultNamespacePrefix)
}

// isExtended is true of names that vendors may give: such a resource is counted in whole pieces.
func isExtended(n corev1.ResourceName) bool {
	if isNative(n) || strings.HasPrefix(string(n), corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	// A quota must be able to name it too.
	return len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(n))) == 0
}

// mayOvercommit says whether a request may be less than its limit.
func mayOvercommit(n corev1.ResourceName) bool { return isNative(n) && !isHugePage(n) }

// isComputed is true of the resources that containers have without a device.
func isComputed(n corev1.ResourceName) bool {
	switch n {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return true
	}
	return isHugePage(n)
}

// isCountable is true of the quotas that count objects.
func isCountable(n corev1.ResourceName) bool {
	switch n {
	case corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
		corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
		return true
	}
	return false
}

// isStandard is true of all resources without a domain that Kubernetes knows, whether containers have them or quotas count them.
func isStandard(n corev1.ResourceName) bool {
	switch n {
	case corev1.ResourceStorage, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceRequestsStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage:
		return true
	}
	return isComputed(n) || isCountable(n) || strings.HasPrefix(string(n), corev1.ResourceRequestsHugePagesPrefix)
}

// resourceName demands a known name, or one with a domain.
func resourceName(n corev1.ResourceName, p *field.Path) field.ErrorList {
	errs := invalid(p, n, validation.IsQualifiedName(string(n)))
	if len(errs) == 0 && !strings.Contains(string(n), "/") && !isStandard(n) {
		errs = append(errs, field.Invalid(p, n, "must be a standard resource type or fully qualified"))
	}
	return errs
}

func containerResourceName(n corev1.ResourceName, p *field.Path) field.ErrorList {
	if errs := invalid(p, n, validation.IsQualifiedName(string(n))); len(errs) > 0 {
		return errs
	}
	errs := resourceName(n, p)
	switch {
	case !strings.Contains(string(n), "/") && !isComputed(n):
		errs = append(errs, field.Invalid(p, n, "must be a standard resource for containers"))
	case !isNative(n) && !isExtended(n):
		errs = append(errs, field.Invalid(p, n, "doesn't follow extended resource name standard"))
	}
	return errs
}

// podResourceName demands one of the resources that a pod as a whole can have.
func podResourceName(n corev1.ResourceName, p *field.Path) field.ErrorList {
	errs := resourceName(n, p)
	if len(errs) == 0 && !helper.IsSupportedPodLevelResource(n) {
		errs = append(errs, field.NotSupported(p, n, []string{"cpu", "hugepages-", "memory"}))
	}
	return errs
}

// containerResources validates requests and limits of a container; claims are those its pod has.
func containerResources(p *field.Path, r *corev1.ResourceRequirements, claims sets.Set[string]) field.ErrorList {
	errs := requirements(p, r, containerResourceName)
	return append(errs, claimNames(r.Claims, claims, p.Child("claims"))...)
}

func requirements(p *field.Path, r *corev1.ResourceRequirements, name func(corev1.ResourceName, *field.Path) field.ErrorList) field.ErrorList {
	var errs field.ErrorList
	limits, requests := p.Child("limits"), p.Child("requests")
	compute, huge := false, false
	note := func(n corev1.ResourceName) {
		compute = compute || n == corev1.ResourceCPU || n == corev1.ResourceMemory
		huge = huge || isHugePage(n)
	}
	for _, n := range sortedNames(r.Limits) {
		note(n)
		errs = append(errs, name(n, limits.Key(string(n)))...)
		errs = append(errs, resourceQuantity(limits.Key(string(n)), n, r.Limits[n])...)
		errs = append(errs, hugePages(n, r.Limits[n], limits.Key(string(n)))...)
	}
	for _, n := range sortedNames(r.Requests) {
		note(n)
		q := r.Requests[n]
		errs = append(errs, name(n, requests.Key(string(n)))...)
		errs = append(errs, resourceQuantity(requests.Key(string(n)), n, q)...)
		errs = append(errs, hugePages(n, q, requests.Key(string(n)))...)
		limit, limited := r.Limits[n]
		switch {
		case limited && q.Cmp(limit) != 0 && !mayOvercommit(n):
			errs = append(errs, field.Invalid(requests, q.String(), fmt.Sprintf("must be equal to %s limit of %s", n, limit.String())))
		case limited && q.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(requests, q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", n, limit.String())))
		case !limited && !mayOvercommit(n):
			errs = append(errs, field.Required(limits, "Limit must be set for non overcommitable resources"))
		}
	}
	if huge && !compute {
		errs = append(errs, field.Forbidden(p, "HugePages require cpu or memory"))
	}
	return errs
}

func sortedNames(l corev1.ResourceList) []corev1.ResourceName {
	return slices.Sorted(maps.Keys(l))
}

// hugePages holds that huge pages come in whole pages.
func hugePages(n corev1.ResourceName, q resource.Quantity, p *field.Path) field.ErrorList {
	if !isHugePage(n) {
		return nil
	}
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(n), corev1.ResourceHugePagesPrefix))
	if err == nil && size.Value() > 0 && q.MilliValue()%1000 == 0 && q.Value()%size.Value() == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(p, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), n))}
}

func claimNames(list []corev1.ResourceClaim, known sets.Set[string], p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceClaim]()
	for i, c := range list {
		at := p.Index(i)
		switch {
		case c.Name == "":
			errs = append(errs, field.Required(at, ""))
			continue
		case seen.Has(c) || seen.Has(corev1.ResourceClaim{Name: c.Name}):
			errs = append(errs, field.Duplicate(at, c.Name))
		}
		seen.Insert(c)
		if c.Request != "" {
			errs = append(errs, invalid(at.Child("request"), c.Request, validation.IsDNS1123Label(c.Request))...)
		}
		if !known.Has(c.Name) {
			missing := field.NotFound(at, c.Name)
			missing.Detail = "must be one of the names in pod.spec.resourceClaims"
			if known.Len() == 0 {
				missing.Detail += " which is empty"
			} else {
				missing.Detail += ": " + strings.Join(sets.List(known), ", ")
			}
			errs = append(errs, missing)
		}
	}
	return errs
}

// podResources validates the resources of a pod as a whole, which its containers' must fit into.
func podResources(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	r, at := s.Resources, p.Child("resources")
	if r == nil {
		return nil
	}
	errs := requirements(at, r, podResourceName)
	if len(r.Claims) > 0 {
		errs = append(errs, field.Forbidden(at.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	if s.OS != nil && s.OS.Name == corev1.Windows {
		errs = append(errs, field.Forbidden(at, "may not be set for a windows pod"))
	}
	pod, options := &corev1.Pod{Spec: *s}, helper.PodResourcesOptions{}
	covers := func(list string, whole, sums corev1.ResourceList, judged func(corev1.ResourceName) bool) {
		for _, n := range sortedNames(sums) {
			sum, q := sums[n], whole[n]
			if _, set := whole[n]; set && judged(n) && q.Cmp(sum) < 0 {
				errs = append(errs, field.Invalid(at.Child(list).Key(string(n)), q.String(), fmt.Sprintf("must be greater than or equal to aggregate container %s of %s", list, sum.String())))
			}
		}
	}
	covers("requests", r.Requests, helper.AggregateContainerRequests(pod, options), helper.IsSupportedPodLevelResource)
	// Other limits may add up to more than the pod's: not all containers reach theirs at once. Huge pages are set aside.
	covers("limits", r.Limits, helper.AggregateContainerLimits(pod, options), isHugePage)
	for i, c := range s.Containers {
		for _, n := range sortedNames(c.Resources.Limits) {
			q := c.Resources.Limits[n]
			if most, set := r.Limits[n]; set && q.Cmp(most) > 0 {
				// The path begins at the pod's resources, as clients know it.
				errs = append(errs, field.Invalid(at.Child("containers").Index(i).Key(string(n)).Child("limits"), q.String(), fmt.Sprintf("must be less than or equal to pod limits of %s", most.String())))
			}
		}
	}
	return errs
}

// resourceQuantity demands a quantity that is not negative, and whole where the resource cannot be split.
func resourceQuantity(path *field.Path, name corev1.ResourceName, q resource.Quantity) field.ErrorList {
	errs := nonNegativeQuantity(path, q)
	if isExtended(name) || isCountable(name) {
		// Compared as a quantity: as a number of milli units a large one would overflow.
		if rounded := q.DeepCopy(); !rounded.RoundUp(0) {
			errs = append(errs, field.Invalid(path, q.String(), isNotInteger))
		}
	}
	return errs
}

func nonNegativeQuantity(path *field.Path, q resource.Quantity) field.ErrorList {
	if q.Sign() < 0 {
		return field.ErrorList{field.Invalid(path, q.String(), "must be greater than or equal to 0")}
	}
	return nil
}

func positiveQuantity(path *field.Path, q resource.Quantity) field.ErrorList {
	if q.Sign() <= 0 {
		return field.ErrorList{field.Invalid(path, q.String(), "must be greater than zero")}
	}
	return nil
}
