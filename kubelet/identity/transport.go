package identity

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strconv"
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

// counted tells of each request that passes.
type counted struct {
	next  http.RoundTripper
	asked func(method, host, code string)
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	code := "<error>"
	if err == nil {
		code = strconv.Itoa(resp.StatusCode)
	}
	c.asked(r.Method, r.URL.Host, code)
	return resp, err
}

// WrappedRoundTripper lets those who look for the transport below find it.
func (c counted) WrappedRoundTripper() http.RoundTripper { return c.next }
