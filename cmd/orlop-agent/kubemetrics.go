package main

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/orlop-io/orlop/proxy"
)

// kubeMetrics are kube-proxy's by name, where they mean the same here: whoever watches a kube-proxy watches this.
type kubeMetrics struct {
	changes atomic.Pointer[proxy.Proxy] // nil until there is one

	took, whole, part, programming prometheus.Histogram
	last                           prometheus.Gauge
	failures                       prometheus.Counter // of the mode's own name; nil where kube-proxy has no such mode
	healthz, livez                 *prometheus.CounterVec

	queued, services, servicesPending, slices, slicesPending, lonely *prometheus.Desc
}

func newKubeMetrics(mode string) *kubeMetrics {
	duration := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kubeproxy_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18)})
	}
	probe := func(name string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubeproxy_proxy_" + name + "_total", Help: "Answers of /" + name + " by status."}, []string{"code"})
	}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("kubeproxy_sync_proxy_rules_"+name, help, labels, nil)
	}
	m := &kubeMetrics{
		took:  duration("sync_proxy_rules_duration_seconds", "Time to put changed services in force."),
		whole: duration("sync_full_proxy_rules_duration_seconds", "Time to put all services in force, at the start."),
		part:  duration("sync_partial_proxy_rules_duration_seconds", "Time to put changed services in force, after the start."),
		programming: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "kubeproxy_network_programming_duration_seconds",
			Help:    "Time from a change of a pod or a Service, as EndpointSlices tell it, until it is in force here.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 19),
		}),
		last:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubeproxy_sync_proxy_rules_last_timestamp_seconds", Help: "When services were last put in force."}),
		healthz: probe("healthz"), livez: probe("livez"),

		queued:          desc("last_queued_timestamp_seconds", "When a change was last seen."),
		services:        desc("service_changes_total", "Changes of Services."),
		servicesPending: desc("service_changes_pending", "Changes of Services that are not in force."),
		slices:          desc("endpoint_changes_total", "Changes of EndpointSlices."),
		slicesPending:   desc("endpoint_changes_pending", "Changes of EndpointSlices that are not in force."),
		lonely:          desc("no_local_endpoints_total", "Services with a traffic policy Local and endpoints, none of them on this node.", "traffic_policy"),
	}
	if name := map[string]string{proxy.ModeNftables: "nftables_sync_failures_total", proxy.ModeIptables: "iptables_restore_failures_total"}[mode]; name != "" {
		m.failures = prometheus.NewCounter(prometheus.CounterOpts{Name: "kubeproxy_sync_proxy_rules_" + name, Help: "Synchronisations that failed."})
	}
	return m
}

func (m *kubeMetrics) parts() []prometheus.Collector {
	list := []prometheus.Collector{m.took, m.whole, m.part, m.programming, m.last, m.healthz, m.livez}
	if m.failures != nil {
		list = append(list, m.failures)
	}
	return list
}

func (m *kubeMetrics) observe(s proxy.Sync, now time.Time) {
	if s.Err != nil {
		if m.failures != nil {
			m.failures.Inc()
		}
		return
	}
	m.took.Observe(s.Took.Seconds())
	if s.Whole {
		m.whole.Observe(s.Took.Seconds())
	} else {
		m.part.Observe(s.Took.Seconds())
	}
	for _, at := range s.Triggered {
		m.programming.Observe(now.Sub(at).Seconds())
	}
	m.last.Set(float64(now.UnixNano()) / 1e9)
}

// Describe implements prometheus.Collector.
func (m *kubeMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.parts() {
		c.Describe(ch)
	}
	for _, d := range []*prometheus.Desc{m.queued, m.services, m.servicesPending, m.slices, m.slicesPending, m.lonely} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *kubeMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.parts() {
		c.Collect(ch)
	}
	p := m.changes.Load()
	if p == nil {
		return
	}
	c := p.Changes()
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	if !c.Queued.IsZero() {
		send(m.queued, prometheus.GaugeValue, float64(c.Queued.UnixNano())/1e9)
	}
	send(m.services, prometheus.CounterValue, float64(c.Services))
	send(m.servicesPending, prometheus.GaugeValue, float64(c.PendingServices))
	send(m.slices, prometheus.CounterValue, float64(c.Slices))
	send(m.slicesPending, prometheus.GaugeValue, float64(c.PendingSlices))
	send(m.lonely, prometheus.GaugeValue, float64(c.LonelyInside), "internal")
	send(m.lonely, prometheus.GaugeValue, float64(c.LonelyOutside), "external")
}
