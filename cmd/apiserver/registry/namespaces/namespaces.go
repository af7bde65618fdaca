// Package namespaces serves namespaces: their two-step deletion, and the finalize subresource by which the
// namespace controller says that a namespace is empty.
package namespaces

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerrors "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
	"github.com/orlop-io/orlop/cmd/apiserver/validation"
)

// Resource describes namespaces.
func Resource() *store.Resource {
	return &store.Resource{
		GV: corev1.SchemeGroupVersion, Kind: "Namespace", Plural: "namespaces", Singular: "namespace", Short: []string{"ns"},
		Cluster: true, Name: apivalidation.ValidateNamespaceName,
		Fields: func(obj runtime.Object) fields.Set {
			return fields.Set{"status.phase": string(obj.(*corev1.Namespace).Status.Phase)}
		},
		PrepareCreate: func(_ context.Context, obj runtime.Object) {
			ns := obj.(*corev1.Namespace)
			ns.Status.Phase = corev1.NamespaceActive
			ns.Spec.Finalizers = withKubernetes(ns.Spec.Finalizers)
		},
		// Finalizers change through the finalize subresource only.
		PrepareUpdate: func(_ context.Context, obj, old runtime.Object) {
			obj.(*corev1.Namespace).Spec.Finalizers = old.(*corev1.Namespace).Spec.Finalizers
		},
	}
}

func withKubernetes(finalizers []corev1.FinalizerName) []corev1.FinalizerName {
	if slices.Contains(finalizers, corev1.FinalizerKubernetes) {
		return finalizers
	}
	return append(slices.Clone(finalizers), corev1.FinalizerKubernetes)
}

// Storage is the storage of namespaces.
type Storage struct {
	*store.Storage
}

// DeleteCollection has not the signature that the API machinery looks for, so that no request deletes many namespaces:
// upstream does not serve that either.
func (s *Storage) DeleteCollection() {}

// Finalize is the storage of namespaces/finalize. It is written, never read.
type Finalize struct {
	write *store.Subresource
}

func (f *Finalize) New() runtime.Object { return f.write.New() }

// Destroy does nothing: the store belongs to the namespaces.
func (f *Finalize) Destroy() {}

func (f *Finalize) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, force bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return f.write.Update(ctx, name, info, create, update, force, options)
}

func (f *Finalize) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return f.write.GetResetFields()
}

// New returns the storages of namespaces and of their finalize subresource. s was made from Resource.
func New(s *store.Storage) (*Storage, *Finalize) {
	s.ShouldDeleteDuringUpdate = func(ctx context.Context, key string, obj, existing runtime.Object) bool {
		ns := obj.(*corev1.Namespace)
		return len(ns.Spec.Finalizers) == 0 && ns.DeletionTimestamp != nil && len(ns.Finalizers) == 0
	}
	f := finalizeStrategy{s.Strategy()}
	return &Storage{s}, &Finalize{s.Subresource(f, f)}
}

// Delete marks the namespace as terminating; it removes it once nobody has anything left to finalize.
func (s *Storage) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := s.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns := obj.(*corev1.Namespace)
	if options == nil {
		options = metav1.NewDeleteOptions(0)
	}
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	gr := schema.GroupResource{Resource: "namespaces"}
	if options.Preconditions.UID == nil {
		options.Preconditions.UID = &ns.UID
	} else if *options.Preconditions.UID != ns.UID {
		return nil, false, apierrors.NewConflict(gr, name,
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *options.Preconditions.UID, ns.UID))
	}
	if v := options.Preconditions.ResourceVersion; v != nil && *v != ns.ResourceVersion {
		return nil, false, apierrors.NewConflict(gr, name,
			fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *v, ns.ResourceVersion))
	}
	if len(ns.Spec.Finalizers) == 0 && len(ns.Finalizers) == 0 {
		return s.Storage.Delete(ctx, name, validate, options)
	}
	marked, err := s.mark(ctx, name, validate, options)
	return marked, false, err
}

// mark sets the deletion timestamp and the phase in one write.
func (s *Storage) mark(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, error) {
	key, err := s.KeyFunc(ctx, name)
	if err != nil {
		return nil, err
	}
	preconditions := storage.Preconditions{UID: options.Preconditions.UID, ResourceVersion: options.Preconditions.ResourceVersion}
	out := s.NewFunc()
	err = s.Store.Storage.GuaranteedUpdate(ctx, key, out, false, &preconditions,
		storage.SimpleUpdate(func(existing runtime.Object) (runtime.Object, error) {
			ns := existing.(*corev1.Namespace)
			if err := validate(ctx, ns); err != nil {
				return nil, err
			}
			if ns.DeletionTimestamp.IsZero() {
				now := metav1.Now()
				ns.DeletionTimestamp = &now
				zero := int64(0)
				ns.DeletionGracePeriodSeconds = &zero
			}
			ns.Status.Phase = corev1.NamespaceTerminating
			orphan := func(f string) bool { return f == metav1.FinalizerOrphanDependents }
			if options.OrphanDependents != nil && !*options.OrphanDependents {
				ns.Finalizers = slices.DeleteFunc(ns.Finalizers, orphan)
			}
			return ns, nil
		}), dryrun.IsDryRun(options.DryRun), nil)
	if err != nil {
		err = storeerrors.InterpretGetError(err, schema.GroupResource{Resource: "namespaces"}, name)
		return nil, storeerrors.InterpretUpdateError(err, schema.GroupResource{Resource: "namespaces"}, name)
	}
	return out, nil
}

// finalizeStrategy changes spec.finalizers and nothing else.
type finalizeStrategy struct{ store.UpdateStrategy }

func (finalizeStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	ns, was := obj.(*corev1.Namespace), old.(*corev1.Namespace)
	ns.Status = was.Status
	ns.DeletionTimestamp = was.DeletionTimestamp
}

func (finalizeStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	ns, was := obj.(*corev1.Namespace), old.(*corev1.Namespace)
	errs := apivalidation.ValidateObjectMetaUpdate(&ns.ObjectMeta, &was.ObjectMeta, field.NewPath("metadata"))
	return append(errs, validation.NamespaceFinalize(ns)...)
}

func (finalizeStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"v1": fieldpath.NewSet(fieldpath.MakePathOrDie("status"))}
}

var _ rest.GracefulDeleter = &Storage{}
