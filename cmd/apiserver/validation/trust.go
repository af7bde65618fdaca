package validation

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// trustRules are the rules of trust bundles and of the certificates that kubelets ask for on behalf of pods.
func trustRules(obj runtime.Object) (rules, bool) {
	switch obj.(type) {
	case *certificatesv1.ClusterTrustBundle:
		return kind(trustBundle, func(b, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
			return append(trustBundle(b), immutable(spec().Child("signerName"), b.Spec.SignerName, old.Spec.SignerName)...)
		}, nil), true
	case *certificatesv1.PodCertificateRequest:
		return kind(podCertificate, func(p, old *certificatesv1.PodCertificateRequest) field.ErrorList {
			return immutable(spec(), p.Spec, old.Spec)
		}, podCertificateStatus), true
	}
	return rules{}, false
}

// maxBundle is the most bytes that a trust bundle may have.
const maxBundle = 1 << 20

func trustBundle(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
	var errs field.ErrorList
	if b.Spec.SignerName != "" {
		errs = append(errs, signerName(b.Spec.SignerName, spec().Child("signerName"))...)
	}
	at := spec().Child("trustBundle")
	if len(b.Spec.TrustBundle) > maxBundle {
		return append(errs, field.TooLong(at, "" /* too long to show */, maxBundle))
	}
	for _, message := range anchors(b.Spec.TrustBundle) {
		errs = append(errs, field.Invalid(at, "<value omitted>", message))
	}
	return errs
}

// anchors says what is wrong with a bundle: with its entries first, and with the whole only where each entry is well.
func anchors(bundle string) []string {
	var bad []string
	var entries []string
	for block, rest := pem.Decode([]byte(bundle)); block != nil; block, rest = pem.Decode(rest) {
		if message := anchor(block); message != "" {
			bad = append(bad, fmt.Sprintf("entry %d %s", len(entries), message))
		}
		entries = append(entries, string(block.Bytes))
	}
	switch {
	case len(bad) > 0:
		return bad
	case len(entries) == 0:
		return []string{"at least one trust anchor must be provided"}
	}
	seen := map[string]bool{}
	for i, e := range entries {
		if seen[e] {
			continue
		}
		seen[e] = true
		same := []string{fmt.Sprint(i)}
		for j := i + 1; j < len(entries); j++ {
			if entries[j] == e {
				same = append(same, fmt.Sprint(j))
			}
		}
		if len(same) > 1 {
			bad = append(bad, "duplicate trust anchor (indices ["+strings.Join(same, " ")+"])")
		}
	}
	return bad
}

func anchor(block *pem.Block) string {
	if block.Type != "CERTIFICATE" {
		return "has bad block type: " + block.Type
	}
	if len(block.Headers) > 0 {
		return "has PEM block headers"
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	switch {
	case err != nil:
		return "does not parse as X.509"
	case !certificate.IsCA:
		return "does not have the CA bit set"
	case !certificate.BasicConstraintsValid:
		return "has invalid basic constraints"
	}
	return ""
}

// The bounds of how long a pod's certificate may live, in seconds. Signers of Kubernetes itself give at most a day.
const (
	minPodCertificate     = 3600
	maxPodCertificate     = 91 * 24 * 3600
	maxKubePodCertificate = 24 * 3600
)

func podCertificate(p *certificatesv1.PodCertificateRequest) field.ErrorList {
	s := &p.Spec
	errs := signerName(s.SignerName, spec().Child("signerName"))
	for _, n := range []struct{ field, value string }{
		{"podName", s.PodName}, {"serviceAccountName", s.ServiceAccountName}, {"nodeName", string(s.NodeName)},
	} {
		errs = append(errs, invalid(spec().Child(n.field), n.value, validation.IsDNS1123Subdomain(n.value))...)
	}
	for _, n := range []struct{ field, value string }{
		{"podUID", string(s.PodUID)}, {"serviceAccountUID", string(s.ServiceAccountUID)}, {"nodeUID", string(s.NodeUID)},
	} {
		at := spec().Child(n.field)
		switch {
		case n.value == "":
			errs = append(errs, field.Required(at, "must not be empty"))
		case len(n.value) > 128:
			errs = append(errs, field.TooLong(at, n.value, 128))
		}
	}
	errs = append(errs, podLifetime(s)...)
	errs = append(errs, stubRequest(s.StubPKCS10Request, spec().Child("stubPKCS10Request"))...)
	at := spec().Child("unverifiedUserAnnotations")
	errs = append(errs, apivalidation.ValidateAnnotations(s.UnverifiedUserAnnotations, at)...)
	for key := range s.UnverifiedUserAnnotations {
		if !strings.Contains(key, "/") {
			errs = append(errs, field.Invalid(at, key, "must be a domain-prefixed key"))
		}
	}
	return errs
}

func podLifetime(s *certificatesv1.PodCertificateRequestSpec) field.ErrorList {
	at := spec().Child("maxExpirationSeconds")
	if s.MaxExpirationSeconds == nil {
		return field.ErrorList{field.Required(at, "must be set")}
	}
	limit := int32(maxPodCertificate)
	if domain, _, _ := strings.Cut(s.SignerName, "/"); domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
		limit = maxKubePodCertificate
	}
	if n := *s.MaxExpirationSeconds; n < minPodCertificate || n > limit {
		return field.ErrorList{field.Invalid(at, n, fmt.Sprintf("must be in the range [%d, %d]", minPodCertificate, limit))}
	}
	return nil
}

