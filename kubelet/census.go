package kubelet

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// census counts the pods and containers of the kubelet whenever its metrics are read.
type census struct {
	k *Kubelet

	running, containers, desired, active, mirrors, working, pending, progressing, node, cgroups *prometheus.Desc
}

func newCensus(k *Kubelet) *census {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("kubelet_"+name, help, labels, nil)
	}
	const static = " static is true if the pod is not from the apiserver."
	return &census{k: k,
		running:    desc("running_pods", "Number of pods that have a running pod sandbox"),
		containers: desc("running_containers", "Number of containers currently running", "container_state"),
		desired:    desc("desired_pods", "The number of pods the kubelet is being instructed to run."+static, "static"),
		active:     desc("active_pods", "The number of pods the kubelet considers active and which are being considered when admitting new pods."+static, "static"),
		mirrors:    desc("mirror_pods", "The number of mirror pods the kubelet will try to create (one per admitted static pod)"),
		working: desc("working_pods", "Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is desired, orphaned, or runtime only "+
			"(also orphaned), and whether the pod is static. An orphaned pod has been removed from local configuration or force deleted in the API and consumes resources "+
			"that are not otherwise visible.", "lifecycle", "config", "static"),
		pending:     desc("pod_pending_resizes", "Number of pending resizes for pods.", "reason"),
		progressing: desc("pod_in_progress_resizes", "Number of in-progress resizes for pods."),
		node:        desc("node_name", "The node's name. The count is always 1.", "node"),
		cgroups:     desc("cgroup_version", "cgroup version on the hosts."),
	}
}

// Describe names the metrics.
func (c *census) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.running, c.containers, c.desired, c.active, c.mirrors, c.working, c.pending, c.progressing, c.node, c.cgroups} {
		out <- d
	}
}

// tally is what a census finds.
type tally struct {
	sandboxes, mirrors, progressing float64
	containers                      map[string]float64 // by state
	desired, active                 map[string]float64 // by the label static
	working                         map[[3]string]float64
	pending                         map[string]float64 // by reason
}

func newTally() tally {
	t := tally{
		containers: map[string]float64{"running": 0, "exited": 0},
		desired:    map[string]float64{"": 0, "true": 0}, active: map[string]float64{"": 0, "true": 0},
		working: map[[3]string]float64{}, pending: map[string]float64{"deferred": 0, "infeasible": 0},
	}
	for _, stage := range []string{"sync", "terminating", "terminated"} {
		for _, static := range []string{"", "true"} {
			t.working[[3]string{stage, "desired", static}] = 0
			t.working[[3]string{stage, "orphan", static}] = 0
		}
		t.working[[3]string{stage, "runtime_only", "unknown"}] = 0
	}
	return t
}

// count adds one pod; unwanted is one that its source does not name any more.
func (t *tally) count(v *view, isStatic, unwanted bool) {
	s, static, config := &v.state, "", "desired"
	if isStatic {
		static = "true"
	}
	if unwanted {
		config = "orphan"
	} else {
		t.desired[static]++
		if isStatic {
			t.mirrors++
		}
	}
	if s.Stage < lifecycle.Finished && !s.Rejected() {
		t.active[static]++
	}
	if s.Stage < lifecycle.Gone {
		t.working[[3]string{[...]string{"sync", "terminating", "terminated"}[s.Stage], config, static}]++
	}
	if s.Sandbox.Phase == lifecycle.Ready {
		t.sandboxes++
	}
	for i := range s.Containers {
		switch s.Containers[i].Phase {
		case lifecycle.Running:
			t.containers["running"]++
		case lifecycle.Exited:
			t.containers["exited"]++
		}
	}
	for _, c := range v.status.Conditions {
		switch c.Type {
		case v1.PodResizePending:
			t.pending[strings.ToLower(c.Reason)]++
		case v1.PodResizeInProgress:
			t.progressing++
		}
	}
}

// tally counts everything there is now.
func (k *Kubelet) tally() tally {
	t := newTally()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.workers {
		v := w.shown.Load()
		t.count(v, w.static, w.leaving || v.state.Removed)
	}
	t.working[[3]string{"sync", "runtime_only", "unknown"}] = float64(len(k.found))
	for _, n := range k.ending {
		t.working[[3]string{"terminating", "runtime_only", "unknown"}] += float64(n)
	}
	return t
}

// Collect counts what is there now.
func (c *census) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	t := c.k.tally()
	gauge(c.running, t.sandboxes)
	gauge(c.mirrors, t.mirrors)
	gauge(c.progressing, t.progressing)
	for d, by := range map[*prometheus.Desc]map[string]float64{c.containers: t.containers, c.desired: t.desired, c.active: t.active, c.pending: t.pending} {
		for label, n := range by {
			gauge(d, n, label)
		}
	}
	for labels, n := range t.working {
		gauge(c.working, n, labels[:]...)
	}
	gauge(c.node, 1, c.k.cfg.Node)
	version := 1.0
	if c.k.facts.CgroupV2 {
		version = 2
	}
	gauge(c.cgroups, version)
}
