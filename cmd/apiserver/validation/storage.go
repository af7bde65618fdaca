package validation

import (
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func volumeRules(obj runtime.Object) (rules, bool) {
	switch obj.(type) {
	case *corev1.PersistentVolume:
		return kind(persistentVolume, persistentVolumeUpdate, nil), true
	case *corev1.PersistentVolumeClaim:
		return kind(claim, claimUpdate, claimStatus), true
	case *storagev1.StorageClass:
		return kind(storageClass, storageClassUpdate, nil), true
	case *storagev1.CSIDriver:
		return kind(csiDriver, nil, nil), true
	case *storagev1.VolumeAttachment:
		return kind(volumeAttachment, func(a, old *storagev1.VolumeAttachment) field.ErrorList {
			return immutable(spec(), a.Spec, old.Spec)
		}, nil), true
	case *storagev1.VolumeAttributesClass:
		return kind(attributesClass, func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
			return append(immutable(field.NewPath("driverName"), c.DriverName, old.DriverName), immutable(field.NewPath("parameters"), c.Parameters, old.Parameters)...)
		}, nil), true
	}
	return rules{}, false
}

func accessModes(modes []corev1.PersistentVolumeAccessMode, p *field.Path) field.ErrorList {
	if len(modes) == 0 {
		return field.ErrorList{field.Required(p, "at least 1 access mode is required")}
	}
	var errs field.ErrorList
	for _, m := range modes {
		errs = append(errs, oneOf(p, m, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
	}
	if slices.Contains(modes, corev1.ReadWriteOncePod) && len(modes) > 1 {
		errs = append(errs, field.Forbidden(p, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

func volumeMode(m *corev1.PersistentVolumeMode, p *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	return oneOf(p, *m, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
}

func persistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	s := &v.Spec
	errs := accessModes(s.AccessModes, spec().Child("accessModes"))
	if len(s.Capacity) == 0 {
		errs = append(errs, field.Required(spec().Child("capacity"), ""))
	}
	size, ok := s.Capacity[corev1.ResourceStorage]
	if !ok || len(s.Capacity) > 1 {
		errs = append(errs, field.NotSupported(spec().Child("capacity"), s.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	} else {
		errs = append(errs, positiveQuantity(spec().Child("capacity").Key("storage"), size)...)
	}
	errs = append(errs, oneOf(spec().Child("persistentVolumeReclaimPolicy"), s.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	errs = append(errs, oneSource(&s.PersistentVolumeSource, spec())...)
	errs = append(errs, volumeMode(s.VolumeMode, spec().Child("volumeMode"))...)
	if s.StorageClassName != "" {
		errs = append(errs, invalid(spec().Child("storageClassName"), s.StorageClassName, validation.IsDNS1123Subdomain(s.StorageClassName))...)
	}
	if s.NodeAffinity != nil {
		if s.NodeAffinity.Required == nil {
			errs = append(errs, field.Required(spec().Child("nodeAffinity", "required"), "must specify required node constraints"))
		} else {
			errs = append(errs, nodeSelector(s.NodeAffinity.Required, spec().Child("nodeAffinity", "required"))...)
		}
	}
	switch {
	case s.HostPath != nil:
		errs = append(errs, hostPath(s.HostPath, spec().Child("hostPath"))...)
		if s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle && path.Clean(s.HostPath.Path) == "/" {
			errs = append(errs, field.Forbidden(spec().Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
		}
	case s.NFS != nil:
		errs = append(errs, nfs(s.NFS, spec().Child("nfs"))...)
	case s.CSI != nil:
		errs = append(errs, required(spec().Child("csi", "driver"), s.CSI.Driver)...)
		errs = append(errs, required(spec().Child("csi", "volumeHandle"), s.CSI.VolumeHandle)...)
	case s.Local != nil:
		errs = append(errs, required(spec().Child("local", "path"), s.Local.Path)...)
		errs = append(errs, noBacksteps(s.Local.Path, spec().Child("local", "path"))...)
		if s.NodeAffinity == nil {
			errs = append(errs, field.Required(spec().Child("nodeAffinity"), "Local volume requires node affinity"))
		}
	}
	return errs
}

func persistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	errs := persistentVolume(v)
	if !equality.Semantic.DeepEqual(v.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource) {
		errs = append(errs, field.Forbidden(spec().Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation"))
	}
	errs = append(errs, immutable(spec().Child("volumeMode"), v.Spec.VolumeMode, old.Spec.VolumeMode)...)
	if old.Spec.NodeAffinity != nil {
		errs = append(errs, immutable(spec().Child("nodeAffinity"), v.Spec.NodeAffinity, old.Spec.NodeAffinity)...)
	}
	return errs
}

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

func storageClass(c *storagev1.StorageClass) field.ErrorList {
	errs := requiredName(field.NewPath("provisioner"), c.Provisioner, validation.IsQualifiedName)
	for k := range c.Parameters {
		if k == "" {
			errs = append(errs, field.Invalid(field.NewPath("parameters"), k, "field can not be empty."))
		}
	}
	if c.ReclaimPolicy != nil {
		errs = append(errs, oneOf(field.NewPath("reclaimPolicy"), *c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	if c.VolumeBindingMode == nil {
		return append(errs, field.Required(field.NewPath("volumeBindingMode"), ""))
	}
	return append(errs, oneOf(field.NewPath("volumeBindingMode"), *c.VolumeBindingMode, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
}

func storageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	errs := storageClass(c)
	if !equality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
		errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
	}
	if c.Provisioner != old.Provisioner {
		errs = append(errs, field.Forbidden(field.NewPath("provisioner"), "updates to provisioner are forbidden."))
	}
	if !equality.Semantic.DeepEqual(c.ReclaimPolicy, old.ReclaimPolicy) {
		errs = append(errs, field.Forbidden(field.NewPath("reclaimPolicy"), "updates to reclaimPolicy are forbidden."))
	}
	return append(errs, immutable(field.NewPath("volumeBindingMode"), c.VolumeBindingMode, old.VolumeBindingMode)...)
}

func csiDriver(d *storagev1.CSIDriver) field.ErrorList {
	var errs field.ErrorList
	if d.Spec.AttachRequired == nil {
		errs = append(errs, field.Required(spec().Child("attachedRequired"), ""))
	}
	for i, m := range d.Spec.VolumeLifecycleModes {
		errs = append(errs, oneOf(spec().Child("volumeLifecycleModes").Index(i), m, storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
	}
	if p := d.Spec.FSGroupPolicy; p != nil {
		errs = append(errs, oneOf(spec().Child("fsGroupPolicy"), *p, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy, storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy)...)
	}
	return errs
}

func volumeAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	errs := required(spec().Child("attacher"), a.Spec.Attacher)
	errs = append(errs, requiredName(spec().Child("nodeName"), a.Spec.NodeName, validation.IsDNS1123Subdomain)...)
	source := a.Spec.Source
	switch {
	case source.PersistentVolumeName == nil && source.InlineVolumeSpec == nil:
		errs = append(errs, field.Required(spec().Child("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case source.PersistentVolumeName != nil && source.InlineVolumeSpec != nil:
		errs = append(errs, field.Forbidden(spec().Child("source"), "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	}
	return errs
}

func attributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := required(field.NewPath("driverName"), c.DriverName)
	if len(c.Parameters) == 0 {
		errs = append(errs, field.Required(field.NewPath("parameters"), "must contain at least one key/value pair"))
	}
	return errs
}
