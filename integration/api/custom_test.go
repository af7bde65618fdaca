package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// toJSON is YAML as JSON.
func toJSON(t *testing.T, text string) []byte {
	t.Helper()
	b, err := yaml.YAMLToJSON([]byte(text))
	ok(t, err)
	return b
}

const crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// crd makes a definition of widgets in a group of its own, and waits until the first version is served.
func crd(t *testing.T, group, rest string) {
	t.Helper()
	body := toJSON(t, fmt.Sprintf(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.%[1]s}, spec: {group: %[1]s, scope: Namespaced,
names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList, shortNames: [wd], categories: [all, gadgets]}, %[2]s}}`, group, rest))
	if a := send(t, "POST", crds, body); a.code != 201 {
		t.Fatalf("%s", a)
	}
	t.Cleanup(func() { _, _ = request(context.Background(), "DELETE", crds+"/widgets."+group, "", asJSON, nil) })
	served(t, group, "v1", 200)
}

func served(t *testing.T, group, version string, code int) {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("%s/%s answering %d", group, version, code), func() error {
		if a := send(t, "GET", widgets(group, version, "default"), nil); a.code != code {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
}

func widgets(group, version, ns string) string {
	return "/apis/" + group + "/" + version + "/namespaces/" + ns + "/widgets"
}

// step is a request to a custom resource and what it wants to be answered.
type step struct {
	what, method, path, contentType, body string
	code                                  int
	want, not                             string // parts of the answer, spaces as json.Marshal has them: none
}

func (s step) do(t *testing.T, base string) {
	t.Helper()
	var body []byte
	contentType := ""
	if s.body != "" {
		body, contentType = toJSON(t, s.body), asJSON
	}
	if s.contentType != "" {
		contentType = s.contentType
	}
	a, err := request(t.Context(), s.method, base+s.path, contentType, asJSON, body)
	ok(t, err)
	if a.code != s.code || !strings.Contains(string(a.body), s.want) || s.not != "" && strings.Contains(string(a.body), s.not) {
		t.Errorf("%s: %s\nwant %d with %s, without %q", s.what, a, s.code, s.want, s.not)
	}
}

const merge = "application/merge-patch+json"

// rules is a schema with all that structural schemas can do.
const rules = `versions: [{name: v1, served: true, storage: true,
subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}},
selectableFields: [{jsonPath: .spec.color}],
additionalPrinterColumns: [{name: Color, type: string, jsonPath: .spec.color}, {name: Wide, type: integer, priority: 1, jsonPath: .spec.replicas}, {name: Age, type: date, jsonPath: .metadata.creationTimestamp}],
schema: {openAPIV3Schema: {type: object, required: [spec], properties: {
spec: {type: object, x-kubernetes-validations: [{rule: 'self.replicas <= self.limit', message: replicas over limit}],
  properties: {color: {type: string, default: red, enum: [red, green]}, replicas: {type: integer, default: 1, minimum: 0}, limit: {type: integer, default: 5},
    fixed: {type: string, x-kubernetes-validations: [{rule: self == oldSelf, message: fixed is immutable}]},
    set: {type: array, x-kubernetes-list-type: set, items: {type: string}},
    ports: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], items: {type: object, required: [name], properties: {name: {type: string}, port: {type: integer, default: 80}}}},
    either: {x-kubernetes-int-or-string: true}, free: {type: object, x-kubernetes-preserve-unknown-fields: true}}},
status: {type: object, properties: {replicas: {type: integer}, selector: {type: string}}}}}}}]`

func TestCustomResources(t *testing.T) {
	const group = "whole.example.com"
	crd(t, group, rules)
	base := widgets(group, "v1", "default")
	object := func(spec string) string {
		return "{apiVersion: " + group + "/v1, kind: Widget, metadata: {name: w}, spec: " + spec + "}"
	}
	for _, s := range []step{
		{"required", "POST", "", "", "{apiVersion: " + group + "/v1, kind: Widget, metadata: {name: w}}", 422, `spec: Required value`, ""},
		{"enum", "POST", "", "", object("{color: blue}"), 422, `spec.color: Unsupported value: \"blue\": supported values: \"red\", \"green\"`, ""},
		{"type", "POST", "", "", object("{replicas: many}"), 422, `spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\"`, ""},
		{"minimum", "POST", "", "", object("{replicas: -1}"), 422, `spec.replicas in body should be greater than or equal to 0`, ""},
		{"CEL", "POST", "", "", object("{replicas: 6}"), 422, "replicas over limit", ""},
		{"set", "POST", "", "", object("{set: [a, a]}"), 422, `spec.set[1]: Duplicate value: \"a\"`, ""},
		{"map", "POST", "", "", object("{ports: [{name: a}, {name: a}]}"), 422, `spec.ports[1]: Duplicate value: {\"name\":\"a\"}`, ""},
		{"strict", "POST", "?fieldValidation=Strict", "", object("{colour: red}"), 400, `unknown field \"spec.colour\"`, ""},
		{"create, defaulted and pruned", "POST", "", "", object("{fixed: x, unknown: 1, either: 25%, free: {any: [1, {a: null}]}, ports: [{name: a}]}"), 201, `"color":"red"`, "unknown"},
		{"defaults in lists", "GET", "/w", "", "", 200, `"ports":[{"name":"a","port":80}]`, ""},
		{"free form", "GET", "/w", "", "", 200, `"free":{"any":[1,{"a":null}]}`, ""},
		{"transition rule", "PATCH", "/w", merge, "{spec: {fixed: z}}", 422, "fixed is immutable", ""},
		{"status ignored on the way in", "PATCH", "/w", merge, "{status: {replicas: 9}, spec: {replicas: 2}}", 200, `"generation":2`, `"replicas":9`},
		{"status alone", "PATCH", "/w/status", merge, "{status: {replicas: 2, selector: 'a=b'}, spec: {replicas: 3}}", 200, `"generation":2`, `"replicas":3`},
		{"scale", "GET", "/w/scale", "", "", 200, `"spec":{"replicas":2},"status":{"replicas":2,"selector":"a=b"}`, ""},
		{"scaling", "PATCH", "/w/scale", merge, "{spec: {replicas: 4}}", 200, `"spec":{"replicas":4}`, ""},
		{"scaling too far", "PATCH", "/w/scale", merge, "{spec: {replicas: 40}}", 422, "replicas over limit", ""},
		{"scaled", "GET", "/w", "", "", 200, `"replicas":4`, ""},
		{"selected", "GET", "?fieldSelector=spec.color%3Dred", "", "", 200, `"name":"w"`, ""},
		{"not selected", "GET", "?fieldSelector=spec.color%3Dgreen", "", "", 200, `"items":[]`, ""},
		{"no such selector", "GET", "?fieldSelector=spec.limit%3D5", "", "", 400, "field label not supported: spec.limit", ""},
		{"applied: a list by its keys", "PATCH", "/w?fieldManager=m", "application/apply-patch+yaml", object("{ports: [{name: b, port: 1}]}"), 200, `"ports":[{"name":"a","port":80},{"name":"b","port":1}]`, ""},
		{"applied: a conflict", "PATCH", "/w?fieldManager=m", "application/apply-patch+yaml", object("{color: green}"), 409, `conflict with \"Go-http-client\"`, ""},
		{"applied by force", "PATCH", "/w?fieldManager=m&force=true", "application/apply-patch+yaml", object("{color: green}"), 200, `"color":"green"`, `"name":"b"`},
		{"no strategic merge patch", "PATCH", "/w", "application/strategic-merge-patch+json", "{spec: {color: red}}", 415, "the body of the request was in an unknown format", ""},
		{"no protobuf", "POST", "", asProtobuf, "{a: b}", 415, "", ""},
		{"dry run", "DELETE", "/w?dryRun=All", "", "", 200, "", ""},
		{"still there", "GET", "/w", "", "", 200, `"name":"w"`, ""},
	} {
		s.do(t, base)
	}
	columns(t, base)
	names(t, group)
}

