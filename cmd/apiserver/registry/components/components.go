// Package components serves componentstatuses: how the parts of the control plane say they are, asked at each request.
package components

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
)

// patience is how long a component may take to answer.
const patience = 5 * time.Second

// Answer is what asking a component brought: in Message what it said, or that it could not be asked; in Error what else
// is wrong.
type Answer struct {
	Healthy        bool
	Message, Error string
}

// Check asks one component.
type Check func(ctx context.Context) Answer

// REST is the storage of componentstatuses. Nothing is stored.
type REST struct {
	rest.TableConvertor
	checks map[string]Check
}

// New returns the storage that asks by checks, whose keys are the components' names.
func New(checks map[string]Check, table rest.TableConvertor) *REST { return &REST{table, checks} }

func (r *REST) New() runtime.Object     { return &corev1.ComponentStatus{} }
func (r *REST) NewList() runtime.Object { return &corev1.ComponentStatusList{} }

// Destroy does nothing: there is no store.
func (r *REST) Destroy() {}

func (r *REST) NamespaceScoped() bool   { return false }
func (r *REST) GetSingularName() string { return "componentstatus" }
func (r *REST) ShortNames() []string    { return []string{"cs"} }

// List asks all components at once.
func (r *REST) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	var names []string
	for name := range r.checks {
		names = append(names, name)
	}
	slices.Sort(names)
	list := &corev1.ComponentStatusList{Items: make([]corev1.ComponentStatus, len(names))}
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() { list.Items[i] = r.ask(ctx, name) })
	}
	all.Wait()
	list.Items = slices.DeleteFunc(list.Items, func(s corev1.ComponentStatus) bool {
		return options != nil && (options.FieldSelector != nil && !options.FieldSelector.Matches(fields.Set{"metadata.name": s.Name}) ||
			options.LabelSelector != nil && !options.LabelSelector.Matches(labels.Set{}))
	})
	return list, nil
}

func (r *REST) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if r.checks[name] == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("componentstatus"), name)
	}
	s := r.ask(ctx, name)
	return &s, nil
}

func (r *REST) ask(ctx context.Context, name string) corev1.ComponentStatus {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer := r.checks[name](ctx)
	c := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: answer.Message, Error: answer.Error}
	if !answer.Healthy {
		c.Status = corev1.ConditionFalse
	}
	return corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []corev1.ComponentCondition{c}}
}

var (
	_ rest.Lister = &REST{}
	_ rest.Getter = &REST{}
)
