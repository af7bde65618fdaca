package pods

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// Binding serves pods/binding: the only way in which a pod gets a node.
type Binding struct {
	store *registry.Store
	close func()
}

// NewBinding returns pods/binding over the storage of pods.
func NewBinding(s *store.Storage) (*Binding, error) {
	bind, closeStore, err := s.Unread()
	if err != nil {
		return nil, err
	}
	bind.UpdateStrategy = bindStrategy{s.Strategy()}
	return &Binding{bind, closeStore}, nil
}

func (b *Binding) New() runtime.Object { return &corev1.Binding{} }

// Destroy closes what bindings alone write with. It may be called twice: bindings have two names.
func (b *Binding) Destroy() { b.close() }

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps the UID and version that a binding asks for.
func (b *Binding) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

func (b *Binding) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	binding, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %#v", obj))
	}
	if binding.Name != name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if errs := validateBinding(binding); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Binding").GroupKind(), name, errs)
	}
	if validate != nil {
		if err := validate(ctx, binding.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	preconditions := &metav1.Preconditions{}
	if binding.UID != "" {
		preconditions.UID = &binding.UID
	}
	if binding.ResourceVersion != "" {
		preconditions.ResourceVersion = &binding.ResourceVersion
	}
	change := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		pod := *old.(*corev1.Pod) // what is not bind's to change, both have
		return &pod, bind(&pod, binding)
	})
	// Who validates what a binding makes of the pod would be given copies of the pod before and after; there is nobody.
	_, _, err := b.store.Update(ctx, name, withPreconditions{change, preconditions}, nil, nil, false, &metav1.UpdateOptions{DryRun: o.DryRun})
	if err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

type withPreconditions struct {
	rest.UpdatedObjectInfo
	preconditions *metav1.Preconditions
}

func (w withPreconditions) Preconditions() *metav1.Preconditions { return w.preconditions }

func validateBinding(b *corev1.Binding) field.ErrorList {
	var errs field.ErrorList
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
		return errs
	}
	for _, msg := range validation.NameIsDNSSubdomain(b.Target.Name, false) {
		errs = append(errs, field.Invalid(field.NewPath("target", "name"), b.Target.Name, msg))
	}
	return errs
}

// bind gives pod the node of binding, or says why it cannot have it. It changes nothing that pod points to.
func bind(pod *corev1.Pod, binding *corev1.Binding) error {
	conflict := func(format string, args ...any) error {
		return apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, pod.Name, fmt.Errorf(format, args...))
	}
	switch {
	case pod.DeletionTimestamp != nil:
		return conflict("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return conflict("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) != 0:
		return conflict("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	pod.Spec.NodeName = binding.Target.Name
	pod.Status.NominatedNodeName = "" // where it was expected is of no use any more, and may be another node
	if len(binding.Annotations) > 0 {
		own := maps.Clone(pod.Annotations)
		if own == nil {
			own = map[string]string{}
		}
		maps.Copy(own, binding.Annotations)
		pod.Annotations = own
	}
	scheduled := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(), ObservedGeneration: pod.Generation}
	pod.Status.Conditions = slices.Clone(pod.Status.Conditions)
	for i, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			pod.Status.Conditions[i] = scheduled
			return nil
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, scheduled)
	return nil
}

// bindStrategy lets spec and status change in one write, and leaves the generation: no user asked for anything new.
type bindStrategy struct{ store.UpdateStrategy }

func (bindStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	obj.(*corev1.Pod).Generation = old.(*corev1.Pod).Generation
}

func (bindStrategy) ValidateUpdate(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	return nil
}

// LegacyBinding serves bindings, which takes the pod's name from the object.
type LegacyBinding struct{ *Binding }

func (l LegacyBinding) NamespaceScoped() bool   { return true }
func (l LegacyBinding) GetSingularName() string { return "binding" }

func (l LegacyBinding) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	binding, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %#v", obj))
	}
	if ns, ok := request.NamespaceFrom(ctx); ok && binding.Namespace == "" {
		binding.Namespace = ns
	}
	return l.Binding.Create(ctx, binding.Name, obj, validate, o)
}

var (
	_ rest.NamedCreater                   = &Binding{}
	_ rest.SubresourceObjectMetaPreserver = &Binding{}
	_ rest.Creater                        = LegacyBinding{}
)
