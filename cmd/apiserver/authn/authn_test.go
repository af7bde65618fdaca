package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/orlop-io/orlop/cmd/apiserver/satoken"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

// world is a set of objects by name.
type world map[string]metav1.ObjectMeta

func (w world) meta(resource, ns, name string) (metav1.ObjectMeta, error) {
	m, ok := w[resource+" "+name]
	if !ok {
		return m, apierrors.NewNotFound(corev1.Resource(resource), name)
	}
	m.Namespace, m.Name = ns, name
	return m, nil
}

func (w world) ServiceAccount(_ context.Context, ns, name, _ string) (*corev1.ServiceAccount, error) {
	m, err := w.meta("serviceaccounts", ns, name)
	return &corev1.ServiceAccount{ObjectMeta: m}, err
}

func (w world) Pod(_ context.Context, ns, name, _ string) (*corev1.Pod, error) {
	m, err := w.meta("pods", ns, name)
	return &corev1.Pod{ObjectMeta: m}, err
}

func (w world) Secret(_ context.Context, ns, name string) (*corev1.Secret, error) {
	m, err := w.meta("secrets", ns, name)
	return &corev1.Secret{ObjectMeta: m}, err
}

func (w world) Node(_ context.Context, name, _ string) (*corev1.Node, error) {
	m, err := w.meta("nodes", "", name)
	return &corev1.Node{ObjectMeta: m}, err
}

func (w world) LabelSecret(_ context.Context, ns, name, label, value string) error {
	m, err := w.meta("secrets", ns, name)
	m.Labels = map[string]string{label: value}
	w["secrets "+name] = m
	return err
}

func uid(s string) metav1.ObjectMeta { return metav1.ObjectMeta{UID: types.UID(s)} }

func key(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestServiceAccountTokens(t *testing.T) {
	k, other := key(t), key(t)
	long := metav1.NewTime(time.Now().Add(-time.Hour))
	for _, tt := range []struct {
		name  string
		edit  func(*satoken.Request)
		world func(world)
		key   *ecdsa.PrivateKey
		from  string
		want  string // part of the error; empty means the token is good
	}{
		{name: "good"},
		{name: "expired", edit: func(r *satoken.Request) { r.Now = r.Now.Add(-2 * time.Hour) }, want: "expired"},
		{name: "not yet valid", edit: func(r *satoken.Request) { r.Now = r.Now.Add(time.Hour) }, want: "not valid yet"},
		{name: "other audience", edit: func(r *satoken.Request) { r.Audiences = []string{"vault"} }, want: "audiences"},
		{name: "no audience", edit: func(r *satoken.Request) { r.Audiences = nil }, want: "audiences"},
		{name: "other key", key: other, want: "no known key"},
		{name: "other issuer", from: "https://elsewhere", want: "invalid bearer token"},
		{name: "account gone", world: func(w world) { delete(w, "serviceaccounts robot") }, want: "invalidated"},
		{name: "account made anew", world: func(w world) { w["serviceaccounts robot"] = uid("new") }, want: "invalidated"},
		{name: "pod gone", world: func(w world) { delete(w, "pods p") }, want: "invalidated"},
		{name: "pod made anew", world: func(w world) { w["pods p"] = uid("new") }, want: "invalidated"},
		{name: "pod long deleted", world: func(w world) { w["pods p"] = metav1.ObjectMeta{UID: "pod", DeletionTimestamp: &long} }, want: "invalidated"},
		{name: "node of a pod gone", world: func(w world) { delete(w, "nodes n") }},
		{name: "bound node gone", edit: func(r *satoken.Request) { r.Pod = nil }, world: func(w world) { delete(w, "nodes n") }, want: "invalidated"},
		{name: "bound secret gone", edit: func(r *satoken.Request) {
			r.Secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", UID: "s"}}
		}, want: "invalidated"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := world{"serviceaccounts robot": uid("sa"), "pods p": uid("pod"), "nodes n": uid("node")}
			r := satoken.Request{
				ServiceAccount: &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "robot", UID: "sa"}},
				Pod:            &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "pod"}},
				Node:           &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "node"}},
				Audiences:      []string{issuer}, Now: time.Now(), Lifetime: time.Hour,
			}
			if tt.edit != nil {
				tt.edit(&r)
			}
			if tt.world != nil {
				tt.world(w)
			}
			signKey, from := k, issuer
			if tt.key != nil {
				signKey = tt.key
			}
			if tt.from != "" {
				from = tt.from
			}
			signer, err := satoken.NewSigner(from, signKey)
			if err != nil {
				t.Fatal(err)
			}
			token, err := signer.Sign(satoken.NewClaims(r))
			if err != nil {
				t.Fatal(err)
			}
			a, err := New(Config{
				ServiceAccountKeys: []crypto.PublicKey{k.Public()}, ServiceAccountIssuers: []string{issuer},
				APIAudiences: authenticator.Audiences{issuer}, Objects: w, Anonymous: &apiserver.AnonymousAuthConfig{Enabled: true},
			})
			if err != nil {
				t.Fatal(err)
			}
			got, ok, err := a.AuthenticateRequest(bearer(token))
			if tt.want != "" {
				// ok with an error, or without one as somebody else, would let the request in.
				if ok || err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("got %v, %v, %v; want refusal with %q", got, ok, err, tt.want)
				}
				return
			}
			if err != nil || !ok {
				t.Fatalf("refused: %v", err)
			}
			if got.User.GetName() != "system:serviceaccount:shop:robot" || !slices.Contains(got.User.GetGroups(), "system:authenticated") ||
				got.User.GetExtra()["authentication.kubernetes.io/pod-name"][0] != "p" {
				t.Fatalf("wrong user: %#v", got.User)
			}
		})
	}
}

