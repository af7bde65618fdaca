package conformance

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func extensionTests() map[string]test {
	const hook = "AdmissionWebhook [Privileged:ClusterAdmin] "
	const convert = "CustomResourceConversionWebhook [Privileged:ClusterAdmin] "
	const publish = "CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] "
	return under("[sig-api-machinery] ", map[string]test{
		hook + "should mutate custom resource with different stored version":                                                                                   slowly(mutateStored),
		hook + "should not be able to mutate or prevent deletion of webhook configuration objects":                                                             slowly(hooksSpareHooks),
		convert + "should be able to convert from CR v1 to CR v2":                                                                                              slowly(converted),
		convert + "should be able to convert a non homogeneous list of CRs":                                                                                    slowly(convertedList),
		"CustomResourceFieldSelectors [Privileged:ClusterAdmin] CustomResourceFieldSelectors MUST list and watch custom resources matching the field selector": slowly(selectedFields),
		publish + "works for multiple CRDs of same group but different versions":                                                                               slowly(manyVersions),
		publish + "works for multiple CRDs of same group and version but different kinds":                                                                      slowly(manyKinds),
		publish + "updates the published spec when one version gets renamed":                                                                                   slowly(renamedVersion),
		publish + "removes definition from spec when one version gets changed to not be served":                                                                slowly(unservedVersion),
		"Aggregator Should be able to support the 1.17 Sample API Server using the current Aggregator [LinuxOnly]":                                             slowly(sampleServer),
	})
}

// versioned is a custom resource with several versions.
type versioned struct {
	*custom
	plural string
	client *dynamic.DynamicClient
}

// version is the interface to the resource in one version, in a namespace.
func (v *versioned) version(version, ns string) dynamic.ResourceInterface {
	return v.client.Resource(gvr(v.group + "/" + version + "/" + v.plural)).Namespace(ns)
}

