package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/nft"
)

// serve answers HTTP at addr until ctx ends; nowhere when addr is empty. While somebody else has the address it is told once, and tried again and
// again: beside a proxy that this one is to replace, nothing of the node may fail.
func serve(ctx context.Context, addr string, h http.Handler, mustBind bool, log *slog.Logger) error {
	if addr == "" {
		return nil
	}
	if mustBind {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("serve, as bindAddressHardFail wants it: %w", err)
		}
		return serveOn(ctx, l, h)
	}
	l, err := listen(ctx, addr, log)
	if err != nil {
		return err
	}
	return serveOn(ctx, l, h)
}

func serveOn(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case <-ctx.Done():
		closeErr := s.Close()
		<-done
		return errors.Join(ctx.Err(), closeErr)
	case err := <-done:
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	}
}

// again is how long to wait before an address that is taken is tried once more.
const again = 2 * time.Second

func listen(ctx context.Context, addr string, log *slog.Logger) (net.Listener, error) {
	for told := false; ; told = true {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		switch {
		case err == nil && told:
			log.Info("the address is free now: served", "address", addr)
			return l, nil
		case err == nil:
			return l, nil
		case !errors.Is(err, unix.EADDRINUSE):
			return nil, fmt.Errorf("serve: %w", err)
		case !told:
			log.Warn("somebody else serves at this address, kube-proxy perhaps: it is tried again until it is free", "address", addr)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(again):
		}
	}
}

// serveProbes answers the kubelet's probes. The address is ours alone: were it taken, the kubelet would take another's health for this agent's.
func serveProbes(ctx context.Context, addr string, h http.Handler) error {
	if addr == "" {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("serve the kubelet's probes: %w (--probe-bind-address, and the port of the DaemonSet's probes)", err)
	}
	return serveOn(ctx, l, h)
}

// probeHandler is for the kubelet: the agent lives, and it is ready once services are in force.
func (a *agent) probeHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if a.inForce() {
			_, _ = io.WriteString(w, "ok\n")
		} else {
			http.Error(w, "services are not in force yet", http.StatusServiceUnavailable)
		}
	})
	return mux
}

// tooLate is how long a change may wait to be in force before services are said not to be healthy, as kube-proxy has it: twice what it syncs in.
const tooLate = time.Minute

// healthy tells whether services are in force, and changes of them without much delay.
func (a *agent) healthy() bool {
	return a.inForce() && (a.proxy == nil || a.proxy.Behind(time.Now()) < tooLate)
}

// health is the body of an answer; the names are kube-proxy's.
type health struct {
	LastUpdated  string `json:"lastUpdated"`
	CurrentTime  string `json:"currentTime"`
	NodeEligible *bool  `json:"nodeEligible,omitempty"`
}

// healthHandler is for balancers, as kube-proxy has it: /livez says whether services are healthy, and /healthz that clients outside should be sent here,
// which they should not be if the node is about to go.
func (a *agent) healthHandler(m *kubeMetrics) http.Handler {
	answer := func(w http.ResponseWriter, well bool, eligible *bool) {
		now := time.Now()
		h := health{CurrentTime: now.UTC().String(), NodeEligible: eligible, LastUpdated: now.UTC().String()}
		if a.proxy != nil { // all that was asked for then is in force
			h.LastUpdated = now.Add(-a.proxy.Behind(now)).UTC().String()
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !well {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(h) // whoever asked has gone
	}
	mux := http.NewServeMux()
	mux.Handle("GET /livez", promhttp.InstrumentHandlerCounter(m.livez, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, a.healthy(), nil) })))
	mux.Handle("GET /healthz", promhttp.InstrumentHandlerCounter(m.healthz, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c := a.cluster.Load()
		eligible := c == nil || !c.leaving
		answer(w, a.healthy() && eligible, &eligible)
	})))
	return mux
}

// inForce tells whether this process has put all services in force.
func (a *agent) inForce() bool {
	select {
	case <-a.proxying:
		return true
	default:
		return false
	}
}

// metrics are those of translation. Those that kube-proxy has are in kube.
type metrics struct {
	registry *prometheus.Registry
	kube     *kubeMetrics
	waited   prometheus.Histogram
	mode     string
	external string
	why      string // better modes are not used
	past     *shortcut
}

