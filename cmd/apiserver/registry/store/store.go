package store

import (
	"context"
	"fmt"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Storage is the REST storage of a resource.
type Storage struct {
	*registry.Store
	r   *Resource
	cfg *Config
}

// ShortNames is what discovery tells kubectl.
func (s *Storage) ShortNames() []string { return s.r.Short }

// Categories is what discovery tells kubectl.
func (s *Storage) Categories() []string { return s.r.Categories }

// New builds the storage of r. It opens the watch cache of the resource.
func New(cfg Config, r *Resource) (*Storage, error) {
	newObject, err := factory(cfg.Scheme, r, r.Kind)
	if err != nil {
		return nil, err
	}
	newList, err := factory(cfg.Scheme, r, r.Kind+"List")
	if err != nil {
		return nil, err
	}
	base := strategy{cfg.Scheme, names.SimpleNameGenerator, r, &cfg}
	gr := r.GroupResource()
	s := &registry.Store{
		NewFunc: newObject, NewListFunc: newList,
		DefaultQualifiedResource:  gr,
		SingularQualifiedResource: schema.GroupResource{Group: gr.Group, Resource: r.Singular},
		CreateStrategy:            base, UpdateStrategy: base, DeleteStrategy: base, ResetFieldsStrategy: base,
		TableConvertor: cfg.Table(gr), TTLFunc: r.TTL, ReturnDeletedObject: r.ReturnDeleted,
		PredicateFunc: r.predicate,
	}
	if r.Graceful != nil {
		s.DeleteStrategy = gracefulStrategy{base}
	}
	options := &generic.StoreOptions{RESTOptions: cfg.Options, AttrFunc: r.attributes}
	if r.Index != "" {
		value := func(obj runtime.Object) string { return r.Fields(obj)[r.Index] }
		options.TriggerFunc = storage.IndexerFuncs{r.Index: value}
		options.Indexers = &cache.Indexers{storage.FieldIndex(r.Index): func(obj any) ([]string, error) {
			return []string{value(obj.(runtime.Object))}, nil
		}}
	}
	if cfg.Begin == nil {
		cfg.Begin = func() {}
	}
	if err := s.CompleteWithOptions(options); err != nil {
		return nil, fmt.Errorf("open store of %s: %w", gr, err)
	}
	return &Storage{s, r, &cfg}, nil
}

// HasStatus says whether the resource has a status subresource.
func (s *Storage) HasStatus() bool { return part(s.NewFunc(), "Status").IsValid() && !s.r.NoStatus }

// Status returns the storage of the status subresource.
func (s *Storage) Status() *Subresource {
	st := statusStrategy{strategy{s.cfg.Scheme, names.SimpleNameGenerator, s.r, s.cfg}}
	return s.Subresource(st, st)
}

// Subresource returns storage that reads and updates whole objects of s by another strategy.
func (s *Storage) Subresource(update rest.RESTUpdateStrategy, reset rest.ResetFieldsStrategy) *Subresource {
	other := *s.Store
	other.UpdateStrategy, other.ResetFieldsStrategy = update, reset
	return &Subresource{&other, s.cfg.Begin}
}

// Create is the library's, begun as Config.Begin has it.
func (s *Storage) Create(ctx context.Context, obj runtime.Object, create rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	s.cfg.Begin()
	return s.Store.Create(ctx, obj, create, o)
}

// Update is the library's, begun as Config.Begin has it.
func (s *Storage) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, mayCreate bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	s.cfg.Begin()
	return s.Store.Update(ctx, name, info, create, update, mayCreate, o)
}

// Strategy returns the update strategy of s, for subresources that change one thing of it.
func (s *Storage) Strategy() UpdateStrategy {
	return strategy{s.cfg.Scheme, names.SimpleNameGenerator, s.r, s.cfg}
}

// StatusStrategy returns the update strategy of the status subresource.
func (s *Storage) StatusStrategy() UpdateStrategy {
	return statusStrategy{strategy{s.cfg.Scheme, names.SimpleNameGenerator, s.r, s.cfg}}
}

// UpdateStrategy is an update strategy that knows which fields it resets.
type UpdateStrategy interface {
	rest.RESTUpdateStrategy
	rest.ResetFieldsStrategy
}

// Subresource serves get, update and patch of a part of an object.
type Subresource struct {
	store *registry.Store
	begin func()
}

func (s *Subresource) New() runtime.Object { return s.store.New() }

// Destroy does nothing: the store belongs to the main resource.
func (s *Subresource) Destroy() {}

func (s *Subresource) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	return s.store.Get(ctx, name, o)
}

func (s *Subresource) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	s.begin()
	// A subresource never creates its object, whatever the caller allows.
	return s.store.Update(ctx, name, info, create, update, false, o)
}

func (s *Subresource) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.store.GetResetFields()
}

func (s *Subresource) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return s.store.ConvertToTable(ctx, obj, options)
}

func (r *Resource) attributes(obj runtime.Object) (labels.Set, fields.Set, error) {
	m := accessor(obj)
	set := fields.Set{"metadata.name": m.GetName()}
	if !r.Cluster {
		set["metadata.namespace"] = m.GetNamespace()
	}
	if r.Fields != nil {
		for k, v := range r.Fields(obj) {
			set[k] = v
		}
	}
	return m.GetLabels(), set, nil
}

func (r *Resource) predicate(l labels.Selector, f fields.Selector) storage.SelectionPredicate {
	p := storage.SelectionPredicate{Label: l, Field: f, GetAttrs: r.attributes}
	if r.Index != "" {
		p.IndexFields = []string{r.Index}
	}
	return p
}

// factory returns a constructor of the internal type of kind.
func factory(scheme *runtime.Scheme, r *Resource, kind string) (func() runtime.Object, error) {
	obj, err := scheme.New(schema.GroupVersion{Group: r.GV.Group, Version: runtime.APIVersionInternal}.WithKind(kind))
	if err != nil {
		return nil, fmt.Errorf("make a %s: %w", kind, err)
	}
	t := reflect.TypeOf(obj).Elem()
	return func() runtime.Object { return reflect.New(t).Interface().(runtime.Object) }, nil
}
