package rbac

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
)

// writers is how many objects are written side by side on a fresh cluster.
const writers = 8

// EnsureBootstrapPolicy brings the roles and bindings that every cluster has to what they should at least grant. It
// lists first, so that a cluster in order costs six requests; adds what is missing, and takes nothing away. An object
// annotated rbac.authorization.kubernetes.io/autoupdate=false is left alone.
//
// It can be called again, and by several servers at once.
func EnsureBootstrapPolicy(ctx context.Context, client kubernetes.Interface) error {
	have, err := readPolicy(ctx, client)
	if err != nil {
		return err
	}
	// Roles come first: a binding to a role that is not there yet grants nothing, but whoever sees it may wonder.
	var roles, bindings []func() error
	for _, r := range ClusterRoles() {
		owner := reconciliation.ClusterRoleRuleOwner{ClusterRole: &r}
		roles = append(roles, have.role(owner, reconciliation.ClusterRoleModifier{Client: client.RbacV1().ClusterRoles()}))
	}
	for _, r := range Roles() {
		owner := reconciliation.RoleRuleOwner{Role: &r}
		roles = append(roles, have.role(owner, roleWriter{ctx, client}))
	}
	for _, b := range ClusterRoleBindings() {
		adapter := reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &b}
		bindings = append(bindings, have.binding(adapter, reconciliation.ClusterRoleBindingClientAdapter{Client: client.RbacV1().ClusterRoleBindings()}))
	}
	for _, b := range RoleBindings() {
		adapter := reconciliation.RoleBindingAdapter{RoleBinding: &b}
		bindings = append(bindings, have.binding(adapter, bindingWriter{
			RoleBindingClientAdapter: reconciliation.RoleBindingClientAdapter{Client: client.RbacV1()}, ctx: ctx, client: client}))
	}
	return errors.Join(runAll(ctx, roles), runAll(ctx, bindings))
}

// runAll runs every step even when some fail: one object that cannot be written must not keep the others away.
func runAll(ctx context.Context, steps []func() error) error {
	var mu sync.Mutex
	var errs []error
	var group errgroup.Group
	group.SetLimit(writers)
	for _, step := range steps {
		group.Go(func() error {
			err := ctx.Err()
			if err == nil {
				err = step()
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
			return nil
		})
	}
	_ = group.Wait() // the steps return nothing
	return errors.Join(errs...)
}

// stored is the policy that the server had when we looked.
type stored struct {
	roles    map[string]reconciliation.RuleOwner   // by namespace/name
	bindings map[string]reconciliation.RoleBinding // by namespace/name
}

func readPolicy(ctx context.Context, client kubernetes.Interface) (stored, error) {
	s := stored{map[string]reconciliation.RuleOwner{}, map[string]reconciliation.RoleBinding{}}
	api := client.RbacV1()
	clusterRoles, err := api.ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return s, fmt.Errorf("list cluster roles: %w", err)
	}
	for i := range clusterRoles.Items {
		o := reconciliation.ClusterRoleRuleOwner{ClusterRole: &clusterRoles.Items[i]}
		s.roles["/"+o.GetName()] = o
	}
	clusterBindings, err := api.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return s, fmt.Errorf("list cluster role bindings: %w", err)
	}
	for i := range clusterBindings.Items {
		o := reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &clusterBindings.Items[i]}
		s.bindings["/"+o.GetName()] = o
	}
	for _, ns := range []string{metav1.NamespaceSystem, metav1.NamespacePublic} {
		roles, err := api.Roles(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return s, fmt.Errorf("list roles of %s: %w", ns, err)
		}
		for i := range roles.Items {
			o := reconciliation.RoleRuleOwner{Role: &roles.Items[i]}
			s.roles[ns+"/"+o.GetName()] = o
		}
		bindings, err := api.RoleBindings(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return s, fmt.Errorf("list role bindings of %s: %w", ns, err)
		}
		for i := range bindings.Items {
			o := reconciliation.RoleBindingAdapter{RoleBinding: &bindings.Items[i]}
			s.bindings[ns+"/"+o.GetName()] = o
		}
	}
	return s, nil
}

