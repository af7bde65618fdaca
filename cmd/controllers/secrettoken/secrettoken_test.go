package secrettoken

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"log/slog"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func tokenSecret(name, uid string) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: "till"}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}
	if uid != "" {
		s.Annotations[corev1.ServiceAccountUIDKey] = uid
	}
	return s
}

func TestFillsAndDeletes(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	stray := tokenSecret("stray", "")
	stray.Annotations[corev1.ServiceAccountNameKey] = "nobody"
	client := fake.NewClientset(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "till", UID: "u1"}},
		tokenSecret("new", ""), tokenSecret("old", "u0"), stray)
	shared := informers.NewSharedInformerFactory(client, 0)
	c, err := New(client, shared.Core().V1().Secrets(), shared.Core().V1().ServiceAccounts(), signer, []byte("ca"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	shared.Start(t.Context().Done())
	shared.WaitForCacheSync(t.Context().Done())
	for _, name := range []string{"new", "old", "stray"} {
		if err := c.sync(t.Context(), "shop/"+name); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"old", "stray"} {
		if _, err := client.CoreV1().Secrets("shop").Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s, of an account that is gone, is there: %v", name, err)
		}
	}
	got, err := client.CoreV1().Secrets("shop").Get(t.Context(), "new", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(string(got.Data["token"]), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	var said claims
	if err := parsed.Claims(key.Public(), &said); err != nil {
		t.Fatal(err)
	}
	want := claims{"kubernetes/serviceaccount", "shop", "new", "till", "u1", "system:serviceaccount:shop:till"}
	if said != want || string(got.Data["ca.crt"]) != "ca" || string(got.Data["namespace"]) != "shop" || got.Annotations[corev1.ServiceAccountUIDKey] != "u1" {
		t.Errorf("token %+v in %+v", said, got)
	}
	if again, err := c.fill(got, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{UID: "u1"}}); again != nil || err != nil {
		t.Errorf("a whole secret is written again: %v, %v", again, err)
	}
}
