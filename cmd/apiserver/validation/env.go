package validation

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func env(vars []corev1.EnvVar, in scope, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range vars {
		at := p.Index(i)
		errs = append(errs, requiredName(at.Child("name"), vars[i].Name, validation.IsRelaxedEnvVarName)...)
		if vars[i].ValueFrom != nil {
			errs = append(errs, envSource(&vars[i], in, at.Child("valueFrom"))...)
		}
	}
	return errs
}

func envSource(v *corev1.EnvVar, in scope, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	sources, s := 0, v.ValueFrom
	if s.FieldRef != nil {
		sources++
		errs = append(errs, fieldRef(s.FieldRef, envFields(), p.Child("fieldRef"))...)
	}
	if s.ResourceFieldRef != nil {
		sources++
		errs = append(errs, resourceFieldRef(s.ResourceFieldRef, false, p.Child("resourceFieldRef"))...)
	}
	if s.ConfigMapKeyRef != nil {
		sources++
		errs = append(errs, required(p.Child("configMapKeyRef", "name"), s.ConfigMapKeyRef.Name)...)
		errs = append(errs, requiredName(p.Child("configMapKeyRef", "key"), s.ConfigMapKeyRef.Key, validation.IsConfigMapKey)...)
	}
	if s.SecretKeyRef != nil {
		sources++
		errs = append(errs, required(p.Child("secretKeyRef", "name"), s.SecretKeyRef.Name)...)
		errs = append(errs, requiredName(p.Child("secretKeyRef", "key"), s.SecretKeyRef.Key, validation.IsConfigMapKey)...)
	}
	if s.FileKeyRef != nil {
		sources++
		errs = append(errs, fileKeyRef(s.FileKeyRef, in, p.Child("fileKeyRef"))...)
	}
	switch {
	case sources == 0:
		errs = append(errs, field.Invalid(p, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case v.Value != "":
		errs = append(errs, field.Invalid(p, "", "may not be specified when `value` is not empty"))
	case sources > 1:
		errs = append(errs, field.Invalid(p, "", "may not have more than one field specified at a time"))
	}
	return errs
}

// maxFileKey is the longest name of a variable in an env file.
const maxFileKey = 128

// fileKeyRef validates a reference into an env file, which containers can only share through an emptyDir.
func fileKeyRef(r *corev1.FileKeySelector, in scope, p *field.Path) field.ErrorList {
	errs := requiredName(p.Child("key"), r.Key, validation.IsRelaxedEnvVarName)
	if len(r.Key) > maxFileKey {
		errs = append(errs, field.TooLong(p.Child("key"), r.Key, maxFileKey))
	}
	if bad := required(p.Child("volumeName"), r.VolumeName); len(bad) > 0 {
		errs = append(errs, bad...)
	} else if source, ok := in.volumes[r.VolumeName]; !ok {
		errs = append(errs, field.NotFound(p.Child("volumeName"), r.VolumeName))
	} else if source.EmptyDir == nil {
		errs = append(errs, field.Invalid(p.Child("volumeName"), r.VolumeName, "referenced volume must be of type emptyDir"))
	}
	if r.Path == "" {
		return append(errs, field.Required(p.Child("path"), ""))
	}
	return append(errs, plainPath(r.Path, p.Child("path"))...)
}

func envFields() []string {
	return []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
}

// podFields are all the fields of a pod that references know, though not each kind of reference allows each.
func podFields() []string {
	return append(envFields(), "metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase")
}

// fieldRef validates a reference to a field of the pod: one of fields, or one label or annotation.
func fieldRef(r *corev1.ObjectFieldSelector, fields []string, p *field.Path) field.ErrorList {
	if r.APIVersion == "" {
		return field.ErrorList{field.Required(p.Child("apiVersion"), "")}
	}
	if r.FieldPath == "" {
		return field.ErrorList{field.Required(p.Child("fieldPath"), "")}
	}
	unknown := func(why string) field.ErrorList {
		return field.ErrorList{field.Invalid(p.Child("fieldPath"), r.FieldPath, "error converting fieldPath: "+why)}
	}
	if r.APIVersion != "v1" {
		return unknown("unsupported pod version: " + r.APIVersion)
	}
	if name, subscript, ok := splitSubscript(r.FieldPath); ok {
		switch name {
		case "metadata.annotations":
			return invalid(p, subscript, validation.IsQualifiedName(strings.ToLower(subscript)))
		case "metadata.labels":
			return invalid(p, subscript, validation.IsQualifiedName(subscript))
		}
		return unknown("field label does not support subscript: " + r.FieldPath)
	}
	if !slices.Contains(podFields(), r.FieldPath) {
		return unknown("field label not supported: " + r.FieldPath)
	}
	return supported(p.Child("fieldPath"), r.FieldPath, fields...)
}

// splitSubscript splits a['b'] into a and b.
func splitSubscript(s string) (name, subscript string, ok bool) {
	rest, ok := strings.CutSuffix(s, "']")
	if !ok {
		return "", "", false
	}
	name, subscript, ok = strings.Cut(rest, "['")
	return name, subscript, ok && name != ""
}

// resourceFieldRef validates a reference to a container's resources. In a volume it must say which container is meant.
func resourceFieldRef(r *corev1.ResourceFieldSelector, volume bool, p *field.Path) field.ErrorList {
	if volume && r.ContainerName == "" {
		return field.ErrorList{field.Required(p.Child("containerName"), "")}
	}
	if r.Resource == "" {
		return field.ErrorList{field.Required(p.Child("resource"), "")}
	}
	allowed := []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"}
	_, name, _ := strings.Cut(r.Resource, ".")
	if !slices.Contains(allowed, r.Resource) && !strings.HasPrefix(r.Resource, "limits.hugepages-") && !strings.HasPrefix(r.Resource, "requests.hugepages-") {
		return field.ErrorList{field.NotSupported(p.Child("resource"), r.Resource, allowed)}
	}
	return divisor(r.Resource, name, r.Divisor, p.Child("divisor"))
}

// divisor holds that a resource is reported in one of its usual units.
func divisor(reference, name string, d resource.Quantity, p *field.Path) field.ErrorList {
	units, text := []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}, ""
	switch {
	case d.IsZero():
		return nil
	case name == "cpu":
		units, text = []string{"1m", "1"}, "only divisor's values 1m and 1 are supported with the cpu resource"
	default:
		if name == "ephemeral-storage" {
			name = "local ephemeral storage"
		} else if name != "memory" {
			name = "hugepages"
		}
		text = fmt.Sprintf("only divisor's values %s are supported with the %s resource", strings.Join(units, ", "), name)
	}
	for _, u := range units {
		if d.Cmp(resource.MustParse(u)) == 0 {
			return nil
		}
	}
	return field.ErrorList{field.Invalid(p, reference, text)}
}

func envFrom(sources []corev1.EnvFromSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, s := range sources {
		at := p.Index(i)
		if s.Prefix != "" {
			errs = append(errs, invalid(at.Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix))...)
		}
		if s.ConfigMapRef != nil {
			errs = append(errs, required(at.Child("configMapRef", "name"), s.ConfigMapRef.Name)...)
		}
		if s.SecretRef != nil {
			errs = append(errs, required(at.Child("secretRef", "name"), s.SecretRef.Name)...)
		}
		switch {
		case s.ConfigMapRef == nil && s.SecretRef == nil:
			errs = append(errs, field.Invalid(p, "", "must specify one of: `configMapRef` or `secretRef`"))
		case s.ConfigMapRef != nil && s.SecretRef != nil:
			errs = append(errs, field.Invalid(p, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}
