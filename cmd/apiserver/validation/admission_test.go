package validation

import (
	"fmt"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const aWebhook = `{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: x}, webhooks: [
  {name: a.b.c, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: "https://a/b"},
   rules: [{operations: [CREATE], apiGroups: [apps], apiVersions: [v1], resources: [deployments]}],
   matchConditions: [{name: m, expression: "object.metadata.name == 'x'"}]}]}`

func TestWebhooks(t *testing.T) {
	w := "webhooks[0]."
	testCreate(t, aWebhook, []edit{
		{"name missing", "name: a.b.c", "name: ''", w + "name: Required value"},
		{"name short", "name: a.b.c", "name: a.b", w + `name: Invalid value: "a.b": should be a domain with at least three segments separated by dots`},
		{"name twice", "webhooks: [", "webhooks: [{name: a.b.c, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: 'https://a'}},", `webhooks[1].name: Duplicate value: "a.b.c"`},
		{"no side effects", "sideEffects: None, ", "", w + "sideEffects: Required value: must specify one of None, NoneOnDryRun"},
		{"side effects", "sideEffects: None", "sideEffects: Some", w + `sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"`},
		{"no review versions", "admissionReviewVersions: [v1]", "admissionReviewVersions: []", w + "admissionReviewVersions: Required value: must specify one of v1, v1beta1"},
		{"unknown review version", "admissionReviewVersions: [v1]", "admissionReviewVersions: [v2]", w + `admissionReviewVersions: Invalid value: ["v2"]: must include at least one of v1, v1beta1`},
		{"review version twice", "admissionReviewVersions: [v1]", "admissionReviewVersions: [v1, v1]", w + `admissionReviewVersions[1]: Invalid value: "v1": duplicate version`},
		{"review version's shape", "admissionReviewVersions: [v1]", "admissionReviewVersions: [v1, 1v]", w + `admissionReviewVersions[1]: Invalid value: "1v": a DNS-1035 label must consist of`},
		{"review version unknown beside known", "admissionReviewVersions: [v1]", "admissionReviewVersions: [v3, v1]", ""},
		{"failure policy", "sideEffects", "failurePolicy: Other, sideEffects", w + `failurePolicy: Unsupported value: "Other": supported values: "Fail", "Ignore"`},
		{"match policy", "sideEffects", "matchPolicy: Other, sideEffects", w + `matchPolicy: Unsupported value: "Other": supported values: "Equivalent", "Exact"`},
		{"reinvocation", "sideEffects", "reinvocationPolicy: Other, sideEffects", w + `reinvocationPolicy: Unsupported value: "Other": supported values: "IfNeeded", "Never"`},
		{"timeout low", "sideEffects", "timeoutSeconds: 0, sideEffects", w + "timeoutSeconds: Invalid value: 0: the timeout value must be between 1 and 30 seconds"},
		{"timeout high", "sideEffects", "timeoutSeconds: 31, sideEffects", w + "timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"},
		{"namespace selector", "sideEffects", "namespaceSelector: {matchExpressions: [{key: a, operator: In}]}, sideEffects", w + "namespaceSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"},
		{"object selector", "sideEffects", "objectSelector: {matchLabels: {'-': a}}, sideEffects", w + `objectSelector.matchLabels: Invalid value: "-"`},
		{"no client", `clientConfig: {url: "https://a/b"}`, "clientConfig: {}", w + "clientConfig: Required value: exactly one of url or service is required"},
		{"two clients", `url: "https://a/b"`, `url: "https://a/b", service: {name: s, namespace: ns}`, w + "clientConfig: Required value: exactly one of url or service is required"},
		{"plain http", "https://a/b", "http://a/b", w + `clientConfig.url: Invalid value: "http": 'https' is the only allowed URL scheme`},
		{"url's user", "https://a/b", "https://u@a/b", w + `clientConfig.url: Invalid value: "u": user information is not permitted in the URL`},
		{"url's query", "https://a/b", "https://a/b?c=d", w + `clientConfig.url: Invalid value: "c=d": query parameters are not permitted in the URL`},
		{"url's fragment", "https://a/b", "https://a/b#c", w + `clientConfig.url: Invalid value: "c": fragments are not permitted in the URL`},
		{"url's host", "https://a/b", "https:///b", w + `clientConfig.url: Invalid value: "": host must be specified`},
		{"service", `url: "https://a/b"`, "service: {name: s, namespace: ns, path: /p/q}", ""},
		{"service name", `url: "https://a/b"`, "service: {namespace: ns}", w + "clientConfig.service.name: Required value"},
		{"service namespace", `url: "https://a/b"`, "service: {name: sv}", w + "clientConfig.service.namespace: Required value"},
		{"service port", `url: "https://a/b"`, "service: {name: sv, namespace: ns, port: 0}", w + "clientConfig.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive"},
		{"service path", `url: "https://a/b"`, "service: {name: sv, namespace: ns, path: p}", w + `clientConfig.service.path: Invalid value: "p": must start with a '/'`},
		{"service path segment", `url: "https://a/b"`, "service: {name: sv, namespace: ns, path: /p//q}", w + `clientConfig.service.path: Invalid value: "/p//q": segment[1] may not be empty`},
		{"no operations", "operations: [CREATE]", "operations: []", w + "rules[0].operations: Required value"},
		{"operation", "operations: [CREATE]", "operations: [PATCH]", w + `rules[0].operations[0]: Unsupported value: "PATCH": supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE"`},
		{"all operations and one", "operations: [CREATE]", "operations: [CREATE, '*']", w + `rules[0].operations: Invalid value: ["CREATE","*"]: if '*' is present, must not specify other operations`},
		{"no groups", "apiGroups: [apps]", "apiGroups: []", w + "rules[0].apiGroups: Required value"},
		{"the core group", "apiGroups: [apps]", "apiGroups: ['']", ""},
		{"all groups and one", "apiGroups: [apps]", "apiGroups: [apps, '*']", w + `rules[0].apiGroups: Invalid value: ["apps","*"]: if '*' is present, must not specify other API groups`},
		{"no versions", "apiVersions: [v1]", "apiVersions: []", w + "rules[0].apiVersions: Required value"},
		{"empty version", "apiVersions: [v1]", "apiVersions: ['']", w + "rules[0].apiVersions[0]: Required value"},
		{"all versions and one", "apiVersions: [v1]", "apiVersions: [v1, '*']", w + `rules[0].apiVersions: Invalid value: ["v1","*"]: if '*' is present, must not specify other API versions`},
		{"no resources", "resources: [deployments]", "resources: []", w + "rules[0].resources: Required value"},
		{"empty resource", "resources: [deployments]", "resources: ['']", w + "rules[0].resources[0]: Required value"},
		{"everything and one", "resources: [deployments]", "resources: [deployments, '*/*']", w + `rules[0].resources: Invalid value: ["deployments","*/*"]: if '*/*' is present, must not specify other resources`},
		{"all and one", "resources: [deployments]", "resources: [deployments, '*']", w + `rules[0].resources: Invalid value: ["deployments","*"]: if '*' is present, must not specify other resources without subresources`},
		{"all and subresources", "resources: [deployments]", "resources: ['*', pods/log]", ""},
		{"all subresources and one", "resources: [deployments]", "resources: [pods/*, pods/log]", w + `rules[0].resources[1]: Invalid value: "pods/log": if 'pods/*' is present, must not specify pods/log`},
		{"a subresource of all and of one", "resources: [deployments]", "resources: ['*/scale', a/scale]", w + `rules[0].resources[1]: Invalid value: "a/scale": if '*/scale' is present, must not specify a/scale`},
		{"scope", "resources: [deployments]", "resources: [deployments], scope: Some", w + `rules[0].scope: Unsupported value: "Some": supported values: "*", "Cluster", "Namespaced"`},
		{"condition's expression", "object.metadata.name == 'x'", "obj", w + `matchConditions[0].expression: Invalid value: "obj": compilation failed: ERROR: <input>:1:1: undeclared reference to 'obj'`},
		{"condition's type", "object.metadata.name == 'x'", "1", w + `matchConditions[0].expression: Invalid value: "1": must evaluate to bool`},
		{"no expression", "object.metadata.name == 'x'", " ", w + "matchConditions[0].expression: Required value"},
		{"parameters", "object.metadata.name == 'x'", "params.x", w + "matchConditions[0].expression: Invalid value: \"params.x\": compilation failed"},
		{"condition's name", "{name: m,", "{name: '_',", w + `matchConditions[0].name: Invalid value: "_": name part must consist of`},
		{"condition without a name", "{name: m,", "{", w + "matchConditions[0].name: Required value"},
		{"condition twice", "matchConditions: [", "matchConditions: [{name: m, expression: 'true'},", w + `matchConditions[1].name: Duplicate value: "m"`},
		{"too many conditions", "matchConditions: [", "matchConditions: [" + manyConditions(64), w + "matchConditions: Too many: 65: must have at most 64 items"},
		{"an authorizer", "object.metadata.name == 'x'", "authorizer.group('').resource('pods').check('get').allowed()", ""},
	})
	testUpdate(t, aWebhook, []edit{
		{"no side effects", "sideEffects: None, ", "", w + "sideEffects: Required value"},
		{"condition", "object.metadata.name == 'x'", "1", "matchConditions[0].expression: Invalid value"},
	})
}

func manyConditions(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{name: n%d, expression: 'true'},", i)
	}
	return b.String()
}

