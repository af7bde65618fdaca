// Package authn says who sends a request: by client certificate, by the headers of a trusted front proxy, by a service
// account's or a bootstrap token, or as nobody in particular (system:anonymous).
//
// A credential that is shown but wrong never falls back to anonymous: such a request ends with 401.
package authn

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authentication/token/tokenfile"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"github.com/orlop-io/orlop/cmd/apiserver/satoken"
)

// tokenTTL is how long a good token is believed without looking again, as long as upstream does: a deleted pod's token
// works for so long at most.
const tokenTTL = 10 * time.Second

// Objects finds what a service account token names. Each method returns an error that apierrors.IsNotFound knows when
// the object is gone. Where there is a uid, an object of another may be returned only if there is surely none of that.
type Objects interface {
	ServiceAccount(ctx context.Context, namespace, name, uid string) (*corev1.ServiceAccount, error)
	Pod(ctx context.Context, namespace, name, uid string) (*corev1.Pod, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Node(ctx context.Context, name, uid string) (*corev1.Node, error)
	// LabelSecret sets one label of a Secret.
	LabelSecret(ctx context.Context, namespace, name, label, value string) error
}

// Config says which credentials count. What is nil or empty is switched off.
type Config struct {
	// ClientCA verifies client certificates; it is re-read when it changes. The TLS side must ask for certificates too
	// (AuthenticationInfo.ApplyClientCert), or no client ever shows one.
	ClientCA dynamiccertificates.CAContentProvider
	// RequestHeader names the front proxies whose headers are believed.
	RequestHeader *authenticatorfactory.RequestHeaderConfig
	// ServiceAccountKeys verify service account tokens. With no key, such tokens are unknown (401).
	ServiceAccountKeys []crypto.PublicKey
	// ServiceAccountIssuers are the accepted "iss"; the first is the one we sign with.
	ServiceAccountIssuers []string
	// APIAudiences are the audiences of this API server; a token must be for one of them.
	APIAudiences authenticator.Audiences
	// Objects looks up what service account and bootstrap tokens name. Needed with keys or BootstrapTokens.
	Objects Objects
	// BootstrapTokens switches tokens of Secrets kube-system/bootstrap-token-* on.
	BootstrapTokens bool
	// SkipLookup believes service account tokens of issuers other than LegacyIssuer without asking whether what they name
	// is still there.
	SkipLookup bool
	// TokenFile is a CSV file of tokens, users, uids and groups; empty means none. It is read by New alone.
	TokenFile string
	// Anonymous lets requests without a credential through as system:anonymous.
	Anonymous *apiserver.AnonymousAuthConfig
}

// New returns the authenticator for cfg. It looks nothing up until it is asked.
func New(cfg Config) (authenticator.Request, error) {
	var requests []authenticator.Request
	if h := cfg.RequestHeader; h != nil {
		if h.CAContentProvider == nil {
			// Without a CA anybody could name himself in a header.
			return nil, errors.New("authenticate front proxies: there is no CA to verify them")
		}
		requests = append(requests, acquaint(h.CAContentProvider.VerifyOptions, func(verify x509.VerifyOptionFunc) authenticator.Request {
			return headerrequest.NewDynamicVerifyOptionsSecure(verify, h.AllowedClientNames, h.UsernameHeaders, h.UIDHeaders, h.GroupHeaders, h.ExtraHeaderPrefixes)
		}))
	}
	if cfg.ClientCA != nil {
		requests = append(requests, acquaint(cfg.ClientCA.VerifyOptions, func(verify x509.VerifyOptionFunc) authenticator.Request {
			return x509.NewDynamic(verify, x509.CommonNameUserConversion)
		}))
	}
	tokens, err := tokenAuthenticators(cfg)
	if err != nil {
		return nil, err
	}
	if len(tokens) > 0 {
		cached := cache.New(tokenunion.New(tokens...), false, tokenTTL, 0)
		requests = append(requests, bearertoken.New(cached), websocket.NewProtocolAuthenticator(cached))
	}
	anonymously := cfg.Anonymous != nil && cfg.Anonymous.Enabled
	switch {
	case len(requests) == 0 && anonymously:
		return anonymous.NewAuthenticator(cfg.Anonymous.Conditions), nil
	case len(requests) == 0:
		return nil, errors.New("authenticate requests: no kind of credential is switched on")
	}
	known := group.NewAuthenticatedGroupAdder(union.New(requests...))
	if !anonymously {
		return known, nil
	}
	return union.NewFailOnError(known, anonymous.NewAuthenticator(cfg.Anonymous.Conditions)), nil
}

func tokenAuthenticators(cfg Config) ([]authenticator.Token, error) {
	var tokens []authenticator.Token
	if cfg.TokenFile != "" {
		known, err := tokenfile.NewCSV(cfg.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("read token file: %w", err)
		}
		tokens = append(tokens, authenticator.WrapAudienceAgnosticToken(cfg.APIAudiences, known))
	}
	if len(cfg.ServiceAccountKeys) == 0 && !cfg.BootstrapTokens {
		return tokens, nil
	}
	if cfg.Objects == nil {
		return nil, errors.New("authenticate tokens: there is no way to look up the objects they name")
	}
	if len(cfg.ServiceAccountKeys) > 0 {
		v, err := satoken.NewVerifier(cfg.ServiceAccountIssuers, cfg.ServiceAccountKeys)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, &serviceAccounts{verifier: v, audiences: cfg.APIAudiences, objects: cfg.Objects, now: time.Now, skipLookup: cfg.SkipLookup})
	}
	if cfg.BootstrapTokens {
		b := &bootstrapTokens{secret: cfg.Objects.Secret, now: time.Now}
		tokens = append(tokens, authenticator.WrapAudienceAgnosticToken(cfg.APIAudiences, b))
	}
	return tokens, nil
}
