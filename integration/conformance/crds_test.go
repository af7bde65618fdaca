package conformance

import (
	"context"
	"encoding/json"
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

func crdTests() map[string]test {
	const simple = "CustomResourceDefinition resources [Privileged:ClusterAdmin] "
	const hook = "AdmissionWebhook [Privileged:ClusterAdmin] "
	return under("[sig-api-machinery] ", map[string]test{
		"CustomResourceDefinition Watch [Privileged:ClusterAdmin] CustomResourceDefinition Watch watch on custom resource definition objects": quickly(crWatch),
		simple + "Simple CustomResourceDefinition creating/deleting custom resource definition objects works":                                 quickly(crdMade),
		simple + "Simple CustomResourceDefinition listing custom resource definition objects works":                                           quickly(crdListed),
		simple + "Simple CustomResourceDefinition getting/updating/patching custom resource definition status sub-resource works":             quickly(crdStatus),
		simple + "custom resource defaulting for requests and from storage works":                                                             quickly(crDefaults),
		"AggregatedDiscovery should support aggregated discovery interface for CRDs":                                                          quickly(crdDiscovered),
		"AggregatedDiscovery should support raw aggregated discovery request for CRDs":                                                        quickly(crdDiscovered),
		"FieldValidation should create/apply a CR with unknown fields for CRD with no validation schema":                                      quickly(crStrict(open, `"spec":{"a":1,"unknown":"x"}`, "")),
		"FieldValidation should create/apply a valid CR for CRD with validation schema":                                                       quickly(crStrict(closed, `"spec":{"foo":"a"}`, "")),
		"FieldValidation should create/apply an invalid CR with extra properties for CRD with validation schema":                              quickly(crStrict(closed, `"spec":{"foo":"a","extra":1}`, "unknown field \\\"spec.extra\\\"")),
		"FieldValidation should detect duplicates in a CR when preserving unknown fields":                                                     quickly(crStrict(open, `"spec":{"foo":"a","foo":"b"}`, "duplicate field \\\"spec.foo\\\"")),
		"FieldValidation should detect unknown metadata fields in both the root and embedded object of a CR":                                  quickly(crStrictMetadata),
		hook + "should be able to deny custom resource creation, update and deletion":                                                         quickly(denyCustom),
		hook + "should mutate custom resource":                                                                                                quickly(mutateCustom(open, `"mutated":"yes"`)),
		hook + "should mutate custom resource with pruning":                                                                                   quickly(mutateCustom(closed, "")),
		hook + "should deny crd creation": slowly(denyCRD),
		"ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should validate against a Deployment":         quickly(policyDenies("", "object.spec.replicas > 1")),
		"ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should allow expressions to refer variables.": quickly(policyDenies("variables: [{name: replicas, expression: object.spec.replicas}], ", "variables.replicas > 1")),
		"MutatingAdmissionPolicy [Privileged:ClusterAdmin] should mutate a Deployment": quickly(policyMutates(
			"{patchType: ApplyConfiguration, applyConfiguration: {expression: 'Object{spec: Object.spec{replicas: 3}}'}}", `"replicas":3`)),
		"MutatingAdmissionPolicy [Privileged:ClusterAdmin] should mutate a Deployment with annotations": quickly(policyMutates(
			`{patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: "add", path: "/metadata/annotations", value: {"my-annotation": "my-value"}}]'}}`, `"my-annotation":"my-value"`)),
	})
}

// Schemas of custom resources: one that takes anything, one that knows spec.foo and an embedded object.
const (
	open   = "{type: object, x-kubernetes-preserve-unknown-fields: true}"
	closed = "{type: object, properties: {spec: {type: object, properties: {foo: {type: string, default: bar}}}, " +
		"template: {type: object, x-kubernetes-embedded-resource: true, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}}"
)

// custom is a CustomResourceDefinition with one version, made for one test.
type custom struct {
	group string
	api   dynamic.NamespaceableResourceInterface
	crds  dynamic.ResourceInterface
}

func newCustom(t *testing.T, c *clustertest.Cluster, schema string) *custom {
	t.Helper()
	group := "g" + rand.String(6) + ".example.com"
	o := &unstructured.Unstructured{}
	ok(t, yaml.Unmarshal([]byte(fmt.Sprintf(`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: things.%[1]s, labels: {conf: %[1]s}}, spec: {group: %[1]s, scope: Namespaced,
names: {plural: things, singular: thing, kind: Thing, listKind: ThingList}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: %[2]s}}]}}`, group, schema)), &o.Object))
	client := must(dynamic.NewForConfig(c.Config))(t)
	k := &custom{group, client.Resource(gvr(group + "/v1/things")), client.Resource(gvr("apiextensions.k8s.io/v1/customresourcedefinitions"))}
	must(k.crds.Create(t.Context(), o, metav1.CreateOptions{}))(t)
	t.Cleanup(func() { k.crds.Delete(context.Background(), "things."+group, metav1.DeleteOptions{}) })
	c.Eventually(t, 30*time.Second, "the resource to be served", func(ctx context.Context) error {
		crd, err := k.crds.Get(ctx, "things."+group, metav1.GetOptions{})
		if err == nil && !strings.Contains(fmt.Sprint(crd.Object["status"]), "status:True type:Established") {
			err = fmt.Errorf("status %v", crd.Object["status"])
		}
		if err == nil {
			_, err = k.api.Namespace("default").List(ctx, metav1.ListOptions{})
		}
		return err
	})
	return k
}

func (k *custom) thing(name, body string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	if body != "" {
		body = "," + body
	}
	if err := json.Unmarshal([]byte(fmt.Sprintf(`{"apiVersion":"%s/v1","kind":"Thing","metadata":{"name":%q}%s}`, k.group, name, body)), &o.Object); err != nil {
		panic(err)
	}
	return o
}

func crWatch(t *testing.T, c *clustertest.Cluster) {
	k, ns := newCustom(t, c, open), c.Namespace(t)
	api := k.api.Namespace(ns)
	for _, name := range []string{"a", "b"} {
		w := must(api.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name}))(t)
		is := func(o *unstructured.Unstructured) bool { return o.GetName() == name }
		must(api.Create(t.Context(), k.thing(name, ""), metav1.CreateOptions{}))(t)
		saw(t, w, watch.Added, is)
		must(api.Patch(t.Context(), name, types.MergePatchType, []byte(`{"spec":{"a":1}}`), metav1.PatchOptions{}))(t)
		saw(t, w, watch.Modified, is)
		ok(t, api.Delete(t.Context(), name, metav1.DeleteOptions{}))
		saw(t, w, watch.Deleted, is)
		w.Stop()
	}
}

