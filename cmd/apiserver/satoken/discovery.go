package satoken

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// The paths under which a server publishes its Discovery.
const (
	ConfigurationPath = "/.well-known/openid-configuration"
	KeysPath          = "/openid/v1/jwks"
)

// Discovery holds the two public documents by which others verify our tokens (OpenID Connect discovery).
type Discovery struct {
	Configuration []byte // served at ConfigurationPath
	Keys          []byte // served at KeysPath
}

// NewDiscovery writes the documents. keysURL is where others find the keys; empty means KeysPath below issuer.
func NewDiscovery(issuer, keysURL string, keys []crypto.PublicKey) (*Discovery, error) {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("publish token keys: issuer %q is not an https URL", issuer)
	}
	if len(keys) == 0 {
		return nil, errors.New("publish token keys: there is no key")
	}
	if keysURL == "" {
		keysURL = u.JoinPath(KeysPath).String()
	}
	var set jose.JSONWebKeySet
	var algs []string
	for _, k := range keys {
		alg, err := algorithm(k)
		if err != nil {
			return nil, err
		}
		id, err := KeyID(k)
		if err != nil {
			return nil, err
		}
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k, KeyID: id, Algorithm: string(alg), Use: "sig"})
		if !slices.Contains(algs, string(alg)) {
			algs = append(algs, string(alg))
		}
	}
	slices.Sort(algs)
	d := new(Discovery)
	if d.Keys, err = json.Marshal(set); err != nil {
		return nil, fmt.Errorf("publish token keys: %w", err)
	}
	d.Configuration, err = json.Marshal(struct {
		Issuer    string   `json:"issuer"`
		KeysURL   string   `json:"jwks_uri"`
		Responses []string `json:"response_types_supported"`
		Subjects  []string `json:"subject_types_supported"`
		Algs      []string `json:"id_token_signing_alg_values_supported"`
	}{issuer, keysURL, []string{"id_token"}, []string{"public"}, algs})
	if err != nil {
		return nil, fmt.Errorf("publish token configuration: %w", err)
	}
	return d, nil
}

// Install gives the two documents' handlers to handle, such as a mux's Handle.
func (d *Discovery) Install(handle func(path string, h http.Handler)) {
	handle(ConfigurationPath, document("application/json", d.Configuration))
	handle(KeysPath, document("application/jwk-set+json", d.Keys))
}

func document(contentType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "only GET is served here", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(body) // the client went away: nothing to tell anyone
	})
}
