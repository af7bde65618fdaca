// Package tagged gives the defaults that the API's types carry as +default tags, by code generated from them.
package tagged

import (
	"errors"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/orlop-io/orlop/cmd/apiserver/defaults/tagged/appsv1"
	"github.com/orlop-io/orlop/cmd/apiserver/defaults/tagged/batchv1"
	"github.com/orlop-io/orlop/cmd/apiserver/defaults/tagged/certificatesv1"
	"github.com/orlop-io/orlop/cmd/apiserver/defaults/tagged/corev1"
	"github.com/orlop-io/orlop/cmd/apiserver/defaults/tagged/resourcev1"
	"github.com/orlop-io/orlop/cmd/apiserver/defaults/tagged/storagev1"
)

//go:generate go run k8s.io/code-generator/cmd/defaulter-gen@v0.37.2 --go-header-file boilerplate.txt --output-file zz_generated.defaults.go ./...

// New returns a function that sets the tagged defaults of an object of any kind.
func New() (func(runtime.Object), error) {
	// A scheme keeps one function a type; the hand-written ones have the other.
	s := runtime.NewScheme()
	var errs []error
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.RegisterDefaults, batchv1.RegisterDefaults, certificatesv1.RegisterDefaults, corev1.RegisterDefaults, resourcev1.RegisterDefaults, storagev1.RegisterDefaults,
	} {
		errs = append(errs, add(s))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s.Default, nil
}
