package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// user is who is asking.
type user struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}

const (
	groupAuthenticated   = "system:authenticated"
	groupUnauthenticated = "system:unauthenticated"
)

// errNobody says that a request shows no credentials that are believed.
var errNobody = errors.New("Unauthorized")

type authenticator struct {
	cfg    AuthConfig
	tokens *memory[[sha256.Size]byte, user]
}

func newAuthenticator(cfg AuthConfig) *authenticator {
	if cfg.TokenLife == 0 {
		cfg.TokenLife = 2 * time.Minute
	}
	return &authenticator{cfg: cfg, tokens: newMemory[[sha256.Size]byte, user](1024)}
}

// who tells who sent the request, by its certificate or token. An error other than errNobody means that it could not be
// found out.
func (a *authenticator) who(r *http.Request) (user, error) {
	u, err := a.byCertificate(r)
	if errors.Is(err, errNobody) {
		u, err = a.byToken(r)
	}
	if err == nil {
		if !slices.Contains(u.Groups, groupAuthenticated) {
			u.Groups = append(slices.Clip(u.Groups), groupAuthenticated)
		}
		return u, nil
	}
	if errors.Is(err, errNobody) && a.cfg.Anonymous {
		return user{Name: "system:anonymous", Groups: []string{groupUnauthenticated}}, nil
	}
	return user{}, err
}

func (a *authenticator) byCertificate(r *http.Request) (user, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || a.cfg.ClientCAs == nil {
		return user{}, errNobody
	}
	between := x509.NewCertPool()
	for _, c := range r.TLS.PeerCertificates[1:] {
		between.AddCert(c)
	}
	leaf := r.TLS.PeerCertificates[0]
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:         a.cfg.ClientCAs(),
		Intermediates: between,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil || leaf.Subject.CommonName == "" {
		return user{}, errNobody
	}
	return user{Name: leaf.Subject.CommonName, Groups: leaf.Subject.Organization}, nil
}

func (a *authenticator) byToken(r *http.Request) (user, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "bearer") || token == "" || !a.cfg.Tokens || a.cfg.Client == nil {
		return user{}, errNobody
	}
	key := sha256.Sum256([]byte(token))
	if u, ok := a.tokens.recall(key, time.Now()); ok {
		return u, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), reviewLimit)
	defer cancel()
	review := &authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token}}
	got, err := a.cfg.Client.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return user{}, fmt.Errorf("review token: %w", err)
	}
	if !got.Status.Authenticated {
		return user{}, errNobody
	}
	u := user{Name: got.Status.User.Username, UID: got.Status.User.UID, Groups: got.Status.User.Groups}
	if len(got.Status.User.Extra) > 0 {
		u.Extra = map[string][]string{}
		for k, v := range got.Status.User.Extra {
			u.Extra[k] = v
		}
	}
	a.tokens.keep(key, u, time.Now().Add(a.cfg.TokenLife))
	return u, nil
}

// reviewLimit bounds a question to the API server, which the caller waits for.
const reviewLimit = 10 * time.Second
