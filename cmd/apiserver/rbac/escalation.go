package rbac

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// PolicyStorage is the storage of roles, clusterroles, rolebindings or clusterrolebindings that lets nobody grant more
// than he has, unless he may "escalate" roles, "bind" the role, or is of system:masters.
type PolicyStorage struct {
	*registry.Store
	resource schema.GroupResource
	guard    *Guard
}

// Guard knows what a user holds and what a role holds.
type Guard struct {
	// Authorizer answers whether a user may escalate or bind.
	Authorizer authorizer.UnconditionalAuthorizer
	// Policy lists the rules that users hold.
	Policy *Authorizer
	// Client reads the role that a binding names. Caches will not do: the role may be a moment old.
	Client kubernetes.Interface
}

// NewPolicyStorage guards store, which holds the named resource of rbac.authorization.k8s.io: roles, clusterroles,
// rolebindings or clusterrolebindings.
func NewPolicyStorage(store *registry.Store, resource string, guard *Guard) (*PolicyStorage, error) {
	switch resource {
	case "roles", "clusterroles", "rolebindings", "clusterrolebindings":
		return &PolicyStorage{store, rbacv1.Resource(resource), guard}, nil
	}
	return nil, fmt.Errorf("guard %s against escalation: not a resource of %s", resource, rbacv1.GroupName)
}

// Create refuses an object that grants more than its maker has.
func (s *PolicyStorage) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	if err := s.guard.check(ctx, s.resource, obj, nil); err != nil {
		return nil, err
	}
	return s.Store.Create(ctx, obj, validate, options)
}

// Update refuses a change that grants more than its maker has. Only what the garbage collector changes is free: a label,
// too, can put a role into another one.
func (s *PolicyStorage) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, validate rest.ValidateObjectFunc,
	validateUpdate rest.ValidateObjectUpdateFunc, force bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	guarded := rest.WrapUpdatedObjectInfo(info, func(ctx context.Context, obj, old runtime.Object) (runtime.Object, error) {
		return obj, s.guard.check(ctx, s.resource, obj, old)
	})
	return s.Store.Update(ctx, name, guarded, validate, validateUpdate, force, options)
}

// policy is what of a role or binding matters here.
type policy struct {
	namespace, name string
	rules           []rbacv1.PolicyRule
	aggregates      bool
	ref             *rbacv1.RoleRef
}

func policyOf(obj runtime.Object) (policy, error) {
	switch o := obj.(type) {
	case *rbacv1.Role:
		return policy{namespace: o.Namespace, name: o.Name, rules: o.Rules}, nil
	case *rbacv1.ClusterRole:
		aggregates := o.AggregationRule != nil && len(o.AggregationRule.ClusterRoleSelectors) > 0
		return policy{name: o.Name, rules: o.Rules, aggregates: aggregates}, nil
	case *rbacv1.RoleBinding:
		return policy{namespace: o.Namespace, name: o.Name, ref: &o.RoleRef}, nil
	case *rbacv1.ClusterRoleBinding:
		return policy{name: o.Name, ref: &o.RoleRef}, nil
	}
	return policy{}, fmt.Errorf("guard against escalation: unexpected object %T", obj)
}

func (g *Guard) check(ctx context.Context, resource schema.GroupResource, obj, old runtime.Object) error {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return apierrors.NewForbidden(resource, "", fmt.Errorf("there is no user"))
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	p, err := policyOf(obj)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if old != nil {
		was, err := policyOf(old)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		// An object that is about to be made by an update has no name yet in old.
		if was.name != "" && onlyCollected(obj, old) {
			return nil
		}
		p.aggregates = p.aggregates || was.aggregates
	}
	if p.namespace == "" {
		p.namespace, _ = request.NamespaceFrom(ctx)
	}
	if p.ref != nil {
		return g.checkBinding(ctx, u, resource, p)
	}
	return g.checkRole(ctx, u, resource, p)
}

