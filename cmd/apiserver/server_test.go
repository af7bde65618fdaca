package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// cluster is an etcd and an API server in this process.
type cluster struct {
	dir  string
	port int
	etcd *embed.Etcd
	// link is the server's way to etcd; tests cut it.
	link   *link
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	admin  *rest.Config
	client *kubernetes.Clientset
}

// shared is the one cluster of this package's tests: feature gates and metrics are registered once in a process. Each
// test has namespaces of its own.
var shared *cluster

func TestMain(m *testing.M) {
	flags := flag.NewFlagSet("klog", flag.PanicOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{"logtostderr": "false", "stderrthreshold": "FATAL"} {
		if err := flags.Set(name, value); err != nil {
			panic(err)
		}
	}
	klog.SetOutput(io.Discard)
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "apiserver-test")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		ctx, cancel := context.WithCancel(context.Background())
		var wait func()
		shared, wait, err = start(ctx, dir)
		if err != nil {
			cancel()
			panic(err)
		}
		code := m.Run()
		cancel()
		wait()
		shared.etcd.Server.HardStop() // Close would wait for clients that are never told
		return code
	}())
}

func start(ctx context.Context, dir string) (*cluster, func(), error) {
	c := &cluster{dir: dir}
	if err := c.startEtcd(); err != nil {
		return nil, nil, err
	}
	if err := c.makeFiles(); err != nil {
		return nil, nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	c.port = listener.Addr().(*net.TCPAddr).Port
	o := c.options()
	o.Serving.Listener = listener
	s, err := New(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	if c.admin, err = c.config("kubernetes-admin", "system:masters"); err != nil {
		return nil, nil, err
	}
	if c.client, err = kubernetes.NewForConfig(c.admin); err != nil {
		return nil, nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		_, err := c.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err == nil {
			return c, func() { <-done }, nil
		}
		select {
		case err := <-done:
			return nil, nil, err
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, nil, err
		}
	}
}

func (c *cluster) startEtcd() error {
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(c.dir, "etcd")
	cfg.LogLevel, cfg.UnsafeNoFsync, cfg.QuotaBackendBytes = "fatal", true, etcdQuota
	client := url.URL{Scheme: "unix", Path: filepath.Join(c.dir, "etcd.sock")}
	peer := url.URL{Scheme: "unix", Path: filepath.Join(c.dir, "peer.sock")}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	var err error
	if c.etcd, err = embed.StartEtcd(cfg); err != nil {
		return err
	}
	<-c.etcd.Server.ReadyNotify()
	c.link, err = newLink(filepath.Join(c.dir, "link.sock"), client.Path)
	return err
}

func (c *cluster) options() *Options {
	o := NewOptions()
	o.AddFlags(pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError))
	o.Run.AdvertiseAddress = net.ParseIP("127.0.0.1")
	o.Serving.BindAddress, o.Serving.BindPort = net.ParseIP("127.0.0.1"), c.port
	o.Serving.ServerCert.CertKey.CertFile, o.Serving.ServerCert.CertKey.KeyFile = c.file("server.crt"), c.file("server.key")
	o.Etcd.StorageConfig.Transport.ServerList = []string{"unix://" + filepath.Join(c.dir, "link.sock")}
	o.ClientCAFile = c.file("ca.crt")
	o.AuthorizationModes = []string{modeNode, modeRBAC}
	o.TokenIssuers, o.TokenSigningFile = []string{"https://kubernetes.default.svc"}, c.file("server.key")
	// The authority's own key stands for one that signed tokens before a rotation.
	o.TokenKeyFiles = []string{c.file("server.key"), c.file("ca.crt")}
	o.ServiceRange, o.EndpointReconciler = "10.96.0.0/12,fd00:96::/108", reconcileNone
	o.Admission.EnablePlugins = []string{"NodeRestriction"}
	return o
}

func (c *cluster) file(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) makeFiles() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	c.caKey = key
	if c.ca, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	cert, private, err := c.issue("kube-apiserver")
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"ca.crt":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"server.crt": cert, "server.key": private,
	} {
		if err := os.WriteFile(c.file(name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// issue returns a certificate of the cluster's authority, and its key, as PEM.
func (c *cluster) issue(name string, groups ...string) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1")},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.ca, private.Public(), c.caKey)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), nil
}

// anonymousConfig reaches the server without any credential.
func (c *cluster) anonymousConfig() *rest.Config {
	return &rest.Config{Host: (&url.URL{Scheme: "https", Host: net.JoinHostPort("127.0.0.1", big.NewInt(int64(c.port)).String())}).String(),
		QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAFile: c.file("ca.crt")}}
}

// config is that of a user with a client certificate.
func (c *cluster) config(name string, groups ...string) (*rest.Config, error) {
	cert, key, err := c.issue(name, groups...)
	if err != nil {
		return nil, err
	}
	cfg := c.anonymousConfig()
	cfg.CertData, cfg.KeyData = cert, key
	return cfg, nil
}

// as returns a client for a user with a client certificate.
func (c *cluster) as(t *testing.T, name string, groups ...string) *kubernetes.Clientset {
	t.Helper()
	cfg, err := c.config(name, groups...)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}
