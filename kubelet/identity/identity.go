// Package identity gets and keeps the certificates by which this kubelet is known: to the API
// server, first by a bootstrap token and then by a client certificate that it renews, and to those
// who call it, by a serving certificate.
package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate"
	"k8s.io/client-go/util/connrotation"
)

// Config says where credentials are. All paths are absolute.
type Config struct {
	Node string
	// Kubeconfig is used as soon as it exists; where it does not, Bootstrap has the credentials to
	// ask for a certificate with, and Kubeconfig is written afterwards.
	Kubeconfig, Bootstrap string
	// CertDir holds the certificates, normally /var/lib/kubelet/pki.
	CertDir string
	// Rotate renews the client certificate before it ends.
	Rotate bool
	// Asked hears of every request to the API server that was answered or failed, the code being "<error>" then; nil hears
	// nothing. It is called from many goroutines.
	Asked func(method, host, code string)
	// Metrics are told of the client certificate. Required.
	Metrics *Metrics
}

// Connection is the way to the API server with this kubelet's credentials. All its clients share it.
type Connection struct {
	config *rest.Config
	http   *http.Client
}

// Client gives a client that asks at most qps times a second, after burst times at once; below 0 is no bound. Each has a
// bound of its own: what one asks never makes another wait.
func (c *Connection) Client(qps float32, burst int) (kubernetes.Interface, error) {
	own := rest.CopyConfig(c.config)
	own.QPS, own.Burst = qps, burst
	return kubernetes.NewForConfigAndClient(own, c.http)
}

// Connect waits until there are credentials, asking for them if need be. The client certificate is renewed in the
// background until ctx ends.
func Connect(ctx context.Context, cfg Config, log *slog.Logger) (*Connection, error) {
	rc, err := await(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	rc.UserAgent = "kubelet/orlop"
	rc.ContentType = "application/vnd.kubernetes.protobuf"
	rc.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	rc.DisableCompression = true // each event of a watch would be a compressed stream of its own, for some hundred bytes less
	if cfg.Rotate && rc.CertFile == current(cfg) {
		if err := rotate(ctx, cfg, rc, log); err != nil {
			return nil, err
		}
	}
	if cfg.Asked != nil {
		rc.Wrap(func(next http.RoundTripper) http.RoundTripper { return counted{next, cfg.Asked} })
	}
	shared, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("connect to API server: %w", err)
	}
	return &Connection{rc, shared}, nil
}

func current(cfg Config) string { return filepath.Join(cfg.CertDir, "kubelet-client-current.pem") }

