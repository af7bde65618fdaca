package defaults

import (
	"math/rand"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/randfill"

	"github.com/orlop-io/orlop/cmd/apiserver/defaults/tagged"
)

// TestTaggedDefaultsAreSet holds that no kind misses what its type's tags say, however it is filled, and that defaulting twice is once.
func TestTaggedDefaultsAreSet(t *testing.T) {
	s := newScheme(t)
	generated, err := tagged.New()
	if err != nil {
		t.Fatal(err)
	}
	for gvk, typ := range s.AllKnownTypes() {
		if gvk.Version != "v1" && gvk.Version != "v2" {
			continue
		}
		for seed := range int64(6) {
			obj := reflect.New(typ).Interface().(runtime.Object)
			filler(seed).Fill(obj)
			s.Default(obj)
			again := obj.DeepCopyObject()
			generated(again)
			if diff := cmp.Diff(obj, again); diff != "" {
				t.Fatalf("seed %d: tagged defaults of %s are not set (-have +want):\n%s", seed, gvk, diff)
			}
			s.Default(again)
			if diff := cmp.Diff(obj, again); diff != "" {
				t.Fatalf("seed %d: defaulting %s twice (-once +twice):\n%s", seed, gvk, diff)
			}
		}
	}
}

// filler leaves many fields empty, and fills those that only some values fit.
func filler(seed int64) *randfill.Filler {
	return randfill.New().RandSource(rand.NewSource(seed)).NilChance(0.4).NumElements(1, 2).MaxDepth(14).Funcs(
		func(q *resource.Quantity, _ randfill.Continue) { *q = *resource.NewQuantity(3, resource.DecimalSI) },
		func(*metav1.FieldsV1, randfill.Continue) {},
		func(*runtime.RawExtension, randfill.Continue) {},
		func(p *string, c randfill.Continue) {
			if c.Bool() {
				*p = "s"
			}
		})
}
