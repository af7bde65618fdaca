package validation

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// volumeMounts validates a container's mounts. Some paths lack the index, as they always have for clients.
func volumeMounts(c *corev1.Container, in scope, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	paths := sets.New[string]()
	for i := range c.VolumeMounts {
		m, at := &c.VolumeMounts[i], p.Index(i)
		errs = append(errs, required(at.Child("name"), m.Name)...)
		source, known := in.volumes[m.Name]
		if !known {
			errs = append(errs, field.NotFound(at.Child("name"), m.Name))
		}
		errs = append(errs, required(at.Child("mountPath"), m.MountPath)...)
		if paths.Has(m.MountPath) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		}
		paths.Insert(m.MountPath)
		for _, d := range c.VolumeDevices {
			if d.Name == m.Name {
				errs = append(errs, field.Invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices"))
			}
			if d.DevicePath == m.MountPath {
				errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices"))
			}
		}
		errs = append(errs, subPaths(m, p, at)...)
		errs = append(errs, propagation(m, c, p.Child("mountPropagation"))...)
		errs = append(errs, recursiveReadOnly(m, p.Child("recursiveReadOnly"))...)
		errs = append(errs, mountOptions(m, source, at.Child("bindMountOptions"))...)
	}
	return errs
}

func subPaths(m *corev1.VolumeMount, p, at *field.Path) field.ErrorList {
	errs := descendingPath(m.SubPath, p.Child("subPath"))
	if m.SubPathExpr != "" && m.SubPath != "" {
		errs = append(errs, field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
	}
	return append(errs, descendingPath(m.SubPathExpr, p.Child("subPathExpr"))...)
}

func propagation(m *corev1.VolumeMount, c *corev1.Container, p *field.Path) field.ErrorList {
	if m.MountPropagation == nil {
		return nil
	}
	errs := supported(p, *m.MountPropagation, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
	privileged := c.SecurityContext != nil && isTrue(c.SecurityContext.Privileged)
	if *m.MountPropagation == corev1.MountPropagationBidirectional && !privileged {
		errs = append(errs, field.Forbidden(p, "Bidirectional mount propagation is available only to privileged containers"))
	}
	return errs
}

func recursiveReadOnly(m *corev1.VolumeMount, p *field.Path) field.ErrorList {
	if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return nil
	}
	if errs := supported(p, *m.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible); len(errs) > 0 {
		return errs
	}
	var errs field.ErrorList
	if !m.ReadOnly {
		errs = append(errs, field.Forbidden(p, "may only be specified when readOnly is true"))
	}
	if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
		errs = append(errs, field.Forbidden(p, fmt.Sprintf("may only be specified when mountPropagation is None or not specified, but is %s", *m.MountPropagation)))
	}
	return errs
}

func mountOptions(m *corev1.VolumeMount, source corev1.VolumeSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(m.BindMountOptions) > 0 && source.Image != nil {
		errs = append(errs, field.Forbidden(p, "may not be specified for image volumes"))
	}
	seen := sets.New[string]()
	for i, o := range m.BindMountOptions {
		errs = append(errs, supported(p.Index(i), corev1.BindMountOption(o), corev1.BindMountOptionNoDev, corev1.BindMountOptionNoExec, corev1.BindMountOptionNoSUID)...)
		if seen.Has(o) {
			errs = append(errs, field.Duplicate(p.Index(i), o))
		}
		seen.Insert(o)
	}
	return errs
}

func volumeDevices(c *corev1.Container, in scope, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	names, paths := sets.New[string](), sets.New[string]()
	for i, d := range c.VolumeDevices {
		at := p.Index(i)
		errs = append(errs, required(at.Child("name"), d.Name)...)
		if names.Has(d.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), d.Name, "must be unique"))
		}
		if source, ok := in.volumes[d.Name]; !ok {
			errs = append(errs, field.NotFound(at.Child("name"), d.Name))
		} else if source.PersistentVolumeClaim == nil && source.Ephemeral == nil {
			errs = append(errs, field.Invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		}
		errs = append(errs, required(at.Child("devicePath"), d.DevicePath)...)
		if paths.Has(d.DevicePath) {
			errs = append(errs, field.Invalid(at.Child("devicePath"), d.DevicePath, "must be unique"))
		}
		if climbs(d.DevicePath) {
			errs = append(errs, field.Invalid(at.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')"))
		}
		for _, m := range c.VolumeMounts {
			if m.Name == d.Name {
				errs = append(errs, field.Invalid(at.Child("name"), d.Name, "must not already exist in volumeMounts"))
			}
			if m.MountPath == d.DevicePath {
				errs = append(errs, field.Invalid(at.Child("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts"))
			}
		}
		names.Insert(d.Name)
		paths.Insert(d.DevicePath)
	}
	return errs
}

// descendingPath demands a relative path that does not climb; an empty one is the root itself.
func descendingPath(s string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(s) {
		errs = append(errs, field.Invalid(p, s, "must be a relative path"))
	}
	return append(errs, noBacksteps(s, p)...)
}

// plainPath demands a relative path that cannot collide with the links a volume's updates swap, which begin with two dots.
func plainPath(s string, p *field.Path) field.ErrorList {
	errs := descendingPath(s, p)
	if strings.HasPrefix(s, "..") && !strings.HasPrefix(s, "../") {
		errs = append(errs, field.Invalid(p, s, "must not start with '..'"))
	}
	return errs
}

func noBacksteps(s string, p *field.Path) field.ErrorList {
	if climbs(s) {
		return field.ErrorList{field.Invalid(p, s, "must not contain '..'")}
	}
	return nil
}

func climbs(s string) bool {
	return slices.Contains(strings.Split(strings.ReplaceAll(s, "\\", "/"), "/"), "..")
}

func isTrue(b *bool) bool { return b != nil && *b }

// subdomain demands a DNS subdomain; an empty one is required.
func subdomain(name string, p *field.Path) field.ErrorList {
	return requiredName(p, name, validation.IsDNS1123Subdomain)
}
