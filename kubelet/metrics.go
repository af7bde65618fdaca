package kubelet

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// metrics are what /metrics tells, under upstream's names.
type metrics struct {
	k                             *Kubelet
	pods, containers, static, dns *prometheus.Desc
}

func newMetrics(k *Kubelet) *prometheus.Registry {
	m := &metrics{k: k,
		pods:       prometheus.NewDesc("kubelet_running_pods", "Number of pods that have a running pod sandbox", nil, nil),
		containers: prometheus.NewDesc("kubelet_running_containers", "Number of containers currently running", []string{"container_state"}, nil),
		static:     prometheus.NewDesc("kubelet_desired_pods", "The number of pods the kubelet is being instructed to run.", []string{"static"}, nil),
		dns:        prometheus.NewDesc("kubelet_node_name", "The node's name. The count is always 1.", []string{"node"}, nil),
	}
	r := prometheus.NewRegistry()
	r.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Describe names the metrics.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	out <- m.pods
	out <- m.containers
	out <- m.static
	out <- m.dns
}

// Collect counts what is there now.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	var sandboxes, running, exited, static, bound float64
	for _, w := range m.k.all() {
		s := &w.shown.Load().state
		if s.Sandbox.Phase == lifecycle.Ready {
			sandboxes++
		}
		if s.Stage == lifecycle.Active && w.static {
			static++
		} else if s.Stage == lifecycle.Active {
			bound++
		}
		for i := range s.Containers {
			switch s.Containers[i].Phase {
			case lifecycle.Running:
				running++
			case lifecycle.Exited:
				exited++
			}
		}
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(m.pods, sandboxes)
	gauge(m.containers, running, "running")
	gauge(m.containers, exited, "exited")
	gauge(m.static, static, "true")
	gauge(m.static, bound, "false")
	gauge(m.dns, 1, m.k.cfg.Node)
}
