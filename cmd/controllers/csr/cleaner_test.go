package csr

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// endingAt is a certificate that is good until then.
func endingAt(t *testing.T, end time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: end.Add(-time.Hour), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Answered requests go an hour after their answer, unanswered ones after a day, those of a certificate that ended at once.
func TestCleaner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		client := fake.NewClientset()
		requests := informers.NewSharedInformerFactory(client, 0).Certificates().V1().CertificateSigningRequests()
		add := func(name string, mutate func(*certificatesv1.CertificateSigningRequestStatus)) {
			csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now)}}
			mutate(&csr.Status)
			if err := client.Tracker().Add(csr); err != nil {
				t.Fatal(err)
			}
			if err := requests.Informer().GetStore().Add(csr); err != nil {
				t.Fatal(err)
			}
		}
		answered := func(as certificatesv1.RequestConditionType, ago time.Duration) func(*certificatesv1.CertificateSigningRequestStatus) {
			return func(s *certificatesv1.CertificateSigningRequestStatus) {
				s.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: as, LastUpdateTime: metav1.NewTime(now.Add(-ago))}}
			}
		}
		add("approved", answered(certificatesv1.CertificateApproved, time.Minute))
		add("approved-long-ago", answered(certificatesv1.CertificateApproved, 61*time.Minute))
		add("denied", answered(certificatesv1.CertificateDenied, time.Minute))
		add("failed", answered(certificatesv1.CertificateFailed, time.Minute))
		add("pending", func(*certificatesv1.CertificateSigningRequestStatus) {})
		add("ended", func(s *certificatesv1.CertificateSigningRequestStatus) {
			s.Certificate = endingAt(t, now.Add(-time.Minute))
		})
		add("ends", func(s *certificatesv1.CertificateSigningRequestStatus) {
			s.Certificate = endingAt(t, now.Add(90*time.Minute))
			answered(certificatesv1.CertificateApproved, -10*time.Hour)(s)
		})

		c := NewCleaner(client, requests, slog.New(slog.DiscardHandler))
		c.synced = func() bool { return true }
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		for _, step := range []struct {
			at   time.Duration
			left string
		}{
			{time.Minute, "approved denied ends failed pending"},
			{61 * time.Minute, "ends pending"},
			{121 * time.Minute, "pending"},
			{24*time.Hour + time.Minute, "pending"},
			{25*time.Hour + time.Minute, ""},
		} {
			time.Sleep(step.at - time.Since(now))
			list, err := client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var left []string
			for _, csr := range list.Items {
				left = append(left, csr.Name)
			}
			if got := strings.Join(left, " "); got != step.left {
				t.Errorf("after %s: %q, want %q", step.at, got, step.left)
			}
		}
		stop()
		<-ended
	})
}
