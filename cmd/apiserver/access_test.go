package apiserver

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// grant binds a user to a ClusterRole of its own with these rules.
func grant(t *testing.T, user string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	name := "test:" + user
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	if _, err := shared.client.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}}
	if _, err := shared.client.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		r, err := shared.client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{
			User: user, ResourceAttributes: &authzv1.ResourceAttributes{Group: rules[0].APIGroups[0], Resource: rules[0].Resources[0], Verb: rules[0].Verbs[0],
				Name: append(rules[0].ResourceNames, "x")[0]}}}, metav1.CreateOptions{})
		if err == nil && !r.Status.Allowed {
			err = apierrors.NewServiceUnavailable("the server has not seen the binding yet")
		}
		return err
	})
}

func rule(verbs, group, resource string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), APIGroups: []string{group}, Resources: []string{resource}, ResourceNames: names}
}

func TestImpersonation(t *testing.T) {
	grant(t, "chief", rule("impersonate", "", "users", "clerk"), rule("impersonate", "", "groups", "clerks"),
		rule("impersonate", "authentication.k8s.io", "userextras/shop", "shoes"), rule("impersonate", "authentication.k8s.io", "uids", "007"))
	cfg, err := shared.config("chief")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		as   rest.ImpersonationConfig
		want string // part of the refusal; empty means allowed
	}{
		{"a user", rest.ImpersonationConfig{UserName: "clerk"}, ""},
		{"a user with all that is allowed", rest.ImpersonationConfig{UserName: "clerk", Groups: []string{"clerks"}, UID: "007", Extra: map[string][]string{"shop": {"shoes"}}}, ""},
		{"another user", rest.ImpersonationConfig{UserName: "boss"}, `cannot impersonate resource "users" in API group ""`},
		{"another group", rest.ImpersonationConfig{UserName: "clerk", Groups: []string{"system:masters"}}, `cannot impersonate resource "groups" in API group ""`},
		{"another uid", rest.ImpersonationConfig{UserName: "clerk", UID: "1"}, `cannot impersonate resource "uids"`},
		{"another extra", rest.ImpersonationConfig{UserName: "clerk", Extra: map[string][]string{"shop": {"hats"}}}, `cannot impersonate resource "userextras/shop"`},
		{"a service account", rest.ImpersonationConfig{UserName: "system:serviceaccount:default:robot"}, `cannot impersonate resource "serviceaccounts"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := rest.CopyConfig(cfg)
			c.Impersonate = tt.as
			client, err := kubernetes.NewForConfig(c)
			if err != nil {
				t.Fatal(err)
			}
			me, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authnv1.SelfSubjectReview{}, metav1.CreateOptions{})
			if tt.want != "" {
				if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("got %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			u := me.Status.UserInfo
			if u.Username != "clerk" || u.UID != tt.as.UID || len(tt.as.Groups) > 0 && !slices.Contains(u.Groups, "clerks") ||
				!slices.Contains(u.Groups, "system:authenticated") || len(tt.as.Extra) > 0 && !slices.Equal(u.Extra["shop"], tt.as.Extra["shop"]) {
				t.Errorf("became %+v", u)
			}
		})
	}
}

func TestWhatAnonymousMay(t *testing.T) {
	cfg := shared.anonymousConfig()
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) (int, string) {
		resp, err := client.Get(cfg.Host + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, path := range []string{"/healthz", "/livez", "/readyz", "/version"} {
		if code, body := get(path); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	for path, want := range map[string]string{
		"/api": `cannot get path \"/api\"`, "/apis": `cannot get path \"/apis\"`, "/openapi/v2": "cannot get path", "/metrics": "cannot get path",
		"/healthz/etcd": "cannot get path", "/logs": "cannot get path",
		"/api/v1/namespaces":                           `cannot list resource \"namespaces\" in API group \"\" at the cluster scope`,
		"/apis/apps/v1/namespaces/default/deployments": `cannot list resource \"deployments\" in API group \"apps\" in the namespace \"default\"`,
	} {
		if code, body := get(path); code != http.StatusForbidden || !strings.Contains(body, `User \"system:anonymous\" `+want) {
			t.Errorf("%s: %d %s, want 403 and %q", path, code, body, want)
		}
	}
}

