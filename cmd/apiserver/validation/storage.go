package validation

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What kinds of storage may hold at most.
const (
	maxClassParameters    = 512
	maxClassParameterSize = 256 * 1024
	maxNodeID             = 256
	maxVolumeErrorMessage = 1024
	maxAttachmentMetadata = 256 * 1024
	minAudienceLifetime   = 10 * 60
	maxAudienceLifetime   = 1 << 32
	minAllocatableUpdates = 10
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
		return kind(csiDriver, csiDriverUpdate, nil), true
	case *storagev1.CSINode:
		return kind(csiNode, csiNodeUpdate, nil), true
	case *storagev1.CSIStorageCapacity:
		return kind(storageCapacity, storageCapacityUpdate, nil), true
	case *storagev1.VolumeAttachment:
		return kind(volumeAttachment, func(a, old *storagev1.VolumeAttachment) field.ErrorList {
			return append(volumeAttachment(a), immutable(spec(), a.Spec, old.Spec)...)
		}, func(a, _ *storagev1.VolumeAttachment) field.ErrorList { return attachmentStatus(&a.Status) }), true
	case *storagev1.VolumeAttributesClass:
		return kind(attributesClass, func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
			return append(immutable(field.NewPath("driverName"), c.DriverName, old.DriverName), immutable(field.NewPath("parameters"), c.Parameters, old.Parameters)...)
		}, nil), true
	}
	return rules{}, false
}

