package authn

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	tokenjwt "k8s.io/apiserver/pkg/authentication/token/jwt"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/klog/v2"

	"github.com/orlop-io/orlop/cmd/apiserver/satoken"
)

// errStale is all that a client learns about a token whose objects have changed: which one is nobody's business.
var errStale = errors.New("service account token has been invalidated")

// goneGrace is how long a token still works after its pod's or account's deletion time, so that a pod that shuts down
// can finish its last requests.
const goneGrace = 60 * time.Second

type serviceAccounts struct {
	verifier  *satoken.Verifier
	audiences authenticator.Audiences
	objects   Objects
	now       func() time.Time
	// skipLookup is Config.SkipLookup.
	skipLookup bool
}

// AuthenticateToken knows the holder of a service account token, leaves tokens of other issuers to others, and refuses
// one of ours that is forged, expired, for another audience, or bound to what is gone.
func (s *serviceAccounts) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	if !s.verifier.Ours(token) {
		return nil, false, nil
	}
	c, err := s.verifier.Verify(token, s.now())
	if err != nil {
		return nil, false, err
	}
	audiences, err := s.matchAudiences(ctx, c)
	if err != nil {
		return nil, false, err
	}
	var info *serviceaccount.ServiceAccountInfo
	if c.Issuer == satoken.LegacyIssuer {
		info, err = s.legacy(ctx, token, c)
	} else {
		info, err = s.bound(ctx, c)
	}
	if err != nil {
		return nil, false, err
	}
	if c.Subject != serviceaccount.MakeUsername(info.Namespace, info.Name) {
		return nil, false, errors.New("service account token: its subject is not its service account")
	}
	return &authenticator.Response{User: info.UserInfo(), Audiences: audiences}, true, nil
}

func (s *serviceAccounts) matchAudiences(ctx context.Context, c satoken.Claims) (authenticator.Audiences, error) {
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		wanted = s.audiences
	}
	of := authenticator.Audiences(c.Audience)
	if c.Issuer == satoken.LegacyIssuer && len(of) == 0 {
		of = s.audiences
	}
	both := of.Intersect(wanted)
	if len(both) == 0 {
		return nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", of, wanted)
	}
	return both, nil
}

// bound checks that account, pod, secret and node of the claims are still the ones the token was made for.
func (s *serviceAccounts) bound(ctx context.Context, c satoken.Claims) (*serviceaccount.ServiceAccountInfo, error) {
	k := c.Kubernetes
	if k.Namespace == "" || k.ServiceAccount.Name == "" || k.ServiceAccount.UID == "" {
		return nil, errors.New("service account token: it names no service account")
	}
	info := &serviceaccount.ServiceAccountInfo{
		Namespace: k.Namespace, Name: k.ServiceAccount.Name, UID: k.ServiceAccount.UID, CredentialID: tokenjwt.CredentialIDForJTI(c.ID),
	}
	if s.skipLookup {
		if k.Pod != nil {
			info.PodName, info.PodUID = k.Pod.Name, k.Pod.UID
		}
		if k.Node != nil {
			info.NodeName, info.NodeUID = k.Node.Name, k.Node.UID
		}
		return info, nil
	}
	sa, err := s.objects.ServiceAccount(ctx, k.Namespace, k.ServiceAccount.Name, k.ServiceAccount.UID)
	if err != nil || !s.same(sa.ObjectMeta, k.ServiceAccount.UID) {
		return nil, errStale
	}
	if k.Secret != nil {
		secret, err := s.objects.Secret(ctx, k.Namespace, k.Secret.Name)
		if err != nil || !s.same(secret.ObjectMeta, k.Secret.UID) {
			return nil, errStale
		}
	}
	if k.Pod != nil {
		pod, err := s.objects.Pod(ctx, k.Namespace, k.Pod.Name, k.Pod.UID)
		if err != nil || !s.same(pod.ObjectMeta, k.Pod.UID) {
			return nil, errStale
		}
		info.PodName, info.PodUID = k.Pod.Name, k.Pod.UID
	}
	if k.Node != nil {
		// A pod's token names its node for information; only a token bound to the node itself ends with it.
		if k.Pod == nil {
			node, err := s.objects.Node(ctx, k.Node.Name, k.Node.UID)
			if err != nil || !s.same(node.ObjectMeta, k.Node.UID) {
				return nil, errStale
			}
		}
		info.NodeName, info.NodeUID = k.Node.Name, k.Node.UID
	}
	if w := k.WarnAfter; w != nil && s.now().After(w.Time()) {
		audit.AddAuditAnnotation(ctx, "authentication.k8s.io/stale-token", fmt.Sprintf("subject: %s, seconds after warning threshold: %.0f",
			c.Subject, s.now().Sub(w.Time()).Seconds()))
	}
	return info, nil
}

// legacy checks a token against the Secret that holds it.
func (s *serviceAccounts) legacy(ctx context.Context, token string, c satoken.Claims) (*serviceaccount.ServiceAccountInfo, error) {
	l := c.Legacy
	if l.Namespace == "" || l.SecretName == "" || l.ServiceAccountName == "" || l.ServiceAccountUID == "" {
		return nil, errors.New("service account token: it names no service account")
	}
	secret, err := s.objects.Secret(ctx, l.Namespace, l.SecretName)
	if err != nil || secret.DeletionTimestamp != nil ||
		subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1 {
		return nil, errStale
	}
	sa, err := s.objects.ServiceAccount(ctx, l.Namespace, l.ServiceAccountName, l.ServiceAccountUID)
	if err != nil || !s.same(sa.ObjectMeta, l.ServiceAccountUID) {
		return nil, errStale
	}
	if secret.Labels[invalidSince] != "" {
		return nil, errStale
	}
	for _, own := range sa.Secrets {
		if own.Name == secret.Name {
			warning.AddWarning(ctx, "", "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.")
		}
	}
	if today := s.now().UTC().Format(time.DateOnly); secret.Labels[lastUsed] != today {
		if err := s.objects.LabelSecret(ctx, l.Namespace, l.SecretName, lastUsed, today); err != nil {
			klog.FromContext(ctx).Error(err, "note use of a token", "secret", klog.KObj(secret))
		}
	}
	return &serviceaccount.ServiceAccountInfo{Namespace: l.Namespace, Name: sa.Name, UID: string(sa.UID)}, nil
}

// The labels of Secrets with tokens: when the token was last used, which whoever cleans up reads, and since when it has
// been switched off by them.
const (
	lastUsed     = "kubernetes.io/legacy-token-last-used"
	invalidSince = "kubernetes.io/legacy-token-invalid-since"
)

// same says whether an object is the one with uid and not gone: deleted for longer than the grace counts as gone.
func (s *serviceAccounts) same(m metav1.ObjectMeta, uid string) bool {
	if m.DeletionTimestamp != nil && s.now().After(m.DeletionTimestamp.Add(goneGrace)) {
		return false
	}
	return uid != "" && string(m.UID) == uid
}
