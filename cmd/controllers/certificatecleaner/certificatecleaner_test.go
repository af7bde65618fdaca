package certificatecleaner

import (
	"log/slog"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestClean(t *testing.T) {
	now := time.Now()
	request := func(name string, age time.Duration) *certificatesv1.PodCertificateRequest {
		return &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, CreationTimestamp: metav1.NewTime(now.Add(-age))}}
	}
	client := fake.NewClientset(request("old", 16*time.Minute), request("new", 14*time.Minute))
	if err := New(client, slog.New(slog.DiscardHandler)).clean(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	left, err := client.CertificatesV1().PodCertificateRequests("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(left.Items) != 1 || left.Items[0].Name != "new" {
		t.Errorf("left are %v (%v)", left.Items, err)
	}
}
