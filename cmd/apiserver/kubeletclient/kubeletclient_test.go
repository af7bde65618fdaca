package kubeletclient

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	certutil "k8s.io/client-go/util/cert"
)

// The second connection to a kubelet resumes the first one's TLS session, and the kubelet knows the caller all the same.
func TestSessionsAreResumed(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	cert, key, err := certutil.GenerateSelfSignedCertKey("caller", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(certFile, cert, 0o600), os.WriteFile(keyFile, key, 0o600)); err != nil {
		t.Fatal(err)
	}
	var resumed []bool
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		resumed = append(resumed, r.TLS.DidResume)
		if len(r.TLS.PeerCertificates) == 0 {
			t.Error("the caller shows no certificate")
		}
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	defer srv.Close()
	c, err := New(Config{CertFile: certFile, KeyFile: keyFile, AddressTypes: []corev1.NodeAddressType{corev1.NodeInternalIP}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		resp, err := (&http.Client{Transport: c.verified}).Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body) // tickets come after the handshake
		resp.Body.Close()
		c.verified.CloseIdleConnections()
	}
	if len(resumed) != 2 || resumed[0] || !resumed[1] {
		t.Errorf("sessions resumed: %v", resumed)
	}
}

// A kubelet is believed only if the cluster's authority signed its certificate, for the address that it was called by.
func TestKubeletsAreVerified(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	other, _, err := certutil.GenerateSelfSignedCertKey("other", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name      string
		authority []byte
		host      string
		want      string
	}{
		{"signed by the authority", own, "127.0.0.1", ""},
		{"signed by somebody else", other, "127.0.0.1", "certificate signed by unknown authority"},
		{"for another address", own, "127.0.0.2", "certificate is valid for 127.0.0.1, ::1, not 127.0.0.2"},
	} {
		file := filepath.Join(t.TempDir(), "ca")
		if err := os.WriteFile(file, tt.authority, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := New(Config{CAFile: file, AddressTypes: []corev1.NodeAddressType{corev1.NodeInternalIP}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		// Whatever it is called by, it is the one server that answers.
		c.verified.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, srv.Listener.Addr().String())
		}
		resp, err := (&http.Client{Transport: c.verified}).Get("https://" + tt.host)
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestKubelet(t *testing.T) {
	node := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "host"}, {Type: corev1.NodeInternalIP, Address: "fd00::1"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.1"},
	}}}
	for _, tt := range []struct {
		name  string
		types []corev1.NodeAddressType
		port  int32
		want  string
		err   string
	}{
		{name: "first of the preferred type", types: []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeHostName}, want: "[fd00::1]:10250"},
		{name: "the node's own port", types: []corev1.NodeAddressType{corev1.NodeHostName}, port: 1250, want: "host:1250"},
		{name: "none of the types", types: []corev1.NodeAddressType{corev1.NodeExternalIP}, err: "no preferred addresses found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New(Config{AddressTypes: tt.types}, func(context.Context, string) (*corev1.Node, error) {
				n := node.DeepCopy()
				n.Status.DaemonEndpoints.KubeletEndpoint.Port = tt.port
				return n, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			k, err := c.Kubelet(t.Context(), "n")
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || k.Host != tt.want {
				t.Errorf("got %q, %v, want %q", k.Host, err, tt.want)
			}
		})
	}
}