func crdMade(t *testing.T, c *clustertest.Cluster) {
	k := newCustom(t, c, open)
	ok(t, k.crds.Delete(t.Context(), "things."+k.group, metav1.DeleteOptions{}))
	gone(t, c, k.crds, metav1.ListOptions{LabelSelector: "conf=" + k.group})
}

func crdListed(t *testing.T, c *clustertest.Cluster) {
	one, two := newCustom(t, c, open), newCustom(t, c, open)
	list := metav1.ListOptions{LabelSelector: "conf=" + one.group}
	if l := must(one.crds.List(t.Context(), list))(t); len(l.Items) != 1 {
		t.Errorf("%d in the list", len(l.Items))
	}
	ok(t, one.crds.DeleteCollection(t.Context(), metav1.DeleteOptions{}, list))
	gone(t, c, one.crds, list)
	must(two.crds.Get(t.Context(), "things."+two.group, metav1.GetOptions{}))(t)
}

func crdStatus(t *testing.T, c *clustertest.Cluster) {
	k := newCustom(t, c, open)
	name := "things." + k.group
	must(k.crds.Get(t.Context(), name, metav1.GetOptions{}, "status"))(t)
	o := updated(t, k.crds, name, func(o *unstructured.Unstructured) {
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		conditions = append(conditions, map[string]any{"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "set", "lastTransitionTime": "2026-01-01T00:00:00Z"})
		ok(t, unstructured.SetNestedSlice(o.Object, conditions, "status", "conditions"))
	}, "status")
	if !strings.Contains(fmt.Sprint(o.Object["status"]), "StatusUpdate") {
		t.Errorf("status %v", o.Object["status"])
	}
	o = must(k.crds.Patch(t.Context(), name, types.MergePatchType, []byte(`{"status":{"storedVersions":["v1","v0"]}}`), metav1.PatchOptions{}, "status"))(t)
	if !strings.Contains(fmt.Sprint(o.Object["status"]), "[v1 v0]") {
		t.Errorf("status %v", o.Object["status"])
	}
	must(k.crds.Patch(t.Context(), name, types.MergePatchType, []byte(`{"status":{"storedVersions":["v1"]}}`), metav1.PatchOptions{}, "status"))(t)
}

func crDefaults(t *testing.T, c *clustertest.Cluster) {
	k, ns := newCustom(t, c, closed), c.Namespace(t)
	api := k.api.Namespace(ns)
	foo := func(o *unstructured.Unstructured) string {
		s, _, _ := unstructured.NestedString(o.Object, "spec", "foo")
		return s
	}
	if made := must(api.Create(t.Context(), k.thing("a", `"spec":{}`), metav1.CreateOptions{}))(t); foo(made) != "bar" {
		t.Errorf("created as %v", made.Object)
	}
	path := `"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/`
	change := func(patch string) {
		must(k.crds.Patch(t.Context(), "things."+k.group, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}))(t)
	}
	change(`[{"op":"add","path":` + path + `new","value":{"type":"string","default":"fresh"}}]`)
	c.Eventually(t, 20*time.Second, "the default of what is stored", func(ctx context.Context) error {
		o, err := api.Get(ctx, "a", metav1.GetOptions{})
		if err == nil && !strings.Contains(fmt.Sprint(o.Object["spec"]), "new:fresh") {
			err = fmt.Errorf("%v", o.Object["spec"])
		}
		return err
	})
	change(`[{"op":"remove","path":` + path + `foo/default"}]`)
	c.Eventually(t, 20*time.Second, "no default for new ones", func(ctx context.Context) error {
		o, err := api.Create(ctx, k.thing("b"+rand.String(5), `"spec":{}`), metav1.CreateOptions{})
		if err == nil && foo(o) != "" {
			err = fmt.Errorf("%v", o.Object["spec"])
		}
		return err
	})
	if o := must(api.Get(t.Context(), "a", metav1.GetOptions{}))(t); foo(o) != "bar" {
		t.Errorf("the stored value is gone: %v", o.Object["spec"])
	}
}

func crdDiscovered(t *testing.T, c *clustertest.Cluster) {
	k := newCustom(t, c, open)
	c.Eventually(t, 30*time.Second, "the group in discovery", func(context.Context) error {
		_, _, body := raw(t, c, "GET", "/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "")
		_, lists, err := c.Client.Discovery().ServerGroupsAndResources()
		found := slices.ContainsFunc(lists, func(l *metav1.APIResourceList) bool {
			return l.GroupVersion == k.group+"/v1" && len(l.APIResources) > 0 && l.APIResources[0].Name == "things"
		})
		if err != nil || !found || !strings.Contains(body, k.group) {
			return fmt.Errorf("in the client's: %v, raw: %v, error %v", found, strings.Contains(body, k.group), err)
		}
		return nil
	})
}

func (k *custom) strict(t *testing.T, c *clustertest.Cluster, metadata, body, word string) {
	t.Helper()
	object := fmt.Sprintf(`{"apiVersion":"%s/v1","kind":"Thing","metadata":{"name":"a"%s},%s}`, k.group, metadata, body)
	code, _, answer := raw(t, c, "POST", "/apis/"+k.group+"/v1/namespaces/default/things?fieldValidation=Strict&dryRun=All", "application/json", object)
	if word == "" && code != 201 || word != "" && (code != 400 || !strings.Contains(answer, word)) {
		t.Errorf("%s: %d %s, want %q", object, code, answer, word)
	}
}

func crStrict(schema, body, word string) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) { newCustom(t, c, schema).strict(t, c, "", body, word) }
}

