package roleaggregation

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func role(name, label string, resources ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"to": label}}}
	for _, res := range resources {
		r.Rules = append(r.Rules, rbacv1.PolicyRule{Resources: []string{res}, Verbs: []string{"get"}})
	}
	return r
}

func TestAggregate(t *testing.T) {
	view := role("view", "view")
	view.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "view"}}}}
	rules, err := Aggregate(view, []*rbacv1.ClusterRole{role("b", "view", "pods", "nodes"), view, role("a", "view", "pods"), role("c", "edit", "secrets")})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rules {
		got = append(got, r.Resources...)
	}
	if diff := cmp.Diff([]string{"pods", "nodes"}, got); diff != "" {
		t.Error(diff)
	}
}
