package forward

import (
	"io"
	stdlog "log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
)

func port(t *testing.T, s *httptest.Server) uint16 {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

func through(t *testing.T, p *Proxy, from *http.Client, target string) (int, string) {
	t.Helper()
	proxy := httptest.NewServer(p)
	t.Cleanup(proxy.Close)
	at, _ := url.Parse(proxy.URL)
	tr := from.Transport.(*http.Transport).Clone()
	// net/http itself never sends loopback addresses to an environment's proxy, but a fixed one gets all.
	tr.Proxy = http.ProxyURL(at)
	t.Cleanup(tr.CloseIdleConnections)
	resp, err := (&http.Client{Transport: tr}).Get(target)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func TestProxyReachesNamedRegistriesOnly(t *testing.T) {
	log, quiet := slog.New(slog.DiscardHandler), stdlog.New(io.Discard, "", 0)
	plain := httptest.NewServer(registry.New(registry.Logger(quiet)))
	defer plain.Close()
	tls := httptest.NewTLSServer(registry.New(registry.Logger(quiet)))
	defer tls.Close()
	tls.Client().Transport.(*http.Transport).TLSClientConfig.ServerName = "example.com"
	both := []uint16{port(t, plain), port(t, tls)}
	at := func(s *httptest.Server) string { return layout.MachineName + ":" + strconv.Itoa(int(port(t, s))) }
	tests := []struct {
		name       string
		registries []uint16
		client     *http.Client
		url        string
		code       int
		says       string
	}{
		{"plain", both, plain.Client(), "http://" + at(plain) + "/v2/", 200, ""},
		{"through CONNECT", both, tls.Client(), "https://" + at(tls) + "/v2/", 200, ""},
		{"not named", nil, plain.Client(), "http://" + at(plain) + "/v2/", 502, "--registry"},
		{"not named, CONNECT", nil, tls.Client(), "https://" + at(tls) + "/v2/", 0, "Bad Gateway"},
		{"loopback by address", both, plain.Client(), plain.URL + "/v2/", 502, "machine's own"},
		{"loopback by name", both, plain.Client(), strings.Replace(plain.URL, "127.0.0.1", "localhost", 1) + "/v2/", 502, "machine's own"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, body := through(t, NewProxy(tt.registries, log), tt.client, tt.url)
			if code != tt.code || !strings.Contains(body, tt.says) {
				t.Errorf("got %d %q, want %d and %q", code, body, tt.code, tt.says)
			}
		})
	}
}