// maxStubRequest is the most bytes that a certificate request of a pod may have.
const maxStubRequest = 10 << 10

func stubRequest(der []byte, at *field.Path) field.ErrorList {
	switch {
	case len(der) == 0:
		return field.ErrorList{field.Required(at, "must not be empty")}
	case len(der) > maxStubRequest:
		return field.ErrorList{field.TooLong(at, "" /* too long to show */, maxStubRequest)}
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return field.ErrorList{field.Invalid(at, der, fmt.Sprintf("must parse as a PKCS#10 certificate signing request: %v", err))}
	}
	if err := request.CheckSignature(); err != nil {
		return field.ErrorList{field.Invalid(at, der, fmt.Sprintf("signature does not validate: %v", err))}
	}
	if message := keyKind(request.PublicKey); message != "" {
		return field.ErrorList{field.Invalid(at, der, message)}
	}
	return nil
}

func keyKind(key any) string {
	switch key := key.(type) {
	case ed25519.PublicKey:
		return ""
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() && key.Curve != elliptic.P521() {
			return "elliptic public keys must use curve P256, P384, or P521"
		}
		return ""
	case *rsa.PublicKey:
		if bits := key.Size() * 8; bits != 3072 && bits != 4096 {
			return "RSA keys must have modulus size 3072 or 4096"
		}
		return ""
	}
	return "unknown public key type; supported types are Ed25519, ECDSA, and RSA"
}

// podCertificateStatus holds that a request is decided once, and that what is issued fits what was asked for.
func podCertificateStatus(p, old *certificatesv1.PodCertificateRequest) field.ErrorList {
	at := status().Child("conditions")
	errs := metavalidation.ValidateConditions(p.Status.Conditions, at)
	end, ended := decided(p.Status.Conditions), decided(old.Status.Conditions)
	if len(end) > 1 {
		errs = append(errs, field.Invalid(at, p.Status.Conditions, `There may be at most one condition with type "Issued", "Denied", or "Failed"`))
	}
	for i, c := range p.Status.Conditions {
		if decides(c.Type) && c.Status != metav1.ConditionTrue {
			errs = append(errs, field.NotSupported(at.Index(i).Child("status"), c.Status, []metav1.ConditionStatus{metav1.ConditionTrue}))
		}
	}
	if len(ended) > 0 {
		if !slices.Equal(end, ended) {
			errs = append(errs, field.Invalid(at, p.Status.Conditions, "immutable after PodCertificateRequest is issued, denied, or failed"))
		}
		return append(errs, sameCertificate(&p.Status, &old.Status)...)
	}
	if !slices.Contains(end, certificatesv1.PodCertificateRequestConditionTypeIssued) {
		return append(errs, noCertificate(&p.Status)...)
	}
	return append(errs, issued(p)...)
}

func decides(conditionType string) bool {
	return slices.Contains([]string{certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied,
		certificatesv1.PodCertificateRequestConditionTypeFailed}, conditionType)
}

