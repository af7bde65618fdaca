package conformance

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func semanticsTests() map[string]test {
	return map[string]test{
		"[sig-auth] ServiceAccounts ServiceAccountIssuerDiscovery should support OIDC discovery of service account issuer":                                                                             slowly(issuerDiscovery),
		"[sig-api-machinery] Servers with support for API chunking should support continue listing from the last key if the original version has been compacted away, though the list is inconsistent": slowly(chunksAfterCompaction),
	}
}

func issuerDiscovery(t *testing.T, c *clustertest.Cluster) {
	said{pod: func(p *corev1.Pod) {
		mounted(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "oidc-discovery-test", ExpirationSeconds: ptr[int64](7200)}}}}})(p)
		p.Spec.Containers[0].Command = nil
		p.Spec.Containers[0].Args = []string{"test-service-account-issuer-discovery", "--token-path=/v0/token", "--token-audience=oidc-discovery-test", "--in-cluster-discovery=true"}
	}, want: []string{"validated with in-cluster discovery"}}.run(t, c)
}

// The API server compacts every five minutes, what is older than five minutes: the wait is up to twice that.
func chunksAfterCompaction(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	api := c.Client.CoreV1().PodTemplates(ns)
	const all = 40
	for i := range all {
		must(api.Create(t.Context(), &corev1.PodTemplate{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("t-%02d", i)}, Template: corev1.PodTemplateSpec{
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}, metav1.CreateOptions{}))(t)
	}
	first := must(api.List(t.Context(), metav1.ListOptions{Limit: 15}))(t)
	if first.Continue == "" || len(first.Items) != 15 {
		t.Fatalf("first chunk of %d, continue %q", len(first.Items), first.Continue)
	}
	var inconsistent string
	c.Eventually(t, 12*time.Minute, "the version of the list to be compacted away", func(ctx context.Context) error {
		_, err := api.List(ctx, metav1.ListOptions{Limit: 15, Continue: first.Continue})
		if err == nil {
			return fmt.Errorf("it is still there")
		}
		status, ok := err.(apierrors.APIStatus)
		if !apierrors.IsResourceExpired(err) || !ok {
			return err
		}
		inconsistent = status.Status().Continue
		return nil
	})
	if inconsistent == "" {
		t.Fatal("410 without a token to go on with")
	}
	second := must(api.List(t.Context(), metav1.ListOptions{Limit: 15, Continue: inconsistent}))(t)
	if second.ResourceVersion == first.ResourceVersion {
		t.Error("the list that goes on has the version that is gone")
	}
	third := must(api.List(t.Context(), metav1.ListOptions{Limit: 15, Continue: second.Continue}))(t)
	if third.ResourceVersion != second.ResourceVersion || third.Continue != "" {
		t.Errorf("last chunk: version %s after %s, continue %q", third.ResourceVersion, second.ResourceVersion, third.Continue)
	}
	var names []string
	for _, item := range append(append(first.Items, second.Items...), third.Items...) {
		names = append(names, item.Name)
	}
	if len(names) != all || names[0] != "t-00" || names[all-1] != fmt.Sprintf("t-%02d", all-1) {
		t.Errorf("%d names: %s", len(names), strings.Join(names, " "))
	}
}
