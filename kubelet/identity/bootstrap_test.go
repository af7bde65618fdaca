package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// peer is an API server of no project: it knows one token, takes one request for a certificate, has a person who approves it
// after a while, and then answers whoever shows the certificate with the name of that.
type peer struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate

	mu    sync.Mutex
	asked *certificatesv1.CertificateSigningRequest
	// lives are for how long certificates are valid; the last is for all others. signers are who asked for one, by serial.
	lives   []time.Duration
	signers []string
}

const bootToken = "abcdef.0123456789abcdef"

func newPeer(t *testing.T, lives ...time.Duration) *peer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &peer{t: t, key: key, cert: cert, lives: lives}
}

func (p *peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	w.Header().Set("Content-Type", "application/json")
	answer := func(code int, v any) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(v)
	}
	who := ""
	if r.Header.Get("Authorization") == "Bearer "+bootToken {
		who = "token"
	} else if certs := r.TLS.PeerCertificates; len(certs) == 1 {
		who = certs[0].SerialNumber.String()
	}
	switch by := who != ""; {
	case r.URL.Path == requests && by && r.Method == http.MethodPost:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			p.t.Error(err)
		}
		csr := &certificatesv1.CertificateSigningRequest{}
		if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, csr); err != nil { // JSON or protobuf
			p.t.Error(err)
		}
		csr.Name, csr.UID, csr.ResourceVersion = "node-csr-1", "u1", "1"
		csr.TypeMeta = metav1.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "CertificateSigningRequest"}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asked, p.signers = csr, append(p.signers, who)
		answer(http.StatusCreated, csr)
	case r.URL.Path == requests && by && r.URL.Query().Get("watch") == "" && r.Method == http.MethodGet:
		p.mu.Lock()
		defer p.mu.Unlock()
		answer(http.StatusOK, &certificatesv1.CertificateSigningRequestList{TypeMeta: metav1.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "CertificateSigningRequestList"},
			ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []certificatesv1.CertificateSigningRequest{*p.asked}})
	case r.URL.Path == requests && by && r.URL.Query().Get("sendInitialEvents") != "":
		answer(http.StatusUnprocessableEntity, &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonInvalid, Code: 422})
	case r.URL.Path == requests && by && r.Method == http.MethodGet:
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		time.Sleep(200 * time.Millisecond) // it is not approved at once
		_ = json.NewEncoder(w).Encode(map[string]any{"type": "MODIFIED", "object": p.signed()})
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case r.URL.Path == "/api/v1/nodes/n1" && by && who != "token":
		s := r.TLS.PeerCertificates[0].Subject
		answer(http.StatusOK, &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
			ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"name": s.CommonName, "group": s.Organization[0], "serial": who}}})
	default:
		p.t.Errorf("asked %s %s, by token: %t", r.Method, r.URL, by)
		answer(http.StatusForbidden, &metav1.Status{})
	}
}

// signed is the request as it is once it was approved and signed.
func (p *peer) signed() *certificatesv1.CertificateSigningRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	block, _ := pem.Decode(p.asked.Spec.Request)
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		p.t.Error(err)
	}
	n := len(p.signers)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(int64(n)), Subject: req.Subject, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(p.lives[min(n, len(p.lives))-1]), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, p.cert, req.PublicKey, p.key)
	if err != nil {
		p.t.Error(err)
	}
	out := p.asked.DeepCopy()
	out.ResourceVersion = "2"
	out.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
	out.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return out
}

// serve begins to answer, and gives a kubelet what kubeadm would.
func (p *peer) serve(t *testing.T) Config {
	t.Helper()
	server := httptest.NewUnstartedServer(p)
	server.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: x509.NewCertPool()}
	server.TLS.ClientCAs.AddCert(p.cert)
	server.StartTLS()
	t.Cleanup(server.Close)
	dir := t.TempDir()
	boot := clientcmdapi.NewConfig()
	boot.Clusters["kubernetes"] = &clientcmdapi.Cluster{Server: server.URL,
		CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})}
	boot.AuthInfos["tls-bootstrap-token-user"] = &clientcmdapi.AuthInfo{Token: bootToken}
	boot.Contexts["tls-bootstrap-token-user@kubernetes"] = &clientcmdapi.Context{Cluster: "kubernetes", AuthInfo: "tls-bootstrap-token-user"}
	boot.CurrentContext = "tls-bootstrap-token-user@kubernetes"
	cfg := Config{Node: "n1", Kubeconfig: filepath.Join(dir, "kubelet.conf"), Bootstrap: filepath.Join(dir, "bootstrap-kubelet.conf"),
		CertDir: filepath.Join(dir, "pki"), Rotate: true, Metrics: NewMetrics()}
	if err := clientcmd.WriteToFile(*boot, cfg.Bootstrap); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// A kubelet with a bootstrap kubeconfig as kubeadm writes it becomes a node at any API server that has the API: it asks for
// the certificate of a node, waits until it is approved, writes a kubeconfig, and shows the certificate from then on.
func TestBootstrapsAtAnyAPIServer(t *testing.T) {
	p := newPeer(t, time.Hour)
	cfg := p.serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := Connect(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	client, err := conn.Client(-1, 0)
	if err != nil {
		t.Fatal(err)
	}
	node, err := client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if node.Labels["name"] != "system:node:n1" || node.Labels["group"] != "system:nodes" {
		t.Errorf("it came as %v", node.Labels)
	}
	spec := p.asked.Spec
	if want := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}; spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || !slices.Equal(spec.Usages, want) {
		t.Errorf("it asked %s for %v", spec.SignerName, spec.Usages)
	}
	text, err := os.ReadFile(cfg.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if rc, err := clientcmd.RESTConfigFromKubeConfig(text); err != nil || rc.BearerToken != "" || rc.CertFile != filepath.Join(cfg.CertDir, "kubelet-client-current.pem") {
		t.Errorf("its kubeconfig is, %v:\n%s", err, text)
	}
}

// A client certificate that ends soon is replaced by one that the kubelet asks for with the old, and shown from then on.
func TestClientCertificateIsRenewed(t *testing.T) {
	p := newPeer(t, 10*time.Second, time.Hour) // of a minute that has passed
	cfg := p.serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := Connect(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	client, err := conn.Client(-1, 0)
	if err != nil {
		t.Fatal(err)
	}
	for {
		node, err := client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if node.Labels["serial"] == "2" {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if want := []string{"token", "1"}; !slices.Equal(p.signers, want) {
		t.Errorf("certificates were asked for by %q, want %q", p.signers, want)
	}
	pair, err := tls.LoadX509KeyPair(current(cfg), current(cfg))
	if err != nil {
		t.Fatal(err)
	}
	if n := pair.Leaf.SerialNumber.String(); n != "2" {
		t.Errorf("after a restart it would show certificate %s", n)
	}
}
