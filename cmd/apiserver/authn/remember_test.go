package authn

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
)

// A certificate is verified once, and known until it, its authority or the trust in that ends.
func TestCertificatesAreRemembered(t *testing.T) {
	ours, others := newAuthority(t, "ours"), newAuthority(t, "others")
	roots := func(a authority) *x509.CertPool {
		pool := x509.NewCertPool()
		pool.AddCert(a.cert)
		return pool
	}
	trusted, now, built := roots(ours), time.Now(), 0
	a := acquaint(func() (x509.VerifyOptions, bool) {
		return x509.VerifyOptions{Roots: trusted, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: now}, trusted != nil
	}, func(verify x509request.VerifyOptionFunc) authenticator.Request {
		built++
		return x509request.NewDynamic(verify, x509request.CommonNameUserConversion)
	}).(*acquainted)
	a.now = func() time.Time { return now }
	ann := ours.issue(t, pkix.Name{CommonName: "ann"}, func(c *x509.Certificate) { c.NotAfter = now.Add(3 * time.Hour) })
	ask := func(certs ...*x509.Certificate) string {
		got, ok, err := a.AuthenticateRequest(&http.Request{TLS: &tls.ConnectionState{PeerCertificates: certs}})
		if err != nil {
			return "refused"
		}
		if !ok {
			return "unknown"
		}
		return got.User.GetName()
	}
	for _, tt := range []struct {
		name   string
		change func()
		certs  []*x509.Certificate
		want   string
		built  int // so many authenticators, the first for everybody
	}{
		{"at first", nil, []*x509.Certificate{ann}, "ann", 2},
		{"again", nil, []*x509.Certificate{ann}, "ann", 2},
		{"with an intermediate", nil, []*x509.Certificate{ann, others.cert}, "ann", 2},
		{"a stranger", nil, []*x509.Certificate{others.issue(t, pkix.Name{CommonName: "ann"}, nil)}, "refused", 2},
		{"nobody", nil, nil, "unknown", 2},
		{"when another authority is trusted", func() { trusted = roots(others) }, []*x509.Certificate{ann}, "refused", 2},
		{"when none is", func() { trusted = nil }, []*x509.Certificate{ann}, "unknown", 2},
		{"when it is trusted again", func() { trusted = roots(ours) }, []*x509.Certificate{ann}, "ann", 3},
		{"when the authority has expired", func() { now = now.Add(2 * time.Hour) }, []*x509.Certificate{ann}, "refused", 3},
	} {
		if tt.change != nil {
			tt.change()
		}
		if got := ask(tt.certs...); got != tt.want || built != tt.built {
			t.Errorf("%s: %s with %d authenticators, want %s with %d", tt.name, got, built, tt.want, tt.built)
		}
	}
}