func newMetrics(s *services) *metrics {
	m := &metrics{
		mode:     s.mode,
		external: s.external(),
		registry: prometheus.NewRegistry(),
		kube:     newKubeMetrics(s.mode),
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "orlop_proxy_change_wait_seconds", Help: "Time from a change being seen to its synchronisation.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18),
		}),
	}
	if s.tables != nil {
		m.kube.rules = s.tables.Rules
		s.tables.TellFlows(m.kube.flows)
	}
	if table, is := s.packets.(*nft.Backend); is && s.mode == modeNftables {
		table.TellFlows(m.kube.flows)
	}
	if s.lb != nil {
		m.registry.MustRegister(counts{s.lb.Counters, prometheus.NewDesc(
			"orlop_proxy_socket_calls_total", "Calls of connect and sendmsg by what was decided.", []string{"reason"}, nil)})
	}
	if s.endings != nil {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "orlop_proxy_ended_sockets_total", Help: "Sockets that were connected to endpoints which are gone, and were ended.",
		}, func() float64 { return float64(s.endings.ended.Load()) }))
	}
	if s.stays != nil {
		m.why += fmt.Sprintf("sockets stay connected to endpoints that are gone: %v\n", s.stays)
		stays := prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "orlop_proxy_sockets_stay", Help: "1: sockets stay connected to endpoints that are gone, and why.", ConstLabels: prometheus.Labels{"why": s.stays.Error()},
		})
		stays.Set(1)
		m.registry.MustRegister(stays)
	}
	if s.outside != nil {
		m.registry.MustRegister(counts{s.outside.lb.Counters, prometheus.NewDesc(
			"orlop_proxy_packets_total", "Packets at devices by what was decided.", []string{"reason"}, nil)})
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "orlop_proxy_info", Help: "1: the mode, and how packets from outside are translated.",
		ConstLabels: prometheus.Labels{"mode": m.mode, "external": m.external},
	})
	info.Set(1)
	for _, p := range s.passed {
		m.why += fmt.Sprintf("not %s: %v\n", p.Mode, p.Why)
		passed := prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "orlop_proxy_mode_passed", Help: "1: a better mode that this node cannot do, and why.", ConstLabels: prometheus.Labels{"mode": p.Mode, "why": p.Why.Error()},
		})
		passed.Set(1)
		m.registry.MustRegister(passed)
	}
	m.registry.MustRegister(s.refused)
	if s.relay != nil {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "orlop_proxy_listeners", Help: "Addresses and ports of Services that are listened at.",
		}, func() float64 { served, _ := s.relay.Listening(); return float64(served) }))
	}
	m.registry.MustRegister(info)
	m.registry.MustRegister(m.kube, m.waited,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) observe(s proxy.Sync) {
	m.kube.observe(s, time.Now())
	if s.Err == nil {
		m.waited.Observe(s.Waited.Seconds())
	}
}

func (m *metrics) handler(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	// A part that cannot be read now must not take the others away.
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, ErrorLog: errorLog{log}}))
	mux.HandleFunc("GET /proxyMode", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, m.mode)
		if r.URL.Query().Has("verbose") {
			_, _ = io.WriteString(w, "\n"+m.why)
			for way, why := range m.past.why() {
				if why != "" {
					_, _ = io.WriteString(w, wayNames[way]+" go by the node's stack: "+why+"\n")
				}
			}
		}
	})
	mux.HandleFunc("GET /proxyExternal", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, m.external) })
	return mux
}

// errorLog has what could not be read told in the log.
type errorLog struct{ log *slog.Logger }

func (l errorLog) Println(v ...any) {
	l.log.Warn("metrics", "err", strings.TrimSpace(fmt.Sprintln(v...)))
}

// counts reads programs' counters when asked.
type counts struct {
	read func() (map[string]uint64, error)
	desc *prometheus.Desc
}

func (c counts) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c counts) Collect(ch chan<- prometheus.Metric) {
	all, err := c.read()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.desc, err)
		return
	}
	for reason, n := range all {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(n), reason)
	}
}
