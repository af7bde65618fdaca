package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// authority issues client certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func (a authority) provider(t *testing.T) dynamiccertificates.CAContentProvider {
	t.Helper()
	p, err := dynamiccertificates.NewStaticCAContent("test", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (a authority) issue(t *testing.T, subject pkix.Name, edit func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestCertificatesAndFrontProxies(t *testing.T) {
	clients, proxies, strangers := newAuthority(t, "clients"), newAuthority(t, "proxies"), newAuthority(t, "strangers")
	static := func(values ...string) headerrequest.StringSliceProvider {
		return headerrequest.StaticStringSlice(values)
	}
	authn, err := New(Config{
		ClientCA: clients.provider(t), Anonymous: &apiserver.AnonymousAuthConfig{Enabled: true},
		RequestHeader: &authenticatorfactory.RequestHeaderConfig{
			CAContentProvider: proxies.provider(t), AllowedClientNames: static("front-proxy-client"),
			UsernameHeaders: static("X-Remote-User"), UIDHeaders: static("X-Remote-Uid"), GroupHeaders: static("X-Remote-Group"), ExtraHeaderPrefixes: static("X-Remote-Extra-"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	headers := http.Header{"X-Remote-User": {"ann"}, "X-Remote-Uid": {"7"}, "X-Remote-Group": {"shop", "till"}, "X-Remote-Extra-Scopes": {"a"}}
	ann := pkix.Name{CommonName: "ann", Organization: []string{"shop", "till"}, OrganizationalUnit: []string{"ignored"}}
	proxy := pkix.Name{CommonName: "front-proxy-client"}
	for _, tt := range []struct {
		name   string
		cert   *x509.Certificate
		header http.Header
		user   string // empty means an error
		groups []string
	}{
		{"common name and organizations", clients.issue(t, ann, nil), nil, "ann", []string{"shop", "till", "system:authenticated"}},
		{"without a name", clients.issue(t, pkix.Name{Organization: []string{"shop"}}, nil), nil, "", nil},
		{"of a stranger", strangers.issue(t, ann, nil), nil, "", nil},
		{"expired", clients.issue(t, ann, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), nil, "", nil},
		{"for servers", clients.issue(t, ann, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), nil, "", nil},
		{"headers of the front proxy", proxies.issue(t, proxy, nil), headers, "ann", []string{"shop", "till", "system:authenticated"}},
		{"headers of another certificate of its authority", proxies.issue(t, pkix.Name{CommonName: "evil"}, nil), headers, "", nil},
		{"headers of a client", clients.issue(t, pkix.Name{CommonName: "bob"}, nil), headers, "", nil},
		{"headers of nobody", nil, headers, "system:anonymous", []string{"system:unauthenticated"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := &http.Request{URL: &url.URL{Path: "/api"}, Header: tt.header.Clone()}
			if req.Header == nil {
				req.Header = http.Header{}
			}
			req.TLS = new(tls.ConnectionState)
			if tt.cert != nil {
				req.TLS.PeerCertificates = []*x509.Certificate{tt.cert}
			}
			got, ok, err := authn.AuthenticateRequest(req)
			if tt.user == "" {
				// Whoever is known by his certificate stays who he is, whatever his headers say.
				if err == nil && (!ok || got.User.GetName() == "ann") {
					t.Fatalf("let in as %+v", got)
				}
				return
			}
			if err != nil || !ok {
				t.Fatalf("not let in: %v", err)
			}
			if got.User.GetName() != tt.user || !slices.Equal(got.User.GetGroups(), tt.groups) {
				t.Errorf("is %s of %q, want %s of %q", got.User.GetName(), got.User.GetGroups(), tt.user, tt.groups)
			}
			if tt.cert != nil && tt.header != nil && (got.User.GetUID() != "7" || len(got.User.GetExtra()["scopes"]) != 1 || req.Header.Get("X-Remote-User") != "") {
				t.Errorf("uid %q, extra %v, headers left %v", got.User.GetUID(), got.User.GetExtra(), req.Header)
			}
		})
	}
}

func TestReadConfiguration(t *testing.T) {
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"
	for _, tt := range []struct {
		name, text string
		paths      int
		want       string // part of the error
	}{
		{"anonymous on some paths", head + "anonymous: {enabled: true, conditions: [{path: /livez}, {path: /readyz}]}\n", 2, ""},
		{"nothing", head, 0, ""},
		{"conditions of what is off", head + "anonymous: {enabled: false, conditions: [{path: /livez}]}\n", 0, "enabled should be set to true when conditions are defined"},
		{"another kind", "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n", 0, "expected AuthenticationConfiguration"},
		{"an unknown field", head + "anonymus: {}\n", 0, "unknown field"},
		{"other issuers", head + "jwt: [{issuer: {url: 'https://a.b', audiences: [c]}, claimMappings: {username: {claim: sub, prefix: ''}}}]\n", 0, "tokens of other issuers are not supported"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := ReadConfiguration(file)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("got %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil || (got != nil) != (tt.paths > 0) || got != nil && len(got.Conditions) != tt.paths {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}
