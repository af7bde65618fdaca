package volumebinder

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// pick returns the volume for an unbound claim: one that was reserved for it, or the smallest that fits. Of equals it
// is the first by name. It is nil where there is none.
func pick(claim *corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume) *corev1.PersistentVolume {
	var best *corev1.PersistentVolume
	for _, v := range volumes {
		if v.DeletionTimestamp != nil || mismatch(v, claim) != "" || !selected(v, claim) {
			continue
		}
		if v.Spec.ClaimRef != nil {
			if reservedFor(v, claim) {
				return v
			}
			continue
		}
		if v.Status.Phase != corev1.VolumeAvailable {
			continue
		}
		if best == nil || cmp.Or(size(v).Cmp(*size(best)), cmp.Compare(v.Name, best.Name)) < 0 {
			best = v
		}
	}
	return best
}

func size(v *corev1.PersistentVolume) *resource.Quantity {
	q := v.Spec.Capacity[corev1.ResourceStorage]
	return &q
}

// mismatch says why volume cannot serve claim, "" if it can.
func mismatch(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) string {
	want := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case size(v).Cmp(want) < 0:
		return "requested PV is too small"
	case v.Spec.StorageClassName != className(claim):
		return "storageClassName does not match"
	case attributes(v.Spec.VolumeAttributesClassName) != attributes(claim.Spec.VolumeAttributesClassName):
		return "VolumeAttributesClassName does not match"
	case mode(v.Spec.VolumeMode) != mode(claim.Spec.VolumeMode):
		return "incompatible volumeMode"
	}
	for _, m := range claim.Spec.AccessModes {
		if !slices.Contains(v.Spec.AccessModes, m) {
			return "incompatible accessMode"
		}
	}
	return ""
}

// selected tells whether claim's selector takes v. Only a claim that names no volume has one that counts.
func selected(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	if claim.Spec.Selector == nil {
		return true
	}
	selector, err := metav1.LabelSelectorAsSelector(claim.Spec.Selector)
	return err == nil && selector.Matches(labels.Set(v.Labels))
}

// reservedFor tells that v is bound to claim, or was meant for a claim of its name before there was one.
func reservedFor(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	ref := v.Spec.ClaimRef
	return ref != nil && ref.Namespace == claim.Namespace && ref.Name == claim.Name && (ref.UID == "" || ref.UID == claim.UID)
}

func className(claim *corev1.PersistentVolumeClaim) string {
	if name, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	return attributes(claim.Spec.StorageClassName)
}

func attributes(name *string) string {
	if name == nil {
		return ""
	}
	return *name
}

func mode(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
	if m == nil {
		return corev1.PersistentVolumeFilesystem
	}
	return *m
}

// unclassed tells that claim waits for there to be a default class: it named none, and has no volume.
func unclassed(claim *corev1.PersistentVolumeClaim) bool {
	_, old := claim.Annotations[corev1.BetaStorageClassAnnotation]
	return claim.Spec.StorageClassName == nil && !old && claim.Spec.VolumeName == "" && claim.DeletionTimestamp == nil
}

// defaultClass is the newest of those that are annotated as default, by name if equally old; nil where there is none.
func defaultClass(classes []*storagev1.StorageClass) *storagev1.StorageClass {
	var best *storagev1.StorageClass
	for _, c := range classes {
		if c.Annotations[isDefault] != "true" && c.Annotations[betaIsDefault] != "true" {
			continue
		}
		if best == nil || cmp.Or(best.CreationTimestamp.Compare(c.CreationTimestamp.Time), cmp.Compare(c.Name, best.Name)) < 0 {
			best = c
		}
	}
	return best
}
