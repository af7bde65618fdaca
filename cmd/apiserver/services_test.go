package apiserver

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/cmd/apiserver/controlplane"
)

// until waits for a condition that the server brings about by itself.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}

func TestServiceCIDRs(t *testing.T) {
	ns := namespace(t, "cidrs")
	ctx := t.Context()
	cidrs, services := shared.client.NetworkingV1().ServiceCIDRs(), shared.client.CoreV1().Services(ns)
	var own *networkingv1.ServiceCIDR
	until(t, "the server's own ServiceCIDR", func() bool {
		var err error
		own, err = cidrs.Get(ctx, "kubernetes", metav1.GetOptions{})
		return err == nil && apimeta.IsStatusConditionTrue(own.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
	})
	if diff := cmp.Diff([]string{"10.96.0.0/12", "fd00:96::/108"}, own.Spec.CIDRs); diff != "" {
		t.Errorf("ranges (-want +got):\n%s", diff)
	}
	prefer := corev1.IPFamilyPolicyPreferDualStack
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "both"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"a": "b"}, IPFamilyPolicy: &prefer, Ports: []corev1.ServicePort{{Port: 80}}}}
	got, err := services.Create(ctx, svc, metav1.CreateOptions{})
	if err != nil || len(got.Spec.ClusterIPs) != 2 || !strings.HasPrefix(got.Spec.ClusterIPs[1], "fd00:96::") || got.Spec.ClusterIP != got.Spec.ClusterIPs[0] {
		t.Fatalf("dual-stack Service: %v, %v", got, err)
	}
	got, err = services.Patch(ctx, "both", types.MergePatchType, []byte(`{"spec":{"ipFamilyPolicy":"SingleStack"}}`), metav1.PatchOptions{})
	if err != nil || len(got.Spec.ClusterIPs) != 1 || len(got.Spec.IPFamilies) != 1 {
		t.Errorf("downgrade: %v, %v", got, err)
	}
	svc = &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "headless"}, Spec: corev1.ServiceSpec{
		ClusterIP: "None", Selector: map[string]string{"a": "b"}, IPFamilyPolicy: &prefer, Ports: []corev1.ServicePort{{Port: 80}}}}
	if got, err = services.Create(ctx, svc, metav1.CreateOptions{}); err != nil || len(got.Spec.IPFamilies) != 2 || !cmp.Equal([]string{"None"}, got.Spec.ClusterIPs) {
		t.Errorf("headless: %v, %v", got, err)
	}
	if _, err := cidrs.Create(ctx, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"},
		Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"192.168.77.0/24"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	svc = &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "there"}, Spec: corev1.ServiceSpec{ClusterIP: "192.168.77.7", Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := services.Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		t.Errorf("address of a range that was added: %v", err)
	}
	if err := cidrs.Delete(ctx, "more", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := cidrs.Delete(ctx, "kubernetes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "the server's own ServiceCIDR to come back", func() bool {
		again, err := cidrs.Get(ctx, "kubernetes", metav1.GetOptions{})
		return err == nil && again.UID != own.UID
	})
}

// Ranges of another configuration are left alone, and told of once, however often they are seen.
func TestServiceCIDRThatIsAnothers(t *testing.T) {
	ctx := t.Context()
	until(t, "the server's own ServiceCIDR", func() bool {
		_, err := shared.client.NetworkingV1().ServiceCIDRs().Get(ctx, "kubernetes", metav1.GetOptions{})
		return err == nil
	})
	for range 2 {
		if err := controlplane.EnsureServiceCIDR(ctx, shared.client, []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}); err != nil {
			t.Fatal(err)
		}
	}
	events, err := shared.client.CoreV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=ServiceCIDR"})
	if err != nil || len(events.Items) != 1 || events.Items[0].Reason != "KubernetesDefaultServiceCIDRInconsistent" || events.Items[0].Count != 2 || events.Items[0].Type != corev1.EventTypeWarning {
		t.Errorf("events: %+v, %v; want one, counted twice", events.Items, err)
	}
	own, err := shared.client.NetworkingV1().ServiceCIDRs().Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil || own.Spec.CIDRs[0] != "10.96.0.0/12" {
		t.Errorf("ranges after it: %v, %v", own.Spec.CIDRs, err)
	}
}
