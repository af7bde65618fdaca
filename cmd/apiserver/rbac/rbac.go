// Package rbac decides by roles and bindings who may do what, guards them against privilege escalation, and holds the
// roles and bindings that every cluster begins with.
//
// It only ever allows or has no opinion: what no rule grants is refused by whoever asks last.
package rbac

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
)

// Authorizer answers from the informers' caches; it implements authorizer.Authorizer and authorizer.RuleResolver.
type Authorizer struct {
	authorizer.AuthorizerFunc
	roles               rbaclisters.RoleLister
	bindings            rbaclisters.RoleBindingLister
	clusterRoles        rbaclisters.ClusterRoleLister
	clusterRoleBindings rbaclisters.ClusterRoleBindingLister
	synced              []func() bool
}

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
)

// New asks factory for its four informers, so it must be called before the factory starts. Until they have synced,
// whatever they miss is not allowed.
func New(factory informers.SharedInformerFactory) *Authorizer {
	f := factory.Rbac().V1()
	a := &Authorizer{
		roles:               f.Roles().Lister(),
		bindings:            f.RoleBindings().Lister(),
		clusterRoles:        f.ClusterRoles().Lister(),
		clusterRoleBindings: f.ClusterRoleBindings().Lister(),
		synced: []func() bool{
			f.Roles().Informer().HasSynced, f.RoleBindings().Informer().HasSynced,
			f.ClusterRoles().Informer().HasSynced, f.ClusterRoleBindings().Informer().HasSynced,
		},
	}
	a.AuthorizerFunc = a.authorize
	return a
}

// HasSynced says whether all roles and bindings have been seen once.
func (a *Authorizer) HasSynced() bool {
	return !slices.ContainsFunc(a.synced, func(f func() bool) bool { return !f() })
}

func (a *Authorizer) authorize(_ context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	if attrs.GetUser() == nil {
		return authorizer.DecisionNoOpinion, "", nil
	}
	reason, allowed := "", false
	var errs []error
	a.visit(attrs.GetUser(), attrs.GetNamespace(), func(g grant, err error) bool {
		if err != nil {
			errs = append(errs, err)
			return true
		}
		if RuleAllows(attrs, g.rule) {
			allowed, reason = true, "RBAC: allowed by "+g.String()
		}
		return !allowed
	})
	if allowed {
		return authorizer.DecisionAllow, reason, nil
	}
	if len(errs) > 0 {
		reason = fmt.Sprintf("RBAC: %v", utilerrors.NewAggregate(errs))
	}
	return authorizer.DecisionNoOpinion, reason, nil
}

// RulesFor lists what u may do in namespace. Incomplete is told by the returned error.
func (a *Authorizer) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var others []authorizer.NonResourceRuleInfo
	rules, err := a.PolicyRules(u, namespace)
	for _, r := range rules {
		if len(r.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{
				Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames})
		}
		if len(r.NonResourceURLs) > 0 {
			others = append(others, &authorizer.DefaultNonResourceRuleInfo{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
		}
	}
	return resources, others, err != nil, err
}

// PolicyRules lists the rules that bind u in namespace (cluster-wide ones only, if it is empty), with the roles that
// could not be read as an error beside them.
func (a *Authorizer) PolicyRules(u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	var errs []error
	a.visit(u, namespace, func(g grant, err error) bool {
		if err != nil {
			errs = append(errs, err)
		} else {
			rules = append(rules, *g.rule)
		}
		return true
	})
	return rules, errors.Join(errs...)
}

// RoleRules returns the rules of the role that ref names.
func (a *Authorizer) RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "Role":
		role, err := a.roles.Roles(namespace).Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	case "ClusterRole":
		role, err := a.clusterRoles.Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	}
	return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
}

// grant is one rule and how a user came by it.
type grant struct {
	rule    *rbacv1.PolicyRule
	binding string
	ref     rbacv1.RoleRef
	subject rbacv1.Subject
}

