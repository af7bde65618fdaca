package validation

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// pod validates a pod that is to be created.
func pod(p *corev1.Pod) field.ErrorList {
	errs := podWhole(p)
	if len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec().Child("ephemeralContainers"), "cannot be set on create"))
	}
	if p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(spec().Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return append(errs, appArmorAnnotations(p)...)
}

// podWhole validates what holds for a pod at any time, and, unlike podSpec, not for a template.
func podWhole(p *corev1.Pod) field.ErrorList {
	errs := podAnnotations(p.Annotations, &p.Spec, field.NewPath("metadata", "annotations"))
	errs = append(errs, podSpec(&p.Spec, &p.ObjectMeta, spec())...)
	if p.Spec.ServiceAccountName != "" {
		return errs
	}
	for i, v := range p.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for j, s := range v.Projected.Sources {
			at := spec().Child("volumes").Index(i).Child("projected", "sources").Index(j)
			if s.ServiceAccountToken != nil {
				errs = append(errs, field.Forbidden(at.Child("serviceAccountToken"), "must not be specified when serviceAccountName is not set"))
			}
			if s.PodCertificate != nil {
				errs = append(errs, field.Forbidden(at.Child("podCertificate"), "must not be specified when serviceAccountName is not set"))
			}
		}
	}
	return errs
}

// podAnnotations validates those annotations of a pod or a template that mean something to the server.
func podAnnotations(annotations map[string]string, s *corev1.PodSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if v, mirror := annotations[corev1.MirrorPodAnnotationKey]; mirror && s.NodeName == "" {
		errs = append(errs, field.Invalid(p.Key(corev1.MirrorPodAnnotationKey), v, "must set spec.nodeName if mirror pod annotation is set"))
	}
	if v, ok := annotations[corev1.PodDeletionCost]; ok {
		// Written as a number is usually written: no plus, no zeros before it.
		if n, err := strconv.ParseInt(v, 10, 32); err != nil || strconv.FormatInt(n, 10) != v {
			errs = append(errs, field.Invalid(p.Key(corev1.PodDeletionCost), v, "must be a 32bit integer"))
		}
	}
	for key, profile := range annotations {
		name, ours := strings.CutPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
		if !ours {
			continue
		}
		named := func(c corev1.Container) bool { return c.Name == name }
		if !slices.ContainsFunc(allContainers(s), named) && !slices.ContainsFunc(containerLists(s)[2].list, named) {
			errs = append(errs, field.Invalid(p.Key(key), name, "container not found"))
		}
		known := profile == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault || profile == corev1.DeprecatedAppArmorBetaProfileNameUnconfined ||
			strings.HasPrefix(profile, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
		if profile != "" && !known {
			errs = append(errs, field.Invalid(p.Key(key), profile, "invalid AppArmor profile name: \""+profile+"\""))
		}
	}
	return errs
}

// appArmorAnnotations holds that a container's deprecated annotation and its field ask for the same.
func appArmorAnnotations(p *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	for _, l := range containerLists(&p.Spec) {
		for i, c := range l.list {
			profile, ok := p.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]
			if !ok || c.SecurityContext == nil || c.SecurityContext.AppArmorProfile == nil {
				continue
			}
			wanted, at := c.SecurityContext.AppArmorProfile, spec().Child(l.name).Index(i).Child("securityContext", "appArmorProfile")
			local, isLocal := strings.CutPrefix(profile, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
			kind := corev1.AppArmorProfileTypeLocalhost
			switch {
			case profile == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
				kind = corev1.AppArmorProfileTypeUnconfined
			case !isLocal:
				kind = corev1.AppArmorProfileTypeRuntimeDefault
			}
			if kind != wanted.Type {
				errs = append(errs, field.Forbidden(at.Child("type"), "apparmor type in annotation and field must match"))
			} else if kind == corev1.AppArmorProfileTypeLocalhost && (wanted.LocalhostProfile == nil || *wanted.LocalhostProfile != local) {
				errs = append(errs, field.Forbidden(at.Child("localhostProfile"), "apparmor profile in annotation and field must match"))
			}
		}
	}
	return errs
}
