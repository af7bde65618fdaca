package main

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/iptables"
	"github.com/orlop-io/orlop/proxy/nft"
)

// kubeMetrics are kube-proxy's by name, where they mean the same here: whoever watches a kube-proxy watches this.
type kubeMetrics struct {
	changes atomic.Pointer[proxy.Proxy] // nil until there is one

	took, whole, part, programming prometheus.Histogram
	last                           prometheus.Gauge
	failures                       prometheus.Counter // of the mode's own name; nil where kube-proxy has no such mode
	partial, cleanup               prometheus.Counter // of those that came after the first synchronisation, by iptables; of chains that are not used any more, by nftables; else nil
	ended                          *prometheus.CounterVec
	looked                         *prometheus.HistogramVec
	rules                          func() []iptables.Rules // nil in other modes
	begun                          bool                    // all was in force once
	healthz, livez                 *prometheus.CounterVec

	queued, services, servicesPending, slices, slicesPending, lonely, allRules, lastRules *prometheus.Desc
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
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "kubeproxy_sync_proxy_rules_" + name, Help: help})
	}
	switch mode {
	case proxy.ModeNftables:
		m.cleanup = counter("nftables_cleanup_failures_total", "Synchronisations that left chains which are not used any more.")
	case proxy.ModeIptables:
		m.partial = counter("iptables_partial_restore_failures_total", "Synchronisations that failed after the first that did not.")
		m.allRules = desc("iptables_total", "Rules of ours.", "table", "ip_family")
		m.lastRules = desc("iptables_last", "Rules of ours that the last synchronisation wrote.", "table", "ip_family")
	}
	if name := map[string]string{proxy.ModeNftables: "nftables_sync_failures_total", proxy.ModeIptables: "iptables_restore_failures_total"}[mode]; name != "" {
		m.failures = counter(name, "Synchronisations that failed.")
		m.ended = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubeproxy_conntrack_reconciler_deleted_entries_total", Help: "The kernel's entries of flows of UDP that were deleted, as their endpoint had gone.",
		}, []string{"ip_family"})
		m.looked = prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubeproxy_conntrack_reconciler_sync_duration_seconds", Help: "Time to look through the kernel's entries for flows of UDP whose endpoint has gone.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18),
		}, []string{"ip_family"})
	}
	return m
}

func (m *kubeMetrics) parts() []prometheus.Collector {
	list := []prometheus.Collector{m.took, m.whole, m.part, m.programming, m.last, m.healthz, m.livez}
	for _, c := range []prometheus.Counter{m.failures, m.partial, m.cleanup} {
		if c != nil {
			list = append(list, c)
		}
	}
	if m.ended != nil {
		list = append(list, m.ended, m.looked)
	}
	return list
}

func (m *kubeMetrics) observe(s proxy.Sync, now time.Time) {
	if s.Err != nil {
		if m.failures != nil {
			m.failures.Inc()
		}
		if m.partial != nil && m.begun {
			m.partial.Inc()
		}
		if m.cleanup != nil && errors.Is(s.Err, nft.ErrCleanup) {
			m.cleanup.Inc()
		}
		return
	}
	m.begun = true
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

// flows is told of the kernel's flows that a mode has ended.
func (m *kubeMetrics) flows(v4 bool, ended uint, took time.Duration) {
	m.ended.WithLabelValues(ipFamily(v4)).Add(float64(ended))
	m.looked.WithLabelValues(ipFamily(v4)).Observe(took.Seconds())
}

func ipFamily(v4 bool) string {
	if v4 {
		return "IPv4"
	}
	return "IPv6"
}

// Describe implements prometheus.Collector.
func (m *kubeMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.parts() {
		c.Describe(ch)
	}
	for _, d := range []*prometheus.Desc{m.queued, m.services, m.servicesPending, m.slices, m.slicesPending, m.lonely, m.allRules, m.lastRules} {
		if d != nil {
			ch <- d
		}
	}
}

// Collect implements prometheus.Collector.
func (m *kubeMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.parts() {
		c.Collect(ch)
	}
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	if m.rules != nil {
		for _, r := range m.rules() {
			send(m.allRules, prometheus.GaugeValue, float64(r.All), r.Table, ipFamily(r.V4))
			send(m.lastRules, prometheus.GaugeValue, float64(r.Last), r.Table, ipFamily(r.V4))
		}
	}
	p := m.changes.Load()
	if p == nil {
		return
	}
	c := p.Changes()
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
