package forward

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/orlop-io/orlop/cmd/localcluster/layout"
)

// Proxy is an HTTP proxy for the hosts. It goes wherever the machine can go, but not to the
// machine's own loopback: programs listen there because they trust who can reach it. Exempt are
// the registries that the user named.
type Proxy struct {
	registries []uint16
	log        *slog.Logger
	plain      *httputil.ReverseProxy
}

// NewProxy returns a proxy; registries are ports on the machine's loopback, reached under
// layout.MachineName.
func NewProxy(registries []uint16, log *slog.Logger) *Proxy {
	p := &Proxy{registries: registries, log: log}
	p.plain = &httputil.ReverseProxy{
		Rewrite: func(*httputil.ProxyRequest) {}, // the request names its target itself
		Transport: &http.Transport{
			DialContext: p.dial, DisableCompression: true,
			MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute,
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { p.refuse(w, r, err) },
	}
	return p
}

// ServeHTTP answers CONNECT, and plain requests in absolute form.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		p.connect(w, r)
	case r.URL.IsAbs() && r.URL.Scheme == "http":
		p.plain.ServeHTTP(w, r)
	default:
		http.Error(w, "this is a proxy", http.StatusBadRequest)
	}
}

func (p *Proxy) connect(w http.ResponseWriter, r *http.Request) {
	far, err := p.dial(r.Context(), "tcp", r.Host)
	if err != nil {
		p.refuse(w, r, err)
		return
	}
	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		far.Close()
		p.refuse(w, r, err)
		return
	}
	_, err = near.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n"))
	if n := buffered.Reader.Buffered(); err == nil && n > 0 {
		early, _ := buffered.Reader.Peek(n)
		_, err = far.Write(early)
	}
	if err != nil {
		near.Close()
		far.Close()
		return
	}
	// The request's context ends with this function, so it bounds nothing that matters here.
	join(context.WithoutCancel(r.Context()), near, far)
}

func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, err error) {
	p.log.Warn("pull not passed on", "host", r.Host, "err", err)
	http.Error(w, err.Error(), http.StatusBadGateway)
}

// dial connects to address unless that is the machine's loopback. The check is on the address in
// use, after any name was resolved.
func (p *Proxy) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if host == layout.MachineName {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || !slices.Contains(p.registries, uint16(n)) {
			return nil, fmt.Errorf("port %s of the machine is no registry: name it with `orlop up --registry %s`", port, port)
		}
		return d.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
	}
	d.Control = func(_, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if ip := a.Addr().Unmap(); ip.IsLoopback() || ip.IsUnspecified() {
			return fmt.Errorf("%s is the machine's own: not for hosts", address)
		}
		return nil
	}
	return d.DialContext(ctx, network, address)
}