// role returns the step that reconciles one role; the first look is at what was listed.
func (s stored) role(want reconciliation.RuleOwner, w reconciliation.RuleOwnerModifier) func() error {
	return func() error {
		known, key := s.roles[want.GetNamespace()+"/"+want.GetName()], want.GetNamespace()+"/"+want.GetName()
		if known == nil {
			if _, err := w.Create(want); !apierrors.IsAlreadyExists(err) {
				return wrap(err, "create role "+key)
			}
		}
		opts := reconciliation.ReconcileRoleOptions{Role: want, Client: &listedRoles{RuleOwnerModifier: w, known: known}, Confirm: true}
		_, err := opts.Run()
		if apierrors.IsConflict(err) {
			_, err = opts.Run() // somebody else wrote it in between; the second look is at the server
		}
		return wrap(err, "reconcile role "+key)
	}
}

func (s stored) binding(want reconciliation.RoleBinding, w reconciliation.RoleBindingModifier) func() error {
	return func() error {
		known, key := s.bindings[want.GetNamespace()+"/"+want.GetName()], want.GetNamespace()+"/"+want.GetName()
		if known == nil {
			if _, err := w.Create(want); !apierrors.IsAlreadyExists(err) {
				return wrap(err, "create role binding "+key)
			}
		}
		opts := reconciliation.ReconcileRoleBindingOptions{RoleBinding: want, Client: &listedBindings{RoleBindingModifier: w, known: known}, Confirm: true}
		_, err := opts.Run()
		if apierrors.IsConflict(err) {
			_, err = opts.Run()
		}
		return wrap(err, "reconcile role binding "+key)
	}
}

func wrap(err error, act string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", act, err)
}

// listedRoles answers the first Get from the list.
type listedRoles struct {
	reconciliation.RuleOwnerModifier
	known reconciliation.RuleOwner
}

func (l *listedRoles) Get(namespace, name string) (reconciliation.RuleOwner, error) {
	if k := l.known; k != nil {
		l.known = nil
		return k, nil
	}
	return l.RuleOwnerModifier.Get(namespace, name)
}

type listedBindings struct {
	reconciliation.RoleBindingModifier
	known reconciliation.RoleBinding
}

func (l *listedBindings) Get(namespace, name string) (reconciliation.RoleBinding, error) {
	if k := l.known; k != nil {
		l.known = nil
		return k, nil
	}
	return l.RoleBindingModifier.Get(namespace, name)
}

// roleWriter makes the namespace only when a role turns out to need it; the published one asks before every write.
type roleWriter struct {
	ctx    context.Context
	client kubernetes.Interface
}

func (w roleWriter) Get(namespace, name string) (reconciliation.RuleOwner, error) {
	role, err := w.client.RbacV1().Roles(namespace).Get(w.ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return reconciliation.RoleRuleOwner{Role: role}, nil
}

func (w roleWriter) Create(in reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	role := in.GetObject().(*rbacv1.Role)
	out, err := inNamespace(w.ctx, w.client, role.Namespace, func() (*rbacv1.Role, error) {
		return w.client.RbacV1().Roles(role.Namespace).Create(w.ctx, role, metav1.CreateOptions{})
	})
	if err != nil {
		return nil, err
	}
	return reconciliation.RoleRuleOwner{Role: out}, nil
}

func (w roleWriter) Update(in reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	role := in.GetObject().(*rbacv1.Role)
	out, err := w.client.RbacV1().Roles(role.Namespace).Update(w.ctx, role, metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	return reconciliation.RoleRuleOwner{Role: out}, nil
}

type bindingWriter struct {
	reconciliation.RoleBindingClientAdapter
	ctx    context.Context
	client kubernetes.Interface
}

func (w bindingWriter) Create(in reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	b := in.GetObject().(*rbacv1.RoleBinding)
	out, err := inNamespace(w.ctx, w.client, b.Namespace, func() (*rbacv1.RoleBinding, error) {
		return w.client.RbacV1().RoleBindings(b.Namespace).Create(w.ctx, b, metav1.CreateOptions{})
	})
	if err != nil {
		return nil, err
	}
	return reconciliation.RoleBindingAdapter{RoleBinding: out}, nil
}

func inNamespace[T any](ctx context.Context, client kubernetes.Interface, namespace string, create func() (T, error)) (T, error) {
	out, err := create()
	if !apierrors.IsNotFound(err) {
		return out, err
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		var none T
		return none, fmt.Errorf("create namespace %s: %w", namespace, err)
	}
	return create()
}
