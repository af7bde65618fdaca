package images

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/kubelet/images/access"
)

type dockerEntry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// Auth are credentials for a registry, and the secret that has them.
type Auth struct {
	Config *runtimeapi.AuthConfig
	Secret access.Secret
}

// Auths picks from image pull secrets the credentials that fit an image, the most exact first.
func Auths(image string, secrets []*v1.Secret) ([]Auth, error) {
	type match struct {
		length int
		auth   Auth
	}
	var matches []match
	for _, s := range secrets {
		entries, err := entries(s)
		if err != nil {
			return nil, fmt.Errorf("image pull secret %s/%s: %w", s.Namespace, s.Name, err)
		}
		for registry, e := range entries {
			if fits(registry, image) {
				auth, err := e.config()
				if err != nil {
					return nil, fmt.Errorf("image pull secret %s/%s, registry %s: %w", s.Namespace, s.Name, registry, err)
				}
				hash, err := access.Hash(e)
				if err != nil {
					return nil, err
				}
				from := access.Secret{UID: string(s.UID), Namespace: s.Namespace, Name: s.Name, CredentialHash: hash}
				matches = append(matches, match{len(registry), Auth{auth, from}})
			}
		}
	}
	slices.SortStableFunc(matches, func(a, b match) int { return b.length - a.length })
	var out []Auth
	for _, m := range matches {
		out = append(out, m.auth)
	}
	return out, nil
}

func entries(s *v1.Secret) (map[string]dockerEntry, error) {
	if text, ok := s.Data[v1.DockerConfigJsonKey]; ok {
		var file struct {
			Auths map[string]dockerEntry `json:"auths"`
		}
		err := json.Unmarshal(text, &file)
		return file.Auths, err
	}
	if text, ok := s.Data[v1.DockerConfigKey]; ok {
		var out map[string]dockerEntry
		err := json.Unmarshal(text, &out)
		return out, err
	}
	return nil, nil
}

func (e dockerEntry) config() (*runtimeapi.AuthConfig, error) {
	out := &runtimeapi.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if out.Username == "" && e.Auth != "" {
		text, err := base64.StdEncoding.DecodeString(e.Auth)
		if err != nil {
			return nil, fmt.Errorf("decode auth: %w", err)
		}
		user, pass, ok := strings.Cut(string(text), ":")
		if !ok {
			return nil, fmt.Errorf("auth is not user:password")
		}
		out.Username, out.Password = user, strings.TrimRight(pass, "\x00")
	}
	return out, nil
}

// fits says whether a registry entry, such as https://r.example:5000/v1/ or *.example.com/team,
// names the registry (and path) of an image.
func fits(entry, image string) bool {
	entry = strings.TrimPrefix(strings.TrimPrefix(entry, "https://"), "http://")
	entry = strings.TrimSuffix(entry, "/")
	for _, v := range []string{"/v1", "/v2"} {
		entry = strings.TrimSuffix(entry, v)
	}
	host, path, _ := strings.Cut(entry, "/")
	first, rest, ok := strings.Cut(image, "/")
	if !ok || !strings.ContainsAny(first, ".:") && first != "localhost" {
		first, rest = "docker.io", image
	}
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	return sameHost(host, first) && (path == "" || rest == path || strings.HasPrefix(rest, path+"/") || strings.HasPrefix(rest, path+":"))
}

func sameHost(pattern, host string) bool {
	p, h := strings.Split(pattern, "."), strings.Split(host, ".")
	if len(p) != len(h) {
		return false
	}
	for i := range p {
		if p[i] != "*" && p[i] != h[i] {
			return false
		}
	}
	return true
}