// define makes a custom resource whose spec, apart from group, scope and names, is a piece of YAML; it waits until all
// of its versions are served.
func define(t *testing.T, c *clustertest.Cluster, group, kind, rest string) *versioned {
	t.Helper()
	singular := strings.ToLower(kind)
	v := &versioned{plural: singular + "s", client: must(dynamic.NewForConfig(c.Config))(t)}
	v.custom = &custom{group: group, crds: v.client.Resource(gvr("apiextensions.k8s.io/v1/customresourcedefinitions"))}
	o := &unstructured.Unstructured{}
	ok(t, yaml.Unmarshal([]byte(fmt.Sprintf(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: %[1]ss.%[2]s}, spec: {group: %[2]s, scope: Namespaced,
names: {plural: %[1]ss, singular: %[1]s, kind: %[3]s, listKind: %[3]sList}, %[4]s}}`, singular, group, kind, rest)), &o.Object))
	must(v.crds.Create(t.Context(), o, metav1.CreateOptions{}))(t)
	t.Cleanup(func() { v.crds.Delete(context.Background(), v.name(), metav1.DeleteOptions{}) })
	versions, _, _ := unstructured.NestedSlice(o.Object, "spec", "versions")
	c.Eventually(t, 30*time.Second, "the resource to be served", func(ctx context.Context) error {
		for _, each := range versions {
			if _, err := v.version(each.(map[string]any)["name"].(string), "default").List(ctx, metav1.ListOptions{}); err != nil {
				return err
			}
		}
		return nil
	})
	return v
}

func (v *versioned) name() string { return v.plural + "." + v.group }

// patch changes the definition.
func (v *versioned) patch(t *testing.T, patch string) {
	t.Helper()
	must(v.crds.Patch(t.Context(), v.name(), types.JSONPatchType, []byte(patch), metav1.PatchOptions{}))(t)
}

// object is one of a version.
func (v *versioned) object(version, name string, fields map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": name}}}
	for k, value := range fields {
		o.Object[k] = value
	}
	o.SetAPIVersion(v.group + "/" + version)
	o.SetKind(strings.ToUpper(v.plural[:1]) + v.plural[1:len(v.plural)-1])
	return o
}

func newGroup() string { return "g" + rand.String(6) + ".example.com" }

const twoOpenVersions = "versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: " + open + "}}, {name: v2, served: true, storage: false, schema: {openAPIV3Schema: " + open + "}}]"

// storageIs makes the version at an index the stored one, and the other not.
func storageIs(index int) string {
	return fmt.Sprintf(`[{"op":"replace","path":"/spec/versions/%d/storage","value":false},{"op":"replace","path":"/spec/versions/%d/storage","value":true}]`, 1-index, index)
}

func mutateStored(t *testing.T, c *clustertest.Cluster) {
	h := newHooks(t, c)
	v := define(t, c, newGroup(), "Thing", twoOpenVersions)
	h.mutating("h", "/patch-if/"+hexed(`"step":"start"`)+"/"+hexed(`[{"op":"add","path":"/mutated","value":"yes"}]`), "things", func(w *admissionv1.MutatingWebhook) {
		w.Rules[0].APIGroups, w.Rules[0].APIVersions, w.Rules[0].Operations = []string{v.group}, []string{"*"}, []admissionv1.OperationType{"CREATE", "UPDATE"}
	})
	v1 := v.version("v1", h.ns)
	name := ""
	c.Eventually(t, 20*time.Second, "the mutation", func(ctx context.Context) error {
		o, err := v1.Create(ctx, v.object("v1", "n"+rand.String(5), map[string]any{"step": "start"}), metav1.CreateOptions{})
		if err == nil && o.Object["mutated"] != "yes" {
			err = fmt.Errorf("%v", o.Object)
		}
		if err == nil {
			name = o.GetName()
		}
		return err
	})
	v.patch(t, storageIs(1))
	must(v1.Patch(t.Context(), name, types.JSONPatchType, []byte(`[{"op":"remove","path":"/mutated"}]`), metav1.PatchOptions{}))(t)
	o := must(v1.Patch(t.Context(), name, types.MergePatchType, []byte(`{"other":"x"}`), metav1.PatchOptions{}))(t)
	if o.Object["mutated"] != "yes" || o.Object["other"] != "x" {
		t.Errorf("after another version is stored, a patch of the old object gives %v", o.Object)
	}
	if o = must(v.version("v2", h.ns).Get(t.Context(), name, metav1.GetOptions{}))(t); o.GetAPIVersion() != v.group+"/v2" || o.Object["mutated"] != "yes" {
		t.Errorf("in the other version: %v", o.Object)
	}
}

// hooksSpareHooks: whatever webhooks say of webhook configurations, nobody asks them.
func hooksSpareHooks(t *testing.T, c *clustertest.Cluster) {
	h := newHooks(t, c)
	every := []admissionv1.RuleWithOperations{
		{Operations: []admissionv1.OperationType{"*"}, Rule: admissionv1.Rule{APIGroups: []string{"admissionregistration.k8s.io"}, APIVersions: []string{"*"}, Resources: []string{"*"}}},
	}
	chosen := &metav1.LabelSelector{MatchLabels: map[string]string{"spared": h.ns}}
	h.validating("v", "/deny", "configmaps", func(w *admissionv1.ValidatingWebhook) {
		w.Rules, w.ObjectSelector, w.NamespaceSelector = append(every, w.Rules...), chosen, nil
	})
	h.mutating("m", "/patch/"+hexed(`[{"op":"add","path":"/metadata/labels/mutated","value":"yes"}]`), "secrets", func(w *admissionv1.MutatingWebhook) {
		w.Rules, w.ObjectSelector, w.NamespaceSelector = append(every, w.Rules...), chosen, nil
	})
	labelled := func(kind string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":%q,"metadata":{"generateName":"x","labels":{"spared":%q}}}`, kind, h.ns)
	}
	c.Eventually(t, 30*time.Second, "both webhooks to be asked", func(context.Context) error {
		_, _, denial := raw(t, c, "POST", "/api/v1/namespaces/"+h.ns+"/configmaps", "application/json", labelled("ConfigMap"))
		_, _, mutation := raw(t, c, "POST", "/api/v1/namespaces/"+h.ns+"/secrets", "application/json", labelled("Secret"))
		if !strings.Contains(denial, "this webhook denies it") || !strings.Contains(mutation, `"mutated":"yes"`) {
			return fmt.Errorf("%s\n%s", denial, mutation)
		}
		return nil
	})
	for _, kind := range []string{"ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"} {
		path := "/apis/admissionregistration.k8s.io/v1/" + strings.ToLower(kind) + "s"
		body := fmt.Sprintf(`{"apiVersion":"admissionregistration.k8s.io/v1","kind":%q,"metadata":{"name":"dummy-%s","labels":{"spared":%q}},"webhooks":[]}`, kind, h.ns, h.ns)
		code, _, made := raw(t, c, "POST", path, "application/json", body)
		if code != 201 || strings.Contains(made, `"mutated"`) {
			t.Errorf("create of a %s: %d %s", kind, code, made)
		}
		if code, _, answer := raw(t, c, "DELETE", path+"/dummy-"+h.ns, "application/json", ""); code != 200 {
			t.Errorf("delete of a %s: %d %s", kind, code, answer)
		}
	}
}

