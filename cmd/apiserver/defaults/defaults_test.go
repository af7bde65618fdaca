package defaults

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func newScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	if err := scheme.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	if err := AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestGolden decodes each testdata/*.in.yaml, defaults it, and compares with *.out.yaml; defaulting twice changes nothing more.
func TestGolden(t *testing.T) {
	s := newScheme(t)
	decoder := serializer.NewCodecFactory(s).UniversalDeserializer()
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, in := range inputs {
		t.Run(strings.TrimSuffix(filepath.Base(in), ".in.yaml"), func(t *testing.T) {
			raw, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			obj, _, err := decoder.Decode(raw, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			s.Default(obj)
			got, err := yaml.Marshal(obj)
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.Replace(in, ".in.", ".out.", 1)
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("defaults differ (-want +got):\n%s", diff)
			}
			s.Default(obj)
			again, err := yaml.Marshal(obj)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(got), string(again)); diff != "" {
				t.Errorf("defaulting is not idempotent (-once +twice):\n%s", diff)
			}
		})
	}
}

func TestImageTag(t *testing.T) {
	for image, want := range map[string]string{
		"nginx":                     "latest",
		"nginx:latest":              "latest",
		"nginx:1.2":                 "1.2",
		"reg:5000/nginx":            "latest",
		"reg:5000/a/nginx:2":        "2",
		"nginx@sha256:00":           "",
		"reg:5000/nginx:3@sha256:0": "3",
		"":                          "",
	} {
		if got := imageTag(image); got != want {
			t.Errorf("imageTag(%q) = %q, want %q", image, got, want)
		}
	}
}

func TestNamespaceLabelFollowsName(t *testing.T) {
	n := &corev1.Namespace{}
	n.Name = "x"
	n.Labels = map[string]string{corev1.LabelMetadataName: "forged"}
	newScheme(t).Default(n)
	if got := n.Labels[corev1.LabelMetadataName]; got != "x" {
		t.Errorf("label = %q, want x", got)
	}
}

func TestSubjectsGroup(t *testing.T) {
	b := &rbacv1.RoleBinding{Subjects: []rbacv1.Subject{{Kind: "User"}, {Kind: "Group"}, {Kind: "ServiceAccount"}}}
	newScheme(t).Default(b)
	got := []string{b.RoleRef.APIGroup, b.Subjects[0].APIGroup, b.Subjects[1].APIGroup, b.Subjects[2].APIGroup}
	want := []string{rbacv1.GroupName, rbacv1.GroupName, rbacv1.GroupName, ""}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
