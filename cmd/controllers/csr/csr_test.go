package csr

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// While a cluster begins, a node may ask before the role that lets it has been bound: it gets its certificate when that is done.
func TestServingCertificateWaitsForTheRight(t *testing.T) {
	csr := request(t, "system:node:n", func(r *x509.CertificateRequest, c *certificatesv1.CertificateSigningRequest) {
		r.DNSNames, r.IPAddresses = []string{"n"}, []net.IP{net.IPv4(192, 0, 2, 1)}
		c.Name, c.Spec.SignerName = "csr-1", certificatesv1.KubeletServingSignerName
		c.Spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
	})
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "n"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
	}}}
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(csr, node)
		var bound atomic.Bool
		client.PrependReactor("create", "subjectaccessreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, &authorizationv1.SubjectAccessReview{Status: authorizationv1.SubjectAccessReviewStatus{Allowed: bound.Load()}}, nil
		})
		shared := informers.NewSharedInformerFactory(client, 0)
		a, err := NewApprover(client, shared.Certificates().V1().CertificateSigningRequests(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		shared.Start(ctx.Done())
		go func() { defer close(ended); _ = a.Run(ctx) }()
		approved := func() bool {
			live, err := client.CertificatesV1().CertificateSigningRequests().Get(ctx, "csr-1", metav1.GetOptions{})
			return err == nil && has(live, certificatesv1.CertificateApproved)
		}
		time.Sleep(time.Second)
		if approved() {
			t.Error("approved without the right")
		}
		bound.Store(true)
		time.Sleep(10 * time.Second)
		if !approved() {
			t.Error("not approved although the right has come")
		}
		stop()
		<-ended
		shared.Shutdown()
	})
}