// convertible is a custom resource whose versions a webhook converts: hostPort "H:P" of v1 is host and port of v2.
func convertible(t *testing.T, c *clustertest.Cluster, selectable bool) (*hooks, *versioned) {
	t.Helper()
	h := newHooks(t, c)
	one, two := "", ""
	if selectable {
		one, two = ", selectableFields: [{jsonPath: .hostPort}]", ", selectableFields: [{jsonPath: .host}, {jsonPath: .port}]"
	}
	return h, define(t, c, newGroup(), "Thing", fmt.Sprintf(`conversion: {strategy: Webhook, webhook: {conversionReviewVersions: [v1], clientConfig: {caBundle: %s, service: {namespace: %s, name: hook, path: /convert, port: 8443}}}},
versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {hostPort: {type: string}}}}%s},
{name: v2, served: true, storage: false, schema: {openAPIV3Schema: {type: object, properties: {host: {type: string}, port: {type: string}}}}%s}]`,
		base64.StdEncoding.EncodeToString(h.ca), h.ns, one, two))
}

func wantFields(t *testing.T, o *unstructured.Unstructured, version string, want map[string]any) {
	t.Helper()
	if !strings.HasSuffix(o.GetAPIVersion(), "/"+version) || !holdsAll(o.Object, want) {
		t.Errorf("%v, want version %s with %v", o.Object, version, want)
	}
}

func converted(t *testing.T, c *clustertest.Cluster) {
	h, v := convertible(t, c, false)
	must(v.version("v1", h.ns).Create(t.Context(), v.object("v1", "a", map[string]any{"hostPort": "host1:80"}), metav1.CreateOptions{}))(t)
	wantFields(t, must(v.version("v2", h.ns).Get(t.Context(), "a", metav1.GetOptions{}))(t), "v2", map[string]any{"host": "host1", "port": "80"})
}

func convertedList(t *testing.T, c *clustertest.Cluster) {
	h, v := convertible(t, c, false)
	must(v.version("v1", h.ns).Create(t.Context(), v.object("v1", "a", map[string]any{"hostPort": "host1:80"}), metav1.CreateOptions{}))(t)
	v.patch(t, storageIs(1))
	// Until the server has seen that, it may still store the old one.
	time.Sleep(time.Second)
	must(v.version("v2", h.ns).Create(t.Context(), v.object("v2", "b", map[string]any{"host": "host2", "port": "81"}), metav1.CreateOptions{}))(t)
	olds, news := must(v.version("v1", h.ns).List(t.Context(), metav1.ListOptions{}))(t), must(v.version("v2", h.ns).List(t.Context(), metav1.ListOptions{}))(t)
	if len(olds.Items) != 2 || len(news.Items) != 2 {
		t.Fatalf("%d and %d objects in the lists, want 2", len(olds.Items), len(news.Items))
	}
	for i, want := range []struct{ hostPort, host, port string }{{"host1:80", "host1", "80"}, {"host2:81", "host2", "81"}} {
		wantFields(t, &olds.Items[i], "v1", map[string]any{"hostPort": want.hostPort})
		wantFields(t, &news.Items[i], "v2", map[string]any{"host": want.host, "port": want.port})
	}
}