// onlyCollected says whether two objects differ in nothing but what the garbage collector must be able to change.
func onlyCollected(obj, old runtime.Object) bool {
	now, ok1 := obj.DeepCopyObject().(metav1.Object)
	was, ok2 := old.(metav1.Object)
	if !ok1 || !ok2 {
		return false
	}
	now.SetOwnerReferences(was.GetOwnerReferences())
	now.SetFinalizers(was.GetFinalizers())
	now.SetManagedFields(was.GetManagedFields())
	now.SetResourceVersion(was.GetResourceVersion())
	return equality.Semantic.DeepEqual(now, was)
}

// everything is what an aggregated role can come to hold.
func everything() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{rule("*", "*", "*"), paths("*", "*")}
}

func (g *Guard) checkRole(ctx context.Context, u user.Info, resource schema.GroupResource, p policy) error {
	if g.may(ctx, u, "escalate", resource.Resource, p.name, p.namespace) {
		return nil
	}
	if err := g.holds(u, resource, p, p.rules); err != nil {
		return err
	}
	if p.aggregates && g.holds(u, resource, p, everything()) != nil {
		return apierrors.NewForbidden(resource, p.name, errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	return nil
}

func (g *Guard) checkBinding(ctx context.Context, u user.Info, resource schema.GroupResource, p policy) error {
	refResource := map[string]string{"Role": "roles", "ClusterRole": "clusterroles"}[p.ref.Kind]
	if refResource == "" {
		return apierrors.NewForbidden(resource, p.name, fmt.Errorf("unsupported role reference kind: %q", p.ref.Kind))
	}
	if g.may(ctx, u, "bind", refResource, p.ref.Name, p.namespace) {
		return nil
	}
	rules, err := g.roleRules(ctx, *p.ref, p.namespace)
	if err != nil {
		return err
	}
	return g.holds(u, resource, p, rules)
}

func (g *Guard) roleRules(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	if ref.Kind == "Role" {
		role, err := g.Client.RbacV1().Roles(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	}
	role, err := g.Client.RbacV1().ClusterRoles().Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return role.Rules, nil
}

func (g *Guard) may(ctx context.Context, u user.Info, verb, resource, name, namespace string) bool {
	decision, _, err := g.Authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: verb, APIGroup: rbacv1.GroupName, APIVersion: "*", Resource: resource, Name: name,
		Namespace: namespace, ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}

// holds refuses when wanted is not covered by the rules that u has.
func (g *Guard) holds(u user.Info, resource schema.GroupResource, p policy, wanted []rbacv1.PolicyRule) error {
	have, err := g.Policy.PolicyRules(u, p.namespace)
	ok, missing := validation.Covers(have, wanted)
	if ok {
		return nil
	}
	lines := make([]string, 0, len(missing))
	for _, r := range compact(missing) {
		lines = append(lines, describe(r))
	}
	slices.Sort(lines)
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.GetName(), u.GetGroups(), strings.Join(slices.Compact(lines), "\n"))
	if err != nil {
		text += fmt.Sprintf("; resolution errors: %v", err)
	}
	return apierrors.NewForbidden(resource, p.name, errors.New(text))
}

// compact joins the rules that differ in their verbs only: the missing rules come split into one verb each.
func compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, r := range rules {
		i := slices.IndexFunc(out, func(o rbacv1.PolicyRule) bool {
			return len(r.Resources) > 0 && slices.Equal(o.APIGroups, r.APIGroups) && slices.Equal(o.Resources, r.Resources) &&
				slices.Equal(o.ResourceNames, r.ResourceNames) && slices.Equal(o.NonResourceURLs, r.NonResourceURLs)
		})
		if i < 0 {
			out = append(out, *r.DeepCopy())
			continue
		}
		out[i].Verbs = append(out[i].Verbs, r.Verbs...)
	}
	return out
}

func describe(r rbacv1.PolicyRule) string {
	var parts []string
	for _, f := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs},
		{"ResourceNames", r.ResourceNames}, {"Verbs", r.Verbs},
	} {
		if len(f.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", f.name, f.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
