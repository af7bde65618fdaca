// Package kubeletclient finds a node's kubelet and makes the TLS transport that the API server reaches it by.
package kubeletclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/transport"
)

// defaultPort is where a kubelet listens that does not say otherwise in its node's status.
const defaultPort = 10250

// Config says how to reach kubelets.
type Config struct {
	// CertFile and KeyFile hold the client certificate; both empty means none. They are read again when they change.
	CertFile, KeyFile string
	// CAFile holds what kubelets' serving certificates are verified against. Empty means no verification, because
	// a kubelet without a serving certificate signed by the cluster makes its own.
	CAFile string
	// AddressTypes orders a node's addresses by preference. An address of no listed type is never used.
	AddressTypes []corev1.NodeAddressType
	// DialTimeout bounds connecting; zero means 5 s.
	DialTimeout time.Duration
}

// Client makes connections to kubelets.
type Client struct {
	addressTypes []corev1.NodeAddressType
	node         func(ctx context.Context, name string) (*corev1.Node, error)
	verified     *http.Transport
	insecure     *http.Transport
}

// New returns a Client that looks up nodes by node.
func New(cfg Config, node func(ctx context.Context, name string) (*corev1.Node, error)) (*Client, error) {
	if len(cfg.AddressTypes) == 0 {
		return nil, errors.New("kubelet client: no preferred address types")
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 5 * time.Second
	}
	files := transport.TLSConfig{CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, CAFile: cfg.CAFile, ReloadTLSFiles: true}
	files.Insecure = cfg.CAFile == ""
	verified, err := roundTripper(files, cfg.DialTimeout)
	if err != nil {
		return nil, err
	}
	files.CAFile, files.Insecure = "", true
	insecure, err := roundTripper(files, cfg.DialTimeout)
	if err != nil {
		return nil, err
	}
	return &Client{cfg.AddressTypes, node, verified, insecure}, nil
}

// resumed is how many kubelets' TLS sessions are kept for the next connection.
const resumed = 1000

func roundTripper(files transport.TLSConfig, dial time.Duration) (*http.Transport, error) {
	config, err := transport.TLSConfigFor(&transport.Config{TLS: files})
	if err != nil {
		return nil, fmt.Errorf("kubelet client certificate: %w", err)
	}
	// Connections are few and streams long: HTTP/1.1 alone, so that upgrades work on the same transport.
	config.NextProtos = []string{"http/1.1"}
	// Each stream takes a connection of its own over: from the second on to a kubelet the handshake is a short one.
	config.ClientSessionCache = tls.NewLRUClientSessionCache(resumed)
	dialer := &net.Dialer{Timeout: dial, KeepAlive: 30 * time.Second}
	return utilnet.SetOldTransportDefaults(&http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: config, TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second,
	}), nil
}

// Kubelet is where a node's kubelet is, and how to talk to it.
type Kubelet struct {
	Host      string // address and port
	Transport *http.Transport
	// Insecure skips verification; for clients that ask for the logs of a node whose certificate is wrong.
	Insecure *http.Transport
}

// URL is the address of a path at the kubelet.
func (k Kubelet) URL(path string, query url.Values) *url.URL {
	return &url.URL{Scheme: "https", Host: k.Host, Path: path, RawQuery: query.Encode()}
}

// Kubelet finds the kubelet of the named node. Errors from the node lookup are returned as they are.
func (c *Client) Kubelet(ctx context.Context, name string) (Kubelet, error) {
	node, err := c.node(ctx, name)
	if err != nil {
		return Kubelet{}, err
	}
	address, err := preferred(node.Status.Addresses, c.addressTypes)
	if err != nil {
		return Kubelet{}, fmt.Errorf("node %s: %w", name, err)
	}
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port <= 0 {
		port = defaultPort
	}
	return Kubelet{net.JoinHostPort(address, strconv.Itoa(port)), c.verified, c.insecure}, nil
}

// preferred picks the first address of the most preferred type.
func preferred(addresses []corev1.NodeAddress, types []corev1.NodeAddressType) (string, error) {
	for _, t := range types {
		for _, a := range addresses {
			if a.Type == t {
				return a.Address, nil
			}
		}
	}
	return "", fmt.Errorf("no preferred addresses found; known addresses: %v", addresses)
}
