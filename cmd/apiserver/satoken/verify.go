package satoken

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// ErrSignature is returned for a token that none of the verifier's keys signed.
var ErrSignature = errors.New("the token was signed by no known key")

// ErrExpired is returned for a token past its end.
var ErrExpired = errors.New("service account token has expired")

// Verifier reads tokens signed by one of its keys for one of its issuers.
type Verifier struct {
	keys    []verifyKey
	issuers []string
}

type verifyKey struct {
	id  string
	alg jose.SignatureAlgorithm
	key crypto.PublicKey
}

// NewVerifier returns a Verifier; tokens of LegacyIssuer are read as well as those of issuers.
func NewVerifier(issuers []string, keys []crypto.PublicKey) (*Verifier, error) {
	if len(issuers) == 0 || slices.Contains(issuers, "") {
		return nil, errors.New("verify service account tokens: an issuer is empty or there is none")
	}
	if len(keys) == 0 {
		return nil, errors.New("verify service account tokens: there is no key")
	}
	v := &Verifier{issuers: append(slices.Clone(issuers), LegacyIssuer)}
	for _, k := range keys {
		alg, err := algorithm(k)
		if err != nil {
			return nil, err
		}
		id, err := KeyID(k)
		if err != nil {
			return nil, err
		}
		v.keys = append(v.keys, verifyKey{id, alg, k})
	}
	return v, nil
}

// Ours says whether a string looks like a token of one of v's issuers. It checks no signature: it only lets another
// authenticator have its turn with tokens that are none of ours.
func (v *Verifier) Ours(token string) bool {
	if strings.HasPrefix(strings.TrimSpace(token), "{") {
		return false // only the compact form is a bearer token
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	return json.Unmarshal(body, &claims) == nil && slices.Contains(v.issuers, claims.Issuer)
}

// Verify returns what a token says after checking signature, issuer and time. It does not check the audience, nor that
// the objects it names exist.
func (v *Verifier) Verify(token string, now time.Time) (Claims, error) {
	algs := make([]jose.SignatureAlgorithm, 0, len(v.keys))
	for _, k := range v.keys {
		if !slices.Contains(algs, k.alg) {
			algs = append(algs, k.alg)
		}
	}
	parsed, err := jwt.ParseSigned(token, algs)
	if err != nil {
		return Claims{}, fmt.Errorf("read a service account token: %w", err)
	}
	c, err := v.signed(parsed)
	if err != nil {
		return Claims{}, err
	}
	if !slices.Contains(v.issuers, c.Issuer) {
		return Claims{}, fmt.Errorf("service account token of issuer %q: not ours", c.Issuer)
	}
	if c.Issuer != LegacyIssuer && c.Expiry == nil {
		return Claims{}, errors.New("service account token without an end")
	}
	switch err := c.Claims.ValidateWithLeeway(jwt.Expected{Time: now}, 0); {
	case errors.Is(err, jwt.ErrExpired):
		return Claims{}, ErrExpired
	case err != nil:
		return Claims{}, fmt.Errorf("service account token: %w", err)
	}
	return c, nil
}

func (v *Verifier) signed(t *jwt.JSONWebToken) (Claims, error) {
	kid := ""
	if len(t.Headers) > 0 {
		kid = t.Headers[0].KeyID
	}
	for _, k := range v.keys {
		// Tokens of other makers may carry no kid: then every key has its try.
		if kid != "" && kid != k.id {
			continue
		}
		var c Claims
		if err := t.Claims(k.key, &c); err == nil {
			return c, nil
		}
	}
	return Claims{}, ErrSignature
}
