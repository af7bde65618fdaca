package secrettoken

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
)

// claims is all that a token in a Secret says; it has no audience and no end.
type claims struct {
	Issuer     string `json:"iss"`
	Namespace  string `json:"kubernetes.io/serviceaccount/namespace"`
	Secret     string `json:"kubernetes.io/serviceaccount/secret.name"`
	Account    string `json:"kubernetes.io/serviceaccount/service-account.name"`
	AccountUID string `json:"kubernetes.io/serviceaccount/service-account.uid"`
	Subject    string `json:"sub"`
}

// Signer signs tokens with one key.
type Signer struct{ jose jose.Signer }

// NewSigner returns a Signer for an RSA key, or an ECDSA key on P-256, P-384 or P-521.
func NewSigner(key crypto.Signer) (*Signer, error) {
	var alg jose.SignatureAlgorithm
	switch public := key.Public().(type) {
	case *rsa.PublicKey:
		alg = jose.RS256
	case *ecdsa.PublicKey:
		alg = map[elliptic.Curve]jose.SignatureAlgorithm{elliptic.P256(): jose.ES256, elliptic.P384(): jose.ES384, elliptic.P521(): jose.ES512}[public.Curve]
	}
	if alg == "" {
		return nil, fmt.Errorf("service account key of type %T: want RSA, or ECDSA on P-256, P-384 or P-521", key.Public())
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("identify the service account key: %w", err)
	}
	// The API server knows its keys by the hash of their PKIX form.
	sum := sha256.Sum256(der)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{
		Algorithm: string(alg), Key: key, KeyID: base64.RawURLEncoding.EncodeToString(sum[:]), Use: "sig",
	}}, nil)
	if err != nil {
		return nil, fmt.Errorf("sign service account tokens: %w", err)
	}
	return &Signer{s}, nil
}

func (s *Signer) sign(account *corev1.ServiceAccount, secret string) ([]byte, error) {
	token, err := jwt.Signed(s.jose).Claims(claims{
		Issuer: "kubernetes/serviceaccount", Namespace: account.Namespace, Secret: secret, Account: account.Name, AccountUID: string(account.UID),
		Subject: "system:serviceaccount:" + account.Namespace + ":" + account.Name,
	}).Serialize()
	if err != nil {
		return nil, fmt.Errorf("sign token: %w", err)
	}
	return []byte(token), nil
}
