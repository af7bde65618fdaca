package volumes

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// block is the PEM of a certificate with this content.
func block(text string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(text)}))
}

func bundle(name, signer, label string, certs ...string) *certificatesv1.ClusterTrustBundle {
	b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"l": label}}}
	b.Spec.SignerName = signer
	for _, c := range certs {
		b.Spec.TrustBundle += "# a comment\n" + block(c)
	}
	return b
}

func TestTrustAnchors(t *testing.T) {
	all := []*certificatesv1.ClusterTrustBundle{bundle("x", "s/a", "1", "c2", "c1"), bundle("y", "s/a", "2", "c3", "c1"), bundle("z", "s/b", "1", "c9")}
	name, signer, yes := func(s string) *string { return &s }, "s/a", true
	label := func(v string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"l": v}}
	}
	for what, tt := range map[string]struct {
		src  v1.ClusterTrustBundleProjection
		want string // contents of the certificates, or the error
	}{
		"by name":                       {v1.ClusterTrustBundleProjection{Name: name("x")}, "c1 c2"},
		"by a name that is not there":   {v1.ClusterTrustBundleProjection{Name: name("w")}, `clusterTrustBundle "w" not found`},
		"the same, optional":            {v1.ClusterTrustBundleProjection{Name: name("w"), Optional: &yes}, ""},
		"all of a signer, each once":    {v1.ClusterTrustBundleProjection{SignerName: &signer, LabelSelector: &metav1.LabelSelector{}}, "c1 c2 c3"},
		"by signer and label":           {v1.ClusterTrustBundleProjection{SignerName: &signer, LabelSelector: label("2")}, "c1 c3"},
		"no selector matches nothing":   {v1.ClusterTrustBundleProjection{SignerName: &signer, Optional: &yes}, ""},
		"none matches":                  {v1.ClusterTrustBundleProjection{SignerName: &signer, LabelSelector: label("9")}, `combination of signerName "s/a" and labelSelector l=9 matched zero ClusterTrustBundles`},
		"neither a name nor a signer":   {v1.ClusterTrustBundleProjection{}, "clusterTrustBundle projection names neither a bundle nor a signer"},
		"one bundle's order is nothing": {v1.ClusterTrustBundleProjection{Name: name("y")}, "c1 c3"},
	} {
		t.Run(what, func(t *testing.T) {
			text, err := anchors(&tt.src, all)
			var got []string
			for rest := text; ; {
				var b *pem.Block
				if b, rest = pem.Decode(rest); b == nil {
					break
				}
				got = append(got, string(b.Bytes))
			}
			if err != nil {
				got = []string{err.Error()}
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got %q, want %q", s, tt.want)
			}
		})
	}
}

// sign answers a request as a signer does, with a certificate of an hour from now.
func sign(t *testing.T, req *certificatesv1.PodCertificateRequest, now time.Time, own crypto.PublicKey) *certificatesv1.PodCertificateRequest {
	t.Helper()
	_, ca, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(req.Spec.StubPKCS10Request)
	if err != nil {
		t.Fatal(err)
	}
	if own == nil {
		own = csr.PublicKey
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now, NotAfter: now.Add(time.Hour)}, &x509.Certificate{}, own, ca)
	if err != nil {
		t.Fatal(err)
	}
	out := req.DeepCopy()
	out.Status = certificatesv1.PodCertificateRequestStatus{CertificateChain: "between\n" + block(string(der)),
		Conditions: []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue}}}
	return out
}

