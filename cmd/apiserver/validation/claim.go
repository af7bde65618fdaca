package validation

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
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
		errs = append(errs, nonNegativeQuantity(p.Child("resources").Key("storage"), size)...)
		errs = append(errs, positiveQuantity(p.Child("resources").Key("storage"), size)...)
	}
	if n := s.StorageClassName; n != nil && *n != "" {
		errs = append(errs, invalid(p.Child("storageClassName"), *n, validation.IsDNS1123Subdomain(*n))...)
	}
	errs = append(errs, volumeMode(s.VolumeMode, p.Child("volumeMode"))...)
	errs = append(errs, dataSources(s, p)...)
	if n := s.VolumeAttributesClassName; n != nil && *n != "" {
		errs = append(errs, invalid(p.Child("volumeAttributesClassName"), *n, validation.IsDNS1123Subdomain(*n))...)
	}
	return errs
}

// dataSources validates what a volume is filled from. The older field knows no namespace, and must agree with the newer one.
func dataSources(s *corev1.PersistentVolumeClaimSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if d := s.DataSource; d != nil {
		errs = append(errs, dataSource(d.APIGroup, d.Kind, d.Name, p.Child("dataSource"))...)
	}
	d := s.DataSourceRef
	if d == nil {
		return errs
	}
	at := p.Child("dataSourceRef")
	errs = append(errs, dataSource(d.APIGroup, d.Kind, d.Name, at)...)
	if d.Namespace != nil && *d.Namespace != "" {
		errs = append(errs, invalid(at.Child("namespace"), *d.Namespace, validation.IsDNS1123Label(*d.Namespace))...)
		if s.DataSource != nil {
			errs = append(errs, field.Invalid(p, p.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified"))
		}
		return errs
	}
	if s.DataSource != nil && !equality.Semantic.DeepEqual(s.DataSource, &corev1.TypedLocalObjectReference{APIGroup: d.APIGroup, Kind: d.Kind, Name: d.Name}) {
		errs = append(errs, field.Invalid(p, p.Child("dataSource"), "must match dataSourceRef"))
	}
	return errs
}

func dataSource(group *string, kind, name string, p *field.Path) field.ErrorList {
	errs := required(p.Child("name"), name)
	errs = append(errs, required(p.Child("kind"), kind)...)
	g := ""
	if group != nil {
		g = *group
	}
	if g == "" && kind != "PersistentVolumeClaim" {
		errs = append(errs, field.Invalid(p, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
	}
	if g != "" {
		errs = append(errs, invalid(p.Child("apiGroup"), g, validation.IsDNS1123Subdomain(g))...)
	}
	return errs
}

// claimUpdate lets a claim be bound, and a bound one grow or change its attributes; the rest of its spec stays.
func claimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := claim(c)
	kept, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		kept.VolumeName = ""
	}
	// The class's old place was an annotation; and a claim without any class gets the default one when there is one.
	if was.StorageClassName == nil && (kept.StorageClassName != nil && *kept.StorageClassName == old.Annotations[corev1.BetaStorageClassAnnotation] || old.Annotations[corev1.BetaStorageClassAnnotation] == "" && kept.VolumeName == "") {
		kept.StorageClassName = nil
	}
	if old.Status.Phase == corev1.ClaimBound && kept.Resources.Requests != nil {
		size, before := kept.Resources.Requests[corev1.ResourceStorage], was.Resources.Requests[corev1.ResourceStorage]
		if size.Cmp(before) < 0 {
			// Growth that failed may be taken back, as far as what the claim has, but not to it.
			have, known := old.Status.Capacity[corev1.ResourceStorage]
			if !known || size.Cmp(have) <= 0 {
				errs = append(errs, field.Forbidden(spec().Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
			}
		}
		kept.Resources.Requests[corev1.ResourceStorage] = before
	}
	errs = append(errs, attributesClassUpdate(c, old)...)
	kept.VolumeAttributesClassName = was.VolumeAttributesClassName
	if !equality.Semantic.DeepEqual(kept, was) {
		errs = append(errs, field.Forbidden(spec(), "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+diff.Diff(kept, was)))
	}
	return errs
}

// attributesClassUpdate lets a claim that has a class have another, but not none.
func attributesClassUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	now, was := c.Spec.VolumeAttributesClassName, old.Spec.VolumeAttributesClassName
	if was == nil || *was == "" {
		return nil
	}
	at := spec().Child("volumeAttributesClassName")
	switch {
	case now == nil:
		return field.ErrorList{field.Forbidden(at, "update from non-nil value to nil is forbidden")}
	case *now == "" && (old.Status.CurrentVolumeAttributesClassName != nil && *old.Status.CurrentVolumeAttributesClassName != ""):
		return field.ErrorList{field.Forbidden(at, "update from non-nil value to an empty string is forbidden")}
	}
	return nil
}

func claimStatus(c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	if len(c.Spec.AccessModes) == 0 {
		errs = append(errs, field.Required(spec().Child("accessModes"), ""))
	}
	capacity := status().Child("capacity")
	for _, n := range sortedNames(c.Status.Capacity) {
		errs = append(errs, resourceQuantity(capacity.Key(string(n)), n, c.Status.Capacity[n])...)
	}
	statuses := status().Child("allocatedResourceStatus")
	for n, s := range c.Status.AllocatedResourceStatuses {
		errs = append(errs, claimResourceName(n, statuses)...)
		errs = append(errs, supported(statuses, s, corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
			corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible)...)
	}
	allocated := status().Child("allocatedResources")
	for _, n := range sortedNames(c.Status.AllocatedResources) {
		errs = append(errs, claimResourceName(n, allocated)...)
		errs = append(errs, nonNegativeQuantity(allocated, c.Status.AllocatedResources[n])...)
	}
	return errs
}

// claimResourceName demands the one resource that claims have, or one with somebody's domain.
func claimResourceName(n corev1.ResourceName, p *field.Path) field.ErrorList {
	errs := invalid(p, n, validation.IsQualifiedName(string(n)))
	if len(errs) == 0 && isNative(n) && n != corev1.ResourceStorage {
		errs = append(errs, field.NotSupported(p, n, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	return errs
}
