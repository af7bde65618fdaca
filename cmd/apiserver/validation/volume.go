package validation

import (
	"fmt"
	"path"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// volumes validates a pod's volumes and returns them by name.
func volumes(list []corev1.Volume, p *field.Path) (map[string]corev1.VolumeSource, field.ErrorList) {
	var errs field.ErrorList
	byName := map[string]corev1.VolumeSource{}
	for i := range list {
		v, at := &list[i], p.Index(i)
		bad := requiredName(at.Child("name"), v.Name, validation.IsDNS1123Label)
		if _, ok := byName[v.Name]; ok {
			bad = append(bad, field.Duplicate(at.Child("name"), v.Name))
		}
		if len(bad) == 0 {
			byName[v.Name] = v.VolumeSource
		}
		errs = append(errs, bad...)
		errs = append(errs, oneSource(&v.VolumeSource, at)...)
		errs = append(errs, volumeSource(&v.VolumeSource, at)...)
	}
	return byName, errs
}

// oneSource demands that exactly one of a struct's pointers is set; each pointer is one sort of volume.
func oneSource(source any, p *field.Path) field.ErrorList {
	v := reflect.ValueOf(source).Elem()
	set := 0
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			set++
		}
	}
	switch {
	case set == 0:
		return field.ErrorList{field.Required(p, "must specify a volume type")}
	case set > 1:
		return field.ErrorList{field.Forbidden(p, "may not specify more than 1 volume type")}
	}
	return nil
}

