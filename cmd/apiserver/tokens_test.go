package apiserver

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/orlop-io/orlop/cmd/apiserver/satoken"
)

const testIssuer = "https://kubernetes.default.svc"

// withToken is a client that shows a token.
func withToken(t *testing.T, token string) *kubernetes.Clientset {
	t.Helper()
	cfg := shared.anonymousConfig()
	cfg.BearerToken = token
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// whoami asks the server who shows the token.
func whoami(t *testing.T, token string) (authenticationv1.UserInfo, error) {
	t.Helper()
	r, err := withToken(t, token).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return r.Status.UserInfo, nil
}

func newToken(t *testing.T, ns string, spec authenticationv1.TokenRequestSpec) string {
	t.Helper()
	r, err := shared.client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Token
}

func TestTokensEndWithWhatTheyAreBoundTo(t *testing.T) {
	t.Parallel() // it waits until the server forgets whom it has seen
	ns := namespace(t, "bound")
	ctx := t.Context()
	core := shared.client.CoreV1()
	p, err := core.Pods(ns).Create(ctx, pod("p", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := core.Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n, err := core.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "bound"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		kind, name string
		uid        types.UID
		remove     func() error
	}{
		{"Pod", "p", p.UID, func() error { return core.Pods(ns).Delete(ctx, "p", metav1.DeleteOptions{}) }},
		{"Secret", "s", s.UID, func() error { return core.Secrets(ns).Delete(ctx, "s", metav1.DeleteOptions{}) }},
		{"Node", "bound", n.UID, func() error { return core.Nodes().Delete(ctx, "bound", metav1.DeleteOptions{}) }},
	} {
		spec := authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: tt.kind, Name: tt.name, UID: tt.uid}}
		// Many, because the server remembers for ten seconds whom it has seen: each try below shows another.
		first := newToken(t, ns, spec)
		fresh := make([]string, 20)
		for i := range fresh {
			fresh[i] = newToken(t, ns, spec)
		}
		who, err := whoami(t, first)
		if err != nil || who.Username != "system:serviceaccount:bound:default" || len(who.Extra["authentication.kubernetes.io/credential-id"]) != 1 {
			t.Errorf("%s: %v, %v", tt.kind, who, err)
		}
		if tt.kind == "Pod" && (len(who.Extra["authentication.kubernetes.io/pod-name"]) != 1 || who.Extra["authentication.kubernetes.io/pod-uid"][0] != string(p.UID)) {
			t.Errorf("extra of a pod's token: %v", who.Extra)
		}
		wrong := spec.BoundObjectRef.DeepCopy()
		wrong.UID = "other"
		_, err = core.ServiceAccounts(ns).CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: wrong}}, metav1.CreateOptions{})
		if !apierrors.IsConflict(err) {
			t.Errorf("%s of another UID: %v", tt.kind, err)
		}
		if err := tt.remove(); err != nil {
			t.Fatal(err)
		}
		until(t, "a token to end with its "+tt.kind, func() bool {
			_, err := whoami(t, fresh[0])
			if len(fresh) > 1 {
				fresh = fresh[1:]
			}
			return apierrors.IsUnauthorized(err)
		})
	}
}

// The object that a token should be bound to is what is not found, not the service account.
func TestTokenBoundToNothing(t *testing.T) {
	ns := namespace(t, "bound-to-nothing")
	for kind, want := range map[string]string{"Pod": `pods "x" not found`, "Secret": `secrets "x" not found`, "Node": `nodes "x" not found`} {
		_, err := shared.client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: "x"}}}, metav1.CreateOptions{})
		if !apierrors.IsNotFound(err) || err.Error() != want {
			t.Errorf("token bound to a %s that is not there: %v, want %s", kind, err, want)
		}
	}
}

func TestTokenAudiencesAndReview(t *testing.T) {
	ns := namespace(t, "audiences")
	ctx := t.Context()
	review := func(token string, audiences ...string) authenticationv1.TokenReviewStatus {
		t.Helper()
		r, err := shared.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	vault := newToken(t, ns, authenticationv1.TokenRequestSpec{Audiences: []string{"vault", "other"}})
	if _, err := whoami(t, vault); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token for others: %v", err)
	}
	if s := review(vault, "vault", "third"); !s.Authenticated || strings.Join(s.Audiences, " ") != "vault" || s.User.Username != "system:serviceaccount:audiences:default" {
		t.Errorf("review for vault: %+v", s)
	}
	if s := review(vault); s.Authenticated || s.Error == "" {
		t.Errorf("review for this server: %+v", s)
	}
	if s := review(newToken(t, ns, authenticationv1.TokenRequestSpec{})); !s.Authenticated || strings.Join(s.Audiences, " ") != testIssuer {
		t.Errorf("review of an ordinary token: %+v", s)
	}
	for _, seconds := range []int64{599, 1<<32 + 1} {
		_, err := shared.client.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.expirationSeconds: Invalid value") {
			t.Errorf("a token for %d s: %v", seconds, err)
		}
	}
}