func (g grant) String() string {
	subject := fmt.Sprintf("%s %q", g.subject.Kind, g.subject.Name)
	if g.subject.Kind == rbacv1.ServiceAccountKind {
		subject = fmt.Sprintf("%s %q", g.subject.Kind, g.subject.Name+"/"+g.subject.Namespace)
	}
	return fmt.Sprintf("%s of %s %q to %s", g.binding, g.ref.Kind, g.ref.Name, subject)
}

// visit shows f every rule that binds u, and every role that cannot be read, until f returns false.
func (a *Authorizer) visit(u user.Info, namespace string, f func(grant, error) bool) {
	cluster, err := a.clusterRoleBindings.List(labels.Everything())
	if err != nil && !f(grant{}, err) {
		return
	}
	for _, b := range cluster {
		subject, ok := matchSubject(u, b.Subjects, "")
		if !ok {
			continue
		}
		if !a.visitRole(grant{binding: fmt.Sprintf("ClusterRoleBinding %q", b.Name), ref: b.RoleRef, subject: subject}, "", f) {
			return
		}
	}
	if namespace == "" {
		return
	}
	local, err := a.bindings.RoleBindings(namespace).List(labels.Everything())
	if err != nil && !f(grant{}, err) {
		return
	}
	for _, b := range local {
		subject, ok := matchSubject(u, b.Subjects, namespace)
		if !ok {
			continue
		}
		g := grant{binding: fmt.Sprintf("RoleBinding %q", b.Name+"/"+b.Namespace), ref: b.RoleRef, subject: subject}
		if !a.visitRole(g, namespace, f) {
			return
		}
	}
}

func (a *Authorizer) visitRole(g grant, namespace string, f func(grant, error) bool) bool {
	rules, err := a.RoleRules(g.ref, namespace)
	if err != nil {
		return f(grant{}, err)
	}
	for i := range rules {
		g.rule = &rules[i]
		if !f(g, nil) {
			return false
		}
	}
	return true
}

func matchSubject(u user.Info, subjects []rbacv1.Subject, namespace string) (rbacv1.Subject, bool) {
	for _, s := range subjects {
		ok := false
		switch s.Kind {
		case rbacv1.UserKind:
			ok = u.GetName() == s.Name
		case rbacv1.GroupKind:
			ok = slices.Contains(u.GetGroups(), s.Name)
		case rbacv1.ServiceAccountKind:
			if s.Namespace == "" {
				s.Namespace = namespace
			}
			// Without a namespace nobody is meant, least of all everybody.
			ok = s.Namespace != "" && serviceaccount.MatchesUsername(s.Namespace, s.Name, u.GetName())
		}
		if ok {
			return s, true
		}
	}
	return rbacv1.Subject{}, false
}

// RuleAllows says whether a rule grants what attrs ask for.
func RuleAllows(attrs authorizer.Attributes, rule *rbacv1.PolicyRule) bool {
	if !has(rule.Verbs, attrs.GetVerb()) {
		return false
	}
	if !attrs.IsResourceRequest() {
		return slices.ContainsFunc(rule.NonResourceURLs, func(u string) bool { return pathMatches(u, attrs.GetPath()) })
	}
	if !has(rule.APIGroups, attrs.GetAPIGroup()) {
		return false
	}
	resource, sub := attrs.GetResource(), attrs.GetSubresource()
	if sub != "" {
		resource += "/" + sub
	}
	if !has(rule.Resources, resource) && (sub == "" || !slices.Contains(rule.Resources, "*/"+sub)) {
		return false
	}
	return len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, attrs.GetName())
}

func has(list []string, want string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, want)
}

func pathMatches(pattern, path string) bool {
	if pattern == "*" || pattern == path {
		return true
	}
	return strings.HasSuffix(pattern, "*") && strings.HasPrefix(path, strings.TrimRight(pattern, "*"))
}
