package pods

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// NewEphemeralContainers returns pods/ephemeralcontainers, by which kubectl debug adds containers to a running pod.
func NewEphemeralContainers(s *store.Storage) *store.Subresource {
	e := ephemeralStrategy{s.Strategy()}
	return s.Subresource(e, e)
}

type ephemeralStrategy struct{ store.UpdateStrategy }

// PrepareForUpdate takes the ephemeral containers and nothing else.
func (ephemeralStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	pod, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	wanted, managed, version := pod.Spec.EphemeralContainers, pod.ManagedFields, pod.ResourceVersion
	was.DeepCopyInto(pod)
	pod.Spec.EphemeralContainers, pod.ManagedFields, pod.ResourceVersion = wanted, managed, version
	if !equality.Semantic.DeepEqual(pod.Spec.EphemeralContainers, was.Spec.EphemeralContainers) {
		pod.Generation++
	}
}

func (ephemeralStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	pod, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	errs := validation.ValidateObjectMetaUpdate(&pod.ObjectMeta, &was.ObjectMeta, field.NewPath("metadata"))
	return append(errs, validateEphemeral(&pod.Spec, &was.Spec)...)
}

// validateEphemeral holds that ephemeral containers are only ever added, under names that nothing else has.
func validateEphemeral(spec, was *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("spec", "ephemeralContainers")
	names := map[string]bool{}
	for _, c := range append(append([]corev1.Container{}, spec.InitContainers...), spec.Containers...) {
		names[c.Name] = true
	}
	wanted := map[string]*corev1.EphemeralContainer{}
	for i := range spec.EphemeralContainers {
		c, p := &spec.EphemeralContainers[i], at.Index(i)
		for _, msg := range utilvalidation.IsDNS1123Label(c.Name) {
			errs = append(errs, field.Invalid(p.Child("name"), c.Name, msg))
		}
		if names[c.Name] {
			errs = append(errs, field.Duplicate(p.Child("name"), c.Name))
		}
		names[c.Name] = true
		if c.Image == "" {
			errs = append(errs, field.Required(p.Child("image"), ""))
		}
		wanted[c.Name] = c
	}
	for i := range was.EphemeralContainers {
		old := &was.EphemeralContainers[i]
		now, ok := wanted[old.Name]
		if !ok {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", old.Name)))
		} else if !equality.Semantic.DeepEqual(now, old) {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n", old.Name)))
		}
	}
	return errs
}

func (ephemeralStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"v1": fieldpath.NewSet(fieldpath.MakePathOrDie("status"))}
}
