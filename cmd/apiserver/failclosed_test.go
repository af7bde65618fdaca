package apiserver

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// onLimitRanges is the one rule of this file's objects: nothing else in this process makes limit ranges.
const onLimitRanges = `[{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [limitranges]}]`

// blankWebhook says only what a webhook must say, and nothing answers at its address.
const blankWebhook = `{name: blank.example.com, sideEffects: None, admissionReviewVersions: [v1], rules: ` + onLimitRanges

// TestBlankFieldsFailClosed holds that a webhook or policy that leaves out all it may leave out stops what it cannot judge. Were one
// default missing, it would be skipped without a word.
func TestBlankFieldsFailClosed(t *testing.T) {
	t.Parallel() // it waits for caches, and concerns limit ranges alone
	ns := namespace(t, "blank")
	policy := func(kind, rest string) string {
		return `{kind: ` + kind + `, metadata: {name: blank}, spec: {matchConstraints: {resourceRules: ` + onLimitRanges + `}, ` + rest + `}}`
	}
	binding := func(kind, rest string) string {
		return `{kind: ` + kind + `Binding, metadata: {name: blank}, spec: {policyName: blank` + rest + `}}`
	}
	const validating, mutating = "ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"
	const apply = `mutations: [{patchType: ApplyConfiguration, applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {'a': `
	for _, tt := range []struct {
		name    string
		objects []string
		want    string
	}{
		{"validating webhook away", []string{`{kind: ValidatingWebhookConfiguration, metadata: {name: blank}, webhooks: [` + blankWebhook + `, clientConfig: {url: "https://127.0.0.1:1/x"}}]}`},
			`failed calling webhook "blank.example.com"`},
		{"mutating webhook away", []string{`{kind: MutatingWebhookConfiguration, metadata: {name: blank}, webhooks: [` + blankWebhook + `, clientConfig: {url: "https://127.0.0.1:1/x"}}]}`},
			`failed calling webhook "blank.example.com"`},
		{"service away", []string{`{kind: ValidatingWebhookConfiguration, metadata: {name: blank}, webhooks: [` + blankWebhook + `, clientConfig: {service: {name: gone, namespace: blank}}}]}`},
			`service "gone" not found`},
		{"not a CA", []string{`{kind: MutatingWebhookConfiguration, metadata: {name: blank}, webhooks: [` + blankWebhook + `, clientConfig: {url: "https://127.0.0.1:1/x", caBundle: Z2FyYmFnZQ==}}]}`},
			`failed calling webhook "blank.example.com"`},
		{"condition that fails", []string{`{kind: ValidatingWebhookConfiguration, metadata: {name: blank}, webhooks: [` + blankWebhook + `, clientConfig: {url: "https://127.0.0.1:1/x"}, matchConditions: [{name: c, expression: "object.nothing == 1"}]}]}`},
			`no such key: nothing`},
		{"validating policy that fails", []string{policy(validating, `validations: [{expression: "object.nothing == 1"}]`), binding(validating, ", validationActions: [Deny]")},
			"no such key: nothing"},
		{"condition of a policy that fails", []string{policy(validating, `matchConditions: [{name: c, expression: "object.nothing == 1"}], validations: [{expression: "true"}]`), binding(validating, ", validationActions: [Deny]")},
			"no such key: nothing"},
		{"message that fails", []string{policy(validating, `validations: [{expression: "false", messageExpression: "string(object.nothing)"}]`), binding(validating, ", validationActions: [Deny], matchResources: {}")},
			"failed expression: false"},
		{"parameters of no kind", []string{policy(validating, `paramKind: {apiVersion: example.com/v1, kind: Nothing}, validations: [{expression: "params.x == 1"}]`),
			binding(validating, ", validationActions: [Deny], paramRef: {name: x, parameterNotFoundAction: Deny}")}, "failed to find resource referenced by paramKind"},
		{"parameters that are not there", []string{policy(validating, `paramKind: {apiVersion: v1, kind: ConfigMap}, validations: [{expression: "true"}]`),
			binding(validating, ", validationActions: [Deny], paramRef: {name: gone, parameterNotFoundAction: Deny}")}, "no params found for policy binding with `Deny` parameterNotFoundAction"},
		{"mutating policy that fails", []string{policy(mutating, apply+`object.nothing}}}"}}]`), binding(mutating, "")},
			"no such key: nothing"},
		{"mutating policy without its parameters", []string{policy(mutating, `paramKind: {apiVersion: v1, kind: ConfigMap}, `+apply+`params.data.x}}}"}}]`),
			binding(mutating, ", paramRef: {name: gone, parameterNotFoundAction: Deny}, matchResources: {}")}, "no params found for policy binding with `Deny` parameterNotFoundAction"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, text := range tt.objects {
				applied(t, text)
			}
			refused(t, ns, tt.want)
		})
	}
	// What the cases above left behind must be gone for whoever comes next.
	limits := shared.client.CoreV1().LimitRanges(ns)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := limits.Create(t.Context(), &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{GenerateName: "x"}}, metav1.CreateOptions{})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("create when all policies are gone: %v", err)
		}
	}
}

// applied creates an object of admissionregistration.k8s.io/v1 until the test ends.
func applied(t *testing.T, text string) {
	t.Helper()
	obj := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &obj.Object); err != nil {
		t.Fatal(err)
	}
	obj.SetAPIVersion("admissionregistration.k8s.io/v1")
	client, err := dynamic.NewForConfig(shared.admin)
	if err != nil {
		t.Fatal(err)
	}
	plural := strings.ToLower(obj.GetKind()) + "s"
	if stem, ok := strings.CutSuffix(plural, "ys"); ok {
		plural = stem + "ies"
	}
	r := client.Resource(schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: plural})
	if _, err := r.Create(t.Context(), obj, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Delete(context.Background(), obj.GetName(), metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// refused waits until limit ranges cannot be created, and holds that it is for the wanted reason.
func refused(t *testing.T, ns, want string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := shared.client.CoreV1().LimitRanges(ns).Create(t.Context(), &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{GenerateName: "x"}}, metav1.CreateOptions{})
		if err != nil && strings.Contains(err.Error(), want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("create: %v, want a refusal for %s", err, want)
		}
	}
}
