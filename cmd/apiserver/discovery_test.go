package apiserver

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// update rewrites the golden files of this package from what the server says.
var update = flag.Bool("update", false, "write golden files anew")

const discoveryType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// served is aggregated discovery as text: a line a group version, resource and subresource, in the server's order.
func served(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, path := range []string{"/api", "/apis"} {
		raw, err := shared.client.Discovery().RESTClient().Get().AbsPath(path).SetHeader("Accept", discoveryType).DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var list apidiscoveryv2.APIGroupDiscoveryList
		if err := json.Unmarshal(raw, &list); err != nil {
			t.Fatal(err)
		}
		for _, group := range list.Items {
			if strings.HasSuffix(group.Name, "example.com") {
				continue // custom resources of other tests
			}
			for _, v := range group.Versions {
				fmt.Fprintln(&out, strings.TrimPrefix(group.Name+"/"+v.Version, "/"))
				for _, r := range v.Resources {
					fmt.Fprintf(&out, "  %s %s %s %s short=%v categories=%v %s\n", r.Resource, kindOf(r.ResponseKind), r.SingularResource, r.Scope, r.ShortNames, r.Categories, verbs(r.Verbs))
					for _, s := range r.Subresources {
						fmt.Fprintf(&out, "    /%s %s %s\n", s.Subresource, kindOf(s.ResponseKind), verbs(s.Verbs))
					}
				}
			}
		}
	}
	return out.String()
}

func kindOf(k *metav1.GroupVersionKind) string {
	if k == nil {
		return "-"
	}
	return strings.TrimLeft(k.Group+"/"+k.Version+"/"+k.Kind, "/")
}

func verbs(v []string) string {
	all := strings.Join(v, ",")
	if all == "create,delete,deletecollection,get,list,patch,update,watch" {
		return "all"
	}
	return all
}

// The golden file is upstream's list at 1.37: what kubectl api-resources shows, and every subresource.
func TestDiscoveryIsUpstreams(t *testing.T) {
	const file = "testdata/discovery.txt"
	got := served(t)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Error(diff)
	}
}

// Clients before 1.30 read one document a version; both ways must tell of the same resources.
func TestOldDiscoveryAgrees(t *testing.T) {
	_, lists, err := shared.client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	text := served(t)
	for _, list := range lists {
		for _, r := range list.APIResources {
			if strings.HasSuffix(list.GroupVersion, "example.com/v1") {
				continue
			}
			line := "  " + r.Name + " "
			if _, sub, ok := strings.Cut(r.Name, "/"); ok {
				line = "    /" + sub + " "
			}
			if !strings.Contains(text, list.GroupVersion+"\n") || !strings.Contains(text, line) {
				t.Errorf("%s %s is in one discovery only", list.GroupVersion, r.Name)
			}
		}
	}
}