func volumeSource(s *corev1.VolumeSource, p *field.Path) field.ErrorList {
	switch {
	case s.EmptyDir != nil && s.EmptyDir.SizeLimit != nil:
		return nonNegativeQuantity(p.Child("emptyDir", "sizeLimit"), *s.EmptyDir.SizeLimit)
	case s.HostPath != nil:
		return hostPath(s.HostPath, p.Child("hostPath"))
	case s.Secret != nil:
		errs := required(p.Child("secret", "secretName"), s.Secret.SecretName)
		errs = append(errs, mode(s.Secret.DefaultMode, p.Child("secret", "defaultMode"))...)
		return append(errs, keysToPaths(s.Secret.Items, p.Child("secret", "items"))...)
	case s.ConfigMap != nil:
		errs := required(p.Child("configMap", "name"), s.ConfigMap.Name)
		errs = append(errs, mode(s.ConfigMap.DefaultMode, p.Child("configMap", "defaultMode"))...)
		return append(errs, keysToPaths(s.ConfigMap.Items, p.Child("configMap", "items"))...)
	case s.DownwardAPI != nil:
		errs := mode(s.DownwardAPI.DefaultMode, p.Child("downwardAPI", "defaultMode"))
		return append(errs, downwardItems(s.DownwardAPI.Items, p.Child("downwardAPI"))...)
	case s.Projected != nil:
		errs := mode(s.Projected.DefaultMode, p.Child("projected", "defaultMode"))
		return append(errs, projections(s.Projected.Sources, p.Child("projected", "sources"))...)
	case s.PersistentVolumeClaim != nil:
		return required(p.Child("persistentVolumeClaim", "claimName"), s.PersistentVolumeClaim.ClaimName)
	case s.NFS != nil:
		return nfs(s.NFS, p.Child("nfs"))
	case s.CSI != nil:
		return required(p.Child("csi", "driver"), s.CSI.Driver)
	case s.Ephemeral != nil:
		if s.Ephemeral.VolumeClaimTemplate == nil {
			return field.ErrorList{field.Required(p.Child("ephemeral", "volumeClaimTemplate"), "")}
		}
		return claimSpec(&s.Ephemeral.VolumeClaimTemplate.Spec, p.Child("ephemeral", "volumeClaimTemplate", "spec"))
	case s.Image != nil:
		errs := required(p.Child("image", "reference"), s.Image.Reference)
		return append(errs, oneOf(p.Child("image", "pullPolicy"), s.Image.PullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	}
	return nil
}

func hostPath(h *corev1.HostPathVolumeSource, p *field.Path) field.ErrorList {
	if h.Path == "" {
		return field.ErrorList{field.Required(p.Child("path"), "")}
	}
	errs := noBacksteps(h.Path, p.Child("path"))
	if h.Type != nil && *h.Type != corev1.HostPathUnset {
		errs = append(errs, oneOf(p.Child("type"), *h.Type, corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory, corev1.HostPathFileOrCreate,
			corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)...)
	}
	return errs
}

func nfs(n *corev1.NFSVolumeSource, p *field.Path) field.ErrorList {
	errs := required(p.Child("server"), n.Server)
	errs = append(errs, required(p.Child("path"), n.Path)...)
	if n.Path != "" && !path.IsAbs(n.Path) {
		errs = append(errs, field.Invalid(p.Child("path"), n.Path, "must be an absolute path"))
	}
	return errs
}

func mode(m *int32, p *field.Path) field.ErrorList {
	if m != nil && (*m < 0 || *m > 0o777) {
		return field.ErrorList{field.Invalid(p, *m, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}

func keysToPaths(items []corev1.KeyToPath, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, k := range items {
		at := p.Index(i)
		errs = append(errs, required(at.Child("key"), k.Key)...)
		errs = append(errs, fileName(k.Path, at.Child("path"))...)
		errs = append(errs, mode(k.Mode, at.Child("mode"))...)
	}
	return errs
}

// fileName demands a relative path that cannot collide with the links a volume's updates swap, which begin with two dots.
func fileName(s string, p *field.Path) field.ErrorList {
	errs := descendingPath(s, p, true)
	if len(s) > 2 && s[:2] == ".." && s[2] != '/' {
		errs = append(errs, field.Invalid(p, s, "must not start with '..'"))
	}
	return errs
}

func downwardItems(items []corev1.DownwardAPIVolumeFile, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range items {
		f := &items[i]
		errs = append(errs, fileName(f.Path, p.Child("path"))...)
		switch {
		case f.FieldRef != nil && f.ResourceFieldRef != nil:
			errs = append(errs, field.Invalid(p, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		case f.FieldRef != nil:
			errs = append(errs, fieldRef(f.FieldRef, []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}, p.Child("fieldRef"))...)
		case f.ResourceFieldRef != nil:
			errs = append(errs, resourceFieldRef(f.ResourceFieldRef, true, p.Child("resourceFieldRef"))...)
		default:
			errs = append(errs, field.Required(p, "one of fieldRef and resourceFieldRef is required"))
		}
		errs = append(errs, mode(f.Mode, p.Child("mode"))...)
	}
	return errs
}

func projections(sources []corev1.VolumeProjection, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range sources {
		s, at := &sources[i], p.Index(i)
		v, set := reflect.ValueOf(s).Elem(), 0
		for j := range v.NumField() {
			if !v.Field(j).IsNil() {
				set++
			}
		}
		if set > 1 {
			errs = append(errs, field.Forbidden(at, "may not specify more than 1 volume type"))
		}
		if s.Secret != nil {
			errs = append(errs, required(at.Child("secret", "name"), s.Secret.Name)...)
			errs = append(errs, keysToPaths(s.Secret.Items, at.Child("secret", "items"))...)
		}
		if s.ConfigMap != nil {
			errs = append(errs, required(at.Child("configMap", "name"), s.ConfigMap.Name)...)
			errs = append(errs, keysToPaths(s.ConfigMap.Items, at.Child("configMap", "items"))...)
		}
		if s.DownwardAPI != nil {
			errs = append(errs, downwardItems(s.DownwardAPI.Items, at.Child("downwardAPI"))...)
		}
		if t := s.ServiceAccountToken; t != nil {
			errs = append(errs, tokenProjection(t, at.Child("serviceAccountToken"))...)
		}
		if b := s.ClusterTrustBundle; b != nil {
			errs = append(errs, fileName(b.Path, at.Child("clusterTrustBundle", "path"))...)
			if (b.Name == nil) == (b.SignerName == nil) {
				errs = append(errs, field.Required(at.Child("clusterTrustBundle"), "either name or signerName must be specified"))
			}
		}
	}
	return errs
}

func tokenProjection(t *corev1.ServiceAccountTokenProjection, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if e := t.ExpirationSeconds; e != nil && *e < 10*60 {
		errs = append(errs, field.Invalid(p.Child("expirationSeconds"), *e, "may not specify a duration less than 10 minutes"))
	}
	if e := t.ExpirationSeconds; e != nil && *e > 1<<32 {
		errs = append(errs, field.Invalid(p.Child("expirationSeconds"), *e, "may not specify a duration larger than 2^32 seconds"))
	}
	return append(errs, fileName(t.Path, p.Child("path"))...)
}

func volumeMounts(c *corev1.Container, names podNames, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	mounts, devices := sets.New[string](), sets.New[string]()
	for i, d := range c.VolumeDevices {
		at := p.Child("volumeDevices").Index(i)
		errs = append(errs, required(at.Child("name"), d.Name)...)
		errs = append(errs, required(at.Child("devicePath"), d.DevicePath)...)
		if source, ok := names.volumes[d.Name]; ok && source.PersistentVolumeClaim == nil && source.Ephemeral == nil {
			errs = append(errs, field.Invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		} else if !ok {
			errs = append(errs, field.NotFound(at.Child("name"), d.Name))
		}
		if devices.Has(d.DevicePath) {
			errs = append(errs, field.Invalid(at.Child("devicePath"), d.DevicePath, "must be unique"))
		}
		devices.Insert(d.DevicePath)
	}
	for i, m := range c.VolumeMounts {
		at := p.Child("volumeMounts").Index(i)
		errs = append(errs, volumeMount(&m, c, at)...)
		if _, ok := names.volumes[m.Name]; !ok && m.Name != "" {
			errs = append(errs, field.NotFound(at.Child("name"), m.Name))
		}
		if mounts.Has(m.MountPath) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		}
		if devices.Has(m.MountPath) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices"))
		}
		mounts.Insert(m.MountPath)
	}
	return errs
}

func volumeMount(m *corev1.VolumeMount, c *corev1.Container, p *field.Path) field.ErrorList {
	errs := required(p.Child("name"), m.Name)
	errs = append(errs, required(p.Child("mountPath"), m.MountPath)...)
	errs = append(errs, descendingPath(m.SubPath, p.Child("subPath"), false)...)
	if m.SubPathExpr != "" {
		if m.SubPath != "" {
			errs = append(errs, field.Invalid(p.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
		}
		errs = append(errs, descendingPath(m.SubPathExpr, p.Child("subPathExpr"), false)...)
	}
	if m.MountPropagation != nil {
		privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
		errs = append(errs, oneOf(p.Child("mountPropagation"), *m.MountPropagation, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)...)
		if *m.MountPropagation == corev1.MountPropagationBidirectional && !privileged {
			errs = append(errs, field.Forbidden(p.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers"))
		}
	}
	if r := m.RecursiveReadOnly; r != nil && *r != corev1.RecursiveReadOnlyDisabled {
		errs = append(errs, oneOf(p.Child("recursiveReadOnly"), *r, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)...)
		if !m.ReadOnly {
			errs = append(errs, field.Forbidden(p.Child("recursiveReadOnly"), "may only be specified when readOnly is true"))
		}
		if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
			errs = append(errs, field.Forbidden(p.Child("recursiveReadOnly"), fmt.Sprintf("may only be specified when mountPropagation is None or not specified, but is %s", *m.MountPropagation)))
		}
	}
	return errs
}
