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

// NewResize returns pods/resize, by which the CPU and memory of a running pod change. What the pod then really has, its
// kubelet says in the status.
func NewResize(s *store.Storage) *store.Subresource {
	r := resizeStrategy{s.Strategy()}
	return s.Subresource(r, r)
}

type resizeStrategy struct{ store.UpdateStrategy }

// PrepareForUpdate takes the resources of containers and of the pod, and nothing else.
func (resizeStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	pod, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	wanted := pod.DeepCopy()
	was.DeepCopyInto(pod)
	// Name, namespace and UID are those of the request, for validation to compare.
	pod.Name, pod.Namespace, pod.UID = wanted.Name, wanted.Namespace, wanted.UID
	pod.ManagedFields, pod.ResourceVersion = wanted.ManagedFields, wanted.ResourceVersion
	pod.Spec.Containers = resized(pod.Spec.Containers, wanted.Spec.Containers)
	pod.Spec.InitContainers = resized(pod.Spec.InitContainers, wanted.Spec.InitContainers)
	pod.Spec.Resources = wanted.Spec.Resources
	if !equality.Semantic.DeepEqual(pod.Spec, was.Spec) {
		pod.Generation++
	}
}

// resized gives containers the resources that are wanted of them. Lists that differ in their names are left for
// validation to refuse.
func resized(have, wanted []corev1.Container) []corev1.Container {
	if len(have) != len(wanted) {
		return wanted
	}
	for i := range have {
		if have[i].Name != wanted[i].Name {
			return wanted
		}
	}
	for i := range have {
		have[i].Resources, have[i].ResizePolicy = wanted[i].Resources, wanted[i].ResizePolicy
	}
	return have
}

func (resizeStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	pod, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	errs := apivalidation.ValidateObjectMetaUpdate(&pod.ObjectMeta, &was.ObjectMeta, field.NewPath("metadata"))
	return append(errs, validation.PodResize(pod, was)...)
}

func (resizeStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"v1": fieldpath.NewSet(fieldpath.MakePathOrDie("status"))}
}
