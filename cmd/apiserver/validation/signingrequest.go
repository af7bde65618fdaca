package validation

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// legacySigner is what requests of the API's first version were for. Certificates of it say nothing of whom they trust.
const legacySigner = "kubernetes.io/legacy-unknown"

// maxSignerName is the length of the longest domain and the longest name of a signer in a namespace, with what joins them.
const maxSignerName = validation.DNS1123SubdomainMaxLength + 1 + validation.DNS1123SubdomainMaxLength + 1 + validation.DNS1123LabelMaxLength

func signingRequest(c *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var errs field.ErrorList
	if block, rest := pem.Decode(c.Spec.Request); block == nil || block.Type != "CERTIFICATE REQUEST" {
		errs = append(errs, field.Invalid(spec().Child("request"), c.Spec.Request, "PEM block type must be CERTIFICATE REQUEST"))
	} else if request, err := x509.ParseCertificateRequest(block.Bytes); err != nil {
		errs = append(errs, field.Invalid(spec().Child("request"), c.Spec.Request, err.Error()))
	} else if err := request.CheckSignature(); err != nil {
		errs = append(errs, field.Invalid(spec().Child("request"), c.Spec.Request, err.Error()))
	} else if strings.TrimSpace(string(rest)) != "" {
		errs = append(errs, field.Invalid(spec().Child("request"), c.Spec.Request, "trailing data after the certificate request"))
	}
	if len(c.Spec.Usages) == 0 {
		errs = append(errs, field.Required(spec().Child("usages"), "usages must be provided"))
	}
	for i, u := range c.Spec.Usages {
		errs = append(errs, supported(spec().Child("usages").Index(i), u, keyUsages()...)...)
		for _, before := range c.Spec.Usages[:i] {
			if u == before {
				errs = append(errs, field.Duplicate(spec().Child("usages").Index(i), u))
			}
		}
	}
	if c.Spec.SignerName == legacySigner {
		errs = append(errs, field.Invalid(spec().Child("signerName"), c.Spec.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, signerName(c.Spec.SignerName, spec().Child("signerName"))...)
	}
	if e := c.Spec.ExpirationSeconds; e != nil && *e < 600 {
		errs = append(errs, field.Invalid(spec().Child("expirationSeconds"), *e, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return errs
}

func signerName(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	domain, path, ok := strings.Cut(name, "/")
	if !ok || path == "" {
		return field.ErrorList{field.Invalid(p, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	errs := validation.IsFullyQualifiedDomainName(p, domain)
	for part := range strings.SplitSeq(path, ".") {
		for _, why := range validation.IsDNS1123Subdomain(part) {
			errs = append(errs, field.Invalid(p, path, fmt.Sprintf("validating label %q: %s", part, why)))
		}
	}
	if len(name) > maxSignerName {
		errs = append(errs, field.TooLong(p, name, maxSignerName))
	}
	return errs
}

// keyUsages are what a certificate may be for, in order of their names.
func keyUsages() []certificatesv1.KeyUsage {
	return sets.List(sets.New(
		certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature, certificatesv1.UsageContentCommitment, certificatesv1.UsageKeyEncipherment,
		certificatesv1.UsageKeyAgreement, certificatesv1.UsageDataEncipherment, certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign,
		certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly, certificatesv1.UsageAny, certificatesv1.UsageServerAuth,
		certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning, certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME,
		certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageTimestamping,
		certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC))
}

// signingRequestStatus holds that a decision is plain and that what was issued is a chain of certificates and nothing else.
func signingRequestStatus(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	errs := SigningDecision(c, old)
	certificate := status().Child("certificate")
	if len(old.Status.Certificate) > 0 && string(c.Status.Certificate) != string(old.Status.Certificate) {
		errs = append(errs, field.Forbidden(certificate, "updates may not modify existing certificate content"))
	}
	return append(errs, issuedChain(c.Status.Certificate, certificate)...)
}

// SigningDecision holds that conditions are plain, that approval and denial exclude each other, and that what was decided stays.
func SigningDecision(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var errs field.ErrorList
	at := status().Child("conditions")
	seen := sets.New[certificatesv1.RequestConditionType]()
	for i, condition := range c.Status.Conditions {
		p := at.Index(i)
		allowed := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		switch condition.Type {
		case "":
			errs = append(errs, field.Required(p.Child("type"), ""))
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			allowed = []corev1.ConditionStatus{corev1.ConditionTrue}
		}
		errs = append(errs, oneOf(p.Child("status"), condition.Status, allowed...)...)
		if seen.Has(condition.Type) {
			errs = append(errs, field.Duplicate(p.Child("type"), condition.Type))
		}
		seen.Insert(condition.Type)
	}
	if seen.HasAll(certificatesv1.CertificateApproved, certificatesv1.CertificateDenied) {
		errs = append(errs, field.Invalid(at, certificatesv1.CertificateDenied, "Approved and Denied conditions are mutually exclusive"))
	}
	for _, was := range old.Status.Conditions {
		switch was.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			if !seen.Has(was.Type) {
				errs = append(errs, field.Forbidden(at, fmt.Sprintf("updates may not remove a condition of type %q", was.Type)))
			}
		}
	}
	return errs
}

func issuedChain(data []byte, p *field.Path) field.ErrorList {
	if len(data) == 0 {
		return nil
	}
	blocks := 0
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return field.ErrorList{field.Invalid(p, "<certificate data>", fmt.Sprintf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type))}
		}
		if len(block.Headers) > 0 {
			return field.ErrorList{field.Invalid(p, "<certificate data>", "no PEM block headers are permitted")}
		}
		if _, err := x509.ParseCertificates(block.Bytes); err != nil {
			return field.ErrorList{field.Invalid(p, "<certificate data>", err.Error())}
		}
		blocks++
	}
	if blocks == 0 {
		return field.ErrorList{field.Invalid(p, "<certificate data>", "must contain at least one CERTIFICATE PEM block")}
	}
	return nil
}
