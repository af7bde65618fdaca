package validation

import (
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func accessModes(modes []corev1.PersistentVolumeAccessMode, p *field.Path) field.ErrorList {
	if len(modes) == 0 {
		return field.ErrorList{field.Required(p, "at least 1 access mode is required")}
	}
	var errs field.ErrorList
	for _, m := range modes {
		errs = append(errs, supported(p, m, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
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
	return supported(p, *m, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
}

func persistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	return persistentVolumeSpec(&v.Spec, false, spec())
}

// persistentVolumeSpec validates a volume's spec, or the shorter one that an attachment carries inline.
func persistentVolumeSpec(s *corev1.PersistentVolumeSpec, inline bool, p *field.Path) field.ErrorList {
	errs := accessModes(s.AccessModes, p.Child("accessModes"))
	errs = append(errs, onlyInline(s, inline, p)...)
	errs = append(errs, oneSource(persistentSources(&s.PersistentVolumeSource), p)...)
	if inline && s.CSI == nil {
		errs = append(errs, field.Required(p.Child("csi"), ""))
	}
	if s.NodeAffinity != nil && !inline {
		if s.NodeAffinity.Required == nil {
			errs = append(errs, field.Required(p.Child("nodeAffinity", "required"), "must specify required node constraints"))
		} else {
			errs = append(errs, nodeSelector(s.NodeAffinity.Required, p.Child("nodeAffinity", "required"))...)
		}
	}
	if s.Local != nil && s.NodeAffinity == nil {
		errs = append(errs, field.Required(p.Child("nodeAffinity"), "Local volume requires node affinity"))
	}
	errs = append(errs, volumeMode(s.VolumeMode, p.Child("volumeMode"))...)
	if c := s.VolumeAttributesClassName; c != nil {
		switch {
		case *c == "":
			errs = append(errs, field.Required(p.Child("volumeAttributesClassName"), "an empty string is disallowed"))
		default:
			errs = append(errs, invalid(p.Child("volumeAttributesClassName"), *c, validation.IsDNS1123Subdomain(*c))...)
		}
		if s.CSI == nil {
			errs = append(errs, field.Required(p.Child("csi"), "has to be specified when using volumeAttributesClassName"))
		}
	}
	return errs
}

// onlyInline validates the fields that an inline volume may not have, and any other may or must.
func onlyInline(s *corev1.PersistentVolumeSpec, inline bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if inline {
		for name, set := range map[string]bool{"claimRef": s.ClaimRef != nil, "capacity": len(s.Capacity) > 0, "persistentVolumeReclaimPolicy": s.CSI == nil && s.PersistentVolumeReclaimPolicy != "", "storageClassName": s.StorageClassName != ""} {
			if set {
				errs = append(errs, field.Forbidden(p.Child(name), "may not be specified in the context of inline volumes"))
			}
		}
		return errs
	}
	at := p.Child("capacity")
	if len(s.Capacity) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	if _, ok := s.Capacity[corev1.ResourceStorage]; !ok || len(s.Capacity) > 1 {
		errs = append(errs, field.NotSupported(at, s.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, n := range sortedNames(s.Capacity) {
		errs = append(errs, resourceName(n, at.Key(string(n)))...)
		errs = append(errs, positiveQuantity(at.Key(string(n)), s.Capacity[n])...)
	}
	errs = append(errs, supported(p.Child("persistentVolumeReclaimPolicy"), s.PersistentVolumeReclaimPolicy,
		corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	if s.HostPath != nil && path.Clean(s.HostPath.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(p.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
	}
	if s.StorageClassName != "" {
		errs = append(errs, invalid(p.Child("storageClassName"), s.StorageClassName, validation.IsDNS1123Subdomain(s.StorageClassName))...)
	}
	return errs
}

func persistentSources(s *corev1.PersistentVolumeSource) []source {
	secret := func(r *corev1.SecretReference, p *field.Path) field.ErrorList {
		if r == nil {
			return nil
		}
		return append(required(p.Child("secretRef", "name"), r.Name), required(p.Child("secretRef", "namespace"), r.Namespace)...)
	}
	return slices.Concat([]source{
		{"hostPath", s.HostPath != nil, func(at *field.Path) field.ErrorList { return hostPath(s.HostPath, at) }},
		{"glusterfs", s.Glusterfs != nil, func(at *field.Path) field.ErrorList { return glusterfs(s.Glusterfs, at) }},
		{"rbd", s.RBD != nil, func(at *field.Path) field.ErrorList {
			return append(monitors(s.RBD.CephMonitors, at), required(at.Child("image"), s.RBD.RBDImage)...)
		}},
		{"cephfs", s.CephFS != nil, func(at *field.Path) field.ErrorList { return monitors(s.CephFS.Monitors, at) }},
		{"iscsi", s.ISCSI != nil, func(at *field.Path) field.ErrorList {
			errs := iscsi(iscsiTarget{s.ISCSI.TargetPortal, s.ISCSI.IQN, s.ISCSI.Lun, s.ISCSI.InitiatorName,
				(s.ISCSI.DiscoveryCHAPAuth || s.ISCSI.SessionCHAPAuth) && s.ISCSI.SecretRef == nil}, at)
			if s.ISCSI.SecretRef != nil {
				errs = append(errs, required(at.Child("secretRef", "name"), s.ISCSI.SecretRef.Name)...)
			}
			return errs
		}},
		{"cinder", s.Cinder != nil, func(at *field.Path) field.ErrorList {
			return append(required(at.Child("volumeID"), s.Cinder.VolumeID), secret(s.Cinder.SecretRef, at)...)
		}},
		{"flexVolume", s.FlexVolume != nil, func(at *field.Path) field.ErrorList {
			return flexVolume(s.FlexVolume.Driver, s.FlexVolume.Options, at)
		}},
		{"azureFile", s.AzureFile != nil, func(at *field.Path) field.ErrorList {
			errs := append(required(at.Child("secretName"), s.AzureFile.SecretName), required(at.Child("shareName"), s.AzureFile.ShareName)...)
			if n := s.AzureFile.SecretNamespace; n != nil && *n == "" {
				errs = append(errs, field.Required(at.Child("secretNamespace"), ""))
			}
			return errs
		}},
		{"storageos", s.StorageOS != nil, func(at *field.Path) field.ErrorList {
			errs := storageOS(s.StorageOS.VolumeName, s.StorageOS.VolumeNamespace, at)
			if r := s.StorageOS.SecretRef; r != nil {
				errs = append(errs, required(at.Child("secretRef", "name"), r.Name)...)
				errs = append(errs, required(at.Child("secretRef", "namespace"), r.Namespace)...)
			}
			return errs
		}},
		{"scaleIO", s.ScaleIO != nil, func(at *field.Path) field.ErrorList {
			return scaleIO(s.ScaleIO.Gateway, s.ScaleIO.System, s.ScaleIO.VolumeName, at)
		}},
		{"local", s.Local != nil, func(at *field.Path) field.ErrorList {
			if s.Local.Path == "" {
				return field.ErrorList{field.Required(at.Child("path"), "")}
			}
			return noBacksteps(s.Local.Path, at.Child("path"))
		}},
		{"csi", s.CSI != nil, func(at *field.Path) field.ErrorList { return csiVolume(s.CSI, at) }},
	}, sharedSources(disks{s.GCEPersistentDisk, s.AWSElasticBlockStore, s.NFS, s.FC, s.Flocker, s.Quobyte, s.VsphereVolume,
		s.PhotonPersistentDisk, s.PortworxVolume, s.AzureDisk}))
}

func glusterfs(g *corev1.GlusterfsPersistentVolumeSource, p *field.Path) field.ErrorList {
	errs := append(required(p.Child("endpoints"), g.EndpointsName), required(p.Child("path"), g.Path)...)
	if n := g.EndpointsNamespace; n != nil && len(validation.IsDNS1123Label(*n)) > 0 {
		errs = append(errs, field.Invalid(p.Child("endpointsNamespace"), *n, "if the endpointnamespace is set, it must be a valid namespace name"))
	}
	return errs
}

func csiVolume(c *corev1.CSIPersistentVolumeSource, p *field.Path) field.ErrorList {
	errs := csiDriverName(c.Driver, p.Child("driver"))
	errs = append(errs, required(p.Child("volumeHandle"), c.VolumeHandle)...)
	for _, r := range []struct {
		name string
		ref  *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", c.ControllerPublishSecretRef}, {"nodePublishSecretRef", c.NodePublishSecretRef},
		{"controllerExpandSecretRef", c.ControllerExpandSecretRef}, {"nodeStageSecretRef", c.NodeStageSecretRef}, {"nodeExpandSecretRef", c.NodeExpandSecretRef},
	} {
		if r.ref != nil {
			errs = append(errs, required(p.Child(r.name, "name"), r.ref.Name)...)
			errs = append(errs, required(p.Child(r.name, "namespace"), r.ref.Namespace)...)
		}
	}
	return errs
}

// persistentVolumeUpdate keeps what the volume is: its source (but a CSI volume's expansion secrets), its mode, and where it can be.
func persistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	errs := persistentVolume(v)
	was := old.Spec.PersistentVolumeSource.DeepCopy()
	if was.CSI != nil && v.Spec.CSI != nil {
		was.CSI.ControllerExpandSecretRef, was.CSI.NodeExpandSecretRef = v.Spec.CSI.ControllerExpandSecretRef, v.Spec.CSI.NodeExpandSecretRef
	}
	if now := &v.Spec.PersistentVolumeSource; !equality.Semantic.DeepEqual(now, was) {
		errs = append(errs, field.Forbidden(spec().Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation\n"+diff.Diff(now, was)))
	}
	errs = append(errs, immutable(spec().Child("volumeMode"), v.Spec.VolumeMode, old.Spec.VolumeMode)...)
	if old.Spec.NodeAffinity != nil {
		errs = append(errs, immutable(spec().Child("nodeAffinity"), v.Spec.NodeAffinity, old.Spec.NodeAffinity)...)
	}
	class := func(c *string) string {
		if c == nil {
			return ""
		}
		return *c
	}
	if class(old.Spec.VolumeAttributesClassName) != "" && class(v.Spec.VolumeAttributesClassName) == "" {
		errs = append(errs, field.Forbidden(spec().Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}
