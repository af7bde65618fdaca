package declarative

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes/scheme"
)

// TestEveryGeneratedKindIsServed holds that no generated rule lies idle, and that each option it asks for is answered.
func TestEveryGeneratedKindIsServed(t *testing.T) {
	files, err := filepath.Glob("*/zz_generated.validations.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no generated files: %v", err)
	}
	generated := map[string]bool{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`func Validate_(\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			generated[filepath.Dir(name)+"."+m[1]] = true
		}
		for _, m := range regexp.MustCompile(`IfOption\(ctx, op, fldPath, obj, oldObj, "(\w+)"`).FindAllStringSubmatch(string(text), -1) {
			if _, ok := options()[m[1]]; !ok {
				t.Errorf("%s asks for option %s", name, m[1])
			}
		}
	}
	seen := 0
	for gvk, typ := range scheme.Scheme.AllKnownTypes() {
		group := strings.TrimSuffix(strings.TrimPrefix(typ.PkgPath(), "k8s.io/api/"), "/"+gvk.Version)
		if !generated[group+gvk.Version+"."+typ.Name()] || gvk.Version == "v1" && typ.PkgPath() == "k8s.io/api/autoscaling/v1" && typ.Name() != "Scale" {
			continue // horizontal pod autoscalers are v2 within the server
		}
		seen++
		obj := reflect.New(typ).Interface()
		if rulesFor(obj.(runtime.Object)) == nil {
			t.Errorf("no rules are run for %s", gvk)
		}
	}
	if seen < 30 {
		t.Errorf("found only %d kinds with generated rules", seen)
	}
}

func TestStages(t *testing.T) {
	// handler's tags are of the beta stage, those of a condition's fields alpha.
	class := &nodev1.RuntimeClass{Handler: "a_b"}
	if got, want := Create(class).ToAggregate().Error(), `handler: Invalid value: "a_b": a lowercase RFC 1123 label must consist of`; !strings.Contains(got, want) {
		t.Errorf("errors %s, want %s", got, want)
	}
	changed := class.DeepCopy()
	changed.Handler = "b"
	if got, want := Update(changed, class).ToAggregate().Error(), `handler: Invalid value: null: field is immutable`; got != want {
		t.Errorf("errors %s, want %s", got, want)
	}
	if errs := Update(class, class); len(errs) > 0 {
		t.Errorf("what did not change was judged again: %v", errs)
	}
	if errs := Create(&networkingv1.NetworkPolicy{}); len(errs) > 0 {
		t.Errorf("an empty policy: %v", errs)
	}
	job := &batchv1.Job{Spec: batchv1.JobSpec{Scheduling: &batchv1.JobSchedulingConfiguration{}}}
	if got, want := Create(job).ToAggregate().Error(), "spec.scheduling: Forbidden"; !strings.Contains(got, want) {
		t.Errorf("errors %s, want %s", got, want)
	}
}

func TestMerge(t *testing.T) {
	p, q := field.NewPath("a"), field.NewPath("b")
	for _, tt := range []struct {
		name               string
		written, generated field.ErrorList
		want               int
	}{
		{"same type and field", field.ErrorList{field.Required(p, "")}, field.ErrorList{field.Required(p, "must be set")}, 1},
		{"other field", field.ErrorList{field.Required(p, "")}, field.ErrorList{field.Required(q, "")}, 2},
		{"same reason", field.ErrorList{field.Invalid(p, 1, "field is immutable")}, field.ErrorList{field.Invalid(p, 1, "field is immutable")}, 1},
		{"other reason", field.ErrorList{field.Invalid(p, 1, "too wide")}, field.ErrorList{field.Invalid(p, 1, "too high")}, 2},
		{"missing is not also wrong", field.ErrorList{field.Invalid(p, "", "not a name")}, field.ErrorList{field.Required(p, "")}, 1},
		{"same origin", field.ErrorList{field.Invalid(p, 1, "x").WithOrigin("minimum")}, field.ErrorList{field.Invalid(p, 1, "y").WithOrigin("minimum")}, 1},
	} {
		if got := Merge(tt.written, tt.generated); len(got) != tt.want {
			t.Errorf("%s: %v, want %d errors", tt.name, got, tt.want)
		}
	}
}
