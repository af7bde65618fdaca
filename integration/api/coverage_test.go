package api

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// fieldPaths are the paths of all leaves of a Go type, with [] for any element of a list and * for any key of a map. A
// type within itself is that type: its paths are those of the first.
func fieldPaths(t reflect.Type) map[string]bool {
	out := map[string]bool{}
	var walk func(t reflect.Type, path string, within []reflect.Type)
	walk = func(t reflect.Type, path string, within []reflect.Type) {
		switch {
		case isLeaf(t):
			out[path] = true
		case t.Kind() == reflect.Pointer:
			walk(t.Elem(), path, within)
		case t.Kind() == reflect.Slice:
			walk(t.Elem(), path+"[]", within)
		case t.Kind() == reflect.Map:
			walk(t.Elem(), path+".*", within)
		case slices.Contains(within, t):
		case t.NumField() == 0:
			out[path] = true
		default:
			eachField(t, func(name string, ft reflect.Type) { walk(ft, join(path, name), append(slices.Clone(within), t)) })
		}
	}
	walk(t, "", nil)
	return out
}

// eachField calls f with the fields of a struct by their names in JSON, those of inlined structs among them.
func eachField(t reflect.Type, f func(name string, t reflect.Type)) {
	for i := range t.NumField() {
		field := t.Field(i)
		switch name := jsonName(field); {
		case field.Type == reflect.TypeFor[metav1.TypeMeta](), name == "-":
		case name == "":
			inlined := field.Type
			if inlined.Kind() == reflect.Pointer {
				inlined = inlined.Elem()
			}
			eachField(inlined, f)
		default:
			f(name, field.Type)
		}
	}
}

func isLeaf(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[apiresource.Quantity](), reflect.TypeFor[intstr.IntOrString](), reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime](), reflect.TypeFor[metav1.Duration](),
		reflect.TypeFor[runtime.RawExtension](), reflect.TypeFor[apiextensionsv1.JSON](), reflect.TypeFor[metav1.FieldsV1](), reflect.TypeFor[[]byte](),
		reflect.TypeFor[apiextensionsv1.JSONSchemaPropsOrBool](), reflect.TypeFor[apiextensionsv1.JSONSchemaPropsOrArray](), reflect.TypeFor[apiextensionsv1.JSONSchemaPropsOrStringArray]():
		return true
	}
	return t.Kind() != reflect.Pointer && t.Kind() != reflect.Slice && t.Kind() != reflect.Map && t.Kind() != reflect.Struct
}

// cover calls seen with the path of each leaf that o, an object of type t as JSON, has set.
func cover(o any, t reflect.Type, seen func(path string)) {
	type entered struct {
		t    reflect.Type
		path string
	}
	var walk func(o any, t reflect.Type, path string, within []entered)
	walk = func(o any, t reflect.Type, path string, within []entered) {
		if o == nil {
			return
		}
		if isLeaf(t) {
			if o != false && o != "" && fmt.Sprint(o) != "0" {
				seen(path)
			}
			return
		}
		switch t.Kind() {
		case reflect.Pointer:
			walk(o, t.Elem(), path, within)
		case reflect.Slice:
			list, _ := o.([]any)
			for _, e := range list {
				walk(e, t.Elem(), path+"[]", within)
			}
		case reflect.Map:
			m, _ := o.(map[string]any)
			for _, e := range m {
				walk(e, t.Elem(), path+".*", within)
			}
		case reflect.Struct:
			if t.NumField() == 0 {
				seen(path)
				return
			}
			for _, w := range within {
				if w.t == t {
					path = w.path
				}
			}
			m, _ := o.(map[string]any)
			eachField(t, func(name string, ft reflect.Type) {
				walk(m[name], ft, join(path, name), append(within[:len(within):len(within)], entered{t, path}))
			})
		}
	}
	walk(o, t, "", nil)
}

// exception says why a field is set in no object that the server takes.
type exception struct {
	kind, path *regexp.Regexp // path from the first letter on
	why        string
}

