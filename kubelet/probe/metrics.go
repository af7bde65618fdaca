package probe

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Metrics counts probes' answers under upstream's names. Give Asked to Config, register it, and Forget pods.
type Metrics struct {
	total *prometheus.CounterVec
	took  *prometheus.HistogramVec
}

// NewMetrics returns Metrics that have counted nothing.
func NewMetrics() *Metrics {
	return &Metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prober_probe_total",
			Help: "Cumulative number of a liveness, readiness or startup probe for a container by result.",
		}, []string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "prober_probe_duration_seconds",
			Help: "Duration in seconds for a probe response.",
		}, []string{"probe_type", "container", "pod", "namespace"}),
	}
}

// Describe and Collect make Metrics a prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	m.total.Describe(out)
	m.took.Describe(out)
}

// Collect gives the counts so far.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	m.total.Collect(out)
	m.took.Collect(out)
}

// Asked counts one answer.
func (m *Metrics) Asked(pod *v1.Pod, container string, kind Kind, result string, took time.Duration) {
	m.total.WithLabelValues(kind.String(), result, container, pod.Name, pod.Namespace, string(pod.UID)).Inc()
	if result == success.String() {
		m.took.WithLabelValues(kind.String(), container, pod.Name, pod.Namespace).Observe(took.Seconds())
	}
}

// Forget drops what was counted of a pod that is gone, which else would be told for ever.
func (m *Metrics) Forget(namespace, name string, uid types.UID) {
	m.total.DeletePartialMatch(prometheus.Labels{"pod_uid": string(uid)})
	m.took.DeletePartialMatch(prometheus.Labels{"namespace": namespace, "pod": name})
}
