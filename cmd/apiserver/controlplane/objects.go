// Package controlplane keeps the objects that the API server itself owns: its namespaces, priority classes, flow
// control, the CA bundles that extension servers trust, since when uses of tokens are noted, and the Service by which pods
// reach the API server.
//
// Everything here goes through the API like any client's request, so several API servers can do it at once.
package controlplane

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
