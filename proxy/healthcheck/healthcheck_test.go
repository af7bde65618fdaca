package healthcheck

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/orlop-io/orlop/proxy"
)

// free is a port that nobody listens on.
func free(t *testing.T) (uint16, net.Listener) {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return uint16(l.Addr().(*net.TCPAddr).Port), l
}

func get(t *testing.T, port uint16) (code int, weight string, a answer) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/anything", port))
	if err != nil {
		return 0, "", a
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("X-Load-Balancing-Endpoint-Weight"), a
}

func TestAnswersFollowEndpoints(t *testing.T) {
	var healthy atomic.Bool
	s := New(healthy.Load, slog.New(slog.DiscardHandler))
	t.Cleanup(s.Close)
	port, l := free(t)
	l.Close()
	for _, tt := range []struct {
		name      string
		healthy   bool
		endpoints int
		code      int
	}{
		{"services are not in force yet", false, 2, 503},
		{"two here", true, 2, 200},
		{"none here", true, 0, 503},
	} {
		healthy.Store(tt.healthy)
		s.Set([]proxy.HealthCheck{{Service: "ns/web", Port: port, Endpoints: tt.endpoints}})
		code, weight, a := get(t, port)
		if code != tt.code || weight != fmt.Sprint(tt.endpoints) || a.LocalEndpoints != tt.endpoints || a.ServiceProxyHealthy != tt.healthy ||
			a.Service.Namespace != "ns" || a.Service.Name != "web" {
			t.Errorf("%s: %d, weight %q, %+v", tt.name, code, weight, a)
		}
	}
	s.Set(nil)
	if code, _, _ := get(t, port); code != 0 {
		t.Errorf("a service that is gone is answered with %d", code)
	}
}

// A port that another program has is told, once, and taken as soon as it is free.
func TestTakenPort(t *testing.T) {
	var log bytes.Buffer
	s := New(func() bool { return true }, slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(s.Close)
	port, l := free(t)
	checks := []proxy.HealthCheck{{Service: "ns/web", Port: port, Endpoints: 1}}
	for range 3 {
		s.Set(checks)
	}
	if n := strings.Count(log.String(), "ns/web"); n != 1 {
		t.Errorf("told %d times: %s", n, log.String())
	}
	l.Close()
	s.Set(checks)
	if code, _, _ := get(t, port); code != 200 {
		t.Errorf("got %d once the port was free", code)
	}
}
