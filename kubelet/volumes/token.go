package volumes

import (
	"context"
	"fmt"
	"strings"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	tokenLife   = time.Hour      // what the API server writes where nobody chose
	tokenMaxAge = 24 * time.Hour // a longer-lived token is renewed after this, for a leaked one is used less long
)

type tokenKey struct {
	Pod      types.UID
	Account  string
	Audience string
	Seconds  int64
}

type token struct {
	Value   string
	Issued  time.Time
	Expires time.Time
}

// fresh tells whether the token need not be renewed yet: it is before 80 % of its life, and less than a day old.
func (t token) fresh(now time.Time) bool {
	life := t.Expires.Sub(t.Issued)
	return t.Value != "" && now.Before(t.Issued.Add(min(life*8/10, tokenMaxAge)))
}

// token gives a token of the pod's service account that is bound to the pod. A token that should be renewed is still
// given while the API server does not answer, until it expires.
func (v *Volumes) token(ctx context.Context, pod *v1.Pod, src *v1.ServiceAccountTokenProjection) (string, error) {
	seconds := int64(tokenLife.Seconds())
	if src.ExpirationSeconds != nil {
		seconds = *src.ExpirationSeconds
	}
	key := tokenKey{pod.UID, pod.Namespace + "/" + account(pod), src.Audience, seconds}
	now := v.cfg.Now()
	v.mu.Lock()
	have := v.tokens[key]
	v.mu.Unlock()
	if have.fresh(now) {
		return have.Value, nil
	}
	got, err := v.cfg.Source.Token(ctx, pod.Namespace, account(pod), tokenRequest(pod, src.Audience, seconds))
	if err != nil {
		if have.Value != "" && now.Before(have.Expires) {
			v.cfg.Log.Info("renew token", "pod", pod.Namespace+"/"+pod.Name, "err", err)
			return have.Value, nil
		}
		return "", fmt.Errorf("failed to fetch token: %w", err)
	}
	v.mu.Lock()
	v.tokens[key] = token{Value: got.Status.Token, Issued: now, Expires: got.Status.ExpirationTimestamp.Time}
	v.mu.Unlock()
	return got.Status.Token, nil
}

func account(pod *v1.Pod) string {
	if pod.Spec.ServiceAccountName == "" {
		return "default"
	}
	return pod.Spec.ServiceAccountName
}

func tokenRequest(pod *v1.Pod, audience string, seconds int64) *authv1.TokenRequest {
	req := &authv1.TokenRequest{
		ObjectMeta: metav1.ObjectMeta{Name: account(pod), Namespace: pod.Namespace},
		Spec: authv1.TokenRequestSpec{
			ExpirationSeconds: &seconds,
			BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		},
	}
	if strings.TrimSpace(audience) != "" {
		req.Spec.Audiences = []string{audience}
	}
	return req
}

func (v *Volumes) forgetTokens(uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key := range v.tokens {
		if key.Pod == uid {
			delete(v.tokens, key)
		}
	}
}
