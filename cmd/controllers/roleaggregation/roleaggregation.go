// Package roleaggregation fills ClusterRoles that are made of others, chosen by label.
package roleaggregation

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	rbacinformers "k8s.io/client-go/informers/rbac/v1"
	"k8s.io/client-go/kubernetes"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/orlop-io/orlop/cmd/controllers/loop"
)

// Controller syncs all ClusterRoles that have an aggregation rule.
type Controller struct {
	client kubernetes.Interface
	roles  rbaclisters.ClusterRoleLister
	loop   *loop.Loop
	synced cache.InformerSynced
}

// New returns a Controller that has done nothing yet.
func New(client kubernetes.Interface, roles rbacinformers.ClusterRoleInformer, log *slog.Logger) (*Controller, error) {
	c := &Controller{client: client, roles: roles.Lister(), synced: roles.Informer().HasSynced}
	c.loop = loop.New("clusterrole-aggregation", c.sync, log)
	_, err := roles.Informer().AddEventHandler(loop.On(func(*rbacv1.ClusterRole) { c.addAll() }))
	return c, err
}

// Run syncs until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx, 1, c.synced) }

// addAll wakes every aggregated role: any may select the one that changed.
func (c *Controller) addAll() {
	all, err := c.roles.List(labels.Everything())
	if err != nil {
		return
	}
	for _, role := range all {
		if role.AggregationRule != nil {
			c.loop.Add(role.Name)
		}
	}
}

func (c *Controller) sync(ctx context.Context, name string) error {
	role, err := c.roles.Get(name)
	if apierrors.IsNotFound(err) || err == nil && role.AggregationRule == nil {
		return nil
	} else if err != nil {
		return err
	}
	all, err := c.roles.List(labels.Everything())
	if err != nil {
		return err
	}
	rules, err := Aggregate(role, all)
	if err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(role.Rules, rules) {
		return nil
	}
	changed := role.DeepCopy()
	changed.Rules = rules
	if _, err := c.client.RbacV1().ClusterRoles().Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write rules: %w", err)
	}
	return nil
}

// Aggregate returns the rules of all roles that role selects, in order of name, each once.
func Aggregate(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	sorted := slices.Clone(all)
	slices.SortFunc(sorted, func(a, b *rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
	var rules []rbacv1.PolicyRule
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, fmt.Errorf("selector of ClusterRole %s: %w", role.Name, err)
		}
		for _, other := range sorted {
			if other.Name == role.Name || !selector.Matches(labels.Set(other.Labels)) {
				continue
			}
			for _, rule := range other.Rules {
				if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, nil
}
