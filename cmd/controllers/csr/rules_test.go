package csr

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func request(t *testing.T, user string, mutate ...func(*x509.CertificateRequest, *certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr := &certificatesv1.CertificateSigningRequest{}
	csr.Spec.Username, csr.Spec.SignerName = user, certificatesv1.KubeAPIServerClientKubeletSignerName
	csr.Spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	req := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n", Organization: []string{"system:nodes"}}}
	for _, m := range mutate {
		m(req, csr)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, req, key)
	if err != nil {
		t.Fatal(err)
	}
	csr.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	return csr
}

type mutation = func(*x509.CertificateRequest, *certificatesv1.CertificateSigningRequest)

func TestMatch(t *testing.T) {
	for _, tc := range []struct {
		name, user, first string
		mutate            mutation
	}{
		{"bootstrap token for a node", "system:bootstrap:abcdef", "nodeclient", nil},
		{"node for itself", "system:node:n", "selfnodeclient", nil},
		{"with key encipherment", "system:node:n", "selfnodeclient", func(_ *x509.CertificateRequest, c *certificatesv1.CertificateSigningRequest) {
			c.Spec.Usages = append(c.Spec.Usages, certificatesv1.UsageKeyEncipherment)
		}},
		{"masters", "system:node:n", "", func(r *x509.CertificateRequest, _ *certificatesv1.CertificateSigningRequest) {
			r.Subject.Organization = []string{"system:masters"}
		}},
		{"one group more", "system:node:n", "", func(r *x509.CertificateRequest, _ *certificatesv1.CertificateSigningRequest) {
			r.Subject.Organization = []string{"system:nodes", "system:masters"}
		}},
		{"not a node", "system:node:n", "", func(r *x509.CertificateRequest, _ *certificatesv1.CertificateSigningRequest) {
			r.Subject.CommonName = "admin"
		}},
		{"with a DNS name", "system:node:n", "", func(r *x509.CertificateRequest, _ *certificatesv1.CertificateSigningRequest) {
			r.DNSNames = []string{"n"}
		}},
		{"as a server", "system:node:n", "", func(_ *x509.CertificateRequest, c *certificatesv1.CertificateSigningRequest) {
			c.Spec.Usages = append(c.Spec.Usages, certificatesv1.UsageServerAuth)
		}},
		{"other signer", "system:node:n", "", func(_ *x509.CertificateRequest, c *certificatesv1.CertificateSigningRequest) {
			c.Spec.SignerName = certificatesv1.KubeletServingSignerName
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var mutations []mutation
			if tc.mutate != nil {
				mutations = append(mutations, tc.mutate)
			}
			rights, ok := match(request(t, tc.user, mutations...))
			if ok != (tc.first != "") || ok && rights[0].subresource != tc.first {
				t.Errorf("got %v, %v; want %q", rights, ok, tc.first)
			}
		})
	}
}

func TestSign(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	root := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(100 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := NewSigner(ca, key, 1000*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	out, err := signer.Sign(request(t, "u"), now)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(out)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := cert.CheckSignatureFrom(ca); err != nil {
		t.Error(err)
	}
	if cert.Subject.CommonName != "system:node:n" || cert.IsCA || cert.NotAfter.After(ca.NotAfter) || len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("certificate %v: CA %v, until %v, usages %v", cert.Subject, cert.IsCA, cert.NotAfter, cert.ExtKeyUsage)
	}
	var refused *refusal
	_, err = signer.Sign(request(t, "u", func(r *x509.CertificateRequest, _ *certificatesv1.CertificateSigningRequest) {
		r.Subject.Organization = []string{"system:masters"}
	}), now)
	if !errors.As(err, &refused) {
		t.Errorf("a node in system:masters: %v", err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSigner(ca, other, time.Hour); err == nil {
		t.Error("a key that is not the CA's was accepted")
	}
}

func TestServingCertificatesHaveTheNodesOwnNames(t *testing.T) {
	node := func(name string, addresses ...string) corev1.Node {
		n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, a := range addresses {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Address: a})
		}
		return n
	}
	nodes := []corev1.Node{node("n", "192.0.2.1", "n.example", "192.0.2.9"), node("m", "192.0.2.2", "192.0.2.9")}
	for _, tc := range []struct {
		name, user string
		dns, ips   []string
		want       string
	}{
		{"its own", "system:node:n", []string{"n", "N.example"}, []string{"192.0.2.1"}, ""},
		{"another's address", "system:node:n", nil, []string{"192.0.2.2"}, "node n is not known as 192.0.2.2"},
		{"another's name", "system:node:n", []string{"m"}, nil, "node n is not known as m"},
		{"an address that two have", "system:node:n", []string{"n"}, []string{"192.0.2.9"}, "node n is known as 192.0.2.9, as is node m"},
		{"a name of nobody", "system:node:n", []string{"kubernetes.default.svc"}, nil, "node n is not known as kubernetes.default.svc"},
		{"asked by somebody else", "system:node:m", []string{"n"}, nil, "not for us"},
		{"without a name", "system:node:n", nil, nil, "not for us"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			csr := request(t, tc.user, func(r *x509.CertificateRequest, c *certificatesv1.CertificateSigningRequest) {
				c.Spec.SignerName = certificatesv1.KubeletServingSignerName
				c.Spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
				r.DNSNames = tc.dns
				for _, ip := range tc.ips {
					r.IPAddresses = append(r.IPAddresses, net.ParseIP(ip))
				}
			})
			got := "not for us"
			if req, ok := serves(csr); ok {
				got = ""
				if err := ownNames(req, nodes); err != nil {
					got = err.Error()
				}
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
