package identity

import (
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"
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
