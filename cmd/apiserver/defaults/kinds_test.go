package defaults

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/orlop-io/orlop/cmd/apiserver/scheme"
)

// TestEveryKindHasGoldenFiles holds that whoever adds a kind says what a client that leaves all out gets.
func TestEveryKindHasGoldenFiles(t *testing.T) {
	have := map[schema.GroupVersionKind]bool{}
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range inputs {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal(raw, &meta); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		gvk := meta.GroupVersionKind()
		gvk.Kind = strings.TrimSuffix(gvk.Kind, "List")
		have[gvk] = true
	}
	types, err := scheme.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, gv := range scheme.Served() {
		known := types.Scheme.KnownTypes(gv)
		for kind, typ := range known {
			_, stored := known[kind+"List"] // reviews and subresources have none
			_, named := typ.FieldByName("ObjectMeta")
			if stored && named && strings.HasPrefix(typ.PkgPath(), "k8s.io/api/") && typ.Kind() == reflect.Struct && kind != "ComponentStatus" && !have[gv.WithKind(kind)] {
				t.Errorf("no golden file in testdata for %s", gv.WithKind(kind))
			}
		}
	}
}
