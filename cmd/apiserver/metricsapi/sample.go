package metricsapi

import (
	"fmt"
	"io"
	"math"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// counter is what a kubelet says of one thing that uses resources.
type counter struct {
	// at is when it was measured, zero if the kubelet does not say: it was at the time of the scrape then.
	at time.Time
	// cpu is all CPU time so far in seconds, memory the working set in bytes; below 0 is not known.
	cpu, memory float64
	// started is when a container began, zero if not known.
	started time.Time
}

// container names a container on a node.
type container struct{ namespace, pod, name string }

// sample is one scrape of a kubelet's /metrics/resource.
type sample struct {
	at         time.Time
	node       counter
	containers map[container]counter
}

// parse reads a scrape in Prometheus' text format, made at a time.
func parse(text io.Reader, at time.Time) (*sample, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	s := &sample{at: at, node: counter{cpu: -1, memory: -1}, containers: map[container]counter{}}
	for name, f := range families {
		for _, m := range f.Metric {
			s.take(name, m)
		}
	}
	return s, nil
}

func (s *sample) take(name string, m *dto.Metric) {
	value := m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue() // one of them is there
	at := s.at
	if ms := m.GetTimestampMs(); ms != 0 {
		at = time.UnixMilli(ms)
	}
	switch name {
	case "node_cpu_usage_seconds_total":
		s.node.cpu, s.node.at = value, at
		return
	case "node_memory_working_set_bytes":
		s.node.memory = value
		return
	}
	key := container{}
	for _, l := range m.Label {
		switch l.GetName() {
		case "namespace":
			key.namespace = l.GetValue()
		case "pod":
			key.pod = l.GetValue()
		case "container":
			key.name = l.GetValue()
		}
	}
	if key.name == "" {
		return
	}
	c, ok := s.containers[key]
	if !ok {
		c = counter{cpu: -1, memory: -1}
	}
	switch name {
	case "container_cpu_usage_seconds_total":
		c.cpu, c.at = value, at
	case "container_memory_working_set_bytes":
		c.memory = value
	case "container_start_time_seconds":
		whole, part := math.Modf(value)
		c.started = time.Unix(int64(whole), int64(part*1e9))
	default:
		return
	}
	s.containers[key] = c
}

// usage is what something used over the window that ends at a time.
type usage struct {
	at        time.Time
	window    time.Duration
	resources corev1.ResourceList
}

// shortest is the least time over which CPU use means anything.
const shortest = 500 * time.Millisecond

// between is what was used between two looks at the same thing. had is the zero counter where the earlier one did not see
// it: a container that began since is judged from its beginning. It is not ok where there is too little to go by.
func between(had, has counter) (usage, bool) {
	if has.cpu < 0 || has.memory < 0 || has.at.IsZero() {
		return usage{}, false
	}
	from, used := had.at, has.cpu-had.cpu
	if had.at.IsZero() || had.cpu < 0 || used < 0 || !has.started.Equal(had.started) { // begun since, or anew
		from, used = has.started, has.cpu
	}
	window := has.at.Sub(from)
	if from.IsZero() || window < shortest {
		return usage{}, false
	}
	return usage{has.at, window, corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(math.Round(used/window.Seconds()*1e9)), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(has.memory), resource.BinarySI),
	}}, true
}