func TestTokensOfAnOlderKey(t *testing.T) {
	ns := namespace(t, "rotated")
	sa, err := shared.client.CoreV1().ServiceAccounts(ns).Get(t.Context(), "default", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	old, err := satoken.NewSigner(testIssuer, shared.caKey)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(now time.Time) string {
		token, err := old.Sign(satoken.NewClaims(satoken.Request{ServiceAccount: sa, Audiences: []string{testIssuer}, Now: now, Lifetime: time.Hour}))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	if who, err := whoami(t, sign(time.Now())); err != nil || who.Username != "system:serviceaccount:rotated:default" {
		t.Errorf("token of the older key: %v, %v", who, err)
	}
	if _, err := whoami(t, sign(time.Now().Add(-2*time.Hour))); !apierrors.IsUnauthorized(err) {
		t.Errorf("expired token: %v", err)
	}
}

func TestSecretTokensAreTracked(t *testing.T) {
	t.Parallel() // it waits until the server forgets whom it has seen
	ns := namespace(t, "legacy")
	ctx := t.Context()
	sa, err := shared.client.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: shared.caKey}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(map[string]any{"iss": satoken.LegacyIssuer, "sub": "system:serviceaccount:legacy:default"}).
		Claims(satoken.Legacy{Namespace: ns, SecretName: "t", ServiceAccountName: "default", ServiceAccountUID: string(sa.UID)}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	secrets := shared.client.CoreV1().Secrets(ns)
	if _, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "t", Annotations: map[string]string{corev1.ServiceAccountNameKey: "default", corev1.ServiceAccountUIDKey: string(sa.UID)}},
		Type: corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{"token": []byte(token)}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if who, err := whoami(t, token); err != nil || who.Username != "system:serviceaccount:legacy:default" {
		t.Fatalf("token of a secret: %v, %v", who, err)
	}
	s, err := secrets.Get(ctx, "t", metav1.GetOptions{})
	if day := time.Now().UTC().Format(time.DateOnly); err != nil || s.Labels["kubernetes.io/legacy-token-last-used"] != day {
		t.Errorf("labels after use: %v, %v, want the day %s", s.Labels, err, day)
	}
	tracked, err := shared.client.CoreV1().ConfigMaps("kube-system").Get(ctx, "kube-apiserver-legacy-service-account-token-tracking", metav1.GetOptions{})
	if err != nil {
		t.Errorf("nobody can tell since when uses are noted: %v", err)
	} else if _, err := time.Parse(time.DateOnly, tracked.Data["since"]); err != nil {
		t.Errorf("uses are noted since %v", tracked.Data)
	}
	patch := []byte(`{"metadata":{"labels":{"kubernetes.io/legacy-token-invalid-since":"2026-01-01"}}}`)
	if _, err := secrets.Patch(ctx, "t", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "a token that was switched off to end", func() bool { _, err := whoami(t, token); return apierrors.IsUnauthorized(err) })
}

func TestIssuerDiscovery(t *testing.T) {
	ns := namespace(t, "discovery")
	ctx := t.Context()
	token := newToken(t, ns, authenticationv1.TokenRequestSpec{Audiences: []string{"oidc"}})
	// Every service account may read the documents, and nobody who shows nothing.
	client := withToken(t, newToken(t, ns, authenticationv1.TokenRequestSpec{})).Discovery().RESTClient()
	get := func(c rest.Interface, path string, into any) error {
		body, err := c.Get().AbsPath(path).DoRaw(ctx)
		if err != nil {
			return err
		}
		return json.Unmarshal(body, into)
	}
	var config struct {
		Issuer string   `json:"issuer"`
		Keys   string   `json:"jwks_uri"`
		Algs   []string `json:"id_token_signing_alg_values_supported"`
	}
	var keys jose.JSONWebKeySet
	until(t, "the rights of service accounts", func() bool { return get(client, satoken.ConfigurationPath, &config) == nil })
	if err := get(client, satoken.KeysPath, &keys); err != nil {
		t.Fatal(err)
	}
	if config.Issuer != testIssuer || !strings.HasSuffix(config.Keys, satoken.KeysPath) || len(keys.Keys) != 2 {
		t.Errorf("documents: %+v with %d keys, want both keys", config, len(keys.Keys))
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(config.Algs[0])})
	if err != nil {
		t.Fatal(err)
	}
	var claims jwt.Claims
	if err := parsed.Claims(keys, &claims); err != nil || claims.Issuer != testIssuer || claims.Validate(jwt.Expected{AnyAudience: jwt.Audience{"oidc"}, Time: time.Now()}) != nil {
		t.Errorf("verified by the documents: %+v, %v", claims, err)
	}
	nobody, err := kubernetes.NewForConfig(shared.anonymousConfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := get(nobody.Discovery().RESTClient(), satoken.KeysPath, &keys); !apierrors.IsForbidden(err) {
		t.Errorf("read by nobody: %v", err)
	}
}
