// Package defaults gives every kind that the API server serves the values that a client left out.
//
// It knows the documented defaults of the v1 (and autoscaling/v2) API and nothing else: no storage, no request, no cluster.
// What depends on more than the object itself (cluster IPs, generated selectors, service accounts) belongs to strategies and
// admission. Defaulting is idempotent, because objects pass through it at every decode, from clients and from the store alike.
package defaults

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/orlop-io/orlop/cmd/apiserver/defaults/tagged"
)

// AddToScheme registers the defaulting function of each kind, and of its list, in scheme.
func AddToScheme(scheme *runtime.Scheme) error {
	generated, err := tagged.New()
	if err != nil {
		return fmt.Errorf("register tagged defaults: %w", err)
	}
	r := &registry{scheme: scheme, tagged: generated}
	addAdmission(r)
	addCore(r)
	addPersistentVolumes(r)
	addServices(r)
	addApps(r)
	addBatch(r)
	addAutoscaling(r)
	addNetworking(r)
	addPolicies(r)
	addStorage(r)
	addDevices(r)
	return errors.Join(r.errs...)
}

type registry struct {
	scheme *runtime.Scheme
	// tagged sets the defaults that types carry as tags, after what is written here.
	tagged func(runtime.Object)
	errs   []error
}

// add registers fn for the kind T.
func add[T any](r *registry, fn func(*T)) {
	obj, ok := any(new(T)).(runtime.Object)
	if !ok {
		r.errs = append(r.errs, fmt.Errorf("register defaults of %T: not an API object", new(T)))
		return
	}
	r.scheme.AddTypeDefaultingFunc(obj, func(o any) {
		fn(o.(*T))
		r.tagged(o.(runtime.Object))
	})
}

// addList registers fn for the kind T and for the items of its list L.
func addList[T, L any](r *registry, items func(*L) []T, fn func(*T)) {
	add(r, fn)
	add(r, func(l *L) {
		list := items(l)
		for i := range list {
			fn(&list[i])
		}
	})
}

// set gives *p the value v if it has none.
func set[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// setPtr makes *p point to a copy of v if it is nil.
func setPtr[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}
