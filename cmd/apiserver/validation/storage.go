package validation

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func volumeRules(obj runtime.Object) (rules, bool) {
	switch obj.(type) {
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