const aPolicy = `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: x}, spec: {
  paramKind: {apiVersion: v1, kind: ConfigMap},
  matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods], resourceNames: [a]}]},
  matchConditions: [{name: m, expression: "params.data.x == 'y'"}],
  variables: [{name: who, expression: "object.metadata.name"}],
  validations: [{expression: "variables.who != 'x'", message: nope, reason: Invalid, messageExpression: "'no ' + variables.who"}],
  auditAnnotations: [{key: k, valueExpression: "string(variables.who)"}]}}`

func TestValidatingPolicy(t *testing.T) {
	s := "spec."
	testCreate(t, aPolicy, []edit{
		{"failure policy", "spec: {", "spec: {failurePolicy: Other,", s + `failurePolicy: Unsupported value: "Other": supported values: "Fail", "Ignore"`},
		{"param version missing", "apiVersion: v1, kind: ConfigMap", "kind: ConfigMap", s + "paramKind.apiVersion: Required value"},
		{"param version", "apiVersion: v1, kind: ConfigMap", "apiVersion: a/b/c, kind: ConfigMap", s + `paramKind.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c`},
		{"param group", "apiVersion: v1, kind: ConfigMap", "apiVersion: A/v1, kind: ConfigMap", s + `paramKind.apiVersion: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of`},
		{"param version's shape", "apiVersion: v1, kind: ConfigMap", "apiVersion: a/1, kind: ConfigMap", s + `paramKind.apiVersion: Invalid value: "1": a DNS-1035 label must consist of`},
		{"param kind missing", "apiVersion: v1, kind: ConfigMap", "apiVersion: v1", s + "paramKind.kind: Required value"},
		{"param kind", "kind: ConfigMap", "kind: Config_Map", s + `paramKind.kind: Invalid value: "Config_Map": may have mixed case, but should otherwise match: a DNS-1035 label`},
		{"no constraints", "matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [\"\"], apiVersions: [v1], resources: [pods], resourceNames: [a]}]},", "", s + "matchConstraints: Required value"},
		{"no rules", "resourceRules: [", "excludeResourceRules: [", s + "matchConstraints.resourceRules: Required value"},
		{"match policy", "matchConstraints: {", "matchConstraints: {matchPolicy: Other, ", s + `matchConstraints.matchPolicy: Unsupported value: "Other": supported values: "Equivalent", "Exact"`},
		{"selector", "matchConstraints: {", "matchConstraints: {objectSelector: {matchLabels: {'-': a}}, ", s + "matchConstraints.objectSelector.matchLabels: Invalid value"},
		{"resource name", "resourceNames: [a]", "resourceNames: [a/b]", s + `matchConstraints.resourceRules[0].resourceNames[0]: Invalid value: "a/b": may not contain '/'`},
		{"resource name twice", "resourceNames: [a]", "resourceNames: [a, a]", s + `matchConstraints.resourceRules[0].resourceNames[1]: Duplicate value: "a"`},
		{"rule", "resources: [pods]", "resources: []", s + "matchConstraints.resourceRules[0].resources: Required value"},
		{"variable name missing", "{name: who,", "{", s + "variables[0].name: Required value: name is not specified"},
		{"variable name", "{name: who,", "{name: 1a,", s + `variables[0].name: Invalid value: "1a": name is not a valid CEL identifier`},
		{"variable reserved", "{name: who,", "{name: namespace,", s + `variables[0].name: Invalid value: "namespace": name is not a valid CEL identifier`},
		{"variable's expression missing", `expression: "object.metadata.name"`, "", s + "variables[0].expression: Required value: expression is not specified"},
		{"variable's expression", `"object.metadata.name"`, "objekt", s + `variables[0].expression: Invalid value: "objekt": compilation failed`},
		{"variable uses itself", `"object.metadata.name"`, "variables.who", s + "variables[0].expression: Invalid value"},
		{"condition uses variable", "params.data.x", "variables.who", s + "matchConditions[0].expression: Invalid value"},
		{"nothing to do", "validations: [{expression: \"variables.who != 'x'\", message: nope, reason: Invalid, messageExpression: \"'no ' + variables.who\"}],\n  auditAnnotations: [{key: k, valueExpression: \"string(variables.who)\"}]", "validations: []", s + "validations: Required value: validations or auditAnnotations must contain at least one item\nspec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item"},
		{"no expression", "{expression: \"variables.who != 'x'\",", "{", s + "validations[0].expression: Required value: expression is not specified"},
		{"expression's type", "variables.who != 'x'", "1", s + `validations[0].expression: Invalid value: "1": must evaluate to bool`},
		{"lines want a message", "expression: \"variables.who != 'x'\", message: nope", `expression: "true &&\n\ntrue"`, s + "validations[0].message: Required value: message must be specified if expression contains line breaks"},
		{"message of lines", "message: nope", `message: "a\nb"`, s + `validations[0].message: Invalid value: "a\nb": message must not contain line breaks`},
		{"message blank", "message: nope", "message: ' '", s + `validations[0].message: Invalid value: " ": message must be non-empty if specified`},
		{"message expression blank", "\"'no ' + variables.who\"", "' '", s + `validations[0].messageExpression: Invalid value: " ": must be non-empty if specified`},
		{"message expression's type", "\"'no ' + variables.who\"", "'1'", s + `validations[0].messageExpression: Invalid value: "1": must evaluate to string`},
		{"message expression asks", "\"'no ' + variables.who\"", "authorizer.x", s + "validations[0].messageExpression: Invalid value: \"authorizer.x\": compilation failed"},
		{"reason", "reason: Invalid", "reason: Conflict", s + `validations[0].reason: Unsupported value: "Conflict": supported values: "Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"`},
		{"annotation's key", "key: k", "key: a/b", s + `auditAnnotations[0].key: Invalid value: "x/a/b": a valid label key must consist of`},
		{"annotation twice", "auditAnnotations: [", "auditAnnotations: [{key: k, valueExpression: \"'a'\"},", s + `auditAnnotations[1].key: Duplicate value: "k"`},
		{"annotation's value missing", `valueExpression: "string(variables.who)"`, "", s + "auditAnnotations[0].valueExpression: Required value: valueExpression is not specified"},
		{"annotation's value", `valueExpression: "string(variables.who)"`, "valueExpression: '1'", s + `auditAnnotations[0].valueExpression: Invalid value: "1": must evaluate to one of [string null_type]`},
		{"annotation's length", `valueExpression: "string(variables.who)"`, "valueExpression: \"'" + strings.Repeat("a", 5120) + "'\"", s + "auditAnnotations[0].valueExpression: Required value: must not exceed 5120 bytes in length"},
		{"annotations", "auditAnnotations: [", "auditAnnotations: [" + manyAnnotations(20), "must not have more than 20 auditAnnotations"},
	})
}

