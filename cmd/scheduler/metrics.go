package scheduler

import (
	"fmt"
	"strconv"
	"time"

	"k8s.io/component-base/metrics"
)

// Results of an attempt, as upstream's metrics name them.
const (
	resultScheduled     = "scheduled"
	resultUnschedulable = "unschedulable"
	resultError         = "error"
)

// Metrics are a Scheduler's, under upstream's names. Unregistered ones count nothing.
type Metrics struct {
	attempts   *metrics.CounterVec
	took       *metrics.HistogramVec
	decided    *metrics.Histogram
	waited     *metrics.HistogramVec
	tries      *metrics.Histogram
	preempting *metrics.Counter
	victims    *metrics.Histogram
	incoming   *metrics.CounterVec
	points     *metrics.HistogramVec
	asked      *metrics.HistogramVec
}

// sampled is of how many attempts one is timed plugin by plugin: that takes longer than the attempt itself.
const sampled = 100

func newMetrics() *Metrics {
	counter := func(name, help string) *metrics.CounterOpts {
		return &metrics.CounterOpts{Subsystem: "scheduler", Name: name, Help: help, StabilityLevel: metrics.STABLE}
	}
	histogram := func(name, help string, first float64, n int) *metrics.HistogramOpts {
		return &metrics.HistogramOpts{Subsystem: "scheduler", Name: name, Help: help, Buckets: metrics.ExponentialBuckets(first, 2, n), StabilityLevel: metrics.STABLE}
	}
	return &Metrics{
		attempts:   metrics.NewCounterVec(counter("schedule_attempts_total", "Attempts to schedule pods, by their result."), []string{"result", "profile"}),
		took:       metrics.NewHistogramVec(histogram("scheduling_attempt_duration_seconds", "Time of an attempt: decision and binding.", 0.001, 15), []string{"result", "profile"}),
		decided:    metrics.NewHistogram(histogram("scheduling_algorithm_duration_seconds", "Time of a decision.", 0.001, 15)),
		waited:     metrics.NewHistogramVec(histogram("pod_scheduling_sli_duration_seconds", "Time from a pod's coming into the queue to its binding, over all attempts.", 0.01, 20), []string{"attempts"}),
		tries:      metrics.NewHistogram(histogram("pod_scheduling_attempts", "Attempts that a pod took until it was bound.", 1, 5)),
		preempting: metrics.NewCounter(counter("preemption_attempts_total", "Attempts to make other pods leave.")),
		victims:    metrics.NewHistogram(histogram("preemption_victims", "Pods that had to leave for one.", 1, 7)),
		points:     metrics.NewHistogramVec(histogram("framework_extension_point_duration_seconds", "Time of all plugins of an extension point, in one attempt.", 0.0001, 12), []string{"extension_point", "status", "profile"}),
		asked: metrics.NewHistogramVec(&metrics.HistogramOpts{Subsystem: "scheduler", Name: "plugin_execution_duration_seconds", Help: "Time of one plugin at one node, of a part of the attempts.",
			Buckets: metrics.ExponentialBuckets(0.00001, 1.5, 20), StabilityLevel: metrics.ALPHA}, []string{"plugin", "extension_point", "status"}),
		incoming: metrics.NewCounterVec(counter("queue_incoming_pods_total", "Pods that came into a queue, by what brought them there."), []string{"queue", "event"}),
	}
}

// Register makes the Scheduler's metrics known.
func (s *Scheduler) Register(register func(metrics.Registerable) error, custom func(metrics.StableCollector) error) error {
	m := s.metrics
	for _, r := range []metrics.Registerable{m.attempts, m.took, m.decided, m.waited, m.tries, m.preempting, m.victims, m.incoming, m.points, m.asked} {
		if err := register(r); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	if err := custom(newSizes(s)); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

// sizes are counted when somebody asks.
type sizes struct {
	metrics.BaseStableCollector
	scheduler                     *Scheduler
	pending, cache, unschedulable *metrics.Desc
}

func newSizes(s *Scheduler) *sizes {
	return &sizes{
		scheduler:     s,
		pending:       metrics.NewDesc("scheduler_pending_pods", "Pods that wait, by queue.", []string{"queue"}, nil, metrics.STABLE, ""),
		unschedulable: metrics.NewDesc("scheduler_unschedulable_pods", "Pods that wait because a plugin ruled nodes out.", []string{"plugin", "profile"}, nil, metrics.ALPHA, ""),
		cache:         metrics.NewDesc("scheduler_cache_size", "Objects that decisions are made on, by kind.", []string{"type"}, nil, metrics.ALPHA, ""),
	}
}

// DescribeWithStability is part of a collector.
func (c *sizes) DescribeWithStability(ch chan<- *metrics.Desc) {
	ch <- c.pending
	ch <- c.cache
	ch <- c.unschedulable
}

// CollectWithStability is part of a collector.
func (c *sizes) CollectWithStability(ch chan<- metrics.Metric) {
	pending, cache := c.scheduler.queue.sizes(), c.scheduler.cluster.sizes()
	for _, name := range queueNames() {
		ch <- metrics.NewLazyConstMetric(c.pending, metrics.GaugeValue, float64(pending[name]), name)
	}
	for group, n := range c.scheduler.queue.refused() {
		ch <- metrics.NewLazyConstMetric(c.unschedulable, metrics.GaugeValue, float64(n), group.plugin, group.profile)
	}
	for _, kind := range []string{"nodes", "pods", "assumed_pods"} {
		ch <- metrics.NewLazyConstMetric(c.cache, metrics.GaugeValue, float64(cache[kind]), kind)
	}
}

// ended counts an attempt.
func (m *Metrics) ended(result, profile string, began time.Time) {
	m.attempts.WithLabelValues(result, profile).Inc()
	m.took.WithLabelValues(result, profile).Observe(time.Since(began).Seconds())
}

// bound counts a pod that has its node, after so many attempts and so long.
func (m *Metrics) bound(attempts int, waited time.Duration) {
	label := strconv.Itoa(min(attempts, 15))
	if attempts > 15 {
		label = "15+"
	}
	m.waited.WithLabelValues(label).Observe(waited.Seconds())
	m.tries.Observe(float64(attempts))
}

// The extension points at which this scheduler asks plugins.
const (
	pointFilter     = "Filter"
	pointScore      = "Score"
	pointPostFilter = "PostFilter"
	pointBind       = "Bind"

	statusSuccess       = "Success"
	statusUnschedulable = "Unschedulable"
)

// timing times the plugins of one attempt.
func (m *Metrics) timing(plugin, point string) func(fits bool) {
	began := time.Now()
	return func(fits bool) {
		status := statusSuccess
		if !fits {
			status = statusUnschedulable
		}
		m.asked.WithLabelValues(plugin, point, status).Observe(time.Since(began).Seconds())
	}
}

// point times an extension point in an attempt of a profile.
func (m *Metrics) point(profile, point string) func(fits bool) {
	began := time.Now()
	return func(fits bool) {
		status := statusSuccess
		if !fits {
			status = statusUnschedulable
		}
		m.points.WithLabelValues(point, status, profile).Observe(time.Since(began).Seconds())
	}
}
