package authn

import (
	"crypto/x509"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
)

// rememberedCertificates bounds the memory that strangers could make us use: certificates that were not verified are never kept.
const rememberedCertificates = 10000

// acquainted verifies a client's certificate once instead of at every request, which is most of what it costs to know who
// sends it. A certificate stays known as long as it and the authorities that vouch for it are valid and the trusted
// authorities are the same.
type acquainted struct {
	verify x509request.VerifyOptionFunc
	build  func(x509request.VerifyOptionFunc) authenticator.Request
	whole  authenticator.Request
	now    func() time.Time

	mu    sync.Mutex
	known map[string]acquaintance // by the whole certificate
}

// acquaintance is a certificate that was verified.
type acquaintance struct {
	roots *x509.CertPool
	until time.Time
	// brief trusts the one certificate itself, and so asks only for what needs no cryptography.
	brief authenticator.Request
}

// acquaint returns the authenticator that build makes of verify, but faster for certificates that it has seen.
func acquaint(verify x509request.VerifyOptionFunc, build func(x509request.VerifyOptionFunc) authenticator.Request) authenticator.Request {
	return &acquainted{verify: verify, build: build, whole: build(verify), now: time.Now, known: map[string]acquaintance{}}
}

func (a *acquainted) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if req.TLS == nil || len(req.TLS.PeerCertificates) != 1 {
		return a.whole.AuthenticateRequest(req) // with intermediates, the answer depends on these too
	}
	options, ok := a.verify()
	if !ok || options.Roots == nil {
		return a.whole.AuthenticateRequest(req)
	}
	leaf, now := req.TLS.PeerCertificates[0], a.now()
	a.mu.Lock()
	seen, ok := a.known[string(leaf.Raw)]
	a.mu.Unlock()
	if ok && seen.roots == options.Roots && now.Before(seen.until) {
		return seen.brief.AuthenticateRequest(req)
	}
	chains, err := leaf.Verify(options)
	if err != nil {
		return a.whole.AuthenticateRequest(req) // which says it in its own words
	}
	seen = acquaintance{roots: options.Roots, until: validUntil(chains), brief: a.build(trustOnly(leaf, options))}
	a.mu.Lock()
	if len(a.known) >= rememberedCertificates {
		clear(a.known)
	}
	a.known[string(leaf.Raw)] = seen
	a.mu.Unlock()
	return seen.brief.AuthenticateRequest(req)
}

// trustOnly are options by which leaf is its own authority, and the rest is as in options.
func trustOnly(leaf *x509.Certificate, options x509.VerifyOptions) x509request.VerifyOptionFunc {
	options.Roots, options.Intermediates = x509.NewCertPool(), nil
	options.Roots.AddCert(leaf)
	return func() (x509.VerifyOptions, bool) { return options, true }
}

// validUntil is the end of the chain that lasts longest; a chain lasts as long as each certificate in it.
func validUntil(chains [][]*x509.Certificate) (last time.Time) {
	for _, chain := range chains {
		end := chain[0].NotAfter
		for _, c := range chain {
			if c.NotAfter.Before(end) {
				end = c.NotAfter
			}
		}
		if end.After(last) {
			last = end
		}
	}
	return last
}
