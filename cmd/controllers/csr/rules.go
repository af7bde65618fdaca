package csr

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
)

// legacyUnknown signs whatever an administrator approved.
const legacyUnknown = "kubernetes.io/legacy-unknown"

// right is a permission that lets a request be approved.
type right struct{ subresource, message string }

// match returns the rights of which the requester must have one, in turn; false where the
// request is not ours to approve.
func match(csr *certificatesv1.CertificateSigningRequest) ([]right, bool) {
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil, false
	}
	req, err := parse(csr.Spec.Request)
	if err != nil || checkKubeletClient(req, csr.Spec.Usages) != nil {
		return nil, false
	}
	rights := []right{{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."}}
	if req.Subject.CommonName == csr.Spec.Username {
		rights = append([]right{{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."}}, rights...)
	}
	return rights, true
}

// serves says whether a request is for a certificate that its requester, a node, is to serve with. Whether the names in it
// are the node's own, ownNames says.
func serves(csr *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, bool) {
	if csr.Spec.SignerName != certificatesv1.KubeletServingSignerName {
		return nil, false
	}
	req, err := parse(csr.Spec.Request)
	if err != nil || checkKubeletServing(req, csr.Spec.Usages) != nil || req.Subject.CommonName != csr.Spec.Username {
		return nil, false
	}
	return req, true
}

// ownNames returns why a node may not serve under the names and addresses of req: they must be those of its Node object,
// and no other Node may have them too, for a node writes its own addresses.
func ownNames(req *x509.CertificateRequest, nodes []corev1.Node) error {
	name := strings.TrimPrefix(req.Subject.CommonName, "system:node:")
	i := slices.IndexFunc(nodes, func(n corev1.Node) bool { return n.Name == name })
	if i < 0 {
		return fmt.Errorf("there is no node %s", name)
	}
	wanted := slices.Clone(req.DNSNames)
	for _, ip := range req.IPAddresses {
		wanted = append(wanted, ip.String())
	}
	for _, want := range wanted {
		if !goesBy(&nodes[i], want) {
			return fmt.Errorf("node %s is not known as %s", name, want)
		}
		for j := range nodes {
			if j != i && goesBy(&nodes[j], want) {
				return fmt.Errorf("node %s is known as %s, as is node %s", name, want, nodes[j].Name)
			}
		}
	}
	return nil
}

func goesBy(n *corev1.Node, name string) bool {
	return strings.EqualFold(n.Name, name) || slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool {
		if ip := net.ParseIP(a.Address); ip != nil {
			return ip.Equal(net.ParseIP(name))
		}
		return strings.EqualFold(a.Address, name)
	})
}

func parse(request []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

func checkNode(req *x509.CertificateRequest) error {
	switch {
	case !slices.Equal(req.Subject.Organization, []string{"system:nodes"}):
		return errors.New("subject organization is not system:nodes")
	case !strings.HasPrefix(req.Subject.CommonName, "system:node:"):
		return errors.New("subject common name does not begin with system:node: ")
	case len(req.EmailAddresses) > 0:
		return errors.New("email subjectAltNames are not allowed")
	case len(req.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	return nil
}

func checkKubeletClient(req *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := checkNode(req); err != nil {
		return err
	}
	if len(req.DNSNames) > 0 || len(req.IPAddresses) > 0 {
		return errors.New("DNS and IP subjectAltNames are not allowed")
	}
	return checkUsages(usages, certificatesv1.UsageClientAuth)
}

func checkKubeletServing(req *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := checkNode(req); err != nil {
		return err
	}
	if len(req.DNSNames) == 0 && len(req.IPAddresses) == 0 {
		return errors.New("at least one DNS or IP subjectAltName is required")
	}
	return checkUsages(usages, certificatesv1.UsageServerAuth)
}

// checkUsages allows extended and digital signature, which must be there, and key encipherment, which may.
func checkUsages(usages []certificatesv1.KeyUsage, extended certificatesv1.KeyUsage) error {
	left := slices.DeleteFunc(slices.Clone(usages), func(u certificatesv1.KeyUsage) bool { return u == certificatesv1.UsageKeyEncipherment })
	slices.Sort(left)
	want := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, extended}
	slices.Sort(want)
	if !slices.Equal(left, want) {
		return fmt.Errorf("usages must be digital signature, %s, and at most key encipherment", extended)
	}
	return nil
}

func signs(name string) bool {
	switch name {
	case certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName,
		certificatesv1.KubeletServingSignerName, legacyUnknown:
		return true
	}
	return false
}

// refusal is a request that its signer will never sign.
type refusal struct{ why error }

func (r *refusal) Error() string { return r.why.Error() }

// Signer signs with one CA.
type Signer struct {
	CA  *x509.Certificate
	Key crypto.Signer
	// Longest is how long a certificate lives that asks for nothing shorter.
	Longest time.Duration
}

// NewSigner returns a Signer, where key is ca's.
func NewSigner(ca *x509.Certificate, key any, longest time.Duration) (*Signer, error) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", key)
	}
	public, ok := ca.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(signer.Public()) {
		return nil, errors.New("signing key does not belong to the signing CA")
	}
	return &Signer{CA: ca, Key: signer, Longest: longest}, nil
}

// Sign returns the certificate for an approved request, as PEM. A *refusal says that the
// request breaks its signer's rules.
func (s *Signer) Sign(csr *certificatesv1.CertificateSigningRequest, now time.Time) ([]byte, error) {
	req, err := parse(csr.Spec.Request)
	if err != nil {
		return nil, &refusal{fmt.Errorf("unable to parse csr %q: %w", csr.Name, err)}
	}
	if err := req.CheckSignature(); err != nil {
		return nil, &refusal{fmt.Errorf("signature of csr %q: %w", csr.Name, err)}
	}
	if err := checkFor(csr.Spec.SignerName, req, csr.Spec.Usages); err != nil {
		return nil, &refusal{err}
	}
	template, err := s.template(csr, req, now)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.CA, req.PublicKey, s.Key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	var out bytes.Buffer
	if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func checkFor(signer string, req *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch signer {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return checkKubeletClient(req, usages)
	case certificatesv1.KubeletServingSignerName:
		return checkKubeletServing(req, usages)
	case certificatesv1.KubeAPIServerClientSignerName:
		if !slices.Contains(usages, certificatesv1.UsageClientAuth) {
			return errors.New("usages must include client auth")
		}
		for _, u := range usages {
			switch u {
			case certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment:
			default:
				return fmt.Errorf("usage %q is not allowed", u)
			}
		}
	}
	return nil
}

func (s *Signer) template(csr *certificatesv1.CertificateSigningRequest, req *x509.CertificateRequest, now time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	life := s.Longest
	if want := csr.Spec.ExpirationSeconds; want != nil {
		life = min(life, max(time.Duration(*want)*time.Second, 10*time.Minute))
	}
	begin, end := now.Add(-5*time.Minute), now.Add(life) // clocks differ
	if end.After(s.CA.NotAfter) {
		end = s.CA.NotAfter
	}
	usage, extended := keyUsages(csr.Spec.Usages)
	return &x509.Certificate{
		SerialNumber: serial, RawSubject: req.RawSubject, NotBefore: begin, NotAfter: end,
		DNSNames: req.DNSNames, IPAddresses: req.IPAddresses, EmailAddresses: req.EmailAddresses, URIs: req.URIs,
		KeyUsage: usage, ExtKeyUsage: extended, BasicConstraintsValid: true,
	}, nil
}

func keyUsages(usages []certificatesv1.KeyUsage) (usage x509.KeyUsage, extended []x509.ExtKeyUsage) {
	plain := map[certificatesv1.KeyUsage]x509.KeyUsage{
		certificatesv1.UsageSigning: x509.KeyUsageDigitalSignature, certificatesv1.UsageDigitalSignature: x509.KeyUsageDigitalSignature,
		certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment, certificatesv1.UsageKeyEncipherment: x509.KeyUsageKeyEncipherment,
		certificatesv1.UsageKeyAgreement: x509.KeyUsageKeyAgreement, certificatesv1.UsageDataEncipherment: x509.KeyUsageDataEncipherment,
		certificatesv1.UsageCertSign: x509.KeyUsageCertSign, certificatesv1.UsageCRLSign: x509.KeyUsageCRLSign,
		certificatesv1.UsageEncipherOnly: x509.KeyUsageEncipherOnly, certificatesv1.UsageDecipherOnly: x509.KeyUsageDecipherOnly,
	}
	ext := map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
		certificatesv1.UsageAny: x509.ExtKeyUsageAny, certificatesv1.UsageServerAuth: x509.ExtKeyUsageServerAuth,
		certificatesv1.UsageClientAuth: x509.ExtKeyUsageClientAuth, certificatesv1.UsageCodeSigning: x509.ExtKeyUsageCodeSigning,
		certificatesv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection, certificatesv1.UsageTimestamping: x509.ExtKeyUsageTimeStamping,
		certificatesv1.UsageOCSPSigning: x509.ExtKeyUsageOCSPSigning,
	}
	for _, u := range usages {
		usage |= plain[u]
		if e, ok := ext[u]; ok && !slices.Contains(extended, e) {
			extended = append(extended, e)
		}
	}
	slices.Sort(extended)
	return usage, extended
}

// Stale tells that nobody waits for csr any more at now.
func Stale(csr *certificatesv1.CertificateSigningRequest, now time.Time) bool {
	older := func(t time.Time, d time.Duration) bool { return !t.IsZero() && now.Sub(t) > d }
	if len(csr.Status.Certificate) > 0 {
		block, _ := pem.Decode(csr.Status.Certificate)
		if block != nil {
			if cert, err := x509.ParseCertificate(block.Bytes); err == nil && now.After(cert.NotAfter) {
				return true
			}
		}
	}
	for _, c := range csr.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			if older(c.LastUpdateTime.Time, time.Hour) {
				return true
			}
		}
	}
	return len(csr.Status.Conditions) == 0 && older(csr.CreationTimestamp.Time, 24*time.Hour)
}
