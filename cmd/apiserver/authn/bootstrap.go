package authn

import (
	"context"
	"crypto/subtle"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
)

type bootstrapTokens struct {
	secret func(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	now    func() time.Time
}

// AuthenticateToken knows the holder of a bootstrap token "id.secret". Whatever is wrong with it, the answer is just
// "unknown": a guesser must not learn which ids exist.
func (b *bootstrapTokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	if !bootstraputil.IsValidBootstrapToken(token) {
		return nil, false, nil
	}
	id, secretPart, _ := strings.Cut(token, ".")
	secret, err := b.secret(ctx, metav1.NamespaceSystem, bootstrapapi.BootstrapTokenSecretPrefix+id)
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	groups, ok := bootstrapGroups(secret, id, secretPart, b.now())
	if !ok {
		return nil, false, nil
	}
	return &authenticator.Response{User: &user.DefaultInfo{
		Name:   bootstrapapi.BootstrapUserPrefix + id,
		Groups: groups,
	}}, true, nil
}

// bootstrapGroups returns the groups of the token (id, secretPart) if secret vouches for it at the time now.
func bootstrapGroups(secret *corev1.Secret, id, secretPart string, now time.Time) ([]string, bool) {
	get := func(key string) string { return string(secret.Data[key]) }
	if secret.DeletionTimestamp != nil || secret.Type != corev1.SecretType(bootstrapapi.SecretTypeBootstrapToken) {
		return nil, false
	}
	have := secret.Data[bootstrapapi.BootstrapTokenSecretKey]
	if len(have) == 0 || subtle.ConstantTimeCompare(have, []byte(secretPart)) != 1 {
		return nil, false
	}
	if get(bootstrapapi.BootstrapTokenIDKey) != id || get(bootstrapapi.BootstrapTokenUsageAuthentication) != "true" {
		return nil, false
	}
	if end := get(bootstrapapi.BootstrapTokenExpirationKey); end != "" {
		t, err := time.Parse(time.RFC3339, end)
		if err != nil || !now.Before(t) {
			return nil, false // an end that cannot be read is an end
		}
	}
	groups := []string{bootstrapapi.BootstrapDefaultGroup}
	if extra := get(bootstrapapi.BootstrapTokenExtraGroupsKey); extra != "" {
		for g := range strings.SplitSeq(extra, ",") {
			if bootstraputil.ValidateBootstrapGroupName(g) != nil {
				return nil, false
			}
			groups = append(groups, g)
		}
	}
	return groups, true
}
