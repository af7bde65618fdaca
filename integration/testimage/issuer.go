package main

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// issuerDiscovery verifies a service account token as somebody who knows nothing but its issuer would (OpenID Connect
// discovery), as agnhost test-service-account-issuer-discovery does.
func issuerDiscovery(s *stdio, args []string) error {
	flags := flag.NewFlagSet("test-service-account-issuer-discovery", flag.ContinueOnError)
	path := flags.String("token-path", "", "file of the token")
	audience := flags.String("token-audience", "", "audience that the token must be for")
	flags.Bool("in-cluster-discovery", true, "trust the cluster's authority, and show the pod's own token")
	if err := flags.Parse(args); err != nil {
		return err
	}
	token, err := os.ReadFile(*path)
	if err != nil {
		return err
	}
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount/"
	ca, err := os.ReadFile(dir + "ca.crt")
	if err != nil {
		return err
	}
	own, err := os.ReadFile(dir + "token")
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return errors.New("no certificate in " + dir + "ca.crt")
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	get := func(url string, into any) error {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(own)))
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: %s %s", url, resp.Status, body)
		}
		return json.Unmarshal(body, into)
	}
	claims, err := verifyByIssuer(strings.TrimSpace(string(token)), get)
	if err != nil {
		return err
	}
	if !slices.Contains(claims.Audience, *audience) || time.Now().After(time.Unix(claims.Expiry, 0)) {
		return fmt.Errorf("the token is for %v until %v", claims.Audience, time.Unix(claims.Expiry, 0))
	}
	fmt.Fprintf(s.out, "validated with in-cluster discovery: %s is %s\n", *audience, claims.Subject)
	return nil
}

type issuerClaims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience []string `json:"aud"`
	Expiry   int64    `json:"exp"`
}

// verifyByIssuer checks the signature of a token by the keys that its issuer publishes.
func verifyByIssuer(token string, get func(url string, into any) error) (issuerClaims, error) {
	var claims issuerClaims
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims, errors.New("the token is none")
	}
	decode := base64.RawURLEncoding.DecodeString
	var header struct {
		Alg string `json:"alg"`
		Kid string `json:"kid"`
	}
	for i, into := range []any{&header, &claims} {
		raw, err := decode(parts[i])
		if err != nil {
			return claims, err
		}
		if err := json.Unmarshal(raw, into); err != nil {
			return claims, err
		}
	}
	var config struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := get(claims.Issuer+"/.well-known/openid-configuration", &config); err != nil {
		return claims, err
	}
	if config.Issuer != claims.Issuer {
		return claims, fmt.Errorf("the issuer calls itself %q, the token %q", config.Issuer, claims.Issuer)
	}
	var set struct {
		Keys []struct {
			Kid, Kty, N, E string
		} `json:"keys"`
	}
	if err := get(config.Keys, &set); err != nil {
		return claims, err
	}
	signature, err := decode(parts[2])
	if err != nil {
		return claims, err
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	for _, k := range set.Keys {
		n, errN := decode(k.N)
		e, errE := decode(k.E)
		if k.Kty != "RSA" || k.Kid != header.Kid || header.Alg != "RS256" || errN != nil || errE != nil {
			continue
		}
		key := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
		return claims, rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature)
	}
	return claims, fmt.Errorf("%s has no key %q for %s", config.Keys, header.Kid, header.Alg)
}
