package server

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// resourceMetrics serves what a metrics server scales by, in its format: counters of CPU time and the memory in use.
func (s *Server) resourceMetrics(w http.ResponseWriter, r *http.Request) {
	sum, err := s.gather(r.Context())
	registry := prometheus.NewRegistry()
	if regErr := registry.Register(resources{sum, err}); regErr != nil {
		s.fail(w, r, regErr)
		return
	}
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}

type resources struct {
	sum *stats.Summary
	err error
}

// Describe says nothing, as Prometheus allows for metrics that are known only when collected.
func (resources) Describe(chan<- *prometheus.Desc) {}

// Collect gives the metrics of one scrape.
func (r resources) Collect(out chan<- prometheus.Metric) {
	send := func(kind prometheus.ValueType, name, help string, value float64, labels prometheus.Labels, at time.Time) {
		metric := prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, labels), kind, value)
		if !at.IsZero() {
			metric = prometheus.NewMetricWithTimestamp(at, metric)
		}
		out <- metric
	}
	failed := 0.0
	if r.err != nil {
		failed = 1
	}
	send(prometheus.GaugeValue, "resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", failed, nil, time.Time{})
	if r.sum == nil {
		return
	}
	use := func(prefix, of string, cpu *stats.CPUStats, memory *stats.MemoryStats, labels prometheus.Labels) {
		if cpu != nil && cpu.UsageCoreNanoSeconds != nil {
			send(prometheus.CounterValue, prefix+"_cpu_usage_seconds_total", "Cumulative cpu time consumed by the "+of+" in core-seconds",
				float64(*cpu.UsageCoreNanoSeconds)/1e9, labels, cpu.Time.Time)
		}
		if memory != nil && memory.WorkingSetBytes != nil {
			send(prometheus.GaugeValue, prefix+"_memory_working_set_bytes", "Current working set of the "+of+" in bytes",
				float64(*memory.WorkingSetBytes), labels, memory.Time.Time)
		}
	}
	use("node", "node", r.sum.Node.CPU, r.sum.Node.Memory, nil)
	for _, p := range r.sum.Pods {
		use("pod", "pod", p.CPU, p.Memory, prometheus.Labels{"namespace": p.PodRef.Namespace, "pod": p.PodRef.Name})
		for _, c := range p.Containers {
			labels := prometheus.Labels{"namespace": p.PodRef.Namespace, "pod": p.PodRef.Name, "container": c.Name}
			use("container", "container", c.CPU, c.Memory, labels)
			if !c.StartTime.IsZero() {
				send(prometheus.GaugeValue, "container_start_time_seconds", "Start time of the container since unix epoch in seconds",
					float64(c.StartTime.UnixNano())/1e9, labels, time.Time{})
			}
		}
	}
}
