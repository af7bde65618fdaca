// Package controlplane keeps the objects that the API server itself owns: its namespaces, priority classes, flow
// control, the CA bundles that extension servers trust, and the Service by which pods reach the API server.
//
// Everything here goes through the API like any client's request, so several API servers can do it at once.
package controlplane

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/kubernetes"
)

// EnsureNamespaces makes the namespaces that every cluster has.
func EnsureNamespaces(ctx context.Context, client kubernetes.Interface) error {
	var errs []error
	for _, name := range []string{metav1.NamespaceSystem, metav1.NamespaceDefault, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		errs = append(errs, existing("create namespace "+name, err))
	}
	return errors.Join(errs...)
}

// existing forgives that somebody else was first.
func existing(act string, err error) error {
	if err == nil || apierrors.IsAlreadyExists(err) {
		return nil
	}
	return fmt.Errorf("%s: %w", act, err)
}

// EnsurePriorityClasses makes the two classes of system pods.
func EnsurePriorityClasses(ctx context.Context, client kubernetes.Interface) error {
	var errs []error
	for _, c := range []schedulingv1.PriorityClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "system-node-critical"}, Value: 2000001000,
			Description: "Used for system critical pods that must not be moved from their current node."},
		{ObjectMeta: metav1.ObjectMeta{Name: "system-cluster-critical"}, Value: 2000000000,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."},
	} {
		_, err := client.SchedulingV1().PriorityClasses().Create(ctx, &c, metav1.CreateOptions{})
		errs = append(errs, existing("create priority class "+c.Name, err))
	}
	return errors.Join(errs...)
}

// EnsureFlowControl makes the objects of priority and fairness. The mandatory ones are put right when somebody
// changed them; the suggested ones are the administrator's once they exist.
func EnsureFlowControl(ctx context.Context, client kubernetes.Interface) error {
	var errs []error
	for i, list := range [][]*flowcontrolv1.PriorityLevelConfiguration{
		bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations,
	} {
		for _, want := range list {
			errs = append(errs, ensureLevel(ctx, client, want, i == 0))
		}
	}
	for i, list := range [][]*flowcontrolv1.FlowSchema{bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas} {
		for _, want := range list {
			errs = append(errs, ensureSchema(ctx, client, want, i == 0))
		}
	}
	return errors.Join(errs...)
}

// automatic is upstream's mark of objects that the server may update.
func automatic(m metav1.ObjectMeta) metav1.ObjectMeta {
	m = *m.DeepCopy()
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] = "true"
	return m
}

func ensureLevel(ctx context.Context, client kubernetes.Interface, want *flowcontrolv1.PriorityLevelConfiguration, mandatory bool) error {
	c := client.FlowcontrolV1().PriorityLevelConfigurations()
	obj := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: automatic(want.ObjectMeta), Spec: *want.Spec.DeepCopy()}
	_, err := c.Create(ctx, obj, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) || !mandatory {
		return existing("create priority level "+want.Name, err)
	}
	have, err := c.Get(ctx, want.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get priority level %s: %w", want.Name, err)
	}
	if equality.Semantic.DeepEqual(have.Spec, want.Spec) {
		return nil
	}
	have.Spec = *want.Spec.DeepCopy()
	_, err = c.Update(ctx, have, metav1.UpdateOptions{})
	return existing("update priority level "+want.Name, err)
}

func ensureSchema(ctx context.Context, client kubernetes.Interface, want *flowcontrolv1.FlowSchema, mandatory bool) error {
	c := client.FlowcontrolV1().FlowSchemas()
	obj := &flowcontrolv1.FlowSchema{ObjectMeta: automatic(want.ObjectMeta), Spec: *want.Spec.DeepCopy()}
	_, err := c.Create(ctx, obj, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) || !mandatory {
		return existing("create flow schema "+want.Name, err)
	}
	have, err := c.Get(ctx, want.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get flow schema %s: %w", want.Name, err)
	}
	if equality.Semantic.DeepEqual(have.Spec, want.Spec) {
		return nil
	}
	have.Spec = *want.Spec.DeepCopy()
	_, err = c.Update(ctx, have, metav1.UpdateOptions{})
	return existing("update flow schema "+want.Name, err)
}
