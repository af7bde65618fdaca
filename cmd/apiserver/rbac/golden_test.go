package rbac

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

var update = flag.Bool("update", false, "write testdata/policy.golden anew")

// The whole bootstrap policy stands in testdata/policy.golden, one rule a line: a change of it is a change of who may do
// what in every cluster, and is to be read as such.
func TestBootstrapPolicyIsAsRecorded(t *testing.T) {
	const file = "testdata/policy.golden"
	got := renderPolicy()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	lines := map[string]int{}
	section := ""
	for sign, text := range map[int]string{1: got, -1: string(want)} {
		for line := range strings.SplitSeq(text, "\n") {
			if !strings.HasPrefix(line, "  ") {
				section = line
			}
			lines[section+line] += sign
		}
	}
	for line, n := range lines {
		if n > 0 {
			t.Errorf("not recorded: %s", line)
		} else if n < 0 {
			t.Errorf("recorded, but not so: %s", line)
		}
	}
	t.Error("if that is meant: go test ./cmd/apiserver/rbac -run Recorded -update")
}

func renderPolicy() string {
	var b strings.Builder
	rules := func(list []rbacv1.PolicyRule) {
		for _, r := range list {
			what := strings.Join(r.NonResourceURLs, " ")
			if len(r.Resources) > 0 {
				var groups []string
				for _, g := range r.APIGroups {
					if g == "" {
						g = "core"
					}
					groups = append(groups, g)
				}
				what = strings.Join(groups, ",") + ": " + strings.Join(r.Resources, " ")
			}
			if len(r.ResourceNames) > 0 {
				what += " named " + strings.Join(r.ResourceNames, " ")
			}
			fmt.Fprintf(&b, "  %s | %s\n", what, strings.Join(r.Verbs, " "))
		}
	}
	subjects := func(list []rbacv1.Subject) {
		for _, s := range list {
			fmt.Fprintf(&b, "  to %s %s\n", s.Kind, strings.TrimPrefix(s.Namespace+"/"+s.Name, "/"))
		}
	}
	for _, r := range ClusterRoles() {
		fmt.Fprintf(&b, "ClusterRole %s\n", r.Name)
		for _, key := range []string{toAdmin, toEdit, toView} {
			if r.Labels[key] == "true" {
				fmt.Fprintf(&b, "  label %s\n", key)
			}
		}
		if r.AggregationRule != nil {
			fmt.Fprintf(&b, "  aggregates %v\n", r.AggregationRule.ClusterRoleSelectors[0].MatchLabels)
		}
		rules(r.Rules)
	}
	for _, x := range ClusterRoleBindings() {
		fmt.Fprintf(&b, "ClusterRoleBinding %s of %s\n", x.Name, x.RoleRef.Name)
		subjects(x.Subjects)
	}
	for _, r := range Roles() {
		fmt.Fprintf(&b, "Role %s/%s\n", r.Namespace, r.Name)
		rules(r.Rules)
	}
	for _, x := range RoleBindings() {
		fmt.Fprintf(&b, "RoleBinding %s/%s of %s\n", x.Namespace, x.Name, x.RoleRef.Name)
		subjects(x.Subjects)
	}
	return b.String()
}