// decided lists the types of the conditions that end a request.
func decided(conditions []metav1.Condition) []string {
	var out []string
	for _, c := range conditions {
		if decides(c.Type) {
			out = append(out, c.Type)
		}
	}
	slices.Sort(out)
	return out
}

func sameCertificate(s, old *certificatesv1.PodCertificateRequestStatus) field.ErrorList {
	errs := immutable(status().Child("certificateChain"), s.CertificateChain, old.CertificateChain)
	errs = append(errs, immutable(status().Child("notBefore"), s.NotBefore, old.NotBefore)...)
	errs = append(errs, immutable(status().Child("beginRefreshAt"), s.BeginRefreshAt, old.BeginRefreshAt)...)
	return append(errs, immutable(status().Child("notAfter"), s.NotAfter, old.NotAfter)...)
}

func noCertificate(s *certificatesv1.PodCertificateRequestStatus) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []struct {
		name string
		set  bool
	}{{"certificateChain", s.CertificateChain != ""}, {"notBefore", s.NotBefore != nil}, {"beginRefreshAt", s.BeginRefreshAt != nil}, {"notAfter", s.NotAfter != nil}} {
		if f.set {
			errs = append(errs, field.Forbidden(status().Child(f.name), "must not be set unless the request is issued"))
		}
	}
	return errs
}

func issued(p *certificatesv1.PodCertificateRequest) field.ErrorList {
	s := &p.Status
	at := status().Child("certificateChain")
	leaf, message := chain(s.CertificateChain)
	if message != "" {
		return field.ErrorList{field.Invalid(at, s.CertificateChain, message)}
	}
	var errs field.ErrorList
	if request, err := x509.ParseCertificateRequest(p.Spec.StubPKCS10Request); err == nil {
		if key, ok := request.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && !key.Equal(leaf.PublicKey) {
			errs = append(errs, field.Invalid(at, s.CertificateChain, "leaf certificate was not issued to the requested public key"))
		}
	}
	for _, f := range []struct {
		name string
		t    *metav1.Time
	}{{"notBefore", s.NotBefore}, {"notAfter", s.NotAfter}, {"beginRefreshAt", s.BeginRefreshAt}} {
		if f.t == nil {
			errs = append(errs, field.Required(status().Child(f.name), "must be present and consistent with the issued certificate"))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return issuedTimes(s, leaf, p.Spec.MaxExpirationSeconds)
}

func issuedTimes(s *certificatesv1.PodCertificateRequestStatus, leaf *x509.Certificate, limit *int32) field.ErrorList {
	var errs field.ErrorList
	if !s.NotBefore.Time.Equal(leaf.NotBefore) {
		errs = append(errs, field.Invalid(status().Child("notBefore"), s.NotBefore, "must be set to the NotBefore time encoded in the leaf certificate"))
	}
	if !s.NotAfter.Time.Equal(leaf.NotAfter) {
		errs = append(errs, field.Invalid(status().Child("notAfter"), s.NotAfter, "must be set to the NotAfter time encoded in the leaf certificate"))
	}
	lifetime := leaf.NotAfter.Sub(leaf.NotBefore)
	if lifetime < time.Hour {
		errs = append(errs, field.Invalid(status().Child("certificateChain"), s.CertificateChain, "leaf certificate lifetime must be >= 1 hour"))
	}
	if limit != nil && lifetime > time.Duration(*limit)*time.Second {
		errs = append(errs, field.Invalid(status().Child("certificateChain"), s.CertificateChain,
			fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%v)", *limit)))
	}
	refresh := s.BeginRefreshAt.Time
	if refresh.Before(leaf.NotBefore.Add(10*time.Minute)) || refresh.After(leaf.NotAfter.Add(-10*time.Minute)) {
		errs = append(errs, field.Invalid(status().Child("beginRefreshAt"), s.BeginRefreshAt, "must be at least 10 minutes after status.notBefore and at least 10 minutes before status.notAfter"))
	}
	return errs
}

// chain returns the first certificate of a chain, or what is wrong with the chain.
func chain(text string) (leaf *x509.Certificate, message string) {
	n := 0
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks"
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Sprintf("certificate %d of the chain must be a valid X.509 certificate: %v", n, err)
		}
		if n == 0 {
			leaf = certificate
		}
		n++
	}
	if leaf == nil {
		return nil, "issued certificate chain must contain at least one certificate"
	}
	return leaf, ""
}
