package validation

import (
	networkingv1 "k8s.io/api/networking/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// serviceCIDRUpdate lets a range become dual-stack by a second block, and otherwise stay as it is: Services have addresses
// from it.
func serviceCIDRUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	at := spec().Child("cidrs")
	now, was := c.Spec.CIDRs, old.Spec.CIDRs
	grown := len(was) == 1 && len(now) == 2
	if len(now) != len(was) && !grown {
		return immutable(at, now, was)
	}
	var errs field.ErrorList
	for i := range was {
		errs = append(errs, immutable(at.Index(i), now[i], was[i])...)
	}
	if grown {
		errs = append(errs, serviceCIDR(c)...)
	}
	return errs
}

func serviceCIDRStatus(c, _ *networkingv1.ServiceCIDR) field.ErrorList {
	return metavalidation.ValidateConditions(c.Status.Conditions, status().Child("conditions"))
}