func TestRulesReview(t *testing.T) {
	grant(t, "reader", rule("get list", "", "configmaps"), rule("get", "apps", "deployments", "web"))
	r, err := shared.as(t, "reader").AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(),
		&authzv1.SelfSubjectRulesReview{Spec: authzv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	has := func(resource string, verbs, names []string) bool {
		return slices.ContainsFunc(r.Status.ResourceRules, func(r authzv1.ResourceRule) bool {
			return slices.Equal(r.Resources, []string{resource}) && slices.Equal(r.Verbs, verbs) && slices.Equal(r.ResourceNames, names)
		})
	}
	if !has("configmaps", []string{"get", "list"}, nil) || !has("deployments", []string{"get"}, []string{"web"}) || !has("selfsubjectreviews", []string{"create"}, nil) {
		t.Errorf("rules %+v", r.Status.ResourceRules)
	}
	if !slices.ContainsFunc(r.Status.NonResourceRules, func(r authzv1.NonResourceRule) bool { return slices.Contains(r.NonResourceURLs, "/apis/*") }) {
		t.Errorf("other rules %+v", r.Status.NonResourceRules)
	}
	all, err := shared.client.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(),
		&authzv1.SelfSubjectRulesReview{Spec: authzv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
	if err != nil || !slices.ContainsFunc(all.Status.ResourceRules, func(r authzv1.ResourceRule) bool { return slices.Equal(r.Resources, []string{"*"}) }) {
		t.Errorf("a master's rules %+v, %v", all.Status.ResourceRules, err)
	}
}

func TestNobodyGrantsMoreThanHeHas(t *testing.T) {
	ns := namespace(t, "escalation")
	grant(t, "deputy", rule("create update get", rbacv1.GroupName, "clusterroles"), rule("create", rbacv1.GroupName, "rolebindings"), rule("get", "", "pods"))
	deputy := shared.as(t, "deputy").RbacV1()
	role := func(name, resource string) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{rule("get", "", resource)}}
	}
	if _, err := deputy.ClusterRoles().Create(t.Context(), role("test:weak", "pods"), metav1.CreateOptions{}); err != nil {
		t.Errorf("a role within what he has: %v", err)
	}
	_, err := deputy.ClusterRoles().Create(t.Context(), role("test:strong", "secrets"), metav1.CreateOptions{})
	const want = `clusterroles.rbac.authorization.k8s.io "test:strong" is forbidden: user "deputy" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:
{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}`
	if err == nil || err.Error() != want {
		t.Errorf("a stronger role: %v\nwant %s", err, want)
	}
	// Whoever labels a role of others into one that is bound to him would gain its rights.
	admin, err := shared.client.RbacV1().ClusterRoles().Get(t.Context(), "cluster-admin", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	admin.Labels["rbac.authorization.k8s.io/aggregate-to-view"] = "true"
	if _, err := deputy.ClusterRoles().Update(t.Context(), admin, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("cluster-admin aggregated into view: %v", err)
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "deputy"}}}
	if _, err := deputy.RoleBindings(ns).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		// No controller has filled edit here, so it grants nothing yet and may be bound.
		t.Errorf("an empty role: %v", err)
	}
	binding.Name, binding.RoleRef.Name = "c", "cluster-admin"
	if _, err := deputy.RoleBindings(ns).Create(t.Context(), binding, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "not currently held") {
		t.Errorf("cluster-admin bound: %v", err)
	}
}

func TestUnknownAdmissionPluginsAreRefusedByName(t *testing.T) {
	for name, set := range map[string]func(o *Options){
		`enable-admission-plugins plugin "EventRateLimit" is unknown`:   func(o *Options) { o.Admission.EnablePlugins = []string{"EventRateLimit"} },
		`disable-admission-plugins plugin "PodNodeSelektor" is unknown`: func(o *Options) { o.Admission.DisablePlugins = []string{"PodNodeSelektor"} },
		`[Priority] in enable-admission-plugins and disable-admission-plugins overlapped`: func(o *Options) {
			o.Admission.EnablePlugins, o.Admission.DisablePlugins = []string{"Priority"}, []string{"Priority"}
		},
	} {
		o := shared.options()
		set(o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
	}
	o := shared.options()
	o.Admission.EnablePlugins = []string{"PodNodeSelector", "DenyServiceExternalIPs", "NamespaceExists"}
	o.Admission.DisablePlugins = []string{"StorageObjectInUseProtection"}
	if err := o.Validate(); err != nil {
		t.Errorf("known plugins: %v", err)
	}
}

// eventually waits until check has no complaint.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func TestAuthenticationConfigurationTakesTheFlagsPlace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "authn.yaml")
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {enabled: true, conditions: [{path: /livez}]}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := NewOptions()
	if cfg, err := o.anonymous(); err != nil || !cfg.Enabled || len(cfg.Conditions) != 0 {
		t.Errorf("without a file: %+v, %v", cfg, err)
	}
	o.AuthnConfigFile = file
	if cfg, err := o.anonymous(); err != nil || !cfg.Enabled || len(cfg.Conditions) != 1 {
		t.Errorf("with a file: %+v, %v", cfg, err)
	}
	o.Anonymous = false
	if _, err := o.anonymous(); err == nil {
		t.Error("a flag against the file passes")
	}
}
