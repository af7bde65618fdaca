package pods

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
	"github.com/orlop-io/orlop/cmd/apiserver/validation"
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
	errs := apivalidation.ValidateObjectMetaUpdate(&pod.ObjectMeta, &was.ObjectMeta, field.NewPath("metadata"))
	return append(errs, validation.EphemeralContainers(pod, was)...)
}

func (ephemeralStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"v1": fieldpath.NewSet(fieldpath.MakePathOrDie("status"))}
}
