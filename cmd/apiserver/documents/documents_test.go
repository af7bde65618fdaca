package documents

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// served documents two groups of one route each.
func served(build string) (http.Handler, *restful.Container) {
	c := restful.NewContainer()
	for _, root := range []string{"/apis/a.example/v1", "/apis/b.example/v1"} {
		s := new(restful.WebService).Path(root)
		c.Add(s.Route(s.GET("/things").Operation("list" + root[6:7]).To(func(*restful.Request, *restful.Response) {})))
	}
	names := func(name string) (string, spec.Extensions) { return name, nil }
	m := mux.NewPathRecorderMux("test")
	Install(m, Config{
		V2:       &common.Config{Info: &spec.Info{}, GetDefinitionName: names, GetDefinitions: func(common.ReferenceCallback) map[string]common.OpenAPIDefinition { return nil }},
		V3:       &common.OpenAPIV3Config{Info: &spec.Info{}, GetDefinitionName: names, GetDefinitions: func(common.ReferenceCallback) map[string]common.OpenAPIDefinition { return nil }},
		Services: c, Build: build,
	})
	return m, c
}

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

func paths(t *testing.T, h http.Handler) map[string]handler3.OpenAPIV3DiscoveryGroupVersion {
	t.Helper()
	var list handler3.OpenAPIV3Discovery
	if err := json.Unmarshal(get(h, "/openapi/v3").Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	return list.Paths
}

func TestDocumentsOfGroups(t *testing.T) {
	h, _ := served("1")
	for _, name := range []string{"apis/a.example/v1", "apis/b.example/v1"} {
		address := paths(t, h)[name].ServerRelativeURL
		w := get(h, address)
		if w.Code != 200 || !strings.Contains(w.Body.String(), "/"+name+"/things") || strings.Count(w.Body.String(), "/things") != 1 {
			t.Errorf("%s: %d %s", address, w.Code, w.Body)
		}
		if w.Header().Get("Cache-Control") != "public, immutable" {
			t.Errorf("%s may not be kept: %v", address, w.Header())
		}
		if w := get(h, "/openapi/v3/"+name+"?hash=OLD"); w.Code != 301 || w.Header().Get("Location") != address {
			t.Errorf("an old hash leads to %d %s", w.Code, w.Header().Get("Location"))
		}
	}
	if w := get(h, "/openapi/v3/apis/c.example/v1"); w.Code != 404 {
		t.Errorf("a group that is not there: %d", w.Code)
	}
	if w := get(h, "/openapi/v2"); w.Code != 200 || strings.Count(w.Body.String(), "/things") != 2 {
		t.Errorf("v2: %d %s", w.Code, w.Body)
	}
}

func TestHashTellsPrograms(t *testing.T) {
	one, _ := served("1")
	same, _ := served("1")
	two, _ := served("2")
	const name = "apis/a.example/v1"
	if paths(t, one)[name] != paths(t, same)[name] {
		t.Error("a restart changed the hash")
	}
	if paths(t, one)[name] == paths(t, two)[name] {
		t.Error("another program has the same hash")
	}
}

func TestForgottenWhenNobodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		written := 0
		d := &document{write: func() http.Handler { written++; return http.NotFoundHandler() }}
		d.get()
		time.Sleep(kept - time.Second)
		d.get()
		time.Sleep(kept - time.Second)
		d.get()
		if written != 1 {
			t.Errorf("written %d times although asked for all the time", written)
		}
		time.Sleep(kept + time.Second)
		synctest.Wait()
		if d.written != nil {
			t.Error("not forgotten")
		}
		d.get()
		if written != 2 {
			t.Errorf("written %d times, want a second", written)
		}
	})
}