// columns wants the definition's printer columns.
func columns(t *testing.T, base string) {
	t.Helper()
	a, err := request(t.Context(), "GET", base, "", "application/json;as=Table;v=v1;g=meta.k8s.io", nil)
	ok(t, err)
	var table struct {
		ColumnDefinitions []struct {
			Name     string
			Priority int
		}
		Rows []struct{ Cells []any }
	}
	ok(t, json.Unmarshal(a.body, &table))
	if got := fmt.Sprint(table.ColumnDefinitions); got != "[{Name 0} {Color 0} {Wide 1} {Age 0}]" {
		t.Errorf("columns %s", got)
	}
	if len(table.Rows) != 1 || len(table.Rows[0].Cells) != 4 || fmt.Sprint(table.Rows[0].Cells[:3]) != "[w green 4]" {
		t.Errorf("rows %v", table.Rows)
	}
}

// names wants short names and categories in discovery.
func names(t *testing.T, group string) {
	t.Helper()
	eventually(t, 20*time.Second, "names in discovery", func() error {
		a := send(t, "GET", "/apis/"+group+"/v1", nil)
		for _, want := range []string{`"shortNames":["wd"]`, `"categories":["all","gadgets"]`, `"name":"widgets/scale","singularName":"","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale"`, `"name":"widgets/status"`} {
			if !strings.Contains(string(a.body), want) {
				return fmt.Errorf("no %s in %s", want, a)
			}
		}
		return nil
	})
}

