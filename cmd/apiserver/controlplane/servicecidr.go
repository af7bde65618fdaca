package controlplane

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/reference"
)

// EnsureServiceCIDR keeps the ServiceCIDR that holds the server's own ranges of cluster IPs. Where somebody else's ranges
// stand in it, it is left as it is, and an event says so: addresses of it may be in use. Only a second family may come
// in addition.
func EnsureServiceCIDR(ctx context.Context, client kubernetes.Interface, ranges []netip.Prefix) error {
	var want []string
	for _, p := range ranges {
		want = append(want, p.String())
	}
	c := client.NetworkingV1().ServiceCIDRs()
	have, err := c.Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		have, err = c.Create(ctx, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: serviceName},
			Spec: networkingv1.ServiceCIDRSpec{CIDRs: want}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // another server, which goes on with it
		}
	}
	if err != nil {
		return fmt.Errorf("ensure ServiceCIDR %s: %w", serviceName, err)
	}
	if have.DeletionTimestamp != nil {
		return nil // it comes back when it is gone
	}
	switch {
	case slices.Equal(have.Spec.CIDRs, want):
	case len(have.Spec.CIDRs) == 1 && len(want) == 2 && have.Spec.CIDRs[0] == want[0]:
		have.Spec.CIDRs = want
		if have, err = c.Update(ctx, have, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("add second family to ServiceCIDR %s: %w", serviceName, err)
		}
	default:
		return Warn(ctx, client, "kubernetes-service-cidr-controller", have, "KubernetesDefaultServiceCIDRInconsistent",
			fmt.Sprintf("The default ServiceCIDR %v does not match the flag configurations %v", have.Spec.CIDRs, want))
	}
	if apimeta.FindStatusCondition(have.Status.Conditions, networkingv1.ServiceCIDRConditionReady) != nil {
		return nil
	}
	apimeta.SetStatusCondition(&have.Status.Conditions, metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady,
		Status: metav1.ConditionTrue, Reason: "KubernetesServiceCIDR", Message: "Kubernetes default Service CIDR is ready"})
	_, err = c.UpdateStatus(ctx, have, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return nil // whoever was faster knows better
	}
	return existing("mark ServiceCIDR "+serviceName+" as ready", err)
}

// Warn writes an event of type Warning about obj, or counts it up where it was written before.
func Warn(ctx context.Context, client kubernetes.Interface, component string, obj runtime.Object, reason, note string) error {
	ref, err := reference.GetReference(scheme.Scheme, obj)
	if err != nil {
		return fmt.Errorf("refer to %T: %w", obj, err)
	}
	namespace := ref.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	now := metav1.NewTime(time.Now())
	// One name for one cause: what is still wrong the next time makes no second event.
	name := fmt.Sprintf("%s.%s", ref.Name, reasonName(reason))
	events := client.CoreV1().Events(namespace)
	_, err = events.Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, InvolvedObject: *ref, Reason: reason, Message: note,
		Type: corev1.EventTypeWarning, Source: corev1.EventSource{Component: component}, ReportingController: component,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return existing("write event "+reason, err)
	}
	have, err := events.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get event %s: %w", name, err)
	}
	have.Count++
	have.LastTimestamp, have.Message, have.InvolvedObject = now, note, *ref
	_, err = events.Update(ctx, have, metav1.UpdateOptions{})
	return existing("count event "+reason, err)
}

// reasonName writes a reason as part of an object's name.
func reasonName(reason string) string { return strings.ToLower(reason) }