func selectedFields(t *testing.T, c *clustertest.Cluster) {
	h, v := convertible(t, c, true)
	v1, v2 := v.version("v1", h.ns), v.version("v2", h.ns)
	watches := map[string]watch.Interface{}
	for version, selector := range map[string]string{"v1": "hostPort=host1:80", "v2": "host=host1,port=80"} {
		watches[version] = must(v.version(version, h.ns).Watch(t.Context(), metav1.ListOptions{FieldSelector: selector}))(t)
		defer watches[version].Stop()
	}
	for i, hostPort := range []string{"host1:80", "host1:8080", "host2:80"} {
		must(v1.Create(t.Context(), v.object("v1", fmt.Sprintf("o%d", i), map[string]any{"hostPort": hostPort}), metav1.CreateOptions{}))(t)
	}
	names := func(api dynamic.ResourceInterface, selector string) []string {
		var out []string
		for _, o := range must(api.List(t.Context(), metav1.ListOptions{FieldSelector: selector}))(t).Items {
			out = append(out, o.GetName())
		}
		return out
	}
	same(t, names(v1, "hostPort=host1:80"), "o0")
	same(t, names(v2, "host=host1"), "o0", "o1")
	same(t, names(v2, "port=80"), "o0", "o2")
	same(t, names(v2, "host=host1,port!=80"), "o1")
	if _, err := v1.List(t.Context(), metav1.ListOptions{FieldSelector: "host=host1"}); err == nil || !strings.Contains(err.Error(), "field label not supported") {
		t.Errorf("a field of the other version: %v", err)
	}
	for _, w := range watches {
		saw(t, w, watch.Added, func(o *unstructured.Unstructured) bool {
			if o.GetName() != "o0" {
				t.Errorf("the watch shows %s", o.GetName())
			}
			return o.GetName() == "o0"
		})
	}
	must(v1.Patch(t.Context(), "o0", types.MergePatchType, []byte(`{"hostPort":"host9:80"}`), metav1.PatchOptions{}))(t)
	for _, w := range watches {
		saw(t, w, watch.Deleted, func(o *unstructured.Unstructured) bool { return o.GetName() == "o0" })
	}
	ok(t, v2.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "host=host1"}))
	same(t, names(v1, ""), "o0", "o2")
}

// publishes waits until OpenAPI, in both of its versions, names exactly these kinds, as in v1/Thing, of a group.
func publishes(t *testing.T, c *clustertest.Cluster, group string, want ...string) {
	t.Helper()
	c.Eventually(t, 60*time.Second, "OpenAPI to name "+strings.Join(want, " "), func(context.Context) error {
		_, _, two := raw(t, c, "GET", "/openapi/v2", "application/json", "")
		for _, version := range []string{"v1", "v2", "v3", "v4"} {
			_, _, three := raw(t, c, "GET", "/openapi/v3/apis/"+group+"/"+version, "application/json", "")
			for _, kind := range []string{"Thing", "Other"} {
				wanted := slices.Contains(want, version+"/"+kind)
				// Definitions' names are the group's parts in reverse.
				short, _, _ := strings.Cut(group, ".")
				definition := fmt.Sprintf("com.example.%s.%s.%s", short, version, kind)
				if has := strings.Contains(three, `"`+definition+`"`); has != wanted {
					return fmt.Errorf("version 3 has %s: %v", definition, has)
				}
				if has := strings.Contains(two, `"`+definition+`"`); has != wanted {
					return fmt.Errorf("version 2 has %s: %v", definition, has)
				}
			}
		}
		return nil
	})
}

func oneVersion(name string) string {
	return "versions: [{name: " + name + ", served: true, storage: true, schema: {openAPIV3Schema: " + closed + "}}]"
}

func twoVersions(one, two string) string {
	return "versions: [{name: " + one + ", served: true, storage: true, schema: {openAPIV3Schema: " + closed + "}}, {name: " + two + ", served: true, storage: false, schema: {openAPIV3Schema: " + closed + "}}]"
}

func manyVersions(t *testing.T, c *clustertest.Cluster) {
	both := define(t, c, newGroup(), "Thing", twoVersions("v2", "v3"))
	publishes(t, c, both.group, "v2/Thing", "v3/Thing")
	group := newGroup()
	define(t, c, group, "Thing", oneVersion("v4"))
	define(t, c, group, "Other", oneVersion("v1"))
	publishes(t, c, group, "v4/Thing", "v1/Other")
}

func manyKinds(t *testing.T, c *clustertest.Cluster) {
	group := newGroup()
	define(t, c, group, "Thing", oneVersion("v1"))
	define(t, c, group, "Other", oneVersion("v1"))
	publishes(t, c, group, "v1/Thing", "v1/Other")
}

func renamedVersion(t *testing.T, c *clustertest.Cluster) {
	v := define(t, c, newGroup(), "Thing", twoVersions("v2", "v3"))
	publishes(t, c, v.group, "v2/Thing", "v3/Thing")
	v.patch(t, `[{"op":"replace","path":"/spec/versions/1/name","value":"v4"}]`)
	publishes(t, c, v.group, "v2/Thing", "v4/Thing")
}

func unservedVersion(t *testing.T, c *clustertest.Cluster) {
	v := define(t, c, newGroup(), "Thing", twoVersions("v2", "v3"))
	publishes(t, c, v.group, "v2/Thing", "v3/Thing")
	v.patch(t, `[{"op":"replace","path":"/spec/versions/1/served","value":false}]`)
	publishes(t, c, v.group, "v2/Thing")
}
