// Package server is what the kubelet answers over the network: logs, exec, attach and port-forward for the API server,
// statistics and metrics for monitoring, and its own health.
//
// Everything on the TLS port asks the API server who the caller is and what it may do; nothing is anonymous unless
// the configuration says so. Health alone is told in plain HTTP too, on the loopback. Streams are handed through to the
// container runtime's own streaming server, which listens on the node's loopback only.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runtime is what the server asks of the container runtime; *cri.Client is one.
type runtime interface {
	Container(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error)
	Containers(ctx context.Context) ([]*runtimeapi.Container, error)
	Sandboxes(ctx context.Context) ([]*runtimeapi.PodSandbox, error)
	ExecSync(ctx context.Context, id string, cmd []string, limit time.Duration) (*runtimeapi.ExecSyncResponse, error)
	ExecURL(ctx context.Context, req *runtimeapi.ExecRequest) (string, error)
	AttachURL(ctx context.Context, req *runtimeapi.AttachRequest) (string, error)
	PortForwardURL(ctx context.Context, req *runtimeapi.PortForwardRequest) (string, error)
	SandboxStats(ctx context.Context) ([]*runtimeapi.PodSandboxStats, error)
	ImageFs(ctx context.Context) ([]*runtimeapi.FilesystemUsage, error)
}

// Config says where the server listens, whom it lets in, and what it tells.
type Config struct {
	// Address is where TLS is served, normally :10250. Required.
	Address string
	// HealthAddress is where health is told without TLS, normally 127.0.0.1:10248; empty is nowhere.
	HealthAddress string
	// Certificate gives the serving certificate for each connection, so that it can be renewed. Required.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// MinTLS is the lowest TLS version, as in crypto/tls; zero is 1.2. Ciphers are those allowed below 1.3; nil is Go's choice.
	MinTLS  uint16
	Ciphers []uint16
	// Auth says whom to let in.
	Auth AuthConfig
	// NodeName is the node that callers need rights on. Required.
	NodeName string
	// Runtime is asked for streams, logs and statistics. Required.
	Runtime runtime
	// Pods lists all pods that the kubelet knows, with their newest status. The pods are not changed. Required.
	Pods func() []*v1.Pod
	// Storage tells what pods have stored; nil tells nothing of that.
	Storage func(context.Context) map[types.UID]Storage
	// Health is nil while the kubelet works. Required.
	Health func() error
	// Settings is what /configz shows as the kubelet's configuration; nil is nothing.
	Settings any
	// Metrics is served at /metrics, ProbeMetrics at /metrics/probes; nil serves nothing there.
	Metrics, ProbeMetrics prometheus.Gatherer
	// RootDir is the kubelet's directory, whose file system counts as the node's; empty is /var/lib/kubelet.
	RootDir string
	// LogDir is what /logs/ shows; empty is /var/log.
	LogDir string
	// HideLogs does not serve /logs/, the node's log directory.
	HideLogs bool
	// Profiling serves /debug/pprof, to callers with rights on nodes/proxy.
	Profiling bool
	// Log is told of failures to answer. Required.
	Log *slog.Logger
}

// AuthConfig says who may ask what.
type AuthConfig struct {
	// ClientCAs gives the authorities whose client certificates are believed, for each connection; nil believes none.
	ClientCAs func() *x509.CertPool
	// Client asks the API server about tokens and rights. Nil believes no token, and then only AllowAll lets anyone in.
	Client kubernetes.Interface
	// Tokens makes bearer tokens be reviewed.
	Tokens bool
	// Anonymous lets callers without credentials be system:anonymous, instead of turning them away.
	Anonymous bool
	// AllowAll gives everyone who is known every right, instead of asking the API server.
	AllowAll bool
	// TokenLife is how long a reviewed token is believed; zero is 2 minutes.
	TokenLife time.Duration
	// AllowLife and DenyLife are how long an answer about rights holds; zero is 5 minutes, and 30 s.
	AllowLife, DenyLife time.Duration
}

// Server answers.
type Server struct {
	cfg   Config
	authn *authenticator
	authz *authorizer
	usage *nodeUsage
}

// New checks cfg; it listens nowhere before Run.
func New(cfg Config) (*Server, error) {
	var errs []error
	require := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("kubelet server: no "+what))
		}
	}
	require(cfg.Address != "", "address")
	require(cfg.Certificate != nil, "certificate")
	require(cfg.NodeName != "", "node name")
	require(cfg.Runtime != nil, "runtime")
	require(cfg.Pods != nil, "pods")
	require(cfg.Health != nil, "health")
	require(cfg.Log != nil, "log")
	if cfg.MinTLS == 0 {
		cfg.MinTLS = tls.VersionTLS12
	}
	if cfg.RootDir == "" {
		cfg.RootDir = "/var/lib/kubelet"
	}
	if cfg.LogDir == "" {
		cfg.LogDir = "/var/log"
	}
	return &Server{cfg: cfg, authn: newAuthenticator(cfg.Auth), authz: newAuthorizer(cfg.Auth, cfg.NodeName), usage: &nodeUsage{}}, errors.Join(errs...)
}