func manyAnnotations(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{key: n%d, valueExpression: \"'a'\"},", i)
	}
	return b.String()
}

func TestValidatingPolicyStatus(t *testing.T) {
	p := decode(t, aPolicy).(*admissionv1.ValidatingAdmissionPolicy)
	now := p.DeepCopy()
	now.Status.TypeChecking = &admissionv1.TypeChecking{ExpressionWarnings: []admissionv1.ExpressionWarning{{}}}
	now.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: "Maybe"}}
	errs := UpdateStatus(now, p)
	compare(t, errs, "status.typeChecking.expressionWarnings[0].warning: Required value\nstatus.typeChecking.expressionWarnings[0].fieldRef: Required value")
	compare(t, errs, `status.conditions[0].status: Unsupported value: "Maybe": supported values: "False", "True", "Unknown"`)
}

const aMutation = `{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingAdmissionPolicy, metadata: {name: x}, spec: {
  matchConstraints: {resourceRules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]},
  mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {'a': 'b'}}}"}},
    {patchType: JSONPatch, jsonPatch: {expression: "[JSONPatch{op: 'add', path: '/metadata/labels/a', value: 'b'}]"}}]}}`

func TestMutatingPolicy(t *testing.T) {
	testCreate(t, aMutation, []edit{
		{"no patch type", "patchType: JSONPatch, ", "", "spec.mutations[1].patchType: Required value"},
		{"patch type", "patchType: JSONPatch, ", "patchType: Merge, ", `spec.mutations[1].patchType: Unsupported value: "Merge": supported values: "ApplyConfiguration", "JSONPatch"`},
		{"other patch", "patchType: JSONPatch, ", "patchType: ApplyConfiguration, ", "spec.mutations[1].applyConfiguration: Required value: must be specified when patchType is ApplyConfiguration\n" +
			`spec.mutations[1].jsonPatch: Invalid value: "{jsonPatch}": must not be specified when patchType is ApplyConfiguration`},
		{"other apply", "{patchType: ApplyConfiguration", "{patchType: JSONPatch", "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch\n" +
			`spec.mutations[0].applyConfiguration: Invalid value: "{applyConfiguration}": must not be specified when patchType is JSONPatch`},
		{"no expression", "jsonPatch: {expression: \"[JSONPatch{op: 'add', path: '/metadata/labels/a', value: 'b'}]\"}", "jsonPatch: {}", "spec.mutations[1].jsonPatch.expression: Required value: expression is not specified"},
		{"expression", "[JSONPatch{op", "[JSON{op", "spec.mutations[1].jsonPatch.expression: Invalid value"},
		{"expression's type", "\"Object{metadata: Object.metadata{labels: {'a': 'b'}}}\"", "'1'", "spec.mutations[0].applyConfiguration.expression: Invalid value: \"1\": must evaluate to Object"},
		{"reinvocation", "spec: {", "spec: {reinvocationPolicy: Some, ", `spec.reinvocationPolicy: Unsupported value: "Some": supported values: "IfNeeded", "Never"`},
		{"failure policy", "spec: {", "spec: {failurePolicy: Some, ", `spec.failurePolicy: Unsupported value: "Some"`},
	})
	compare(t, Create(decode(t, aMutation[:strings.Index(aMutation, "mutations:")]+"mutations: []}}")), "spec.mutations: Required value: mutations must contain at least one item")
}

