package elected

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func TestRoutes(t *testing.T) {
	var sick error
	client := fake.NewClientset()
	client.PrependReactor("create", "subjectaccessreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &authorizationv1.SubjectAccessReview{}, nil // allowed: no
	})
	g := &guard{client, client}
	h := routes(func(*http.Request) error { return sick }, g.protect(http.NotFoundHandler()))
	get := func(path string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code
	}
	for path, want := range map[string]int{"/healthz": 200, "/livez": 200, "/readyz": 200, "/metrics": 401, "/debug": 404} {
		if got := get(path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	sick = errors.New("the lease is old")
	if got := get("/healthz"); got != 500 {
		t.Errorf("/healthz of a leader that cannot renew: %d", got)
	}
}

func TestValidate(t *testing.T) {
	base := Defaults("p", 1)
	for name, mutate := range map[string]func(*Config){
		"no port":               func(c *Config) { c.SecurePort = 70000 },
		"certificate alone":     func(c *Config) { c.CertFile = "x" },
		"deadline too long":     func(c *Config) { c.RenewDeadline = time.Minute },
		"retries too far apart": func(c *Config) { c.RetryPeriod = 11 * time.Second },
	} {
		cfg := base
		mutate(&cfg)
		if cfg.validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := base.validate(); err != nil {
		t.Error(err)
	}
}

func TestSelfSigned(t *testing.T) {
	pair, err := selfSigned(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	srv.StartTLS()
	defer srv.Close()
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(leaf)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}}
	answer, err := client.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
}
