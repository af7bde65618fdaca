package rbac

import (
	"context"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// policyFor starts an Authorizer that knows objs.
func policyFor(t *testing.T, objs ...runtime.Object) (*Authorizer, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset(objs...)
	factory := informers.NewSharedInformerFactory(client, 0)
	a := New(factory)
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	return a, client
}

func testPolicy() []runtime.Object {
	reader := role("shop", "reader", rule("get", "", "pods"), named(rule("get", "", "secrets"), "one"))
	logs := clusterRole("logs", rule("get", "", "*/log"), paths("get", "/metrics", "/debug/*"))
	toReader := binding("shop", "readers", "reader", userSubject("ann"), accountSubject("", "robot"))
	toLogs := clusterBinding("logs", groupSubject("ops"))
	broken := clusterBinding("gone", userSubject("bob"))
	return []runtime.Object{&reader, &logs, &toReader, &toLogs, &broken}
}

func TestAuthorize(t *testing.T) {
	a, _ := policyFor(t, testPolicy()...)
	resource := func(verb, ns, res, sub, name string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{Verb: verb, Namespace: ns, Resource: res, Subresource: sub, Name: name, ResourceRequest: true}
	}
	path := func(verb, p string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{Verb: verb, Path: p}
	}
	ann, ops := &user.DefaultInfo{Name: "ann"}, &user.DefaultInfo{Name: "eve", Groups: []string{"ops"}}
	robot := &user.DefaultInfo{Name: "system:serviceaccount:shop:robot"}
	for _, tt := range []struct {
		name   string
		who    user.Info
		attrs  authorizer.AttributesRecord
		want   authorizer.Decision
		reason string
	}{
		{"role in its namespace", ann, resource("get", "shop", "pods", "", "p"), authorizer.DecisionAllow,
			`RBAC: allowed by RoleBinding "readers/shop" of Role "reader" to User "ann"`},
		{"role elsewhere", ann, resource("get", "other", "pods", "", "p"), authorizer.DecisionNoOpinion, ""},
		{"role for the whole cluster", ann, resource("get", "", "pods", "", ""), authorizer.DecisionNoOpinion, ""},
		{"other verb", ann, resource("list", "shop", "pods", "", ""), authorizer.DecisionNoOpinion, ""},
		{"subresource is not its resource", ann, resource("get", "shop", "pods", "exec", "p"), authorizer.DecisionNoOpinion, ""},
		{"named object", ann, resource("get", "shop", "secrets", "", "one"), authorizer.DecisionAllow, ""},
		{"other name", ann, resource("get", "shop", "secrets", "", "two"), authorizer.DecisionNoOpinion, ""},
		{"no name", ann, resource("get", "shop", "secrets", "", ""), authorizer.DecisionNoOpinion, ""},
		{"account takes the binding's namespace", robot, resource("get", "shop", "pods", "", "p"), authorizer.DecisionAllow, ""},
		{"any resource's log", ops, resource("get", "any", "pods", "log", "p"), authorizer.DecisionAllow, ""},
		{"but not the resource", ops, resource("get", "any", "pods", "", "p"), authorizer.DecisionNoOpinion, ""},
		{"exact path", ops, path("get", "/metrics"), authorizer.DecisionAllow, ""},
		{"below a path", ops, path("get", "/debug/pprof"), authorizer.DecisionAllow, ""},
		{"path is no prefix", ops, path("get", "/metrics/slis"), authorizer.DecisionNoOpinion, ""},
		{"role that is gone", &user.DefaultInfo{Name: "bob"}, resource("get", "shop", "pods", "", "p"), authorizer.DecisionNoOpinion,
			`RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.attrs.User = tt.who
			got, reason, err := a.Authorize(t.Context(), tt.attrs)
			if err != nil || got != tt.want || tt.reason != "" && reason != tt.reason {
				t.Fatalf("got %v, %q, %v; want %v, %q", got, reason, err, tt.want, tt.reason)
			}
		})
	}
}

func TestEscalation(t *testing.T) {
	editor := clusterRole("editor", rule("get", "", "pods"))
	escalator := clusterRole("escalator", rule("escalate", rbacv1.GroupName, "clusterroles"))
	binder := clusterRole("binder", named(rule("bind", rbacv1.GroupName, "clusterroles"), "strong"))
	strong := clusterRole("strong", rule("*", "*", "*"))
	be, bs, bb := clusterBinding("editor", userSubject("ann")), clusterBinding("escalator", userSubject("esc")), clusterBinding("binder", userSubject("bind"))
	a, client := policyFor(t, &editor, &escalator, &binder, &strong, &be, &bs, &bb)
	g := &Guard{Authorizer: a, Policy: a, Client: client}
	weak := clusterRole("new", rule("get", "", "pods"))
	evil := clusterRole("new", rule("get", "", "secrets"))
	gathers := aggregated("new", "x", "")
	toStrong, toEditor, toNothing := clusterBinding("strong", userSubject("x")), clusterBinding("editor", userSubject("x")), clusterBinding("nothing", userSubject("x"))
	relabelled, collected := *evil.DeepCopy(), *evil.DeepCopy()
	relabelled.Labels[toEdit] = "true"
	collected.Finalizers, collected.OwnerReferences = []string{"a/b"}, []metav1.OwnerReference{{Name: "x"}}
	three := clusterRole("new", rule("delete get create", "", "secrets"), rule("get", "", "pods"))
	free := *gathers.DeepCopy()
	free.AggregationRule = nil
	for _, tt := range []struct {
		name, user string
		groups     []string
		resource   string
		obj, old   runtime.Object
		want       string // part of the error; empty means allowed
	}{
		{name: "grant what one has", user: "ann", resource: "clusterroles", obj: &weak},
		{name: "grant what one lacks", user: "ann", resource: "clusterroles", obj: &evil,
			want: "user \"ann\" (groups=[]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"},
		{name: "gather roles", user: "ann", resource: "clusterroles", obj: &gathers,
			want: "must have cluster-admin privileges to use the aggregationRule"},
		{name: "end an aggregation", user: "ann", resource: "clusterroles", obj: &free, old: &gathers,
			want: "must have cluster-admin privileges to use the aggregationRule"},
		{name: "several verbs", user: "ann", resource: "clusterroles", obj: &three,
			want: `{APIGroups:[""], Resources:["secrets"], Verbs:["create" "delete" "get"]}`},
		// The label would put what ann does not have into a role that others, and perhaps ann, hold.
		{name: "aggregate a stronger role", user: "ann", resource: "clusterroles", obj: &relabelled, old: &evil, want: "not currently held"},
		{name: "collect garbage", user: "ann", resource: "clusterroles", obj: &collected, old: &evil},
		{name: "widen", user: "ann", resource: "clusterroles", obj: &evil, old: &weak, want: "not currently held"},
		{name: "may escalate", user: "esc", resource: "clusterroles", obj: &evil},
		{name: "master", user: "root", groups: []string{"system:masters"}, resource: "clusterroles", obj: &evil},
		{name: "bind what one has", user: "ann", resource: "clusterrolebindings", obj: &toEditor},
		{name: "bind what one lacks", user: "ann", resource: "clusterrolebindings", obj: &toStrong, want: "not currently held"},
		{name: "may bind", user: "bind", resource: "clusterrolebindings", obj: &toStrong},
		{name: "may bind another", user: "bind", resource: "clusterrolebindings", obj: &toEditor, want: "not currently held"},
		{name: "bind a role that is not there", user: "ann", resource: "clusterrolebindings", obj: &toNothing, want: "not found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := request.WithUser(t.Context(), &user.DefaultInfo{Name: tt.user, Groups: tt.groups})
			err := g.check(ctx, rbacv1.Resource(tt.resource), tt.obj, tt.old)
			switch {
			case tt.want == "" && err != nil:
				t.Fatalf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Fatalf("got %v, want %q", err, tt.want)
			}
		})
	}
	if err := g.check(context.Background(), rbacv1.Resource("clusterroles"), &weak, nil); !apierrors.IsForbidden(err) {
		t.Fatalf("without a user: %v", err)
	}
}

func TestBootstrapPolicyIsWhole(t *testing.T) {
	roles := map[string]bool{}
	for _, r := range ClusterRoles() {
		if roles[r.Name] {
			t.Errorf("%s is there twice", r.Name)
		}
		roles[r.Name] = true
		if len(r.Rules) == 0 && r.AggregationRule == nil {
			t.Errorf("%s grants nothing", r.Name)
		}
		for _, p := range r.Rules {
			if len(p.Verbs) == 0 || len(p.Resources) == 0 && len(p.NonResourceURLs) == 0 || len(p.Resources) > 0 && len(p.APIGroups) == 0 {
				t.Errorf("%s has an empty rule: %v", r.Name, p)
			}
		}
	}
	for _, b := range ClusterRoleBindings() {
		if !roles[b.RoleRef.Name] {
			t.Errorf("binding %s: there is no role %s", b.Name, b.RoleRef.Name)
		}
	}
	if controllers := len(controllerRoles()); controllers != 41 || len(roles)-controllers != 32 {
		t.Errorf("%d roles of controllers and %d others, want upstream's 41 and 32", controllers, len(roles)-controllers)
	}
	inNamespace := map[string]bool{}
	for _, r := range Roles() {
		inNamespace[r.Namespace+"/"+r.Name] = true
	}
	for _, b := range RoleBindings() {
		if !inNamespace[b.Namespace+"/"+b.RoleRef.Name] {
			t.Errorf("role binding %s/%s: there is no role %s", b.Namespace, b.Name, b.RoleRef.Name)
		}
	}
	for _, r := range viewRules() {
		for _, res := range r.Resources {
			if res == "secrets" || res == "*" {
				t.Errorf("view reads %s", res)
			}
		}
	}
}

func TestEnsureBootstrapPolicy(t *testing.T) {
	ctx := t.Context()
	// One role lost a rule and gained one, another asked to be left alone.
	discovery := clusterRole("system:discovery", paths("get", "/mine"))
	kept := clusterRole("system:basic-user")
	kept.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
	client := fake.NewClientset(&discovery, &kept)
	if err := EnsureBootstrapPolicy(ctx, client); err != nil {
		t.Fatal(err)
	}
	got, err := client.RbacV1().ClusterRoles().Get(ctx, "system:discovery", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/mine", "/apis"} {
		ok := false
		for _, r := range got.Rules {
			for _, u := range r.NonResourceURLs {
				ok = ok || u == p
			}
		}
		if !ok {
			t.Errorf("system:discovery does not grant %s: %v", p, got.Rules)
		}
	}
	if got, _ := client.RbacV1().ClusterRoles().Get(ctx, "system:basic-user", metav1.GetOptions{}); len(got.Rules) != 0 {
		t.Errorf("a role with autoupdate=false was changed: %v", got.Rules)
	}
	bindings, _ := client.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if want := len(ClusterRoleBindings()); len(bindings.Items) != want {
		t.Errorf("%d cluster role bindings, want %d", len(bindings.Items), want)
	}
	client.ClearActions()
	if err := EnsureBootstrapPolicy(ctx, client); err != nil {
		t.Fatal(err)
	}
	if n := len(client.Actions()); n != 6 {
		t.Errorf("a second run made %d requests, want 6 lists: %v", n, client.Actions())
	}
}
