package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/orlop-io/orlop/proxy"
)

func TestKubeProxysMetrics(t *testing.T) {
	m := newKubeMetrics(proxy.ModeNftables)
	p, err := proxy.New(proxy.Config{Synced: func(context.Context) error { return nil }, Log: slog.New(slog.DiscardHandler)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.changes.Store(p)
	p.SetService("ns/web", proxy.Service{Key: "ns/web", ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.9")}}.Pack())
	now := time.Unix(1000, 0)
	m.observe(proxy.Sync{Took: time.Second, Whole: true}, now)
	m.observe(proxy.Sync{Took: time.Second, Triggered: []time.Time{now.Add(-3 * time.Second), now}}, now)
	m.observe(proxy.Sync{Took: time.Second, Err: errors.New("no")}, now.Add(time.Hour))
	m.healthz.WithLabelValues("200").Inc()
	r := prometheus.NewRegistry()
	r.MustRegister(m)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, s := range f.Metric {
			name := f.GetName()
			for _, l := range s.Label {
				name += " " + l.GetValue()
			}
			got[name] = s.GetCounter().GetValue() + s.GetGauge().GetValue() + float64(s.GetHistogram().GetSampleCount())
		}
	}
	if got["kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds"] < 1e9 {
		t.Error("no change was queued")
	}
	delete(got, "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds")
	want := map[string]float64{
		"kubeproxy_sync_proxy_rules_duration_seconds": 2, "kubeproxy_sync_full_proxy_rules_duration_seconds": 1, "kubeproxy_sync_partial_proxy_rules_duration_seconds": 1,
		"kubeproxy_network_programming_duration_seconds": 2, "kubeproxy_sync_proxy_rules_last_timestamp_seconds": 1000, "kubeproxy_sync_proxy_rules_nftables_sync_failures_total": 1,
		"kubeproxy_sync_proxy_rules_service_changes_total": 1, "kubeproxy_sync_proxy_rules_service_changes_pending": 1,
		"kubeproxy_sync_proxy_rules_endpoint_changes_total": 0, "kubeproxy_sync_proxy_rules_endpoint_changes_pending": 0,
		"kubeproxy_sync_proxy_rules_no_local_endpoints_total internal": 0, "kubeproxy_sync_proxy_rules_no_local_endpoints_total external": 0,
		"kubeproxy_proxy_healthz_total 200": 1,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