func crStrictMetadata(t *testing.T, c *clustertest.Cluster) {
	k := newCustom(t, c, closed)
	k.strict(t, c, `,"unknownMeta":1`, `"spec":{}`, `unknown field \"metadata.unknownMeta\"`)
	k.strict(t, c, "", `"template":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","unknownSub":1}}`, `unknown field \"template.metadata.unknownSub\"`)
}

func denyCustom(t *testing.T, c *clustertest.Cluster) {
	h, k := newHooks(t, c), newCustom(t, c, open)
	api := k.api.Namespace(h.ns)
	must(api.Create(t.Context(), k.thing("good", ""), metav1.CreateOptions{}))(t)
	must(api.Create(t.Context(), k.thing("bad", `"data":"offending"`), metav1.CreateOptions{}))(t)
	h.validating("h", "/deny-if/"+hexed("offending"), "things", h.onThings(k, "CREATE", "UPDATE", "DELETE"))
	c.Eventually(t, 20*time.Second, "the creation to be denied", func(ctx context.Context) error {
		_, err := api.Create(ctx, k.thing("n"+rand.String(5), `"data":"offending"`), metav1.CreateOptions{})
		return deniedHere(err)
	})
	_, err := api.Patch(t.Context(), "good", types.MergePatchType, []byte(`{"data":"offending"}`), metav1.PatchOptions{})
	ok(t, deniedHere(err))
	ok(t, deniedHere(api.Delete(t.Context(), "bad", metav1.DeleteOptions{})))
	ok(t, api.Delete(t.Context(), "good", metav1.DeleteOptions{}))
}

func deniedHere(err error) error {
	if err == nil || !strings.Contains(err.Error(), "this webhook denies it") {
		return fmt.Errorf("want the webhook's denial, have %v", err)
	}
	return nil
}

