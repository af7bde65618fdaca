package satoken

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

func testKeys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"RS256": r, "ES256": e}
}

func claims(now time.Time) Claims {
	return NewClaims(Request{
		ServiceAccount: &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "robot", UID: "sa"}},
		Pod:            &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "pod"}},
		Node:           &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "node"}},
		Audiences:      []string{issuer}, Now: now, Lifetime: time.Hour, WarnAfter: time.Minute,
	})
}

func TestTokenHasUpstreamsShape(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for alg, key := range testKeys(t) {
		s, err := NewSigner(issuer, key)
		if err != nil {
			t.Fatal(err)
		}
		token, err := s.Sign(claims(now))
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(token, ".")
		id, _ := KeyID(key.Public())
		var header, body map[string]any
		decode(t, parts[0], &header)
		decode(t, parts[1], &body)
		if header["alg"] != alg || header["kid"] != id {
			t.Errorf("header %v, want alg %s, kid %s", header, alg, id)
		}
		if len(body["jti"].(string)) != 36 {
			t.Errorf("jti %v", body["jti"])
		}
		delete(body, "jti")
		got, _ := json.Marshal(body)
		want := `{"aud":["https://kubernetes.default.svc.cluster.local"],"exp":1800003600,"iat":1800000000,"iss":"https://kubernetes.default.svc.cluster.local",` +
			`"kubernetes.io":{"namespace":"shop","node":{"name":"n","uid":"node"},"pod":{"name":"p","uid":"pod"},"serviceaccount":{"name":"robot","uid":"sa"},"warnafter":1800000060},` +
			`"nbf":1800000000,"sub":"system:serviceaccount:shop:robot"}`
		if string(got) != want {
			t.Errorf("claims\n%s, want\n%s", got, want)
		}
	}
}

func decode(t *testing.T, part string, into any) {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(part)
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestVerify(t *testing.T) {
	now := time.Now()
	keys := testKeys(t)
	v, err := NewVerifier([]string{issuer}, []crypto.PublicKey{keys["RS256"].Public(), keys["ES256"].Public()})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		s, _ := NewSigner(issuer, key)
		token, err := s.Sign(claims(now))
		if err != nil {
			t.Fatal(err)
		}
		if c, err := v.Verify(token, now); err != nil || !v.Ours(token) || c.Kubernetes.Pod.UID != "pod" {
			t.Errorf("good token: %v, %+v", err, c)
		}
		if _, err := v.Verify(token, now.Add(time.Hour+time.Second)); !errors.Is(err, ErrExpired) {
			t.Errorf("expired token: %v", err)
		}
		// The body of one token with the signature of another.
		other, _ := s.Sign(claims(now.Add(-time.Minute)))
		forged := token[:strings.LastIndex(token, ".")] + other[strings.LastIndex(other, "."):]
		if _, err := v.Verify(forged, now); !errors.Is(err, ErrSignature) {
			t.Errorf("forged token: %v", err)
		}
	}
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." +
		base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"`+issuer+`","exp":99999999999}`)) + "."
	if _, err := v.Verify(none, now); err == nil {
		t.Error("a token without a signature was believed")
	}
	elsewhere, _ := NewSigner("https://elsewhere", keys["ES256"])
	token, _ := elsewhere.Sign(claims(now))
	if _, err := v.Verify(token, now); err == nil || v.Ours(token) {
		t.Error("a token of another issuer was believed")
	}
}

func TestDiscovery(t *testing.T) {
	keys := testKeys(t)
	d, err := NewDiscovery(issuer, "", []crypto.PublicKey{keys["RS256"].Public(), keys["ES256"].Public()})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	d.Install(mux.Handle)
	for path, want := range map[string][]string{
		ConfigurationPath: {`"issuer":"` + issuer + `"`, `"jwks_uri":"` + issuer + `/openid/v1/jwks"`, `["ES256","RS256"]`},
		KeysPath:          {`"use":"sig"`, `"kty":"RSA"`, `"kty":"EC"`},
	} {
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		body := rec.Body.String()
		for _, w := range want {
			if rec.Code != 200 || !strings.Contains(body, w) {
				t.Errorf("%s: %d %s, want %s", path, rec.Code, body, w)
			}
		}
		if strings.Contains(body, `"d":`) {
			t.Errorf("%s publishes a private key", path)
		}
	}
	if _, err := NewDiscovery("http://plain", "", []crypto.PublicKey{keys["RS256"].Public()}); err == nil {
		t.Error("an issuer without TLS was accepted")
	}
}