// await reads Kubeconfig as soon as it is there, or bootstraps.
func await(ctx context.Context, cfg Config, log *slog.Logger) (*rest.Config, error) {
	told := ""
	for {
		rc, err := load(cfg.Kubeconfig)
		if err == nil {
			return rc, nil
		}
		if errors.Is(err, fs.ErrNotExist) && cfg.Bootstrap != "" {
			if boot, bootErr := load(cfg.Bootstrap); bootErr == nil {
				err = bootstrap(ctx, cfg, boot, log)
				if err == nil {
					continue
				}
			} else {
				err = bootErr
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if told != err.Error() {
			told = err.Error()
			log.Info("waiting for credentials", "kubeconfig", cfg.Kubeconfig, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func load(path string) (*rest.Config, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	rc, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	return rc, nil
}

// bootstrap gets a client certificate with the bootstrap credentials, and writes a kubeconfig that
// names it.
func bootstrap(ctx context.Context, cfg Config, boot *rest.Config, log *slog.Logger) error {
	log.Info("asking for a client certificate", "server", boot.Host)
	m, err := manager(cfg, func(*tls.Certificate) (kubernetes.Interface, error) { return kubernetes.NewForConfig(boot) })
	if err != nil {
		return err
	}
	if m.Current() == nil {
		m.Start()
		defer m.Stop()
	}
	for m.Current() == nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return writeKubeconfig(cfg, boot)
}

func writeKubeconfig(cfg Config, boot *rest.Config) error {
	const name = "default"
	out := clientcmdapi.NewConfig()
	out.Clusters[name] = &clientcmdapi.Cluster{Server: boot.Host, TLSServerName: boot.ServerName, InsecureSkipTLSVerify: boot.Insecure,
		CertificateAuthority: boot.CAFile, CertificateAuthorityData: boot.CAData}
	out.AuthInfos["default-auth"] = &clientcmdapi.AuthInfo{ClientCertificate: current(cfg), ClientKey: current(cfg)}
	out.Contexts[name+"-context"] = &clientcmdapi.Context{Cluster: name, AuthInfo: "default-auth", Namespace: "default"}
	out.CurrentContext = name + "-context"
	if err := clientcmd.WriteToFile(*out, cfg.Kubeconfig); err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", cfg.Kubeconfig, err)
	}
	return nil
}

func manager(cfg Config, client func(*tls.Certificate) (kubernetes.Interface, error)) (certificate.Manager, error) {
	return keeper("kubelet-client", certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth, &x509.CertificateRequest{Subject: subject(cfg.Node)},
		cfg.CertDir, client, nil, cfg.Metrics.clientErrors)
}

func subject(node string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}
}

// keeper keeps one certificate in a file of dir, and renews it in time. One that lacks what the template has is replaced.
func keeper(name, signer string, usage certificatesv1.KeyUsage, template *x509.CertificateRequest, dir string,
	client func(*tls.Certificate) (kubernetes.Interface, error), rotated certificate.Histogram, failed certificate.Counter) (certificate.Manager, error) {
	store, err := certificate.NewFileStore(name, dir, dir, "", "")
	if err != nil {
		return nil, fmt.Errorf("open certificate store: %w", err)
	}
	m, err := certificate.NewManager(&certificate.Config{
		ClientsetFn: client, Template: template, SignerName: signer, CertificateStore: store,
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage}, CertificateRotation: rotated, CertificateRenewFailure: failed,
	})
	if err != nil {
		return nil, fmt.Errorf("keep certificate %s: %w", name, err)
	}
	return m, nil
}

// rotate renews the client certificate, and makes rc present whichever is newest. Connections that
// were made with the one before are closed, so that the server sees the new one.
func rotate(ctx context.Context, cfg Config, rc *rest.Config, log *slog.Logger) error {
	plain := rest.CopyConfig(rc)
	m, err := manager(cfg, func(*tls.Certificate) (kubernetes.Interface, error) { return kubernetes.NewForConfig(plain) })
	if err != nil {
		return err
	}
	dialer := connrotation.NewDialer((&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext)
	rc.Dial = dialer.DialContext
	plainTLS, err := rest.TLSConfigFor(rc)
	if err != nil {
		return fmt.Errorf("TLS to API server: %w", err)
	}
	plainTLS.Certificates = nil
	plainTLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if c := m.Current(); c != nil {
			return c, nil
		}
		return &tls.Certificate{}, nil
	}
	rc.Transport = transport(plainTLS, dialer.DialContext)
	rc.TLSClientConfig = rest.TLSClientConfig{}
	rc.Dial = nil
	current := m.Current
	cfg.Metrics.client.Store(&current)
	m.Start()
	go func() {
		defer m.Stop()
		last := m.Current()
		for tick := time.NewTicker(time.Second); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			if now := m.Current(); now != nil && now != last {
				log.Info("client certificate renewed", "until", now.Leaf.NotAfter)
				last = now
				dialer.CloseAll()
			}
		}
	}()
	return nil
}

// Serving gives the certificate to serve with: the files given, or a self-signed one in dir that
// is made when it is missing, or when it lacks an address.
func Serving(dir, certFile, keyFile, host string, ips []net.IP) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if certFile == "" && keyFile == "" {
		certFile, keyFile = filepath.Join(dir, "kubelet.crt"), filepath.Join(dir, "kubelet.key")
		if !covers(certFile, ips) {
			if err := selfSign(certFile, keyFile, host, ips); err != nil {
				return nil, err
			}
		}
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("read serving certificate: %w", err)
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }, nil
}

// Signed is a serving certificate that the cluster's signer is asked for, and asked again before it ends. Until it is
// there, nobody is served: a certificate that nobody can verify would teach callers not to look.
type Signed struct {
	keeper certificate.Manager
	client atomic.Pointer[kubernetes.Interface]
}

var errUnsigned = errors.New("the serving certificate of this kubelet is not signed yet: see its CertificateSigningRequest of signer " + certificatesv1.KubeletServingSignerName)

// NewSigned returns a certificate for these names, which is kept in dir. It asks for nothing yet.
func NewSigned(dir, node, host string, ips []net.IP, metrics *Metrics) (*Signed, error) {
	s := &Signed{}
	var err error
	s.keeper, err = keeper("kubelet-server", certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth,
		&x509.CertificateRequest{Subject: subject(node), DNSNames: []string{host}, IPAddresses: ips}, dir,
		func(*tls.Certificate) (kubernetes.Interface, error) {
			if c := s.client.Load(); c != nil {
				return *c, nil
			}
			return nil, errors.New("there is no connection to the API server yet")
		}, metrics.rotated, metrics.serverErrors)
	if err == nil {
		current := s.keeper.Current
		metrics.server.Store(&current)
	}
	return s, err
}

// Certificate is a tls.Config's GetCertificate.
func (s *Signed) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s.keeper.Current(); c != nil {
		return c, nil
	}
	return nil, errUnsigned
}

// Run asks and renews through client until ctx ends.
func (s *Signed) Run(ctx context.Context, client kubernetes.Interface) {
	s.client.Store(&client)
	s.keeper.Start()
	<-ctx.Done()
	s.keeper.Stop()
}

func covers(certFile string, ips []net.IP) bool {
	certs, err := certutil.CertsFromFile(certFile)
	if err != nil || time.Now().After(certs[0].NotAfter) {
		return false
	}
	for _, ip := range ips {
		if certs[0].VerifyHostname(ip.String()) != nil {
			return false
		}
	}
	return true
}

func selfSign(certFile, keyFile, host string, ips []net.IP) error {
	cert, key, err := certutil.GenerateSelfSignedCertKey(host, ips, nil)
	if err != nil {
		return fmt.Errorf("make serving certificate: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(certFile), 0o755); err != nil {
		return fmt.Errorf("make serving certificate: %w", err)
	}
	if err := errors.Join(os.WriteFile(keyFile, key, 0o600), os.WriteFile(certFile, cert, 0o644)); err != nil {
		return fmt.Errorf("write serving certificate: %w", err)
	}
	return nil
}
