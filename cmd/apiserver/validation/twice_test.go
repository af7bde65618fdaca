package validation

import (
	"math/rand"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/randfill"

	"github.com/orlop-io/orlop/cmd/apiserver/defaults"
	"github.com/orlop-io/orlop/cmd/apiserver/validation/declarative"
)

// TestRandomObjects fills every kind with nonsense: no rule panics, and none says again what a generated one says.
func TestRandomObjects(t *testing.T) {
	s := runtime.NewScheme()
	if err := scheme.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	if err := defaults.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	for gvk, typ := range s.AllKnownTypes() {
		if !strings.HasPrefix(typ.PkgPath(), "k8s.io/api/") {
			continue
		}
		for seed := range int64(4) {
			obj, old := randomObject(typ, seed), randomObject(typ, seed+100)
			if seed%2 == 0 {
				s.Default(obj)
			}
			for what, errs := range map[string][2]field.ErrorList{
				"create": {Create(obj), declarative.Create(obj)}, "update": {Update(obj, old), declarative.Update(obj, old)}, "status": {UpdateStatus(obj, old), declarative.Update(obj, old)},
			} {
				told := map[string]int{}
				for _, e := range errs[0] {
					told[e.Error()]++
				}
				for _, e := range errs[1] {
					if n := told[e.Error()]; n != 1 {
						t.Errorf("%s of %s, seed %d, is told %d times: %s", what, gvk, seed, n, e)
					}
				}
			}
		}
	}
}

func randomObject(typ reflect.Type, seed int64) runtime.Object {
	obj := reflect.New(typ).Interface().(runtime.Object)
	randfill.New().RandSource(rand.NewSource(seed)).NilChance(0.4).NumElements(1, 2).MaxDepth(14).Funcs(
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewQuantity(int64(c.Intn(5)-2), resource.DecimalSI)
		},
		func(v *intstr.IntOrString, c randfill.Continue) { *v = intstr.FromInt(c.Intn(5) - 2) },
		func(*metav1.FieldsV1, randfill.Continue) {},
		func(*runtime.RawExtension, randfill.Continue) {},
		func(n *int32, c randfill.Continue) { *n = int32(c.Intn(5) - 2) },
	).Fill(obj)
	return obj
}
