package kubelet

import (
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	v1 "k8s.io/api/core/v1"
	baseversion "k8s.io/component-base/version"
)

// metrics are what /metrics tells, under upstream's names and with its labels and buckets. What can be read from the
// pods' states is counted when it is asked for; see census. What upstream counts and this kubelet has not is absent.
type metrics struct {
	registry *prometheus.Registry

	operations, operationErrors *prometheus.CounterVec
	operationTook               *prometheus.HistogramVec

	sandboxTook   *prometheus.HistogramVec
	sandboxErrors *prometheus.CounterVec

	startTook, startTotal, startSLI, statusTook prometheus.Histogram
	pullTook                                    *prometheus.HistogramVec

	pods, podErrors                        prometheus.Counter
	containers, containerErrors, restarted *prometheus.CounterVec
	orphans                                prometheus.Counter
	rejections, imagesCollected            *prometheus.CounterVec
	requests                               *prometheus.CounterVec

	resizesAsked, resizesInfeasible, resizesDeferred *prometheus.CounterVec

	evictions, preemptions *prometheus.CounterVec
	evictionAge            *prometheus.HistogramVec
	resizeTook             *prometheus.HistogramVec
}

func newMetrics(k *Kubelet) *metrics {
	r := prometheus.NewRegistry()
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "kubelet_" + name, Help: help})
		r.MustRegister(c)
		return c
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_" + name, Help: help}, labels)
		r.MustRegister(c)
		return c
	}
	histograms := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kubelet_" + name, Help: help, Buckets: buckets}, labels)
		r.MustRegister(h)
		return h
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kubelet_" + name, Help: help, Buckets: buckets})
		r.MustRegister(h)
		return h
	}
	starts := []float64{0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}
	m := &metrics{
		registry:        r,
		operations:      counters("runtime_operations_total", "Cumulative number of runtime operations by operation type.", "operation_type"),
		operationErrors: counters("runtime_operations_errors_total", "Cumulative number of runtime operation errors by operation type.", "operation_type"),
		operationTook: histograms("runtime_operations_duration_seconds", "Duration in seconds of runtime operations. Broken down by operation type.",
			prometheus.ExponentialBuckets(.005, 2.5, 14), "operation_type"),
		sandboxTook: histograms("run_podsandbox_duration_seconds", "Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
			prometheus.DefBuckets, "runtime_handler"),
		sandboxErrors: counters("run_podsandbox_errors_total", "Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.", "runtime_handler"),
		startTook:     histogram("pod_start_duration_seconds", "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", starts),
		startTotal: histogram("pod_start_total_duration_seconds", "Duration in seconds to start a pod since creation, including time to pull images and run init containers, "+
			"measured from pod creation timestamp to when all its containers are reported as started and observed via watch", starts),
		startSLI: histogram("pod_start_sli_duration_seconds", "Duration in seconds to start a pod, excluding time to pull images and run init containers, "+
			"measured from pod creation timestamp to when all its containers are reported as started and observed via watch", starts),
		statusTook: histogram("pod_status_sync_duration_seconds", "Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status "+
			"until the API is successfully updated for that pod, even if multiple intervening changes to pod status occur.",
			[]float64{.01, .05, .1, .5, 1, 5, 10, 20, 30, 45, 60}),
		pullTook: histograms("image_pull_duration_seconds", "Duration in seconds to pull an image.",
			[]float64{1, 5, 10, 20, 30, 60, 180, 300, 600, 900, 1200, 1800, 2700, 3600}, "image_size_in_bytes"),
		pods:            counter("started_pods_total", "Cumulative number of pods started"),
		podErrors:       counter("started_pods_errors_total", "Cumulative number of errors when starting pods"),
		containers:      counters("started_containers_total", "Cumulative number of containers started", "container_type"),
		containerErrors: counters("started_containers_errors_total", "Cumulative number of errors when starting containers", "container_type", "code"),
		restarted: counters("restarted_pods_total", "Number of pods that have been restarted because they were deleted and recreated with the same UID "+
			"while the kubelet was watching them (common for static pods, extremely uncommon for API pods)", "static"),
		orphans: counter("orphaned_runtime_pods_total", "Number of pods that have been detected in the container runtime without being already known to the pod worker. "+
			"This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual."),
		rejections:        counters("admission_rejections_total", "Cumulative number pod admission rejections by the Kubelet.", "reason"),
		imagesCollected:   counters("image_garbage_collected_total", "Total number of images garbage collected by the kubelet, whether through disk usage or image age.", "reason"),
		resizesAsked:      counters("container_requested_resizes_total", "Number of requested resizes, counted at the container level.", "resource", "requirement", "operation"),
		resizesInfeasible: counters("pod_infeasible_resizes_total", "Number of infeasible resizes for pods.", "reason_detail"),
		resizesDeferred:   counters("pod_deferred_accepted_resizes_total", "Cumulative number of resizes that were accepted after being deferred.", "retry_trigger"),
	}
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rest_client_requests_total",
		Help: "Number of HTTP requests, partitioned by status code, method, and host."}, []string{"code", "host", "method"})
	r.MustRegister(m.requests)
	m.evictions = counters("evictions", "Cumulative number of pod evictions by eviction signal", "eviction_signal")
	m.preemptions = counters("preemptions", "Cumulative number of pod preemptions by preemption resource", "preemption_signal")
	m.resizeTook = histograms("pod_resize_duration_milliseconds", "Duration in milliseconds to actuate a pod resize", prometheus.ExponentialBuckets(10, 2, 19), "success")
	m.evictionAge = histograms("eviction_stats_age_seconds", "Time between when stats are collected, and when pod is evicted based on those stats by eviction signal",
		prometheus.DefBuckets, "eviction_signal")
	for _, static := range []string{"", "true"} {
		m.restarted.WithLabelValues(static)
	}
	r.MustRegister(newCensus(k), newVolumeMetrics(k), buildInfo(), goCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// goCollector also tells what lives on the heap, by the last collection: what is allocated is garbage in part, some of it
// made by telling that.
func goCollector() prometheus.Collector {
	return collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(
		collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/gc/heap/live:bytes$`)}))
}

func buildInfo() prometheus.Collector {
	v := baseversion.Get()
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubernetes_build_info",
		Help: "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, " +
			"and compiler from which Kubernetes was built, and platform on which it is running.",
		ConstLabels: prometheus.Labels{"major": v.Major, "minor": v.Minor, "git_version": v.GitVersion, "git_commit": v.GitCommit, "git_tree_state": v.GitTreeState,
			"build_date": v.BuildDate, "go_version": v.GoVersion, "compiler": v.Compiler, "platform": v.Platform}})
	g.Set(1)
	return g
}

// called counts one call of the runtime.
func (m *metrics) called(operation string, took time.Duration, err error) {
	m.operations.WithLabelValues(operation).Inc()
	m.operationTook.WithLabelValues(operation).Observe(took.Seconds())
	if err != nil {
		m.operationErrors.WithLabelValues(operation).Inc()
	}
}

// asked counts one request to the API server.
func (m *metrics) asked(method, host, code string) {
	m.requests.WithLabelValues(code, host, method).Inc()
}

// pulled counts one pull of an image.
func (m *metrics) pulled(size uint64, took time.Duration) {
	m.pullTook.WithLabelValues(sizeLabel(size)).Observe(took.Seconds())
}

// sizeLabel is upstream's name for images of about a size in bytes.
func sizeLabel(size uint64) string {
	const mb, gb = 1 << 20, 1 << 30
	if size == 0 {
		return "N/A"
	}
	for _, s := range []struct {
		below uint64
		label string
	}{{10 * mb, "0-10MB"}, {100 * mb, "10MB-100MB"}, {500 * mb, "100MB-500MB"}, {gb, "500MB-1GB"}, {5 * gb, "1GB-5GB"}, {10 * gb, "5GB-10GB"},
		{20 * gb, "10GB-20GB"}, {30 * gb, "20GB-30GB"}, {40 * gb, "30GB-40GB"}, {60 * gb, "40GB-60GB"}, {100 * gb, "60GB-100GB"}} {
		if size < s.below {
			return s.label
		}
	}
	return "GT100GB"
}

// rejected counts a pod that the node cannot run. As upstream has it, the reasons are few, whatever resources the cluster has.
func (m *metrics) rejected(reason string) {
	switch {
	case reason == "OutOfcpu", reason == "OutOfmemory", reason == "OutOfephemeral-storage", reason == "OutOfpods", reason == "Evicted", reason == "SysctlForbidden":
	case strings.HasPrefix(reason, "OutOf"):
		reason = "OutOfExtendedResources"
	default:
		reason = "Other"
	}
	m.rejections.WithLabelValues(reason).Inc()
}

// resizes counts what a change of a pod's object asks of its containers' resources.
func (m *metrics) resizes(before, after *v1.Pod) {
	for _, list := range []func(*v1.Pod) []v1.Container{func(p *v1.Pod) []v1.Container { return p.Spec.InitContainers },
		func(p *v1.Pod) []v1.Container { return p.Spec.Containers }} {
		old := list(before)
		for i, c := range list(after) {
			if i >= len(old) || old[i].Name != c.Name {
				continue
			}
			m.changes("requests", old[i].Resources.Requests, c.Resources.Requests)
			m.changes("limits", old[i].Resources.Limits, c.Resources.Limits)
		}
	}
}

func (m *metrics) changes(requirement string, before, after v1.ResourceList) {
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		if op := change(before, after, name); op != "" {
			m.resizesAsked.WithLabelValues(string(name), requirement, op).Inc()
		}
	}
}

// change is what happened to one resource of a list; empty is nothing.
func change(before, after v1.ResourceList, name v1.ResourceName) string {
	was, had := before[name]
	is, has := after[name]
	switch {
	case !had && !has:
		return ""
	case !had:
		return "add"
	case !has:
		return "remove"
	}
	return [...]string{"decrease", "", "increase"}[is.Cmp(was)+1]
}