func (h *hooks) onThings(k *custom, ops ...admissionv1.OperationType) func(*admissionv1.ValidatingWebhook) {
	return func(w *admissionv1.ValidatingWebhook) {
		w.Rules[0].Operations, w.Rules[0].APIGroups = ops, []string{k.group}
	}
}

func mutateCustom(schema, want string) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		h, k := newHooks(t, c), newCustom(t, c, schema)
		patch := `[{"op":"replace","path":"/spec/foo","value":"changed"},{"op":"add","path":"/mutated","value":"yes"}]`
		h.mutating("h", "/patch/"+hexed(patch), "things", func(w *admissionv1.MutatingWebhook) { w.Rules[0].APIGroups = []string{k.group} })
		c.Eventually(t, 20*time.Second, "the mutation", func(ctx context.Context) error {
			o, err := k.api.Namespace(h.ns).Create(ctx, k.thing("n"+rand.String(5), `"spec":{"foo":"a"}`), metav1.CreateOptions{})
			body, _ := json.Marshal(o)
			if err == nil && !strings.Contains(string(body), `"foo":"changed"`) {
				err = fmt.Errorf("%s", body)
			}
			if err == nil && (want != "") != strings.Contains(string(body), `"mutated":"yes"`) {
				t.Errorf("after pruning: %s", body)
			}
			return err
		})
	}
}

func denyCRD(t *testing.T, c *clustertest.Cluster) {
	h := newHooks(t, c)
	h.validating("h", "/deny", "customresourcedefinitions", func(w *admissionv1.ValidatingWebhook) {
		w.Rules[0].APIGroups, w.NamespaceSelector = []string{"apiextensions.k8s.io"}, nil
		w.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"deny": h.ns}}
	})
	body := `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"denied.conf.example","labels":{"deny":"` + h.ns + `"}},"spec":{"group":"conf.example","scope":"Namespaced",
"names":{"plural":"denied","kind":"Denied"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}`
	c.Eventually(t, 20*time.Second, "the denial", func(context.Context) error {
		if code, _, answer := raw(t, c, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?dryRun=All", "application/json", body); !strings.Contains(answer, "this webhook denies it") {
			return fmt.Errorf("%d %s", code, answer)
		}
		return nil
	})
}

// policied makes a policy and its binding for Deployments of a namespace of its own.
func policied(t *testing.T, c *clustertest.Cluster, kindName, rest string) string {
	t.Helper()
	ns := c.Namespace(t)
	actions := ""
	if kindName == "ValidatingAdmissionPolicy" {
		actions = ", validationActions: [Deny]"
	}
	text := fmt.Sprintf(`apiVersion: admissionregistration.k8s.io/v1
kind: %[1]s
metadata: {name: %[2]s}
spec: {matchConstraints: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[2]s}}, resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]}, %[3]s}
---
apiVersion: admissionregistration.k8s.io/v1
kind: %[1]sBinding
metadata: {name: %[2]s}
spec: {policyName: %[2]s%[4]s}
`, kindName, ns, rest, actions)
	must(c.KubectlIn([]byte(text), "create", "-f", "-"))(t)
	t.Cleanup(func() { c.KubectlIn([]byte(text), "delete", "-f", "-") })
	return ns
}

func deploymentOf(t *testing.T, c *clustertest.Cluster, ns string, replicas int) string {
	t.Helper()
	body := strings.Replace(fmt.Sprintf(strictDeployment, "", ""), `"replicas":0`, fmt.Sprintf(`"replicas":%d`, replicas), 1)
	_, _, answer := raw(t, c, "POST", "/apis/apps/v1/namespaces/"+ns+"/deployments?dryRun=All", "application/json", body)
	return answer
}

func policyDenies(variables, expression string) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := policied(t, c, "ValidatingAdmissionPolicy", variables+"validations: [{expression: '"+expression+"', message: 'wants more replicas'}]")
		c.Eventually(t, 30*time.Second, "the policy to deny", func(context.Context) error {
			if answer := deploymentOf(t, c, ns, 1); !strings.Contains(answer, "wants more replicas") {
				return fmt.Errorf("%s", answer)
			}
			return nil
		})
		if answer := deploymentOf(t, c, ns, 2); strings.Contains(answer, "wants more replicas") {
			t.Errorf("a good one is denied: %s", answer)
		}
	}
}

func policyMutates(mutation, want string) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := policied(t, c, "MutatingAdmissionPolicy", "reinvocationPolicy: Never, mutations: ["+mutation+"]")
		c.Eventually(t, 30*time.Second, "the policy to mutate", func(context.Context) error {
			if answer := deploymentOf(t, c, ns, 1); !strings.Contains(answer, want) {
				return fmt.Errorf("%s", answer)
			}
			return nil
		})
	}
}
