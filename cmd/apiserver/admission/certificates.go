package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	certv1 "k8s.io/api/certificates/v1"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// signerGuard lets only those approve a certificate, or put one into a request, who may do so for the request's signer:
// the right to write the subresource alone would let any approver hand out any identity.
type signerGuard struct {
	*adm.Handler
	name, subresource, verb string
	authz                   authorizer.UnconditionalAuthorizer
}

var (
	_ adm.ValidationInterface                  = (*signerGuard)(nil)
	_ initializer.WantsUnconditionalAuthorizer = (*signerGuard)(nil)
)

func newCertificateApproval() *signerGuard {
	return &signerGuard{Handler: adm.NewHandler(adm.Update), name: "CertificateApproval", subresource: "approval", verb: "approve"}
}

func newCertificateSigning() *signerGuard {
	return &signerGuard{Handler: adm.NewHandler(adm.Update), name: "CertificateSigning", subresource: "status", verb: "sign"}
}

func (g *signerGuard) SetUnconditionalAuthorizer(a authorizer.UnconditionalAuthorizer) { g.authz = a }

func (g *signerGuard) ValidateInitialization() error {
	if g.authz == nil {
		return fmt.Errorf("%s: no authorizer", g.name)
	}
	return nil
}

func (g *signerGuard) Validate(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if a.GetSubresource() != g.subresource {
		return nil
	}
	switch a.GetResource().GroupResource() {
	case certv1.Resource("certificatesigningrequests"):
	case certv1.Resource("podcertificaterequests"):
		return g.validatePod(ctx, a)
	default:
		return nil
	}
	old, ok1 := a.GetOldObject().(*certv1.CertificateSigningRequest)
	csr, ok2 := a.GetObject().(*certv1.CertificateSigningRequest)
	if !ok1 || !ok2 {
		return adm.NewForbidden(a, errUnexpected(a.GetObject()))
	}
	if g.verb == "sign" && slices.Equal(old.Status.Certificate, csr.Status.Certificate) && equal(old.Status.Conditions, csr.Status.Conditions) {
		return nil
	}
	// The old object's signer counts: the new one may name a signer that the user has a right to.
	if !mayForSigner(ctx, g.authz, a.GetUserInfo(), g.verb, old.Spec.SignerName) {
		return adm.NewForbidden(a, fmt.Errorf("user not permitted to %s requests with signerName %q", g.verb, old.Spec.SignerName))
	}
	return nil
}

// mayForSigner asks for the signer itself and then for all signers of its domain.
func mayForSigner(ctx context.Context, authz authorizer.UnconditionalAuthorizer, u user.Info, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := authz.Authorize(ctx, authorizer.AttributesRecord{
			User: u, Verb: verb, Name: name, APIGroup: certv1.GroupName, APIVersion: "*", Resource: "signers", ResourceRequest: true,
		})
		if err == nil && decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}

// subjectRestriction keeps anybody from asking for a certificate of system:masters, whom no authorizer can stop.
type subjectRestriction struct{ *adm.Handler }

var _ adm.ValidationInterface = subjectRestriction{}

func newSubjectRestriction() subjectRestriction {
	return subjectRestriction{adm.NewHandler(adm.Create)}
}

func (subjectRestriction) Validate(_ context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != certv1.Resource("certificatesigningrequests") || a.GetSubresource() != "" {
		return nil
	}
	csr, ok := a.GetObject().(*certv1.CertificateSigningRequest)
	if !ok {
		return adm.NewForbidden(a, errUnexpected(a.GetObject()))
	}
	if csr.Spec.SignerName != certv1.KubeAPIServerClientSignerName {
		return nil
	}
	req, err := parseCSR(csr.Spec.Request)
	if err != nil {
		return adm.NewForbidden(a, err)
	}
	if slices.Contains(req.Subject.Organization, user.SystemPrivilegedGroup) {
		return adm.NewForbidden(a, errors.New("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"))
	}
	return nil
}
