package validation

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func claim(c *corev1.PersistentVolumeClaim) field.ErrorList { return claimSpec(&c.Spec, spec()) }

func claimSpec(s *corev1.PersistentVolumeClaimSpec, p *field.Path) field.ErrorList {
	errs := accessModes(s.AccessModes, p.Child("accessModes"))
	errs = append(errs, labelSelector(p.Child("selector"), s.Selector)...)
	if size, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		errs = append(errs, field.Required(p.Child("resources").Key("storage"), ""))
	} else {
		errs = append(errs, positiveQuantity(p.Child("resources").Key("storage"), size)...)
	}
	if n := s.StorageClassName; n != nil && *n != "" {
		errs = append(errs, invalid(p.Child("storageClassName"), *n, validation.IsDNS1123Subdomain(*n))...)
	}
	return append(errs, volumeMode(s.VolumeMode, p.Child("volumeMode"))...)
}

// claimUpdate lets a claim be bound, and a bound one grow; the rest of its spec stays.
func claimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := claim(c)
	kept := c.Spec.DeepCopy()
	if old.Spec.VolumeName == "" {
		kept.VolumeName = ""
	}
	before := old.Spec.DeepCopy()
	if before.StorageClassName == nil {
		kept.StorageClassName = nil // a default class may be given later
	}
	size, was := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	bound := old.Status.Phase == corev1.ClaimBound
	if bound && kept.Resources.Requests != nil && size.Cmp(was) != 0 {
		// Growth that failed may be taken back as far as what the claim has.
		if have, ok := old.Status.Capacity[corev1.ResourceStorage]; size.Cmp(was) < 0 && (!ok || size.Cmp(have) <= 0) {
			errs = append(errs, field.Forbidden(spec().Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
		}
		kept.Resources.Requests[corev1.ResourceStorage] = was
	}
	kept.VolumeAttributesClassName = before.VolumeAttributesClassName
	if !equality.Semantic.DeepEqual(kept, before) {
		errs = append(errs, field.Forbidden(spec(), "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"))
	}
	return errs
}

func claimStatus(c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	for name, q := range c.Status.Capacity {
		errs = append(errs, resourceQuantity(status().Child("capacity").Key(string(name)), name, q)...)
	}
	return errs
}
