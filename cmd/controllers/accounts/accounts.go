// Package accounts lets each controller act as a ServiceAccount of its own, so that
// RBAC bounds what a fault in one can do, and audit logs tell them apart.
package accounts

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// life is how long a token is asked to live.
const life = time.Hour

// Config returns a configuration that acts as the ServiceAccount name in kube-system,
// which root, who must be allowed to, makes where it is missing. The connection is
// shared with base.
func Config(base *rest.Config, root kubernetes.Interface, name string) *rest.Config {
	tokens := &source{root: root, name: name}
	cfg := rest.AnonymousClientConfig(base)
	cfg.QPS, cfg.Burst = base.QPS, base.Burst
	cfg.ContentType, cfg.AcceptContentTypes = base.ContentType, base.AcceptContentTypes
	rest.AddUserAgent(cfg, "system:serviceaccount:"+metav1.NamespaceSystem+":"+name)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return &transport{tokens, next} })
	return cfg
}

// source asks for tokens and keeps the last one.
type source struct {
	root kubernetes.Interface
	name string

	mu      sync.Mutex
	token   string
	renewAt time.Time
}

func (s *source) get(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != "" && time.Now().Before(s.renewAt) {
		return s.token, nil
	}
	request := func() (*authenticationv1.TokenRequest, error) {
		seconds := int64(life / time.Second)
		return s.root.CoreV1().ServiceAccounts(metav1.NamespaceSystem).CreateToken(ctx, s.name,
			&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	}
	answer, err := request()
	if apierrors.IsNotFound(err) {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: s.name}}
		_, err = s.root.CoreV1().ServiceAccounts(metav1.NamespaceSystem).Create(ctx, account, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return "", fmt.Errorf("create service account %s: %w", s.name, err)
		}
		answer, err = request()
	}
	if err != nil {
		return "", fmt.Errorf("request token of service account %s: %w", s.name, err)
	}
	left := time.Until(answer.Status.ExpirationTimestamp.Time)
	s.token, s.renewAt = answer.Status.Token, time.Now().Add(left*4/5)
	return s.token, nil
}

// drop forgets token, which the API server refused.
func (s *source) drop(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token == token {
		s.token = ""
	}
}

type transport struct {
	tokens *source
	next   http.RoundTripper
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	token, err := t.tokens.get(req.Context())
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // a RoundTripper always does
		}
		return nil, err
	}
	own := req.Clone(req.Context())
	own.Header.Set("Authorization", "Bearer "+token)
	res, err := t.next.RoundTrip(own)
	if err == nil && res.StatusCode == http.StatusUnauthorized {
		t.tokens.drop(token)
	}
	return res, err
}
