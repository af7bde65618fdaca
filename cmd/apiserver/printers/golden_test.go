package printers

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// update rewrites the golden file.
var update = flag.Bool("update", false, "write golden files anew")

// plural is the resource of a kind as discovery has it.
func plural(kind string) string {
	if kind == "Endpoints" {
		return "endpoints"
	}
	r, _ := meta.UnsafeGuessKindToResource(schema.GroupVersionKind{Kind: kind})
	return r.Resource
}

// The columns are upstream's, in its order, wide ones marked by a plus; and each kind's cells are those of a whole object.
func TestTables(t *testing.T) {
	documents, err := os.ReadFile("testdata/objects.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[schema.GroupResource]bool{}
	var out strings.Builder
	for document := range strings.SplitSeq(string(documents), "\n---\n") {
		raw, err := yaml.YAMLToJSON([]byte(document))
		if err != nil {
			t.Fatal(err)
		}
		obj, gvk, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, nil)
		if err != nil {
			t.Fatalf("%v in %s", err, document)
		}
		m, err := meta.Accessor(obj)
		if err != nil {
			t.Fatal(err)
		}
		m.SetCreationTimestamp(ago(48 * time.Hour))
		gr := schema.GroupResource{Group: gvk.Group, Resource: plural(gvk.Kind)}
		seen[gr] = true
		p, ok := printerFor(gr)
		if !ok {
			t.Errorf("%v has no columns", gr)
			continue
		}
		var names []string
		for _, c := range p.columns {
			name := strings.ToUpper(c.Name)
			if c.Priority > 0 {
				name = "+" + name
			}
			if c.Type != "string" {
				name += ":" + c.Type
			}
			names = append(names, name)
		}
		fmt.Fprintf(&out, "%s\n  %s\n  %s\n", gr, strings.Join(names, "|"), row(t, gr, obj))
	}
	for _, group := range groups() {
		for name := range byGroup(group) {
			if gr := (schema.GroupResource{Group: group, Resource: name}); !seen[gr] && !strings.Contains(name, "/") && group != "events.k8s.io" {
				t.Errorf("testdata/objects.yaml has no object of %v", gr)
			}
		}
	}
	const golden = "testdata/objects.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(out.String(), "\n")); diff != "" {
		t.Error(diff)
	}
}