func storageClass(c *storagev1.StorageClass) field.ErrorList {
	errs := requiredName(field.NewPath("provisioner"), c.Provisioner, func(s string) []string { return validation.IsQualifiedName(strings.ToLower(s)) })
	errs = append(errs, classParameters(c.Parameters)...)
	if c.ReclaimPolicy != nil {
		errs = append(errs, oneOf(field.NewPath("reclaimPolicy"), *c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	if c.VolumeBindingMode == nil {
		errs = append(errs, field.Required(field.NewPath("volumeBindingMode"), ""))
	} else {
		errs = append(errs, supported(field.NewPath("volumeBindingMode"), *c.VolumeBindingMode, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	return append(errs, allowedTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

// classParameters validates what a class says to its driver: few words, and not too many bytes for a request.
func classParameters(parameters map[string]string) field.ErrorList {
	at := field.NewPath("parameters")
	if len(parameters) > maxClassParameters {
		return field.ErrorList{field.TooLong(at, "", maxClassParameters)}
	}
	var errs field.ErrorList
	size := 0
	for key, value := range parameters {
		if key == "" {
			errs = append(errs, field.Invalid(at, key, "field can not be empty."))
		}
		size += len(key) + len(value)
	}
	if size > maxClassParameterSize {
		errs = append(errs, field.TooLong(at, "", maxClassParameterSize))
	}
	return errs
}

func allowedTopologies(terms []corev1.TopologySelectorTerm, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, term := range terms {
		at := p.Index(i).Child("matchLabelExpressions")
		keys := sets.New[string]()
		for j, e := range term.MatchLabelExpressions {
			errs = append(errs, invalid(at.Index(j).Child("key"), e.Key, validation.IsQualifiedName(e.Key))...)
			if len(e.Values) == 0 {
				errs = append(errs, field.Required(at.Index(j).Child("values"), ""))
			}
			values := sets.New[string]()
			for k, v := range e.Values {
				if values.Has(v) {
					errs = append(errs, field.Duplicate(at.Index(j).Child("values").Index(k), v))
				}
				values.Insert(v)
			}
			if keys.Has(e.Key) {
				errs = append(errs, field.Duplicate(at.Index(j).Child("key"), e.Key))
			}
			keys.Insert(e.Key)
		}
		if slices.ContainsFunc(terms[:i], func(t corev1.TopologySelectorTerm) bool { return equality.Semantic.DeepEqual(t, term) }) {
			errs = append(errs, field.Duplicate(at, ""))
		}
	}
	return errs
}

func storageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	errs := storageClass(c)
	for _, f := range []struct {
		name     string
		now, was any
	}{
		{"parameters", c.Parameters, old.Parameters}, {"provisioner", c.Provisioner, old.Provisioner},
		{"reclaimPolicy", c.ReclaimPolicy, old.ReclaimPolicy}, {"volumeBindingMode", c.VolumeBindingMode, old.VolumeBindingMode},
	} {
		errs = append(errs, immutable(field.NewPath(f.name), f.now, f.was)...)
	}
	return errs
}

func csiDriver(d *storagev1.CSIDriver) field.ErrorList {
	errs := csiDriverName(d.Name, field.NewPath("name"))
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"attachedRequired", d.Spec.AttachRequired != nil}, {"podInfoOnMount", d.Spec.PodInfoOnMount != nil}, {"storageCapacity", d.Spec.StorageCapacity != nil},
		{"fsGroupPolicy", d.Spec.FSGroupPolicy != nil}, {"requiresRepublish", d.Spec.RequiresRepublish != nil}, {"seLinuxMount", d.Spec.SELinuxMount != nil},
	} {
		if !f.set {
			errs = append(errs, field.Required(spec().Child(f.name), ""))
		}
	}
	if p := d.Spec.FSGroupPolicy; p != nil {
		errs = append(errs, supported(spec().Child("fsGroupPolicy"), *p, storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	}
	for _, m := range d.Spec.VolumeLifecycleModes {
		errs = append(errs, supported(spec().Child("volumeLifecycleModes"), m, storagev1.VolumeLifecycleEphemeral, storagev1.VolumeLifecyclePersistent)...)
	}
	errs = append(errs, audiences(d.Spec.TokenRequests, spec().Child("tokenRequests"))...)
	if d.Spec.ServiceAccountTokenInSecrets != nil && len(d.Spec.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(spec().Child("serviceAccountTokenInSecrets"), *d.Spec.ServiceAccountTokenInSecrets, "must be unset when no tokenRequests are configured"))
	}
	if s := d.Spec.NodeAllocatableUpdatePeriodSeconds; s != nil && *s < minAllocatableUpdates {
		errs = append(errs, field.Invalid(spec().Child("nodeAllocatableUpdatePeriodSeconds"), *s, "must be greater than or equal to 10 seconds"))
	}
	return errs
}

// audiences validates for whom a driver wants tokens.
func audiences(list []storagev1.TokenRequest, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, r := range list {
		if seen.Has(r.Audience) {
			errs = append(errs, field.Duplicate(p.Index(i).Child("audience"), r.Audience))
		}
		seen.Insert(r.Audience)
		at := p.Index(i).Child("expirationSeconds")
		switch s := r.ExpirationSeconds; {
		case s == nil:
		case *s < minAudienceLifetime:
			errs = append(errs, field.Invalid(at, *s, "may not specify a duration less than 10 minutes"))
		case *s > maxAudienceLifetime:
			errs = append(errs, field.Invalid(at, *s, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}

func csiDriverUpdate(d, old *storagev1.CSIDriver) field.ErrorList {
	errs := csiDriver(d)
	errs = append(errs, immutable(spec().Child("attachedRequired"), d.Spec.AttachRequired, old.Spec.AttachRequired)...)
	return append(errs, immutable(spec().Child("volumeLifecycleModes"), d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes)...)
}

func csiNode(n *storagev1.CSINode) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range n.Spec.Drivers {
		d, at := &n.Spec.Drivers[i], spec().Child("drivers").Index(i)
		errs = append(errs, csiDriverName(d.Name, at.Child("name"))...)
		if names.Has(d.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
		}
		names.Insert(d.Name)
		switch {
		case d.NodeID == "":
			errs = append(errs, field.Required(at.Child("nodeID"), ""))
		case len(d.NodeID) > maxNodeID:
			errs = append(errs, field.Invalid(at.Child("nodeID"), d.NodeID, "must be 256 characters or less"))
		}
		if d.Allocatable != nil {
			errs = append(errs, nonNegativePtr(at.Child("allocatable", "count"), d.Allocatable.Count)...)
		}
		keys := sets.New[string]()
		for _, k := range d.TopologyKeys {
			if k == "" {
				errs = append(errs, field.Required(at.Child("topologyKeys"), ""))
			} else {
				errs = append(errs, invalid(at.Child("topologyKeys"), k, validation.IsQualifiedName(k))...)
			}
			if keys.Has(k) {
				errs = append(errs, field.Duplicate(at.Child("topologyKeys"), k))
			}
			keys.Insert(k)
		}
	}
	return errs
}

// csiNodeUpdate lets drivers come and go; one that stays keeps its identity, only how many volumes it takes may change.
func csiNodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	errs := csiNode(n)
	for _, d := range n.Spec.Drivers {
		for _, was := range old.Spec.Drivers {
			was.Allocatable = d.Allocatable
			if d.Name == was.Name && !equality.Semantic.DeepEqual(d, was) {
				errs = append(errs, field.Invalid(field.NewPath("spec", "drivers"), d, "field is immutable"))
			}
		}
	}
	return errs
}

func storageCapacity(c *storagev1.CSIStorageCapacity) field.ErrorList {
	errs := labelSelector(field.NewPath("nodeTopology"), c.NodeTopology)
	errs = append(errs, requiredName(field.NewPath("storageClassName"), c.StorageClassName, validation.IsDNS1123Subdomain)...)
	if c.Capacity != nil {
		errs = append(errs, nonNegativeQuantity(field.NewPath("capacity"), *c.Capacity)...)
	}
	if c.MaximumVolumeSize != nil {
		errs = append(errs, nonNegativeQuantity(field.NewPath("maximumVolumeSize"), *c.MaximumVolumeSize)...)
	}
	return errs
}

func storageCapacityUpdate(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
	errs := storageCapacity(c)
	errs = append(errs, immutable(field.NewPath("nodeTopology"), c.NodeTopology, old.NodeTopology)...)
	return append(errs, immutable(field.NewPath("storageClassName"), c.StorageClassName, old.StorageClassName)...)
}

func volumeAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	errs := csiDriverName(a.Spec.Attacher, spec().Child("attacher"))
	errs = append(errs, nodeName(a.Spec.NodeName, spec().Child("nodeName"))...)
	source, at := a.Spec.Source, spec().Child("source")
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch {
	case source.PersistentVolumeName == nil && source.InlineVolumeSpec == nil:
		errs = append(errs, field.Required(at, one))
	case source.PersistentVolumeName != nil && source.InlineVolumeSpec != nil:
		errs = append(errs, field.Forbidden(at, one))
	case source.InlineVolumeSpec != nil:
		errs = append(errs, persistentVolumeSpec(source.InlineVolumeSpec, true, at.Child("inlineVolumeSpec"))...)
	case *source.PersistentVolumeName == "":
		errs = append(errs, field.Required(at.Child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
	default:
		errs = append(errs, invalid(at.Child("persistentVolumeName"), *source.PersistentVolumeName, validation.IsDNS1123Subdomain(*source.PersistentVolumeName))...)
	}
	return errs
}

func attachmentStatus(s *storagev1.VolumeAttachmentStatus) field.ErrorList {
	var errs field.ErrorList
	at := status().Child("attachmentMetadata")
	size := 0
	for k, v := range s.AttachmentMetadata {
		errs = append(errs, invalid(at, k, validation.IsQualifiedName(strings.ToLower(k)))...)
		size += len(k) + len(v)
	}
	if size > maxAttachmentMetadata {
		errs = append(errs, field.TooLong(at, "", maxAttachmentMetadata))
	}
	for _, f := range []struct {
		name string
		e    *storagev1.VolumeError
	}{{"attachError", s.AttachError}, {"detachError", s.DetachError}} {
		if f.e != nil && len(f.e.Message) > maxVolumeErrorMessage {
			errs = append(errs, field.TooLong(status().Child(f.name, "message"), f.e.Message, maxVolumeErrorMessage))
		}
	}
	return errs
}

func attributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := csiDriverName(c.DriverName, field.NewPath("driverName"))
	if len(c.Parameters) == 0 {
		errs = append(errs, field.Required(field.NewPath("parameters"), "must contain at least one key/value pair"))
	}
	return append(errs, classParameters(c.Parameters)...)
}
