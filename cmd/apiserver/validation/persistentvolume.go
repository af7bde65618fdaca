package validation

import (
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

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
