package trustbundle

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// There is one bundle, of the present CA, whatever there was and whoever changes or deletes it; others' are left alone.
func TestOneBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bundle := func(name, signer, ca string) *certificatesv1.ClusterTrustBundle {
			return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: ca}}
		}
		client := fake.NewClientset(bundle("kubernetes.io:kube-apiserver-serving:old", Signer, "old"), bundle("theirs", "", "x"))
		shared := informers.NewSharedInformerFactory(client, 0)
		p, err := New(client, []byte("new"), shared.Certificates().V1().ClusterTrustBundles(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		shared.Start(ctx.Done())
		go func() { ended <- p.Run(ctx) }()
		bundles := client.CertificatesV1().ClusterTrustBundles()
		check := func(when string) {
			t.Helper()
			time.Sleep(time.Second)
			list, err := bundles.List(ctx, metav1.ListOptions{})
			if err != nil || len(list.Items) != 2 {
				t.Fatalf("%s: %d bundles (%v)", when, len(list.Items), err)
			}
			for _, b := range list.Items {
				if b.Name != "theirs" && (!strings.HasPrefix(b.Name, "kubernetes.io:kube-apiserver-serving:") || b.Spec.TrustBundle != "new") {
					t.Errorf("%s: %s holds %q", when, b.Name, b.Spec.TrustBundle)
				}
			}
		}
		check("at first")
		if _, err := bundles.Update(ctx, bundle(p.name(), Signer, "forged"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		check("changed")
		if err := bundles.Delete(ctx, p.name(), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		check("deleted")
		stop()
		<-ended
		shared.Shutdown()
	})
}
