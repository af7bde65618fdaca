package elected

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"  // request and election metrics
	_ "k8s.io/component-base/metrics/prometheus/workqueue" // queue metrics
)

// server answers health to everybody and metrics to those whom the API server allows it.
type server struct {
	addr    string
	tls     *tls.Config
	handler http.Handler
	log     *slog.Logger
}

func newServer(cfg Config, check func(*http.Request) error, log *slog.Logger) (*server, error) {
	if cfg.SecurePort == 0 {
		return &server{}, nil
	}
	pair, err := servingCert(cfg)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if cfg.ClientCAFile != "" {
		pem, err := os.ReadFile(cfg.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("read client CA: %w", err)
		}
		conf.ClientCAs = x509.NewCertPool()
		if !conf.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("client CA %s holds no certificate", cfg.ClientCAFile)
		}
		conf.ClientAuth = tls.VerifyClientCertIfGiven
	}
	guard, err := newGuard(cfg)
	if err != nil {
		return nil, err
	}
	return &server{
		addr: net.JoinHostPort(cfg.BindAddress, strconv.Itoa(cfg.SecurePort)), tls: conf,
		handler: routes(check, guard.protect(legacyregistry.Handler())), log: log,
	}, nil
}

func servingCert(cfg Config) (tls.Certificate, error) {
	if cfg.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
		if err != nil {
			return pair, fmt.Errorf("read serving certificate: %w", err)
		}
		return pair, nil
	}
	pair, err := selfSigned(time.Now())
	if err != nil {
		return pair, fmt.Errorf("make serving certificate: %w", err)
	}
	return pair, nil
}

// selfSigned makes a certificate for this host. Probes connect anew every second, and an RSA key would be most of what
// an idle program does.
func selfSigned(now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, err
	}
	content, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "localhost"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "localhost"}}, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{content}, PrivateKey: key}, nil
}

func routes(check func(*http.Request) error, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	healthy := func(w http.ResponseWriter, r *http.Request) {
		if err := check(r); err != nil {
			http.Error(w, "[-]leaderElection failed: "+err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, "ok")
	}
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		mux.HandleFunc("GET "+path, healthy)
	}
	mux.Handle("GET /metrics", metrics)
	return mux
}

// run serves until ctx ends.
func (s *server) run(ctx context.Context) error {
	if s.handler == nil {
		<-ctx.Done()
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.addr)
	if err != nil {
		return fmt.Errorf("listen for health: %w", err)
	}
	srv := &http.Server{
		Handler: s.handler, TLSConfig: s.tls, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stopped := context.AfterFunc(ctx, func() { srv.Close() })
	defer stopped()
	if err := srv.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health: %w", err)
	}
	return nil
}

// guard asks the API server who a caller is and what they may.
type guard struct {
	authn, authz kubernetes.Interface
}

func newGuard(cfg Config) (*guard, error) {
	client := func(file string) (kubernetes.Interface, error) {
		if file == "" {
			file = cfg.Kubeconfig
		}
		api, err := clientConfig(cfg.Master, file, cfg.Name)
		if err != nil {
			return nil, err
		}
		api.Timeout = 10 * time.Second
		return kubernetes.NewForConfig(api)
	}
	authn, err := client(cfg.AuthenticationKubeconfig)
	if err != nil {
		return nil, err
	}
	authz, err := client(cfg.AuthorizationKubeconfig)
	return &guard{authn, authz}, err
}

func (g *guard) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := g.caller(r)
		if err != nil {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		allowed, err := g.allowed(r, user)
		if err != nil {
			http.Error(w, "review access: "+err.Error(), http.StatusInternalServerError)
			return
		}
		if !allowed {
			http.Error(w, fmt.Sprintf("forbidden: User %q cannot get path %q", user.Username, r.URL.Path), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// caller returns who asks: the subject of a verified client certificate, or of a bearer token.
func (g *guard) caller(r *http.Request) (authenticationv1.UserInfo, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		subject := r.TLS.VerifiedChains[0][0].Subject
		return authenticationv1.UserInfo{
			Username: subject.CommonName, Groups: append(subject.Organization, "system:authenticated"),
		}, nil
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return authenticationv1.UserInfo{}, errors.New("no credentials")
	}
	review, err := g.authn.AuthenticationV1().TokenReviews().Create(r.Context(),
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, fmt.Errorf("review token: %w", err)
	}
	if !review.Status.Authenticated {
		return authenticationv1.UserInfo{}, errors.New("token refused")
	}
	return review.Status.User, nil
}

func (g *guard) allowed(r *http.Request, user authenticationv1.UserInfo) (bool, error) {
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for k, v := range user.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := g.authz.AuthorizationV1().SubjectAccessReviews().Create(r.Context(),
		&authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: r.URL.Path, Verb: "get"},
		}}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}
