package services

import (
	"context"
	"maps"
	"net/netip"
	"sync"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/component-base/metrics"
)

// tally counts what the allocators of this process did.
type tally struct {
	mu     sync.Mutex
	counts map[counted]int
}

// counted is one counter. cidr is empty for ports; static says that the Service named what it wanted.
type counted struct {
	cidr           string
	static, failed bool
}

func (t *tally) add(c counted) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = map[counted]int{}
	}
	t.counts[c]++
}

func (t *tally) all() map[counted]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.counts)
}

// collector shows the allocators under upstream's names.
type collector struct {
	metrics.BaseStableCollector
	a   *Allocator
	ctx func() context.Context

	ips, freeIPs, ipsTotal, ipErrors     *metrics.Desc
	ports, freePorts, portsTotal, errors *metrics.Desc
}

// Collector returns the metrics of a, read when they are asked for. ctx bounds the reading.
func (a *Allocator) Collector(ctx context.Context) metrics.StableCollector {
	desc := func(name, help string, labels ...string) *metrics.Desc {
		return metrics.NewDesc("kube_apiserver_"+name, help, labels, nil, metrics.ALPHA, "")
	}
	return &collector{
		a: a, ctx: func() context.Context { return ctx },
		ips:        desc("clusterip_allocator_allocated_ips", "Gauge measuring the number of allocated IPs for Services", "cidr"),
		freeIPs:    desc("clusterip_allocator_available_ips", "Gauge measuring the number of available IPs for Services", "cidr"),
		ipsTotal:   desc("clusterip_allocator_allocation_total", "Number of Cluster IPs allocations", "cidr", "scope"),
		ipErrors:   desc("clusterip_allocator_allocation_errors_total", "Number of errors trying to allocate Cluster IPs", "cidr", "scope"),
		ports:      desc("nodeport_allocator_allocated_ports", "Gauge measuring the number of allocated NodePorts for Services"),
		freePorts:  desc("nodeport_allocator_available_ports", "Gauge measuring the number of available NodePorts for Services"),
		portsTotal: desc("nodeport_allocator_allocation_total", "Number of NodePort allocations", "scope"),
		errors:     desc("nodeport_allocator_allocation_errors_total", "Number of errors trying to allocate NodePort", "scope"),
	}
}

func (c *collector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, d := range []*metrics.Desc{c.ips, c.freeIPs, c.ipsTotal, c.ipErrors, c.ports, c.freePorts, c.portsTotal, c.errors} {
		ch <- d
	}
}

func (c *collector) CollectWithStability(ch chan<- metrics.Metric) {
	send := func(d *metrics.Desc, t metrics.ValueType, value float64, labels ...string) {
		ch <- metrics.NewLazyConstMetric(d, t, value, labels...)
	}
	for prefix, taken := range c.a.ips.usage(c.ctx()) {
		send(c.ips, metrics.GaugeValue, float64(taken), prefix.String())
		send(c.freeIPs, metrics.GaugeValue, float64(block{prefix}.count())-float64(taken), prefix.String())
	}
	taken := c.a.ports.taken.Load()
	send(c.ports, metrics.GaugeValue, float64(taken))
	send(c.freePorts, metrics.GaugeValue, float64(int64(c.a.ports.span.Size)-taken))
	for k, n := range c.a.tally.all() {
		scope := "dynamic"
		if k.static {
			scope = "static"
		}
		switch {
		case k.cidr != "" && k.failed:
			send(c.ipErrors, metrics.CounterValue, float64(n), k.cidr, scope)
		case k.cidr != "":
			send(c.ipsTotal, metrics.CounterValue, float64(n), k.cidr, scope)
		case k.failed:
			send(c.errors, metrics.CounterValue, float64(n), scope)
		default:
			send(c.portsTotal, metrics.CounterValue, float64(n), scope)
		}
	}
}

// usage counts the claims in each range, as the cache has them: what cannot be read is left out.
func (a *addresses) usage(ctx context.Context) map[netip.Prefix]int {
	out := map[netip.Prefix]int{}
	obj, err := a.cidrs.List(ctx, &internalversion.ListOptions{ResourceVersion: cached})
	if err != nil {
		return nil
	}
	for _, c := range obj.(*networkingv1.ServiceCIDRList).Items {
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				out[p.Masked()] = 0
			}
		}
	}
	if obj, err = a.claims.List(ctx, &internalversion.ListOptions{ResourceVersion: cached}); err != nil {
		return nil
	}
	for _, c := range obj.(*networkingv1.IPAddressList).Items {
		ip, err := netip.ParseAddr(c.Name)
		if err != nil {
			continue
		}
		for p := range out {
			if p.Contains(ip) {
				out[p]++
			}
		}
	}
	return out
}
