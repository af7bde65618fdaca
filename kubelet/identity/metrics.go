package identity

import (
	"crypto/tls"
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics tell how long the kubelet's certificates last, and how their renewal goes.
type Metrics struct {
	clientErrors, serverErrors prometheus.Counter
	rotated                    prometheus.Histogram
	clientLeft, serverLeft     *prometheus.Desc

	client, server atomic.Pointer[func() *tls.Certificate]
}

// NewMetrics makes metrics of certificates that are not there yet.
func NewMetrics() *Metrics {
	const ofTTL = " The value is in seconds until certificate expiry (negative if already expired)."
	return &Metrics{
		clientErrors: prometheus.NewCounter(prometheus.CounterOpts{Name: "kubelet_certificate_manager_client_expiration_renew_errors", Help: "Counter of certificate renewal errors."}),
		serverErrors: prometheus.NewCounter(prometheus.CounterOpts{Name: "kubelet_server_expiration_renew_errors", Help: "Counter of certificate renewal errors."}),
		rotated: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kubelet_certificate_manager_server_rotation_seconds",
			Help:    "Histogram of the number of seconds the previous certificate lived before being rotated.",
			Buckets: []float64{60, 3600, 14400, 86400, 604800, 2592000, 7776000, 15552000, 31104000, 124416000}}),
		clientLeft: prometheus.NewDesc("kubelet_certificate_manager_client_ttl_seconds",
			"Gauge of the TTL (time-to-live) of the Kubelet's client certificate."+ofTTL+" If client certificate is invalid or unused, the value will be +INF.", nil, nil),
		serverLeft: prometheus.NewDesc("kubelet_certificate_manager_server_ttl_seconds",
			"Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate."+ofTTL+" If serving certificate is invalid or unused, the value will be +INF.", nil, nil),
	}
}

// Describe names the metrics.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	out <- m.clientLeft
	out <- m.serverLeft
	for _, c := range []prometheus.Collector{m.clientErrors, m.serverErrors, m.rotated} {
		c.Describe(out)
	}
}

// Collect gives them as they are now.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	now := time.Now()
	out <- prometheus.MustNewConstMetric(m.clientLeft, prometheus.GaugeValue, left(m.client.Load(), now))
	out <- prometheus.MustNewConstMetric(m.serverLeft, prometheus.GaugeValue, left(m.server.Load(), now))
	for _, c := range []prometheus.Collector{m.clientErrors, m.serverErrors, m.rotated} {
		c.Collect(out)
	}
}

// left is how many seconds a certificate is still good for.
func left(current *func() *tls.Certificate, now time.Time) float64 {
	if current == nil {
		return math.Inf(1)
	}
	c := (*current)()
	if c == nil || c.Leaf == nil {
		return math.Inf(1)
	}
	return math.Trunc(c.Leaf.NotAfter.Sub(now).Seconds())
}
