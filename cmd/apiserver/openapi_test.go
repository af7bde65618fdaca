package apiserver

import (
	"encoding/json"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
)

// definition is what these tests read of a schema: which kinds it is, and whether it says anything.
type definition struct {
	Kinds       []metav1.GroupVersionKind  `json:"x-kubernetes-group-version-kind"`
	Properties  map[string]json.RawMessage `json:"properties"`
	Description string                     `json:"description"`
}

// kinds collects the kinds that have a schema with fields.
func kinds(t *testing.T, schemas map[string]definition) map[metav1.GroupVersionKind]bool {
	t.Helper()
	out := map[metav1.GroupVersionKind]bool{}
	for name, s := range schemas {
		for _, k := range s.Kinds {
			if len(s.Properties) < 2 {
				t.Errorf("the schema %s of %v has no fields", name, k)
			}
			out[k] = true
		}
	}
	return out
}

func document(t *testing.T, path string, into any) {
	t.Helper()
	raw, err := shared.client.Discovery().RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/json").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// kubectl explain, strict decoding and server-side apply all live off these documents.
func TestEveryKindHasASchema(t *testing.T) {
	_, lists, err := shared.client.Discovery().ServerGroupsAndResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		t.Fatal(err)
	}
	var two struct {
		Definitions map[string]definition `json:"definitions"`
	}
	document(t, "/openapi/v2", &two)
	old := kinds(t, two.Definitions)
	for _, list := range lists {
		if strings.Contains(list.GroupVersion, "example.com") {
			continue
		}
		path := "/openapi/v3/apis/" + list.GroupVersion
		if list.GroupVersion == "v1" {
			path = "/openapi/v3/api/v1"
		}
		var three struct {
			Components struct {
				Schemas map[string]definition `json:"schemas"`
			} `json:"components"`
			Paths map[string]json.RawMessage `json:"paths"`
		}
		document(t, path, &three)
		if len(three.Paths) == 0 {
			t.Errorf("%s tells of no paths", path)
		}
		now := kinds(t, three.Components.Schemas)
		for _, r := range list.APIResources {
			group, version, _ := strings.Cut(list.GroupVersion, "/")
			if version == "" {
				group, version = "", group
			}
			k := metav1.GroupVersionKind{Group: group, Version: version, Kind: r.Kind}
			if r.Version != "" {
				k.Group, k.Version = r.Group, r.Version
			}
			if strings.HasSuffix(r.Kind, "Options") {
				continue // options of streams are query parameters
			}
			if !old[k] || !now[k] {
				t.Errorf("%v of %s has a schema: %v in OpenAPI v2, %v in v3", k, r.Name, old[k], now[k])
			}
		}
	}
}
