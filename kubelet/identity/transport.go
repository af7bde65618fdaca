package identity

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// transport speaks HTTP/2 where it can, through a dialer whose connections can be closed at once.
func transport(cfg *tls.Config, dial func(context.Context, string, string) (net.Conn, error)) http.RoundTripper {
	return utilnet.SetTransportDefaults(&http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSHandshakeTimeout: 10 * time.Second,
		TLSClientConfig:     cfg,
		MaxIdleConnsPerHost: 25,
		DialContext:         dial,
	})
}
