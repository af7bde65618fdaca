package admission

import (
	"context"
	"errors"
	"fmt"

	certv1 "k8s.io/api/certificates/v1"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// trustBundleAttest lets only those say which certificates belong to a signer who may attest for it: clients believe
// what a bundle in the signer's name holds.
type trustBundleAttest struct {
	*adm.Handler
	authz authorizer.UnconditionalAuthorizer
}

var (
	_ adm.ValidationInterface                  = (*trustBundleAttest)(nil)
	_ initializer.WantsUnconditionalAuthorizer = (*trustBundleAttest)(nil)
)

func newTrustBundleAttest() *trustBundleAttest {
	return &trustBundleAttest{Handler: adm.NewHandler(adm.Create, adm.Update)}
}

func (p *trustBundleAttest) SetUnconditionalAuthorizer(a authorizer.UnconditionalAuthorizer) {
	p.authz = a
}

func (p *trustBundleAttest) ValidateInitialization() error {
	if p.authz == nil {
		return errors.New("ClusterTrustBundleAttest: no authorizer")
	}
	return nil
}

func (p *trustBundleAttest) Validate(ctx context.Context, a adm.Attributes, _ adm.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != certv1.Resource("clustertrustbundles") || a.GetSubresource() != "" {
		return nil
	}
	bundle, ok := a.GetObject().(*certv1.ClusterTrustBundle)
	if !ok {
		return adm.NewForbidden(a, errUnexpected(a.GetObject()))
	}
	// Labels, and finalizers of a bundle that goes, are everybody's who may update bundles.
	if old, ok := a.GetOldObject().(*certv1.ClusterTrustBundle); ok && a.GetOperation() == adm.Update && equal(old.Spec, bundle.Spec) {
		return nil
	}
	if bundle.Spec.SignerName == "" || mayForSigner(ctx, p.authz, a.GetUserInfo(), "attest", bundle.Spec.SignerName) {
		return nil
	}
	return adm.NewForbidden(a, fmt.Errorf("user not permitted to attest for signerName %q", bundle.Spec.SignerName))
}

// validatePod is Validate for the status of pod certificate requests: who issues, denies or fails one signs.
func (g *signerGuard) validatePod(ctx context.Context, a adm.Attributes) error {
	old, ok1 := a.GetOldObject().(*certv1.PodCertificateRequest)
	req, ok2 := a.GetObject().(*certv1.PodCertificateRequest)
	if !ok1 || !ok2 {
		return adm.NewForbidden(a, errUnexpected(a.GetObject()))
	}
	if equal(old.Status, req.Status) || mayForSigner(ctx, g.authz, a.GetUserInfo(), g.verb, old.Spec.SignerName) {
		return nil
	}
	return adm.NewForbidden(a, fmt.Errorf("user not permitted to %s requests with signerName %q", g.verb, old.Spec.SignerName))
}
