package conformance

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func openAPITests() map[string]test {
	const described = `{type: object, description: a thing, properties: {spec: {type: object, description: what is wanted, required: [name], properties: {
name: {type: string, description: the name of it}, age: {type: integer}}}}}`
	const anyRoot = "{type: object, description: a thing, x-kubernetes-preserve-unknown-fields: true}"
	const anySpec = "{type: object, description: a thing, properties: {spec: {type: object, description: what is wanted, x-kubernetes-preserve-unknown-fields: true}}}"
	return under("[sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] ", map[string]test{
		"works for CRD with validation schema":                          slowly(published(described, `"spec":{"name":"n"}`, "", "KIND:", "a thing")),
		"works for CRD without validation schema":                       slowly(published(anyRoot, `"any":{"thing":1}`, "", "KIND:", "a thing")),
		"works for CRD preserving unknown fields at the schema root":    slowly(published(anyRoot, `"any":{"thing":1}`, "", "KIND:", "Thing")),
		"works for CRD preserving unknown fields in an embedded object": slowly(published(anySpec, `"spec":{"any":1}`, ".spec", "what is wanted")),
		"works for multiple CRDs of different groups":                   slowly(severalGroups),
	})
}

// inOpenAPI waits until version 3 of the OpenAPI has the kind, and version 2 too.
func inOpenAPI(t *testing.T, c *clustertest.Cluster, k *custom) {
	t.Helper()
	c.Eventually(t, 60*time.Second, "the kind in OpenAPI", func(context.Context) error {
		code, _, three := raw(t, c, "GET", "/openapi/v3/apis/"+k.group+"/v1", "application/json", "")
		_, _, two := raw(t, c, "GET", "/openapi/v2", "application/json", "")
		if code != 200 || !strings.Contains(three, `"kind":"Thing"`) || !strings.Contains(two, `"group":"`+k.group+`"`) {
			return fmt.Errorf("version 3: %d, version 2 has it: %v", code, strings.Contains(two, k.group))
		}
		return nil
	})
}

// published wants kubectl to accept a good object, to refuse what the schema does not allow, and to explain the kind.
func published(schema, good, path string, explained ...string) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		k, ns := newCustom(t, c, schema), c.Namespace(t)
		inOpenAPI(t, c, k)
		object := func(name, body string) []byte {
			return []byte(fmt.Sprintf(`{"apiVersion":"%s/v1","kind":"Thing","metadata":{"name":%q},%s}`, k.group, name, body))
		}
		for _, verb := range []string{"create", "apply"} {
			must(c.KubectlIn(object("good", good), "-n", ns, verb, "-f", "-"))(t)
			must(c.KubectlIn(object("good", good), "-n", ns, "delete", "-f", "-"))(t)
			if !strings.Contains(schema, "required") {
				continue
			}
			for body, word := range map[string]string{`"spec":{"name":"n","unknown":1}`: "unknown field", `"spec":{"age":1}`: "name", `"spec":{"name":"n","age":"old"}`: "age"} {
				out, err := c.KubectlIn(object("bad", body), "-n", ns, verb, "-f", "-")
				if err == nil || !strings.Contains(out, word) {
					t.Errorf("kubectl %s of %s: %v, want an error about %s", verb, body, err, word)
				}
			}
		}
		out := kubectl(t, c, ns, "explain", "things."+k.group+path)
		if path != "" {
			out = kubectl(t, c, ns, "explain", "things"+path, "--api-version="+k.group+"/v1")
		}
		holds(t, out, explained...)
	}
}

func severalGroups(t *testing.T, c *clustertest.Cluster) {
	one, two := newCustom(t, c, open), newCustom(t, c, closed)
	inOpenAPI(t, c, one)
	inOpenAPI(t, c, two)
}