func bearer(token string) *http.Request {
	r := &http.Request{Header: http.Header{}}
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func TestAnonymousAndWrongTokens(t *testing.T) {
	a, err := New(Config{
		ServiceAccountKeys: []crypto.PublicKey{key(t).Public()}, ServiceAccountIssuers: []string{issuer}, APIAudiences: authenticator.Audiences{issuer},
		Objects: world{}, BootstrapTokens: true, Anonymous: &apiserver.AnonymousAuthConfig{Enabled: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, ok, err := a.AuthenticateRequest(&http.Request{Header: http.Header{}})
	if err != nil || !ok || got.User.GetName() != "system:anonymous" || !slices.Equal(got.User.GetGroups(), []string{"system:unauthenticated"}) {
		t.Fatalf("without a credential: %v, %v, %v", got, ok, err)
	}
	for _, token := range []string{"wrong", "abcdef.0123456789abcdef", "a.b.c"} {
		if got, ok, err := a.AuthenticateRequest(bearer(token)); ok || err == nil {
			t.Errorf("token %q: got %v, %v, %v; want 401", token, got, ok, err)
		}
	}
}

func TestConfigFailsClosed(t *testing.T) {
	for name, cfg := range map[string]Config{
		"nothing on":            {},
		"keys without objects":  {ServiceAccountKeys: []crypto.PublicKey{key(t).Public()}, ServiceAccountIssuers: []string{issuer}},
		"keys without issuer":   {ServiceAccountKeys: []crypto.PublicKey{key(t).Public()}, Objects: world{}},
		"tokens without lookup": {BootstrapTokens: true},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestBootstrapTokens(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		name string
		edit func(*corev1.Secret)
		want []string // nil means refused
	}{
		{"good", nil, []string{"system:bootstrappers", "system:bootstrappers:nodes"}},
		{"other secret", func(s *corev1.Secret) { s.Data["token-secret"] = []byte("fedcba9876543210") }, nil},
		{"no secret", func(s *corev1.Secret) { delete(s.Data, "token-secret") }, nil},
		{"other id", func(s *corev1.Secret) { s.Data["token-id"] = []byte("fedcba") }, nil},
		{"other type", func(s *corev1.Secret) { s.Type = "Opaque" }, nil},
		{"not for authentication", func(s *corev1.Secret) { delete(s.Data, "usage-bootstrap-authentication") }, nil},
		{"expired", func(s *corev1.Secret) { s.Data["expiration"] = []byte("2026-01-02T03:04:05Z") }, nil},
		{"unreadable end", func(s *corev1.Secret) { s.Data["expiration"] = []byte("soon") }, nil},
		{"foreign group", func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:masters") }, nil},
		{"being deleted", func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: now} }, nil},
		{"no end", func(s *corev1.Secret) { delete(s.Data, "expiration"); delete(s.Data, "auth-extra-groups") }, []string{"system:bootstrappers"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &corev1.Secret{Type: "bootstrap.kubernetes.io/token", Data: map[string][]byte{
				"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"), "expiration": []byte("2026-01-02T03:04:06Z"),
				"usage-bootstrap-authentication": []byte("true"), "auth-extra-groups": []byte("system:bootstrappers:nodes"),
			}}
			if tt.edit != nil {
				tt.edit(s)
			}
			got, ok := bootstrapGroups(s, "abcdef", "0123456789abcdef", now)
			if ok != (tt.want != nil) || !slices.Equal(got, tt.want) {
				t.Fatalf("got %v, %v; want %v", got, ok, tt.want)
			}
		})
	}
}

// The cache still has the pod before, of the same name: the server knows better.
func TestObjectsOfAnotherUIDAreAskedFor(t *testing.T) {
	cached, now := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p-0", UID: "old"}}, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p-0", UID: "new"}}
	client := fake.NewSimpleClientset(now)
	factory := informers.NewSharedInformerFactory(client, 0)
	o := NewObjects(client, factory)
	if err := factory.Core().V1().Pods().Informer().GetStore().Add(cached); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []types.UID{"old", "new"} {
		if p, err := o.Pod(t.Context(), "n", "p-0", string(uid)); err != nil || p.UID != uid {
			t.Errorf("pod %s: %v, %v", uid, p.UID, err)
		}
	}
}
