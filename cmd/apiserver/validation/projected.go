package validation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// projection validates the sources of one projected volume, which share its folder.
type projection struct {
	p     *field.Path
	paths sets.Set[string]
}

func projected(v *corev1.ProjectedVolumeSource, p *field.Path) field.ErrorList {
	errs := mode(v.DefaultMode, p.Child("defaultMode"))
	errs = append(errs, userID(v.DefaultUser, p.Child("defaultUser"))...)
	all := projection{p: p, paths: sets.New[string]()}
	for i := range v.Sources {
		errs = append(errs, all.source(&v.Sources[i], p.Child("sources").Index(i))...)
	}
	return errs
}

// claim takes a path of the folder; owner is what asks for it.
func (pr projection) claim(path, owner string) field.ErrorList {
	if path == "" {
		return nil
	}
	if pr.paths.Has(path) {
		return field.ErrorList{field.Invalid(pr.p, owner, "conflicting duplicate paths")}
	}
	pr.paths.Insert(path)
	return nil
}

func (pr projection) source(s *corev1.VolumeProjection, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	set := 0
	if s.Secret != nil {
		set++
		errs = append(errs, required(at.Child("secret", "name"), s.Secret.Name)...)
		errs = append(errs, pr.items(s.Secret.Items, s.Secret.Name, at.Child("secret", "items"))...)
	}
	if s.ConfigMap != nil {
		set++
		errs = append(errs, required(at.Child("configMap", "name"), s.ConfigMap.Name)...)
		errs = append(errs, pr.items(s.ConfigMap.Items, s.ConfigMap.Name, at.Child("configMap", "items"))...)
	}
	if s.DownwardAPI != nil {
		set++
		for i := range s.DownwardAPI.Items {
			f := &s.DownwardAPI.Items[i]
			errs = append(errs, downwardItem(f, at.Child("downwardAPI"))...)
			errs = append(errs, pr.claim(f.Path, f.Path)...)
		}
	}
	if s.ServiceAccountToken != nil {
		set++
		errs = append(errs, pr.token(s.ServiceAccountToken, at.Child("serviceAccountToken"))...)
	}
	if s.ClusterTrustBundle != nil {
		set++
		errs = append(errs, pr.trustBundle(s.ClusterTrustBundle, at.Child("clusterTrustBundle"))...)
	}
	if s.PodCertificate != nil {
		set++
		errs = append(errs, pr.certificate(s.PodCertificate, at.Child("podCertificate"))...)
	}
	if set > 1 {
		errs = append(errs, field.Forbidden(at, "may not specify more than 1 volume type per source"))
	}
	return errs
}

func (pr projection) items(items []corev1.KeyToPath, owner string, p *field.Path) field.ErrorList {
	errs := keysToPaths(items, p)
	for _, k := range items {
		errs = append(errs, pr.claim(k.Path, owner)...)
	}
	return errs
}

func (pr projection) token(t *corev1.ServiceAccountTokenProjection, p *field.Path) field.ErrorList {
	errs := required(pr.p.Child("path"), t.Path)
	errs = append(errs, plainPath(t.Path, pr.p.Child("path"))...)
	if e := t.ExpirationSeconds; e != nil && *e < 10*60 {
		errs = append(errs, field.Invalid(p.Child("expirationSeconds"), *e, "may not specify a duration less than 10 minutes"))
	}
	if e := t.ExpirationSeconds; e != nil && *e > 1<<32 {
		errs = append(errs, field.Invalid(p.Child("expirationSeconds"), *e, "may not specify a duration larger than 2^32 seconds"))
	}
	return append(errs, userID(t.User, p.Child("user"))...)
}

func (pr projection) trustBundle(b *corev1.ClusterTrustBundleProjection, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case b.Name != nil && b.SignerName != nil:
		errs = append(errs, field.Invalid(p, b, "only one of name and signerName may be used"))
	case b.Name != nil:
		if *b.Name == "" {
			errs = append(errs, field.Required(p.Child("name"), "must be a valid object name"))
		}
		if b.LabelSelector != nil {
			errs = append(errs, field.Invalid(p.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified"))
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			errs = append(errs, field.Required(p.Child("signerName"), "must be a valid signer name"))
		} else {
			errs = append(errs, signerName(*b.SignerName, p.Child("signerName"))...)
		}
		errs = append(errs, labelSelector(p.Child("labelSelector"), b.LabelSelector)...)
	default:
		errs = append(errs, field.Required(p, "either name or signerName must be specified"))
	}
	errs = append(errs, required(p.Child("path"), b.Path)...)
	errs = append(errs, plainPath(b.Path, p.Child("path"))...)
	errs = append(errs, userID(b.User, p.Child("user"))...)
	return append(errs, pr.claim(b.Path, b.Path)...)
}

// How long a pod's certificate may last, in seconds. Signers of Kubernetes itself issue none for more than a day.
const (
	minCertificate           = 60 * 60
	maxCertificate           = 91 * 24 * 60 * 60
	maxKubernetesCertificate = 24 * 60 * 60
)

func (pr projection) certificate(c *corev1.PodCertificateProjection, p *field.Path) field.ErrorList {
	errs := signerName(c.SignerName, p.Child("signerName"))
	errs = append(errs, supported(p.Child("keyType"), c.KeyType, "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")...)
	if m := c.MaxExpirationSeconds; m != nil {
		most := int32(maxCertificate)
		if strings.HasPrefix(c.SignerName, "kubernetes.io/") {
			most = maxKubernetesCertificate
		}
		if *m < minCertificate {
			errs = append(errs, field.Invalid(p.Child("maxExpirationSeconds"), *m, fmt.Sprintf("if provided, maxExpirationSeconds must be >= %d", minCertificate)))
		}
		if *m > most {
			errs = append(errs, field.Invalid(p.Child("maxExpirationSeconds"), *m, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", most)))
		}
	}
	if c.CredentialBundlePath == "" && c.KeyPath == "" && c.CertificateChainPath == "" {
		errs = append(errs, field.Required(p, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"))
	}
	for _, f := range []struct{ name, path string }{
		{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath},
	} {
		errs = append(errs, plainPath(f.path, p.Child(f.name))...)
		errs = append(errs, pr.claim(f.path, f.path)...)
	}
	annotations := p.Child("userAnnotations")
	errs = append(errs, apivalidation.ValidateAnnotations(c.UserAnnotations, annotations)...)
	for k := range c.UserAnnotations {
		if !strings.Contains(k, "/") {
			errs = append(errs, field.Invalid(annotations, k, "must be a domain-prefixed key (such as \"acme.io/foo\")"))
		}
	}
	return append(errs, userID(c.User, p.Child("user"))...)
}
