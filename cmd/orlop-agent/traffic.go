package main

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/orlop-io/orlop/proxy"
)

// mostSeries is how many services' ports have series of their own; what others count is in one of empty labels.
const mostSeries = 1000

// traffic serves as metrics what became of services' clients. Which ports have series of their own is decided when they first count, and stays, so that no series
// falls while its service is there.
type traffic struct {
	read func() (map[string]proxy.Traffic, error)
	most int

	connections, failures, packets, bytes *prometheus.Desc

	mu  sync.Mutex
	own map[string]bool
}

func newTraffic(read func() (map[string]proxy.Traffic, error)) *traffic {
	desc := func(name, help string, more ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, append([]string{"namespace", "service", "port"}, more...), nil)
	}
	return &traffic{
		read: read, most: mostSeries, own: map[string]bool{},
		connections: desc("orlop_proxy_service_connections_total", "Clients of this node, or that came to it, that were led to an endpoint of a Service: of UDP, sockets that connect and flows that begin."),
		failures:    desc("orlop_proxy_service_failures_total", "Clients that asked for a Service and were led to no endpoint: refused or dropped."),
		packets:     desc("orlop_proxy_service_packets_total", "Packets of a Service that were translated, in: to endpoints, out: from them. Those of sockets that are translated once, when they connect, are not seen.", "direction"),
		bytes:       desc("orlop_proxy_service_bytes_total", "Bytes of the packets of orlop_proxy_service_packets_total, with their IP headers.", "direction"),
	}
}

// sparing reads again when a second has gone since, and ten times as long as it took: with many services it takes seconds. Who comes meanwhile has what was read then.
func sparing(read func() (map[string]proxy.Traffic, error)) func() (map[string]proxy.Traffic, error) {
	var (
		mu    sync.Mutex
		last  map[string]proxy.Traffic
		until time.Time
	)
	return func() (map[string]proxy.Traffic, error) {
		mu.Lock()
		defer mu.Unlock()
		began := time.Now()
		if began.Before(until) {
			return last, nil
		}
		all, err := read()
		if err != nil {
			return nil, err
		}
		ended := time.Now()
		last, until = all, ended.Add(max(time.Second, 10*ended.Sub(began)))
		return all, nil
	}
}

// Describe implements prometheus.Collector.
func (t *traffic) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{t.connections, t.failures, t.packets, t.bytes} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (t *traffic) Collect(ch chan<- prometheus.Metric) {
	all, err := t.read()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(t.connections, err)
		return
	}
	own, rest := t.split(all)
	for port, n := range own {
		t.send(ch, n, labelsOf(port))
	}
	if rest != (proxy.Traffic{}) {
		t.send(ch, rest, labelsOf(""))
	}
}

// split says which ports have series of their own, and what the others count together.
func (t *traffic) split(all map[string]proxy.Traffic) (own map[string]proxy.Traffic, rest proxy.Traffic) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for port := range t.own {
		if _, there := all[port]; !there {
			delete(t.own, port)
		}
	}
	own = map[string]proxy.Traffic{}
	for _, port := range byConnections(all) {
		if t.own[port] || len(t.own) < t.most {
			t.own[port] = true
			own[port] = all[port]
		} else {
			rest = rest.Plus(all[port])
		}
	}
	return own, rest
}

func byConnections(all map[string]proxy.Traffic) []string {
	var ports []string
	for p := range all {
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b string) int {
		if x, y := all[a].Connections, all[b].Connections; x != y {
			if x > y {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	return ports
}

func (t *traffic) send(ch chan<- prometheus.Metric, n proxy.Traffic, labels []string) {
	count := func(d *prometheus.Desc, v uint64, more ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append(slices.Clone(labels), more...)...)
	}
	count(t.connections, n.Connections)
	count(t.failures, n.Failures)
	if n.PacketsIn+n.PacketsOut > 0 {
		count(t.packets, n.PacketsIn, "in")
		count(t.packets, n.PacketsOut, "out")
		count(t.bytes, n.BytesIn, "in")
		count(t.bytes, n.BytesOut, "out")
	}
}

// labelsOf are namespace, service and port of a service's port as the proxy writes it.
func labelsOf(port string) []string {
	key, name, _ := strings.Cut(port, ":")
	namespace, service, _ := strings.Cut(key, "/")
	return []string{namespace, service, name}
}
