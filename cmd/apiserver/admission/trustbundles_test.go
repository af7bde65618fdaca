package admission

import (
	"context"
	"strings"
	"testing"

	certv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	adm "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// signerRights allows the verb on the signers of example.com alone.
func signerRights(verb string) authorizer.UnconditionalAuthorizer {
	return authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if a.GetVerb() == verb && a.GetResource() == "signers" && strings.HasPrefix(a.GetName(), "example.com/") {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
}

func judge(plugin adm.ValidationInterface, resource, sub string, op adm.Operation, obj, old runtime.Object) error {
	a := adm.NewAttributesRecord(obj, old, certv1.SchemeGroupVersion.WithKind("x"), "ns", "n", certv1.SchemeGroupVersion.WithResource(resource), sub, op,
		nil, false, &user.DefaultInfo{Name: "u"})
	return plugin.Validate(context.Background(), a, nil)
}

func TestBundlesNeedAttestation(t *testing.T) {
	p := newTrustBundleAttest()
	p.SetUnconditionalAuthorizer(signerRights("attest"))
	bundle := func(signer, text string) *certv1.ClusterTrustBundle {
		return &certv1.ClusterTrustBundle{Spec: certv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: text}}
	}
	for _, tt := range []struct {
		name     string
		obj, old *certv1.ClusterTrustBundle
		refused  bool
	}{
		{"own signer", bundle("example.com/a", "x"), nil, false},
		{"no signer", bundle("", "x"), nil, false},
		{"another's signer", bundle("other.com/a", "x"), nil, true},
		{"another's bundle changed", bundle("other.com/a", "y"), bundle("other.com/a", "x"), true},
		{"another's bundle labelled", bundle("other.com/a", "x"), bundle("other.com/a", "x"), false},
	} {
		op, old := adm.Create, runtime.Object(nil)
		if tt.old != nil {
			op, old = adm.Update, tt.old
		}
		err := judge(p, "clustertrustbundles", "", op, tt.obj, old)
		if (err != nil) != tt.refused {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err != nil && !strings.Contains(err.Error(), `user not permitted to attest for signerName "other.com/a"`) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestPodCertificatesAreSigned(t *testing.T) {
	g := newCertificateSigning()
	g.SetUnconditionalAuthorizer(signerRights("sign"))
	was := &certv1.PodCertificateRequest{Spec: certv1.PodCertificateRequestSpec{SignerName: "other.com/a"}}
	now := was.DeepCopy()
	if err := judge(g, "podcertificaterequests", "status", adm.Update, now, was); err != nil {
		t.Errorf("nothing changed: %v", err)
	}
	now.Status.Conditions = []metav1.Condition{{Type: "Denied"}}
	if err := judge(g, "podcertificaterequests", "status", adm.Update, now, was); err == nil {
		t.Error("another's request was denied")
	}
	now.Spec.SignerName, was.Spec.SignerName = "example.com/a", "example.com/a"
	if err := judge(g, "podcertificaterequests", "status", adm.Update, now, was); err != nil {
		t.Errorf("own request: %v", err)
	}
}