func TestPolicyBindings(t *testing.T) {
	const validating = `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: x}, spec: {policyName: p, validationActions: [Deny], paramRef: {name: pn, parameterNotFoundAction: Deny}}}`
	testCreate(t, validating, []edit{
		{"no policy", "policyName: p, ", "", "spec.policyName: Required value"},
		{"policy", "policyName: p", "policyName: P", `spec.policyName: Invalid value: "P": a lowercase RFC 1123 subdomain`},
		{"no actions", "validationActions: [Deny]", "validationActions: []", "spec.validationActions: Required value"},
		{"action", "validationActions: [Deny]", "validationActions: [Say]", `spec.validationActions[0]: Unsupported value: "Say": supported values: "Audit", "Deny", "Warn"`},
		{"action twice", "validationActions: [Deny]", "validationActions: [Deny, Deny]", `spec.validationActions[1]: Duplicate value: "Deny"`},
		{"deny and warn", "validationActions: [Deny]", "validationActions: [Deny, Warn]", `spec.validationActions: Invalid value: ["Deny","Warn"]: must not contain both Deny and Warn (repeating the same`},
		{"name and selector", "name: pn,", "name: pn, selector: {},", "spec.paramRef.name: Forbidden: name and selector are mutually exclusive\nspec.paramRef.selector: Forbidden: name and selector are mutually exclusive"},
		{"neither", "name: pn,", "", "spec.paramRef: Required value: one of name or selector must be specified"},
		{"param name", "name: pn,", "name: a%b,", `spec.paramRef.name: Invalid value: "a%b": may not contain '%'`},
		{"no action without parameter", ", parameterNotFoundAction: Deny", "", "spec.paramRef.parameterNotFoundAction: Required value"},
		{"action without parameter", "parameterNotFoundAction: Deny", "parameterNotFoundAction: Stop", `spec.paramRef.parameterNotFoundAction: Unsupported value: "Stop": supported values: "Deny", "Allow"`},
		{"match", "policyName: p,", "policyName: p, matchResources: {resourceRules: [{}]},", "spec.matchResources.resourceRules[0].operations: Required value"},
	})
	compare(t, Create(decode(t, strings.Replace(strings.Replace(validating, "Validating", "Mutating", 1), "validationActions: [Deny], ", "", 1))), "")
}

// TestStoredExpressions holds that what is stored compiles with everything the library knows, what is new with what this version's API offers.
func TestStoredExpressions(t *testing.T) {
	old := decode(t, aPolicy).(*admissionv1.ValidatingAdmissionPolicy)
	compare(t, Update(old.DeepCopy(), old), "")
	changed := old.DeepCopy()
	changed.Spec.Validations[0].Expression = "nobody"
	compare(t, Update(changed, old), "undeclared reference to 'nobody'")
}
