package validation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const isNotInteger = "must be an integer"

func isHugePage(n corev1.ResourceName) bool {
	return strings.HasPrefix(string(n), corev1.ResourceHugePagesPrefix)
}

// isNative is true of names without a domain and of those under kubernetes.io.
func isNative(n corev1.ResourceName) bool {
	return !strings.Contains(string(n), "/") || strings.Contains(string(n), corev1.ResourceDefaultNamespacePrefix)
}

func isStandardForContainers(n corev1.ResourceName) bool {
	switch n {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return true
	}
	return isHugePage(n)
}

// mayOvercommit says whether a request may be less than its limit.
func mayOvercommit(n corev1.ResourceName) bool { return isNative(n) && !isHugePage(n) }

// containerResources validates requests and limits, of a container or of a whole pod.
func containerResources(path *field.Path, r *corev1.ResourceRequirements) field.ErrorList {
	var errs field.ErrorList
	for name, q := range r.Limits {
		errs = append(errs, containerResource(path.Child("limits").Key(string(name)), path.Child("limits"), name, q)...)
	}
	for name, q := range r.Requests {
		p := path.Child("requests").Key(string(name))
		errs = append(errs, containerResource(p, path.Child("requests"), name, q)...)
		limit, limited := r.Limits[name]
		switch {
		case limited && q.Cmp(limit) != 0 && !mayOvercommit(name):
			errs = append(errs, field.Invalid(path.Child("requests"), q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case limited && q.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(path.Child("requests"), q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		case !limited && !mayOvercommit(name):
			errs = append(errs, field.Required(path.Child("limits"), "Limit must be set for non overcommitable resources"))
		}
	}
	claims := map[string]bool{}
	for i, c := range r.Claims {
		errs = append(errs, required(path.Child("claims").Index(i).Child("name"), c.Name)...)
		if claims[c.Name+"/"+c.Request] {
			errs = append(errs, field.Duplicate(path.Child("claims").Index(i), c))
		}
		claims[c.Name+"/"+c.Request] = true
	}
	return errs
}

func containerResource(path, parent *field.Path, name corev1.ResourceName, q resource.Quantity) field.ErrorList {
	errs := invalid(parent, name, validation.IsQualifiedName(string(name)))
	if len(errs) == 0 && isNative(name) && !isStandardForContainers(name) {
		errs = append(errs, field.Invalid(parent, name, "must be a standard resource for containers"))
	}
	return append(errs, resourceQuantity(path, name, q)...)
}

// resourceQuantity demands a quantity that is not negative, and whole where the resource cannot be split.
func resourceQuantity(path *field.Path, name corev1.ResourceName, q resource.Quantity) field.ErrorList {
	errs := nonNegativeQuantity(path, q)
	if !isNative(name) || isCountable(name) {
		// Compared as a quantity: as a number of milli units a large one would overflow.
		if rounded := q.DeepCopy(); !rounded.RoundUp(0) {
			errs = append(errs, field.Invalid(path, q.String(), isNotInteger))
		}
	}
	return errs
}

// isCountable is true of the quotas that count objects.
func isCountable(n corev1.ResourceName) bool {
	switch n {
	case corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceSecrets,
		corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
		return true
	}
	return strings.HasPrefix(string(n), "count/")
}

func nonNegativeQuantity(path *field.Path, q resource.Quantity) field.ErrorList {
	if q.Cmp(resource.Quantity{}) < 0 {
		return field.ErrorList{field.Invalid(path, q.String(), "must be greater than or equal to 0")}
	}
	return nil
}

func positiveQuantity(path *field.Path, q resource.Quantity) field.ErrorList {
	if q.Cmp(resource.Quantity{}) <= 0 {
		return field.ErrorList{field.Invalid(path, q.String(), "must be greater than zero")}
	}
	return nil
}