func exceptions() []exception {
	e := func(kind, path, why string) exception {
		return exception{regexp.MustCompile("^(" + kind + ")$"), regexp.MustCompile("^(" + path + ")$"), why}
	}
	return []exception{
		e(".*", `(.*\.)?metadata\.(namespace|uid|resourceVersion|generation|selfLink|creationTimestamp|deletion.*|managedFields.*)`, "the server's own"),
		e(".*/(customresourcedefinitions|apiservices|clustertrustbundles|ipaddresses)", `metadata\.generateName`, "the name is made of the spec"),
		e(".*/horizontalpodautoscalers", `spec\.metrics\[\]\.(external|object|pods)\.target\.averageUtilization`, "a share is of what containers use"),
		e(".*/horizontalpodautoscalers", `spec\.metrics\[\]\.(resource|containerResource|pods)\.target\.value`, "of what pods use there is an average only"),
		e("events.k8s.io/v1/events", `deprecated.*`, "of events that come from the old API"),
		e("discovery.k8s.io/v1/endpointslices", `endpoints\[\]\.deprecatedTopology\.\*`, "of v1beta1"),
		e("rbac.authorization.k8s.io/v1/roles", `rules\[\]\.nonResourceURLs\[\]`, "no URL is in a namespace"),
		e("flowcontrol.*/prioritylevelconfigurations", `spec\.exempt\..*`, "there is one, exempt, and it is there already"),
		e("storage.k8s.io/v1/volumeattachments", `spec\.source\.inlineVolumeSpec\..*`, "only CSI, and what says how to mount"),
		e("batch/v1/cronjobs", `spec\.jobTemplate\.spec\.(selector|manualSelector).*`, "jobs get a selector each"),
		e("batch/v1/.*", `(.*\.)?spec\.scheduling\..*`, "alpha, and off"),
		e("resource.k8s.io/.*", `(.*\.)?(derivedAttributes\[\]\..*|ints\[\]|bools\[\]|strings\[\]|versions\[\]|partitionTypeAttribute)`, "alpha, and off"),
		e(".*", `(.*\.)?(httpGet\.protocol|grpc\.mode|bindMountOptions\[\]|emptyDir\.mode|defaultUser|items\[\]\.user|serviceAccountToken\.user|clusterTrustBundle\.user|podCertificate\.user|evictionResponders\[\]\..*|schedulingGroup\..*)`, "alpha, and off"),
		e(".*", `(.*\.)?readinessProbe\.terminationGracePeriodSeconds`, "readiness ends nothing"),
		e(".*", `(.*\.)?template\.spec\.ephemeralContainers\[\]\..*`, "only of pods that are there"),
		e("(v1/replicationcontrollers|apps/v1/.*)", `spec\.template\.spec\.activeDeadlineSeconds`, "pods that are to run always"),
		e(".*", `(.*\.)?resources\.claims\[\]\..*`, "of a pod as a whole: claims are of containers"),
		e("v1/nodes", `(spec\.configSource|status\.config)\..*`, "taken out of Kubernetes"),
		e("v1/nodes", `spec\.podPreemptionPolicy\..*`, "alpha, and off"),
		e("apiextensions.*", `spec\.(preserveUnknownFields|versions\[\]\.schema\.openAPIV3Schema\.(\$ref|\$schema|additionalItems|dependencies\.\*|id|uniqueItems|patternProperties.*|definitions.*))`, "not in structural schemas"),
		e("v1/pods", `spec\.ephemeralContainers\[\]\.(ports\[\]|livenessProbe|readinessProbe|startupProbe|lifecycle|resources|resizePolicy\[\]|restartPolicy|restartPolicyRules\[\]|volumeMounts\[\]\.subPath).*`, "not of such containers"),
		e("v1/pods", `status\.resize`, "conditions took its place"),
		e(".*", `(.*\.)?(dataSourceRef\.namespace)`, "alpha, and off"),
		e(".*", `(.*\.)?(volumeClaimTemplate|spec)\.metadata\.(name|generateName|finalizers.*|ownerReferences.*)`, "of templates of claims only labels and annotations count"),
	}
}

func TestFieldPaths(t *testing.T) {
	type inner struct {
		A string           `json:"a"`
		B map[string]int32 `json:"b"`
	}
	type outer struct {
		metav1.TypeMeta `json:",inline"`
		inner           `json:",inline"`
		List            []inner `json:"list"`
		Self            *outer  `json:"self"`
	}
	want := []string{"a", "b.*", "list[].a", "list[].b.*"}
	have := slices.Sorted(maps.Keys(fieldPaths(reflect.TypeFor[outer]())))
	if !slices.Equal(want, have) {
		t.Errorf("want %v, have %v", want, have)
	}
	seen := map[string]bool{}
	var o any
	ok(t, decode([]byte(`{"a":"","b":{"x":1},"list":[{},{"a":"y"}],"self":{"self":{"list":[{"b":{"z":2}}]}}}`), &o))
	cover(o, reflect.TypeFor[outer](), func(path string) { seen[path] = true })
	if want, have := "b.* list[].a list[].b.*", strings.Join(slices.Sorted(maps.Keys(seen)), " "); want != have {
		t.Errorf("want %s, have %s", want, have)
	}
}
