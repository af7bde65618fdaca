// Package scale serves the scale subresource of the kinds that have replicas.
package scale

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/orlop-io/orlop/cmd/apiserver/registry/store"
)

// REST is the storage of a scale subresource.
type REST struct {
	store    *store.Storage
	gv       schema.GroupVersion
	table    rest.TableConvertor
	mappings managedfields.ResourcePathMappings
}

// New returns the scale subresource of s, whose objects must be of a kind that parts knows. table shows Scales.
func New(s *store.Storage, gv schema.GroupVersion, table rest.TableConvertor) *REST {
	path := fieldpath.MakePathOrDie("spec", "replicas")
	return &REST{s, gv, table, managedfields.ResourcePathMappings{gv.String(): path}}
}

func (r *REST) New() runtime.Object { return &autoscalingv1.Scale{} }

// Destroy does nothing: the store belongs to the main resource.
func (r *REST) Destroy() {}

// GroupVersionKind tells the endpoints that a Scale is of another group than its resource.
func (r *REST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

func (r *REST) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	obj, err := r.store.Get(ctx, name, o)
	if err != nil {
		return nil, err
	}
	return toScale(obj)
}

func (r *REST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	obj, _, err := r.store.Update(ctx, name, &updated{r, name, info}, rest.ValidateAllObjectFunc, asScale(update), false, o)
	if err != nil {
		return nil, false, err
	}
	s, err := toScale(obj)
	return s, false, err
}

func (r *REST) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return r.table.ConvertToTable(ctx, obj, options)
}

// asScale shows admission the Scale that the client sees, not the object behind it.
func asScale(validate rest.ValidateObjectUpdateFunc) rest.ValidateObjectUpdateFunc {
	return func(ctx context.Context, obj, old runtime.Object) error {
		now, err := toScale(obj)
		if err != nil {
			return err
		}
		was, err := toScale(old)
		if err != nil {
			return err
		}
		return validate(ctx, now, was)
	}
}

// updated turns an update of a Scale into one of the object behind it.
type updated struct {
	r    *REST
	name string
	info rest.UpdatedObjectInfo
}

func (u *updated) Preconditions() *metav1.Preconditions { return u.info.Preconditions() }

func (u *updated) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	obj := old.DeepCopyObject()
	p, err := parts(obj)
	if err != nil {
		return nil, err
	}
	before, err := toScale(obj)
	if err != nil {
		return nil, err
	}
	handler := managedfields.NewScaleHandler(p.meta.GetManagedFields(), u.r.gv, u.r.mappings)
	if before.ManagedFields, err = handler.ToSubresource(); err != nil {
		return nil, err
	}
	changed, err := u.info.UpdatedObject(ctx, before)
	if err != nil {
		return nil, err
	}
	scale, ok := changed.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected input object type to be Scale, but %T", changed))
	}
	if errs := validate(scale); len(errs) > 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), u.name, errs)
	}
	if scale.ResourceVersion != "" {
		// The client read this version; if it is no longer the current one, the store must say so.
		p.meta.SetResourceVersion(scale.ResourceVersion)
	}
	if scale.UID != "" {
		p.meta.SetUID(scale.UID)
	}
	*p.replicas = scale.Spec.Replicas
	managed, err := handler.ToParent(scale.ManagedFields)
	if err != nil {
		return nil, err
	}
	p.meta.SetManagedFields(managed)
	return obj, nil
}

func validate(s *autoscalingv1.Scale) field.ErrorList {
	errs := validation.ValidateObjectMeta(&s.ObjectMeta, true, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
	return append(errs, validation.ValidateNonnegativeField(int64(s.Spec.Replicas), field.NewPath("spec", "replicas"))...)
}

// scalable is what a Scale shows of an object.
type scalable struct {
	meta     metav1.Object
	replicas *int32
	current  int32
	selector string
}

func parts(obj runtime.Object) (scalable, error) {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return of(&o.ObjectMeta, &o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector)
	case *appsv1.ReplicaSet:
		return of(&o.ObjectMeta, &o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector)
	case *appsv1.StatefulSet:
		return of(&o.ObjectMeta, &o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector)
	case *corev1.ReplicationController:
		s, err := of(&o.ObjectMeta, &o.Spec.Replicas, o.Status.Replicas, nil)
		s.selector = labels.Set(o.Spec.Selector).String()
		return s, err
	}
	return scalable{}, fmt.Errorf("%T has no scale", obj)
}

func of(meta metav1.Object, replicas **int32, current int32, selector *metav1.LabelSelector) (scalable, error) {
	if *replicas == nil {
		*replicas = new(int32)
	}
	s := scalable{meta: meta, replicas: *replicas, current: current}
	if selector != nil {
		parsed, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil {
			return s, fmt.Errorf("read selector: %w", err)
		}
		s.selector = parsed.String()
	}
	return s, nil
}

func toScale(obj runtime.Object) (*autoscalingv1.Scale, error) {
	p, err := parts(obj)
	if err != nil {
		return nil, err
	}
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: p.meta.GetName(), Namespace: p.meta.GetNamespace(), UID: p.meta.GetUID(),
			ResourceVersion: p.meta.GetResourceVersion(), CreationTimestamp: p.meta.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: *p.replicas},
		Status: autoscalingv1.ScaleStatus{Replicas: p.current, Selector: p.selector},
	}, nil
}
