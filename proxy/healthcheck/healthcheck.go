// Package healthcheck answers load balancers that ask a node whether it has endpoints of a service, at the service's
// healthCheckNodePort.
//
// A service with externalTrafficPolicy Local is served by nodes with endpoints alone, and a balancer finds them by asking. The answer has the form of
// kube-proxy's: 200 with endpoints, 503 without, and how many in a header.
package healthcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/orlop-io/orlop/proxy"
)

// Server answers at the ports of all services.
type Server struct {
	// healthy tells whether services are in force on this node.
	healthy func() bool
	log     *slog.Logger

	mu   sync.Mutex
	open map[uint16]*port
}

// port is one that is answered at.
type port struct {
	check  proxy.HealthCheck // guarded by Server.mu
	server *http.Server      // nil while another has the port
}

// New returns a Server that answers nowhere yet.
func New(healthy func() bool, log *slog.Logger) *Server {
	return &Server{healthy: healthy, log: log, open: map[uint16]*port{}}
}

// Set makes checks all that is answered. A port that is taken is told once, and tried again with each Set.
func (s *Server) Set(checks []proxy.HealthCheck) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := map[uint16]proxy.HealthCheck{}
	for _, c := range checks {
		wanted[c.Port] = c
	}
	for number, p := range s.open {
		if _, still := wanted[number]; !still {
			p.close()
			delete(s.open, number)
		}
	}
	for number, c := range wanted {
		p, told := s.open[number]
		if !told {
			p = &port{}
			s.open[number] = p
		}
		p.check = c
		if p.server != nil {
			continue
		}
		if err := s.listen(p, number); err != nil && !told {
			s.log.Warn("answer health checks: the balancer will take this node to have no endpoints", "service", c.Service, "err", err)
		}
	}
}

// Close ends all answers.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.open {
		p.close()
	}
	clear(s.open)
}

func (p *port) close() {
	if p.server != nil {
		_ = p.server.Close() // what it could fail at is closing a listener that is gone
	}
}

func (s *Server) listen(p *port, number uint16) error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", net.JoinHostPort("", strconv.Itoa(int(number))))
	if err != nil {
		return fmt.Errorf("listen on port %d: %w", number, err)
	}
	p.server = &http.Server{Handler: s.handler(p), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	server := p.server
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Warn("answer health checks", "port", number, "err", err)
		}
	}()
	return nil
}

// answer is the body; the names are kube-proxy's.
type answer struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

func (s *Server) handler(p *port) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		check := p.check
		s.mu.Unlock()
		var a answer
		a.Service.Namespace, a.Service.Name, _ = strings.Cut(check.Service, "/")
		a.LocalEndpoints, a.ServiceProxyHealthy = check.Endpoints, s.healthy()
		body, err := json.MarshalIndent(a, "", "\t")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		maps.Copy(w.Header(), http.Header{
			"Content-Type":                     {"application/json"},
			"X-Content-Type-Options":           {"nosniff"},
			"X-Load-Balancing-Endpoint-Weight": {strconv.Itoa(a.LocalEndpoints)},
		})
		if a.LocalEndpoints == 0 || !a.ServiceProxyHealthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(body) // whoever asked has gone
	})
}
