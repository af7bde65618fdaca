// Package satoken makes and reads the JSON web tokens of service accounts, and publishes the keys that verify them.
//
// It knows the shape of a token and its signature. Whether the objects that a token names still exist is for package
// authn to ask, and who may have a token is for package reviews.
package satoken

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// LegacyIssuer is the issuer of the tokens kept in Secrets of type kubernetes.io/service-account-token.
const LegacyIssuer = "kubernetes/serviceaccount"

// Ref names an object of the token's namespace (or a node) as it was when the token was made.
type Ref struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// Private is the claim "kubernetes.io" of a token.
type Private struct {
	Namespace      string           `json:"namespace,omitempty"`
	ServiceAccount Ref              `json:"serviceaccount,omitempty"`
	Pod            *Ref             `json:"pod,omitempty"`
	Secret         *Ref             `json:"secret,omitempty"`
	Node           *Ref             `json:"node,omitempty"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

// Legacy holds the claims of a token kept in a Secret; such a token has no audience and no end.
type Legacy struct {
	Namespace          string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	SecretName         string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	ServiceAccountName string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	ServiceAccountUID  string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`
}

// Claims is all that a token says.
type Claims struct {
	jwt.Claims
	Kubernetes Private `json:"kubernetes.io,omitzero"`
	Legacy
}

// Request says what a token is to hold.
type Request struct {
	ServiceAccount *corev1.ServiceAccount
	Pod            *corev1.Pod    // nil unless bound to a pod
	Secret         *corev1.Secret // nil unless bound to a secret
	Node           *corev1.Node   // the node of Pod, or the bound node; its UID may be empty when the node is gone
	Audiences      []string
	Now            time.Time
	Lifetime       time.Duration
	// WarnAfter, when not zero, is the age at which use of the token earns a warning: the token then outlives what its
	// holder was told, so that clients that never re-read their token file keep working.
	WarnAfter time.Duration
}

// NewClaims builds the claims for r; the issuer is added by the Signer.
func NewClaims(r Request) Claims {
	sa := r.ServiceAccount
	c := Claims{
		Claims: jwt.Claims{
			Subject:   serviceaccount.MakeUsername(sa.Namespace, sa.Name),
			Audience:  jwt.Audience(r.Audiences),
			IssuedAt:  jwt.NewNumericDate(r.Now),
			NotBefore: jwt.NewNumericDate(r.Now),
			Expiry:    jwt.NewNumericDate(r.Now.Add(r.Lifetime)),
			ID:        uuid.NewString(),
		},
		Kubernetes: Private{
			Namespace:      sa.Namespace,
			ServiceAccount: Ref{Name: sa.Name, UID: string(sa.UID)},
		},
	}
	if r.Pod != nil {
		c.Kubernetes.Pod = &Ref{Name: r.Pod.Name, UID: string(r.Pod.UID)}
	}
	if r.Secret != nil {
		c.Kubernetes.Secret = &Ref{Name: r.Secret.Name, UID: string(r.Secret.UID)}
	}
	if r.Node != nil {
		c.Kubernetes.Node = &Ref{Name: r.Node.Name, UID: string(r.Node.UID)}
	}
	if r.WarnAfter != 0 {
		c.Kubernetes.WarnAfter = jwt.NewNumericDate(r.Now.Add(r.WarnAfter))
	}
	return c
}

// Signer signs tokens for one issuer with one key.
type Signer struct {
	issuer string
	jose   jose.Signer
}

// NewSigner returns a Signer for key, an RSA key or an ECDSA key on P-256, P-384 or P-521.
func NewSigner(issuer string, key crypto.Signer) (*Signer, error) {
	if issuer == "" {
		return nil, errors.New("sign service account tokens: the issuer is empty")
	}
	if key == nil {
		return nil, errors.New("sign service account tokens: there is no key")
	}
	alg, err := algorithm(key.Public())
	if err != nil {
		return nil, err
	}
	id, err := KeyID(key.Public())
	if err != nil {
		return nil, err
	}
	s, err := jose.NewSigner(jose.SigningKey{
		Algorithm: alg,
		Key:       jose.JSONWebKey{Algorithm: string(alg), Key: key, KeyID: id, Use: "sig"},
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("sign service account tokens: %w", err)
	}
	return &Signer{issuer: issuer, jose: s}, nil
}

// Issuer is the "iss" of the tokens that s signs.
func (s *Signer) Issuer() string { return s.issuer }

// Sign returns the compact form of c, issued by the Signer's issuer.
func (s *Signer) Sign(c Claims) (string, error) {
	c.Issuer = s.issuer
	// The library writes a single audience as a string; who reads our tokens expects upstream's list.
	wire := struct {
		Claims
		Audience []string `json:"aud,omitempty"`
	}{c, c.Audience}
	token, err := jwt.Signed(s.jose).Claims(wire).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a token for %s: %w", c.Subject, err)
	}
	return token, nil
}

// KeyID is the "kid" of a public key: the hash of its PKIX form, so that two servers with one key agree on it.
func KeyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("identify a token key: %w", err)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

func algorithm(key crypto.PublicKey) (jose.SignatureAlgorithm, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return jose.RS256, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return jose.ES256, nil
		case elliptic.P384():
			return jose.ES384, nil
		case elliptic.P521():
			return jose.ES512, nil
		}
	}
	return "", fmt.Errorf("service account key of type %T: want RSA, or ECDSA on P-256, P-384 or P-521", key)
}
