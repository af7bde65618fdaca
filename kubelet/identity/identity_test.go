package identity

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	ktesting "k8s.io/client-go/testing"
)

func TestServingIsMadeOnceAndCoversAddresses(t *testing.T) {
	dir := t.TempDir()
	leaf := func(ip string) *x509.Certificate {
		t.Helper()
		get, err := Serving(dir, "", "", "n1", []net.IP{net.ParseIP(ip)})
		if err != nil {
			t.Fatal(err)
		}
		pair, _ := get(nil)
		cert, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	first := leaf("192.0.2.1")
	if err := first.VerifyHostname("192.0.2.1"); err != nil {
		t.Error(err)
	}
	if again := leaf("192.0.2.1"); !again.Equal(first) {
		t.Error("made anew without need")
	}
	if other := leaf("192.0.2.2"); other.VerifyHostname("192.0.2.2") != nil {
		t.Error("address changed, certificate did not")
	}
}

// What bootstrap writes, Connect must be able to read after a restart.
func TestKubeconfigIsReadBack(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Node: "n", Kubeconfig: filepath.Join(dir, "kubelet.conf"), CertDir: dir}
	if err := writeKubeconfig(cfg, &rest.Config{Host: "https://192.0.2.1:6443", TLSClientConfig: rest.TLSClientConfig{CAData: []byte("ca")}}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(current(cfg), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	rc, err := await(t.Context(), cfg, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	if rc.Host != "https://192.0.2.1:6443" || rc.CertFile != current(cfg) || string(rc.CAData) != "ca" {
		t.Errorf("%+v", rc)
	}
}

func TestUnsignedServesNobody(t *testing.T) {
	s, err := NewSigned(t.TempDir(), "n1", "n1", []net.IP{net.ParseIP("192.0.2.1")}, NewMetrics())
	if err != nil {
		t.Fatal(err)
	}
	if c, err := s.Certificate(nil); c != nil || err != errUnsigned {
		t.Errorf("served %v, %v", c, err)
	}
}

func TestSignedAsksForItsNames(t *testing.T) {
	client := fake.NewClientset()
	asked := make(chan *certificatesv1.CertificateSigningRequest, 1)
	client.PrependReactor("create", "certificatesigningrequests", func(a ktesting.Action) (bool, runtime.Object, error) {
		select {
		case asked <- a.(ktesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest):
		default:
		}
		return false, nil, nil
	})
	s, err := NewSigned(t.TempDir(), "n1", "n1", []net.IP{net.ParseIP("192.0.2.1")}, NewMetrics())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Run(ctx, client); close(done) }()
	csr := <-asked
	block, _ := pem.Decode(csr.Spec.Request)
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if csr.Spec.SignerName != certificatesv1.KubeletServingSignerName || req.Subject.CommonName != "system:node:n1" || req.DNSNames[0] != "n1" || req.IPAddresses[0].String() != "192.0.2.1" {
		t.Errorf("asked %+v for %v %v %v", csr.Spec.SignerName, req.Subject, req.DNSNames, req.IPAddresses)
	}
	cancel()
	<-done
}
