package controlplane

import (
	"context"
	"errors"
	"fmt"
	"maps"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/kubernetes"
)

// control is who says what an object of priority and fairness has to be.
type control int

const (
	theirs control = iota // whoever wrote it: the server leaves it alone
	ours                  // the server
	stale                 // the server of another version, which suggested what this one does not
)

// controlOf follows the rules that upstream documents: mandatory objects are always the server's; a suggested one is the
// server's if its annotation says so, or if it says nothing and nobody has changed the object since it was made.
func controlOf(m *metav1.ObjectMeta, mandatory, suggested bool) control {
	annotation := m.Annotations[flowcontrolv1.AutoUpdateAnnotationKey]
	switch {
	case mandatory:
		return ours
	case suggested && (annotation == "true" || annotation != "false" && m.Generation == 1):
		return ours
	case !suggested && annotation == "true":
		return stale
	}
	return theirs
}

// automatic is m with the mark of objects that the server may update.
func automatic(m metav1.ObjectMeta) metav1.ObjectMeta {
	m = *m.DeepCopy()
	m.Annotations = maps.Clone(m.Annotations)
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] = "true"
	return m
}

// bundled is what the library brings of one kind, by name.
type bundled[T any] struct{ mandatory, suggested map[string]T }

func byName[T interface{ GetName() string }](mandatory, suggested []T) bundled[T] {
	b := bundled[T]{map[string]T{}, map[string]T{}}
	for _, o := range mandatory {
		b.mandatory[o.GetName()] = o
	}
	for _, o := range suggested {
		b.suggested[o.GetName()] = o
	}
	return b
}

// kind is how objects of one kind are read and written.
type kind[T interface {
	comparable
	metav1.Object
}] struct {
	name    string
	have    []T
	meta    func(T) *metav1.ObjectMeta
	changed func(have, want T) (T, bool) // what have must become, and whether that is a change
	create  func(context.Context, T, metav1.CreateOptions) (T, error)
	update  func(context.Context, T, metav1.UpdateOptions) (T, error)
	remove  func(context.Context, string, metav1.DeleteOptions) error
}

// ensure makes what is missing, puts right what is the server's, and removes what another version left.
func (k kind[T]) ensure(ctx context.Context, b bundled[T], fresh func(T) T) error {
	var errs []error
	there := map[string]bool{}
	for _, have := range k.have {
		name := have.GetName()
		there[name] = true
		want, mandatory := b.mandatory[name]
		if !mandatory {
			want = b.suggested[name]
		}
		var none T
		switch controlOf(k.meta(have), mandatory, want != none) {
		case stale:
			version := have.GetResourceVersion()
			err := k.remove(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				errs = append(errs, fmt.Errorf("delete %s %s: %w", k.name, name, err))
			}
		case ours:
			if now, change := k.changed(have, want); change {
				_, err := k.update(ctx, now, metav1.UpdateOptions{})
				if err != nil && !apierrors.IsConflict(err) { // the next time sees what came between
					errs = append(errs, fmt.Errorf("update %s %s: %w", k.name, name, err))
				}
			}
		}
	}
	for _, list := range []map[string]T{b.mandatory, b.suggested} {
		for name, want := range list {
			if !there[name] {
				_, err := k.create(ctx, fresh(want), metav1.CreateOptions{})
				errs = append(errs, existing("create "+k.name+" "+name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// EnsureFlowControl keeps the objects of priority and fairness. It is to be called again from time to time.
func EnsureFlowControl(ctx context.Context, client kubernetes.Interface) error {
	return errors.Join(ensureLevels(ctx, client), ensureSchemas(ctx, client))
}

func ensureLevels(ctx context.Context, client kubernetes.Interface) error {
	c := client.FlowcontrolV1().PriorityLevelConfigurations()
	list, err := c.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list priority levels: %w", err)
	}
	k := kind[*flowcontrolv1.PriorityLevelConfiguration]{name: "priority level", have: pointers(list.Items), create: c.Create, update: c.Update, remove: c.Delete,
		meta: func(l *flowcontrolv1.PriorityLevelConfiguration) *metav1.ObjectMeta { return &l.ObjectMeta }, changed: levelChange}
	return k.ensure(ctx, byName(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations),
		func(l *flowcontrolv1.PriorityLevelConfiguration) *flowcontrolv1.PriorityLevelConfiguration {
			return &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: automatic(l.ObjectMeta), Spec: *l.Spec.DeepCopy()}
		})
}

// levelChange leaves the shares of the exempt level to the administrator, as validation does.
func levelChange(have, want *flowcontrolv1.PriorityLevelConfiguration) (*flowcontrolv1.PriorityLevelConfiguration, bool) {
	now := have.DeepCopy()
	now.ObjectMeta, now.Spec = automatic(have.ObjectMeta), *want.Spec.DeepCopy()
	if have.Spec.Exempt != nil && now.Spec.Exempt != nil {
		now.Spec.Exempt = have.Spec.Exempt.DeepCopy()
	}
	return now, !equality.Semantic.DeepEqual(now, have)
}

func ensureSchemas(ctx context.Context, client kubernetes.Interface) error {
	c := client.FlowcontrolV1().FlowSchemas()
	list, err := c.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list flow schemas: %w", err)
	}
	k := kind[*flowcontrolv1.FlowSchema]{name: "flow schema", have: pointers(list.Items), create: c.Create, update: c.Update, remove: c.Delete,
		meta: func(s *flowcontrolv1.FlowSchema) *metav1.ObjectMeta { return &s.ObjectMeta }, changed: schemaChange}
	return k.ensure(ctx, byName(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas),
		func(s *flowcontrolv1.FlowSchema) *flowcontrolv1.FlowSchema {
			return &flowcontrolv1.FlowSchema{ObjectMeta: automatic(s.ObjectMeta), Spec: *s.Spec.DeepCopy()}
		})
}

func schemaChange(have, want *flowcontrolv1.FlowSchema) (*flowcontrolv1.FlowSchema, bool) {
	now := have.DeepCopy()
	now.ObjectMeta, now.Spec = automatic(have.ObjectMeta), *want.Spec.DeepCopy()
	return now, !equality.Semantic.DeepEqual(now, have)
}

func pointers[T any](items []T) []*T {
	var out []*T
	for i := range items {
		out = append(out, &items[i])
	}
	return out
}