func TestPodCertificate(t *testing.T) {
	for _, kind := range []string{"RSA3072", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"} {
		t.Run(kind, func(t *testing.T) {
			s := &server{now: time.Now()}
			s.decide = func(req *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
				return sign(t, req, s.now, nil), nil
			}
			v, src := newVolumes(t, s), &v1.PodCertificateProjection{SignerName: "s/a", KeyType: kind, CredentialBundlePath: "both", KeyPath: "key", CertificateChainPath: "chain"}
			files, err := v.certificateFiles(t.Context(), podWith(), certificateKey{Pod: "u"}, src, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tls.X509KeyPair(files["chain"].Data, files["key"].Data); err != nil {
				t.Errorf("key and chain: %v", err)
			}
			if _, err := tls.X509KeyPair(files["both"].Data, files["both"].Data); err != nil || !strings.HasPrefix(string(files["both"].Data), "-----BEGIN PRIVATE KEY") {
				t.Errorf("bundle: %v", err)
			}
			req := s.requests[0]
			if req.Spec.PodUID != "u" || req.Spec.ServiceAccountName != "default" || req.OwnerReferences[0].UID != "u" {
				t.Errorf("asked with %+v", req)
			}
		})
	}
}

func TestPodCertificateIsRenewedInTime(t *testing.T) {
	s := &server{now: time.Now()}
	answer := true
	s.decide = func(req *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
		if !answer {
			return nil, context.DeadlineExceeded
		}
		return sign(t, req, s.now, nil), nil
	}
	v, src := newVolumes(t, s), &v1.PodCertificateProjection{SignerName: "s/a", KeyType: "ED25519", CredentialBundlePath: "both"}
	read := func() string {
		files, err := v.certificateFiles(t.Context(), podWith(), certificateKey{Pod: "u"}, src, nil)
		if err != nil {
			return err.Error()
		}
		return string(files["both"].Data)
	}
	first := read()
	s.now = s.now.Add(40 * time.Minute)
	if read() != first || len(s.requests) != 1 {
		t.Error("renewed too early")
	}
	answer, s.now = false, s.now.Add(10*time.Minute) // past 80 % of its life
	if read() != first || read() != first || len(s.requests) != 2 {
		t.Errorf("while the signer is silent: %d requests, want the old certificate and one request more", len(s.requests))
	}
	answer = true
	if read() == first || len(s.requests) != 2 {
		t.Error("the answer was not taken")
	}
	answer, s.now = false, s.now.Add(2*time.Hour)
	if got := read(); !strings.HasPrefix(got, "pod certificate of signer s/a: request r2 is not answered yet") {
		t.Errorf("an expired certificate: %q", got)
	}
	v.forgetCertificates("u")
	if len(v.certificates) != 0 {
		t.Error("certificates of a pod that is gone are kept")
	}
}

func TestPodCertificateRefused(t *testing.T) {
	s := &server{now: time.Now()}
	s.decide = func(req *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
		out := req.DeepCopy()
		out.Status.Conditions = []metav1.Condition{{Type: "Denied", Status: metav1.ConditionTrue, Reason: "UnsupportedKeyType", Message: "ask for ED25519"}}
		return out, nil
	}
	v, src := newVolumes(t, s), &v1.PodCertificateProjection{SignerName: "s/a", KeyType: "ECDSAP256", CredentialBundlePath: "both"}
	for range 2 {
		_, err := v.certificateFiles(t.Context(), podWith(), certificateKey{Pod: "u"}, src, nil)
		if err == nil || err.Error() != "pod certificate of signer s/a: request r0: Denied: UnsupportedKeyType: ask for ED25519" {
			t.Errorf("got %v", err)
		}
	}
	if len(s.requests) != 1 {
		t.Errorf("%d requests after a final word", len(s.requests))
	}
	// A certificate for somebody else's key must not be handed out.
	other, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.decide = func(req *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
		return sign(t, req, s.now, other), nil
	}
	if _, err := v.certificateFiles(t.Context(), podWith(), certificateKey{Pod: "v"}, src, nil); err == nil || !strings.Contains(err.Error(), "for another key") {
		t.Errorf("got %v", err)
	}
	if !slices.ContainsFunc(s.requests, func(r *certificatesv1.PodCertificateRequest) bool { return r.Name == "r1" }) {
		t.Error("not asked")
	}
}
