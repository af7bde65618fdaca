// Package store turns a description of a resource into REST storage on k8s.io/apiserver's generic registry.
//
// A Resource says what is particular to one kind; the strategy here does what all kinds share: status is
// written only through the status subresource, spec only outside it, and the generation counts changes of the
// rest. It knows no kind by name.
package store

import (
	"context"

	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Resource describes one resource. The zero value of every field from Also on means "as most kinds do".
type Resource struct {
	GV       schema.GroupVersion
	Kind     string
	Plural   string
	Singular string
	// Also are the other versions that the resource is served at; GV is the one of the store.
	Also []schema.GroupVersion

	Short      []string
	Categories []string
	Cluster    bool // not in a namespace

	// Name validates metadata.name; nil means a DNS subdomain.
	Name validation.ValidateNameFunc
	// Fields gives the values of field selectors besides those of metadata.
	Fields func(obj runtime.Object) fields.Set
	// Index names a field of Fields that lists and watches select by often enough to keep an index for.
	Index string
	// TTL is how many seconds the store keeps an object; nil means for ever.
	TTL func(obj runtime.Object, existing uint64, update bool) (uint64, error)

	// Generation says that metadata.generation counts the changes of all but metadata and status.
	Generation bool
	// KeepStatus keeps the status that a create request brings.
	KeepStatus bool
	// NoStatus leaves out the status subresource of a kind that has a status.
	NoStatus bool
	// CreateOnUpdate lets PUT create an object.
	CreateOnUpdate bool
	// Conditional refuses updates that name no resource version.
	Conditional bool
	// Orphan leaves dependents alone where a delete request does not say what becomes of them.
	Orphan bool
	// ReturnDeleted answers a delete with the object instead of a Status.
	ReturnDeleted bool

	// PrepareCreate and PrepareUpdate set what the server owns, after the shared part and before validation.
	PrepareCreate func(ctx context.Context, obj runtime.Object)
	PrepareUpdate func(ctx context.Context, obj, old runtime.Object)
	// PrepareStatus does the same for updates of status.
	PrepareStatus func(ctx context.Context, obj, old runtime.Object)
	// Validate adds to the validation of Config for creates; ValidateUpdate for updates.
	Validate       func(ctx context.Context, obj runtime.Object) field.ErrorList
	ValidateUpdate func(ctx context.Context, obj, old runtime.Object) field.ErrorList
	// ValidateStatus adds to the validation of Config for updates of status.
	ValidateStatus func(ctx context.Context, obj, old runtime.Object) field.ErrorList
	// Warn returns what a client that creates or updates obj should know.
	Warn func(obj runtime.Object) []string
	// Graceful makes deletion wait: it sets options.GracePeriodSeconds and returns true.
	Graceful func(ctx context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool
}

// GroupResource is the name of r without its version.
func (r *Resource) GroupResource() schema.GroupResource {
	return r.GV.WithResource(r.Plural).GroupResource()
}

// Config is what all stores of a server share.
type Config struct {
	Scheme  *runtime.Scheme
	Options generic.RESTOptionsGetter
	// ValidateCreate, ValidateUpdate and ValidateStatus judge objects by kind, without their metadata's name and
	// namespace. None may be nil.
	ValidateCreate func(obj runtime.Object) field.ErrorList
	ValidateUpdate func(obj, old runtime.Object) field.ErrorList
	ValidateStatus func(obj, old runtime.Object) field.ErrorList
	// Drop takes out of obj, which is new or comes in the place of old, what the server does not build. It may be nil.
	Drop func(obj, old runtime.Object)
	// Warn says what a client that creates obj, or puts it in the place of old, should know. It may be nil.
	Warn func(obj, old runtime.Object) []string
	// Begin is called before an object is created or updated, by the goroutine that does, of which each such request has one of its
	// own. It may be nil.
	Begin func()
	// Table gives the columns of a resource. It may not be nil.
	Table func(gr schema.GroupResource) rest.TableConvertor
}