// documented waits until both OpenAPIs describe exactly these versions of a group.
func documented(t *testing.T, group string, want ...string) {
	t.Helper()
	eventually(t, 20*time.Second, "documents of "+strings.Join(want, " "), func() error {
		two, three := send(t, "GET", "/openapi/v2", nil), send(t, "GET", "/openapi/v3", nil)
		for _, version := range []string{"v1", "v2"} {
			for what, has := range map[string]bool{"v2": strings.Contains(string(two.body), `"/apis/`+group+"/"+version+`/`), "v3": strings.Contains(string(three.body), `"apis/`+group+"/"+version+`"`)} {
				if has != slices.Contains(want, version) {
					return fmt.Errorf("/openapi/%s has %s: %v", what, version, has)
				}
			}
		}
		return nil
	})
}

// A definition may change: what is served, what is stored, what it is called; objects stay.
func TestDefinitionsChange(t *testing.T) {
	const group = "change.example.com"
	const open = "schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}"
	crd(t, group, "versions: [{name: v1, served: true, storage: true, "+open+"}, {name: v2, served: false, storage: false, "+open+"}]")
	served(t, group, "v2", 404)
	object := "{apiVersion: " + group + "/v1, kind: Widget, metadata: {name: w}, spec: {a: 1}}"
	if a := send(t, "POST", widgets(group, "v1", "default"), toJSON(t, object)); a.code != 201 {
		t.Fatalf("%s", a)
	}
	name := crds + "/widgets." + group
	patch := func(ops string) {
		t.Helper()
		if a, err := request(t.Context(), "PATCH", name, "application/json-patch+json", asJSON, []byte(ops)); err != nil || a.code != 200 {
			t.Fatalf("%v %s", err, a)
		}
	}
	patch(`[{"op":"replace","path":"/spec/versions/1/served","value":true}]`)
	served(t, group, "v2", 200)
	documented(t, group, "v1", "v2")
	step{"the other version", "GET", "/w", "", "", 200, `"apiVersion":"` + group + `/v2"`, ""}.do(t, widgets(group, "v2", "default"))
	patch(`[{"op":"replace","path":"/spec/versions/0/storage","value":false},{"op":"replace","path":"/spec/versions/1/storage","value":true}]`)
	step{"both were stored", "GET", "", "", "", 200, `"storedVersions":["v1","v2"]`, ""}.do(t, name)
	patch(`[{"op":"replace","path":"/spec/versions/0/served","value":false}]`)
	served(t, group, "v1", 404)
	documented(t, group, "v2")
	step{"it is still there", "GET", "/w", "", "", 200, `"spec":{"a":1}`, ""}.do(t, widgets(group, "v2", "default"))
	step{"a version with objects stays", "PATCH", "", "application/json-patch+json", `[{op: remove, path: /spec/versions/0}]`, 422, "v1 was previously a storage version, and must remain in spec.versions", ""}.do(t, name)
	for _, s := range []step{
		{"two stored versions", "PATCH", "", "application/json-patch+json", `[{op: replace, path: /spec/versions/0/storage, value: true}]`, 422, "must have exactly one version marked as storage version", ""},
		{"another scope", "PATCH", "", merge, "{spec: {scope: Cluster}}", 422, "field is immutable", ""},
		{"a schema that is none", "PATCH", "", "application/json-patch+json", "[{op: replace, path: /spec/versions/1/schema/openAPIV3Schema, value: {type: object, properties: {a: {}}}}]", 422, "properties[a].type: Required value", ""},
		{"a rule that does not compile", "PATCH", "", "application/json-patch+json", `[{op: add, path: /spec/versions/1/schema/openAPIV3Schema/x-kubernetes-validations, value: [{rule: "self.nothing == 1"}]}]`, 422, "undefined field 'nothing'", ""},
		{"a name that is taken", "POST", "/../", "", "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: others." + group + "}, spec: {group: " + group + ", scope: Namespaced, names: {plural: others, kind: Widget}, versions: [{name: v2, served: true, storage: true, " + open + "}]}}", 201, "", ""},
	} {
		if s.path == "/../" {
			s.path = ""
			s.do(t, crds)
			continue
		}
		s.do(t, name)
	}
	eventually(t, 20*time.Second, "the second of a name to be refused", func() error {
		if a := send(t, "GET", crds+"/others."+group, nil); !strings.Contains(string(a.body), "KindConflict") {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
	if a := send(t, "DELETE", crds+"/others."+group, nil); a.code != 200 {
		t.Errorf("%s", a)
	}
	// Who watches learns of the end, and objects go with the definition.
	req, err := http.NewRequestWithContext(t.Context(), "GET", server.Config.Host+widgets(group, "v2", "default")+"?watch=true", nil)
	ok(t, err)
	resp, err := client.Do(req)
	ok(t, err)
	defer resp.Body.Close()
	if a := send(t, "DELETE", name, nil); a.code != 200 {
		t.Fatalf("%s", a)
	}
	lines, deleted := bufio.NewScanner(resp.Body), false
	for lines.Scan() {
		deleted = deleted || strings.Contains(lines.Text(), `"type":"DELETED"`)
	}
	if !deleted {
		t.Error("the watch did not tell that the object went with its definition")
	}
	served(t, group, "v2", 404)
}
