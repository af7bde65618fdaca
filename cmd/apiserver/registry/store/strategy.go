package store

import (
	"context"
	"reflect"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// strategy is what every kind does on create, update and delete.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	r   *Resource
	cfg *Config
}

func (s strategy) NamespaceScoped() bool                         { return !s.r.Cluster }
func (s strategy) AllowCreateOnUpdate(context.Context) bool      { return s.r.CreateOnUpdate }
func (s strategy) AllowUnconditionalUpdate(context.Context) bool { return !s.r.Conditional }
func (s strategy) Canonicalize(runtime.Object)                   {}

func (s strategy) WarningsOnCreate(_ context.Context, obj runtime.Object) []string {
	return s.warn(obj, nil)
}

func (s strategy) WarningsOnUpdate(_ context.Context, obj, old runtime.Object) []string {
	return s.warn(obj, old)
}

func (s strategy) warn(obj, old runtime.Object) []string {
	var out []string
	if s.cfg.Warn != nil {
		out = s.cfg.Warn(obj, old)
	}
	if s.r.Warn != nil {
		out = append(out, s.r.Warn(obj)...)
	}
	return out
}

func (s strategy) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	if s.cfg.Drop != nil {
		s.cfg.Drop(obj, nil)
	}
	if status := part(obj, "Status"); status.IsValid() && !s.r.KeepStatus {
		status.SetZero()
	}
	if s.r.Generation {
		accessor(obj).SetGeneration(1)
	}
	if s.r.PrepareCreate != nil {
		s.r.PrepareCreate(ctx, obj)
	}
}

func (s strategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	if s.cfg.Drop != nil {
		s.cfg.Drop(obj, old)
	}
	// From here on both have one status. The hook below changes none, and old belongs to this request alone.
	if status := part(obj, "Status"); status.IsValid() && !s.r.NoStatus {
		status.Set(part(old, "Status"))
	}
	if s.r.PrepareUpdate != nil {
		s.r.PrepareUpdate(ctx, obj, old)
	}
	s.countGeneration(obj, old)
}

// countGeneration raises the generation when anything but metadata and status changed, and keeps clients from
// setting it.
func (s strategy) countGeneration(obj, old runtime.Object) {
	if !s.r.Generation {
		return
	}
	generation := accessor(old).GetGeneration()
	if desiredChanged(obj, old) {
		generation++
	}
	accessor(obj).SetGeneration(generation)
}

func (s strategy) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	name := s.r.Name
	if name == nil {
		name = validation.NameIsDNSSubdomain
	}
	errs := validation.ValidateObjectMetaAccessor(accessor(obj), !s.r.Cluster, name, field.NewPath("metadata"))
	errs = append(errs, s.cfg.ValidateCreate(obj)...)
	if s.r.Validate != nil {
		errs = append(errs, s.r.Validate(ctx, obj)...)
	}
	return errs
}

func (s strategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	errs := validation.ValidateObjectMetaAccessorUpdate(accessor(obj), accessor(old), field.NewPath("metadata"))
	errs = append(errs, s.cfg.ValidateUpdate(obj, old)...)
	if s.r.ValidateUpdate != nil {
		errs = append(errs, s.r.ValidateUpdate(ctx, obj, old)...)
	}
	return errs
}

func (s strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	if s.r.NoStatus {
		return nil
	}
	return s.reset("status")
}

func (s strategy) reset(paths ...any) map[fieldpath.APIVersion]*fieldpath.Set {
	set := fieldpath.NewSet()
	for _, p := range paths {
		set.Insert(fieldpath.MakePathOrDie(p))
	}
	out := map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(s.r.GV.String()): set}
	for _, gv := range s.r.Also {
		out[fieldpath.APIVersion(gv.String())] = set
	}
	return out
}

func (s strategy) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	if s.r.Orphan {
		return rest.OrphanDependents
	}
	return rest.DeleteDependents
}

// gracefulStrategy is the strategy of kinds whose deletion waits for somebody.
type gracefulStrategy struct{ strategy }

func (s gracefulStrategy) CheckGracefulDelete(ctx context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	return s.r.Graceful(ctx, obj, options)
}

// statusStrategy is the strategy of status subresources.
type statusStrategy struct{ strategy }

func (s statusStrategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	// From here on both have one spec, which nothing changes any more.
	v, kept := reflect.ValueOf(obj).Elem(), reflect.ValueOf(old).Elem()
	for i := range v.NumField() {
		if !mutableByStatus(v.Type().Field(i).Name) {
			v.Field(i).Set(kept.Field(i))
		}
	}
	m := accessor(obj)
	m.SetGeneration(accessor(old).GetGeneration())
	m.SetDeletionTimestamp(accessor(old).GetDeletionTimestamp())
	m.SetOwnerReferences(accessor(old).GetOwnerReferences())
	if s.r.PrepareStatus != nil {
		s.r.PrepareStatus(ctx, obj, old)
	}
}

func (s statusStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	errs := validation.ValidateObjectMetaAccessorUpdate(accessor(obj), accessor(old), field.NewPath("metadata"))
	errs = append(errs, s.cfg.ValidateStatus(obj, old)...)
	if s.r.ValidateStatus != nil {
		errs = append(errs, s.r.ValidateStatus(ctx, obj, old)...)
	}
	return errs
}

func (s statusStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

func (s statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.reset("spec")
}

func mutableByStatus(fieldName string) bool {
	return fieldName == "TypeMeta" || fieldName == "ObjectMeta" || fieldName == "Status"
}

// part returns the settable field of that name, or the zero Value where obj's type has none.
func part(obj runtime.Object, name string) reflect.Value {
	return reflect.ValueOf(obj).Elem().FieldByName(name)
}

// desiredChanged compares all of two objects but their metadata and status.
func desiredChanged(obj, old runtime.Object) bool {
	a, b := reflect.ValueOf(obj).Elem(), reflect.ValueOf(old).Elem()
	for i := range a.NumField() {
		if mutableByStatus(a.Type().Field(i).Name) {
			continue
		}
		if !equality.Semantic.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			return true
		}
	}
	return false
}

// accessor panics for an object without metadata: only kinds that have it are put into a Resource.
func accessor(obj runtime.Object) metav1.Object {
	m, err := meta.Accessor(obj)
	if err != nil {
		panic(err)
	}
	return m
}