// Run listens and answers until ctx ends. It fails if it cannot listen.
func (s *Server) Run(ctx context.Context) error {
	var listen net.ListenConfig
	secure, err := listen.Listen(ctx, "tcp", s.cfg.Address)
	if err != nil {
		return fmt.Errorf("listen for the kubelet's API: %w", err)
	}
	secure = tls.NewListener(secure, &tls.Config{
		MinVersion:     s.cfg.MinTLS,
		CipherSuites:   s.cfg.Ciphers,
		GetCertificate: s.cfg.Certificate,
		ClientAuth:     tls.RequestClientCert, // a caller may have a token instead; certificates are checked per request
		NextProtos:     []string{"http/1.1"},  // streams are upgrades, which HTTP/2 has not
	})
	errs := make(chan error, 3)
	var group sync.WaitGroup
	defer group.Wait()
	servers := []*http.Server{s.serve(ctx, &group, secure, s.protect(s.routes()), errs)}
	if s.cfg.HealthAddress != "" {
		plain, err := listen.Listen(ctx, "tcp", s.cfg.HealthAddress)
		if err != nil {
			errs <- fmt.Errorf("listen for health checks: %w", err)
		} else {
			mux := http.NewServeMux()
			mux.HandleFunc("/healthz", s.health)
			servers = append(servers, s.serve(ctx, &group, plain, mux, errs))
		}
	}
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case err = <-errs:
	}
	for _, srv := range servers {
		err = errors.Join(err, srv.Close())
	}
	return err
}

func (s *Server) serve(ctx context.Context, group *sync.WaitGroup, l net.Listener, h http.Handler, errs chan<- error) *http.Server {
	srv := &http.Server{
		Handler:           h,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       90 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug), // callers that break off
	}
	group.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			errs <- fmt.Errorf("serve %s: %w", l.Addr(), err)
		}
	})
	return srv
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.health)
	mux.HandleFunc("GET /healthz/ping", s.health)
	mux.HandleFunc("GET /healthz/syncloop", s.health)
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /runningpods/", s.runningPods)
	mux.HandleFunc("GET /runningpods", s.runningPods)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs)
	for _, verb := range []string{"GET", "POST"} {
		mux.HandleFunc(verb+" /exec/{namespace}/{pod}/{container}", s.exec)
		mux.HandleFunc(verb+" /exec/{namespace}/{pod}/{uid}/{container}", s.exec)
		mux.HandleFunc(verb+" /attach/{namespace}/{pod}/{container}", s.attach)
		mux.HandleFunc(verb+" /attach/{namespace}/{pod}/{uid}/{container}", s.attach)
		mux.HandleFunc(verb+" /portForward/{namespace}/{pod}", s.portForward)
		mux.HandleFunc(verb+" /portForward/{namespace}/{pod}/{uid}", s.portForward)
	}
	mux.HandleFunc("POST /run/{namespace}/{pod}/{container}", s.run)
	mux.HandleFunc("POST /run/{namespace}/{pod}/{uid}/{container}", s.run)
	mux.HandleFunc("GET /stats/summary", s.summary)
	mux.HandleFunc("GET /metrics/resource", s.resourceMetrics)
	mux.HandleFunc("GET /configz", s.configz)
	if !s.cfg.HideLogs {
		mux.HandleFunc("GET /logs/", s.hostLogs)
	}
	if s.cfg.Metrics != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{}))
	}
	if s.cfg.ProbeMetrics != nil {
		mux.Handle("GET /metrics/probes", promhttp.HandlerFor(s.cfg.ProbeMetrics, promhttp.HandlerOpts{}))
	}
	if s.cfg.Profiling {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	}
	return mux
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	if err := s.cfg.Health(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok")) // a caller that has gone needs no answer
}

// hostLogs shows the node's log directory. Links that lead out of it are not followed.
func (s *Server) hostLogs(w http.ResponseWriter, r *http.Request) {
	root, err := os.OpenRoot(s.cfg.LogDir)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer root.Close()
	http.StripPrefix("/logs/", http.FileServerFS(root.FS())).ServeHTTP(w, r)
}

func (s *Server) configz(w http.ResponseWriter, _ *http.Request) {
	s.json(w, map[string]any{"kubeletconfig": s.cfg.Settings})
}

func (s *Server) json(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // a caller that has gone needs no answer
}
