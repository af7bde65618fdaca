package validation

import (
	"fmt"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// volumes validates a pod's volumes and returns the sound ones by name.
func volumes(list []corev1.Volume, in scope, p *field.Path) (map[string]corev1.VolumeSource, field.ErrorList) {
	var errs field.ErrorList
	byName := map[string]corev1.VolumeSource{}
	made := sets.New[string]() // claims that the pod's ephemeral volumes make
	for i := range list {
		if in.meta != nil && in.meta.Name != "" && list[i].Ephemeral != nil {
			made.Insert(in.meta.Name + "-" + list[i].Name)
		}
	}
	for i := range list {
		v, at := &list[i], p.Index(i)
		bad := volumeSource(v, in, at)
		bad = append(bad, requiredName(at.Child("name"), v.Name, validation.IsDNS1123Label)...)
		if _, ok := byName[v.Name]; ok {
			bad = append(bad, field.Duplicate(at.Child("name"), v.Name))
		}
		if len(bad) == 0 {
			byName[v.Name] = v.VolumeSource
		}
		errs = append(errs, bad...)
		if c := v.PersistentVolumeClaim; c != nil && made.Has(c.ClaimName) {
			errs = append(errs, field.Invalid(at.Child("persistentVolumeClaim", "claimName"), c.ClaimName, "must not reference a PVC that gets created for an ephemeral volume"))
		}
	}
	return byName, errs
}

// source is one sort of volume: its field's name, whether it is set, and its rules.
type source struct {
	name  string
	set   bool
	check func(p *field.Path) field.ErrorList
}

// oneSource demands that exactly one of the sources is set, and validates the first that is.
func oneSource(sources []source, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	found := false
	for _, s := range sources {
		switch {
		case !s.set:
		case found:
			errs = append(errs, field.Forbidden(p.Child(s.name), "may not specify more than 1 volume type"))
		default:
			found = true
			errs = append(errs, s.check(p.Child(s.name))...)
		}
	}
	if !found {
		errs = append(errs, field.Required(p, "must specify a volume type"))
	}
	return errs
}

func volumeSource(v *corev1.Volume, in scope, p *field.Path) field.ErrorList {
	s := &v.VolumeSource
	return oneSource(slices.Concat([]source{
		{"emptyDir", s.EmptyDir != nil, func(at *field.Path) field.ErrorList { return emptyDir(s.EmptyDir, at) }},
		{"hostPath", s.HostPath != nil, func(at *field.Path) field.ErrorList { return hostPath(s.HostPath, at) }},
		{"secret", s.Secret != nil, func(at *field.Path) field.ErrorList {
			errs := required(at.Child("secretName"), s.Secret.SecretName)
			errs = append(errs, mode(s.Secret.DefaultMode, at.Child("defaultMode"))...)
			errs = append(errs, userID(s.Secret.DefaultUser, at.Child("defaultUser"))...)
			return append(errs, keysToPaths(s.Secret.Items, at.Child("items"))...)
		}},
		{"persistentVolumeClaim", s.PersistentVolumeClaim != nil, func(at *field.Path) field.ErrorList {
			return required(at.Child("claimName"), s.PersistentVolumeClaim.ClaimName)
		}},
		{"downwardAPI", s.DownwardAPI != nil, func(at *field.Path) field.ErrorList {
			errs := mode(s.DownwardAPI.DefaultMode, at.Child("defaultMode"))
			errs = append(errs, userID(s.DownwardAPI.DefaultUser, at.Child("defaultUser"))...)
			return append(errs, downwardItems(s.DownwardAPI.Items, at)...)
		}},
		{"configMap", s.ConfigMap != nil, func(at *field.Path) field.ErrorList {
			errs := required(at.Child("name"), s.ConfigMap.Name)
			errs = append(errs, mode(s.ConfigMap.DefaultMode, at.Child("defaultMode"))...)
			errs = append(errs, userID(s.ConfigMap.DefaultUser, at.Child("defaultUser"))...)
			return append(errs, keysToPaths(s.ConfigMap.Items, at.Child("items"))...)
		}},
		{"projected", s.Projected != nil, func(at *field.Path) field.ErrorList { return projected(s.Projected, at) }},
		{"csi", s.CSI != nil, func(at *field.Path) field.ErrorList {
			errs := csiDriverName(s.CSI.Driver, at.Child("driver"))
			if r := s.CSI.NodePublishSecretRef; r != nil {
				errs = append(errs, required(at.Child("nodePublishSecretRef", "name"), r.Name)...)
			}
			return errs
		}},
		{"ephemeral", s.Ephemeral != nil, func(at *field.Path) field.ErrorList { return ephemeralVolume(v, in, at) }},
		{"image", s.Image != nil, func(at *field.Path) field.ErrorList {
			var errs field.ErrorList
			if in.meta != nil {
				errs = required(at.Child("reference"), s.Image.Reference)
			}
			return append(errs, oneOf(at.Child("pullPolicy"), s.Image.PullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
		}},
	}, legacySources(s)), p)
}

func emptyDir(e *corev1.EmptyDirVolumeSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
		errs = append(errs, field.Forbidden(p.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity"))
	}
	if m := e.Mode; m != nil && (*m < 0 || *m > 0o1777) {
		errs = append(errs, field.Invalid(p.Child("mode"), *m, "must be a number between 0 and 01777 (octal), both inclusive"))
	}
	return errs
}

func hostPath(h *corev1.HostPathVolumeSource, p *field.Path) field.ErrorList {
	if h.Path == "" {
		return field.ErrorList{field.Required(p.Child("path"), "")}
	}
	errs := noBacksteps(h.Path, p.Child("path"))
	if h.Type != nil {
		errs = append(errs, supported(p.Child("type"), *h.Type, corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
			corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
	}
	return errs
}

// ephemeralVolume validates a claim that is made with the pod, under a name made of the pod's and the volume's.
func ephemeralVolume(v *corev1.Volume, in scope, p *field.Path) field.ErrorList {
	at := p.Child("volumeClaimTemplate")
	t := v.Ephemeral.VolumeClaimTemplate
	if t == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := apivalidation.ValidateAnnotations(t.Annotations, at.Child("metadata", "annotations"))
	errs = append(errs, metavalidation.ValidateLabels(t.Labels, at.Child("metadata", "labels"))...)
	meta := reflect.ValueOf(t.ObjectMeta)
	for i := range meta.NumField() {
		name := meta.Type().Field(i).Name
		if !meta.Field(i).IsZero() && name != "Labels" && name != "Annotations" {
			errs = append(errs, field.Forbidden(at.Child("metadata", lowerFirst(name)), "cannot be set for an ephemeral volume"))
		}
	}
	errs = append(errs, claimSpec(&t.Spec, at.Child("spec"))...)
	if in.meta == nil || in.meta.Name == "" {
		return errs
	}
	name := in.meta.Name + "-" + v.Name
	for _, m := range validation.IsDNS1123Subdomain(name) {
		errs = append(errs, field.Invalid(at.Child("name"), v.Name, fmt.Sprintf("PVC name %q: %s", name, m)))
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
	for i := range items {
		errs = append(errs, keyToPath(&items[i], p.Index(i))...)
	}
	return errs
}

func keyToPath(k *corev1.KeyToPath, p *field.Path) field.ErrorList {
	errs := required(p.Child("key"), k.Key)
	errs = append(errs, required(p.Child("path"), k.Path)...)
	errs = append(errs, plainPath(k.Path, p.Child("path"))...)
	errs = append(errs, userID(k.User, p.Child("user"))...)
	return append(errs, mode(k.Mode, p.Child("mode"))...)
}

func downwardItems(items []corev1.DownwardAPIVolumeFile, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range items {
		errs = append(errs, downwardItem(&items[i], p)...)
	}
	return errs
}

func downwardItem(f *corev1.DownwardAPIVolumeFile, p *field.Path) field.ErrorList {
	errs := required(p.Child("path"), f.Path)
	errs = append(errs, plainPath(f.Path, p.Child("path"))...)
	switch {
	case f.FieldRef != nil:
		errs = append(errs, fieldRef(f.FieldRef, []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}, p.Child("fieldRef"))...)
		if f.ResourceFieldRef != nil {
			errs = append(errs, field.Invalid(p, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
	case f.ResourceFieldRef != nil:
		errs = append(errs, resourceFieldRef(f.ResourceFieldRef, true, p.Child("resourceFieldRef"))...)
	default:
		errs = append(errs, field.Required(p, "one of fieldRef and resourceFieldRef is required"))
	}
	errs = append(errs, userID(f.User, p.Child("user"))...)
	return append(errs, mode(f.Mode, p.Child("mode"))...)
}
