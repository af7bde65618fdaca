package policystatus

import (
	"log/slog"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// oneSchema knows of one kind, whose spec has replicas.
type oneSchema struct{}

func (oneSchema) ResolveSchema(schema.GroupVersionKind) (*spec.Schema, error) {
	object := func(fields map[string]spec.Schema) spec.Schema {
		return spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"object"}, Properties: fields}}
	}
	s := object(map[string]spec.Schema{"spec": object(map[string]spec.Schema{"replicas": {SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"integer"}}}})})
	return &s, nil
}

func TestWritesWarningsOnce(t *testing.T) {
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p", Generation: 2}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Rule: admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}}}}}},
		Validations: []admissionv1.Validation{{Expression: "object.spec.replicas < 5"}, {Expression: "object.spec.replicas.small"}},
	}}
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, meta.RESTScopeNamespace)
	client := fake.NewClientset(policy)
	shared := informers.NewSharedInformerFactory(client, 0)
	checks := 0
	checker := &validating.TypeChecker{SchemaResolver: oneSchema{}, RestMapper: mapper}
	c, err := New(client, func(p *admissionv1.ValidatingAdmissionPolicy) []admissionv1.ExpressionWarning {
		checks++
		return checker.Check(p)
	}, shared, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	store := shared.Admissionregistration().V1().ValidatingAdmissionPolicies().Informer().GetStore()
	for range 2 {
		now, err := client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(t.Context(), "p", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Update(now); err != nil {
			t.Fatal(err)
		}
		if err := c.sync(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil || got.Status.TypeChecking == nil || got.Status.ObservedGeneration != 2 || checks != 1 {
		t.Fatalf("after %d checks: %+v (%v)", checks, got.Status, err)
	}
	warnings := got.Status.TypeChecking.ExpressionWarnings
	if len(warnings) != 1 || warnings[0].FieldRef != "spec.validations[1].expression" || !strings.Contains(warnings[0].Warning, "apps/v1, Kind=Deployment") {
		t.Errorf("warnings %+v", warnings)
	}
}
