package documents

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kube-openapi/pkg/spec3"
)

// definition serves some versions of a kind.
func definition(kind string, generation int64, served ...string) *apiextensionsv1.CustomResourceDefinition {
	plural := strings.ToLower(kind) + "s"
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: plural + ".x.example", UID: types.UID(kind), Generation: generation}}
	crd.Spec = apiextensionsv1.CustomResourceDefinitionSpec{Group: "x.example", Scope: apiextensionsv1.NamespaceScoped,
		Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Singular: strings.ToLower(kind), Kind: kind, ListKind: kind + "List"}}
	for _, v := range []string{"v1", "v2"} {
		crd.Spec.Versions = append(crd.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{Name: v, Served: slices.Contains(served, v), Storage: v == "v1",
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}}})
	}
	crd.Status = apiextensionsv1.CustomResourceDefinitionStatus{AcceptedNames: crd.Spec.Names,
		Conditions: []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}}
	return crd
}

func TestCustomDocumentsFollowWhatIsServed(t *testing.T) {
	for name, tt := range map[string]struct {
		changes []runtime.Object // set, one after the other
		gone    []runtime.Object
		want    []string
	}{
		"all":                       {changes: []runtime.Object{definition("Car", 1, "v1", "v2")}, want: []string{"apis/x.example/v1: Car", "apis/x.example/v2: Car"}},
		"one version not served":    {changes: []runtime.Object{definition("Car", 1, "v1", "v2"), definition("Car", 2, "v1")}, want: []string{"apis/x.example/v1: Car"}},
		"another kind has it still": {changes: []runtime.Object{definition("Car", 1, "v1", "v2"), definition("Van", 1, "v2"), definition("Car", 2, "v1")}, want: []string{"apis/x.example/v1: Car", "apis/x.example/v2: Van"}},
		"served again":              {changes: []runtime.Object{definition("Car", 1, "v1", "v2"), definition("Car", 2, "v1"), definition("Car", 3, "v1", "v2")}, want: []string{"apis/x.example/v1: Car", "apis/x.example/v2: Car"}},
		"deleted":                   {changes: []runtime.Object{definition("Car", 1, "v1"), definition("Van", 1, "v1")}, gone: []runtime.Object{definition("Car", 1, "v1")}, want: []string{"apis/x.example/v1: Van"}},
	} {
		t.Run(name, func(t *testing.T) {
			informer := cache.NewSharedIndexInformer(&cache.ListWatch{}, &apiextensionsv1.CustomResourceDefinition{}, 0, nil) // not run
			have := map[string]string{}
			c, err := NewCustom(CustomConfig{Definitions: informer,
				Publish:  func(path string, d *spec3.OpenAPI) { have[path] = kinds(d) },
				Withdraw: func(path string) { delete(have, path) }})
			if err != nil {
				t.Fatal(err)
			}
			store := informer.GetStore()
			step := func(o runtime.Object, do func(any) error) {
				if old, found, _ := store.Get(o); found {
					c.note(old)
				}
				c.note(o)
				if err := errors.Join(do(o), c.publish(c.taken())); err != nil {
					t.Fatal(err)
				}
			}
			for _, o := range tt.changes {
				step(o, store.Update)
			}
			for _, o := range tt.gone {
				step(o, store.Delete)
			}
			var got []string
			for _, path := range slices.Sorted(maps.Keys(have)) {
				got = append(got, path+": "+have[path])
			}
			if !slices.Equal(tt.want, got) {
				t.Errorf("want %v, have %v", tt.want, got)
			}
		})
	}
}

func kinds(d *spec3.OpenAPI) string {
	var out []string
	for name := range d.Components.Schemas {
		if kind := name[strings.LastIndex(name, ".")+1:]; kind == "Car" || kind == "Van" {
			out = append(out, kind)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
