package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/iptables"
	"github.com/orlop-io/orlop/proxy/nft"
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
	m.observe(proxy.Sync{Took: time.Second, Err: fmt.Errorf("IPv4: %w", nft.ErrCleanup)}, now.Add(time.Hour))
	m.flows(true, 7, time.Second)
	m.flows(false, 0, time.Second)
	m.healthz.WithLabelValues("200").Inc()
	got := gathered(t, m)
	if got["kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds"] < 1e9 {
		t.Error("no change was queued")
	}
	delete(got, "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds")
	want := map[string]float64{
		"kubeproxy_sync_proxy_rules_duration_seconds": 2, "kubeproxy_sync_full_proxy_rules_duration_seconds": 1, "kubeproxy_sync_partial_proxy_rules_duration_seconds": 1,
		"kubeproxy_network_programming_duration_seconds": 2, "kubeproxy_sync_proxy_rules_last_timestamp_seconds": 1000, "kubeproxy_sync_proxy_rules_nftables_sync_failures_total": 2,
		"kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total": 1,
		"kubeproxy_conntrack_reconciler_deleted_entries_total IPv4":  7, "kubeproxy_conntrack_reconciler_deleted_entries_total IPv6": 0,
		"kubeproxy_conntrack_reconciler_sync_duration_seconds IPv4": 1, "kubeproxy_conntrack_reconciler_sync_duration_seconds IPv6": 1,
		"kubeproxy_sync_proxy_rules_service_changes_total": 1, "kubeproxy_sync_proxy_rules_service_changes_pending": 1,
		"kubeproxy_sync_proxy_rules_endpoint_changes_total": 0, "kubeproxy_sync_proxy_rules_endpoint_changes_pending": 0,
		"kubeproxy_sync_proxy_rules_no_local_endpoints_total internal": 0, "kubeproxy_sync_proxy_rules_no_local_endpoints_total external": 0,
		"kubeproxy_proxy_healthz_total 200": 1,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// gathered are the values of metrics by their names and labels.
func gathered(t *testing.T, m *kubeMetrics) map[string]float64 {
	t.Helper()
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
	return got
}

// Those of iptables: its rules by table, and failures after the first success by themselves.
func TestKubeProxysMetricsOfIptables(t *testing.T) {
	m := newKubeMetrics(proxy.ModeIptables)
	m.rules = func() []iptables.Rules {
		return []iptables.Rules{{V4: true, Table: "nat", All: 12, Last: 3}, {V4: false, Table: "filter", All: 5}}
	}
	for _, err := range []error{errors.New("no"), nil, errors.New("no"), errors.New("no")} {
		m.observe(proxy.Sync{Took: time.Second, Err: err}, time.Now())
	}
	got := gathered(t, m)
	for name, want := range map[string]float64{
		"iptables_total IPv4 nat": 12, "iptables_last IPv4 nat": 3, "iptables_total IPv6 filter": 5, "iptables_last IPv6 filter": 0,
		"iptables_restore_failures_total": 3, "iptables_partial_restore_failures_total": 2,
	} {
		if got["kubeproxy_sync_proxy_rules_"+name] != want {
			t.Errorf("%s: %v, want %v", name, got["kubeproxy_sync_proxy_rules_"+name], want)
		}
	}
}
