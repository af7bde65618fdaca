package kubelet

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/kubelet/cgroups"
	"github.com/orlop-io/orlop/kubelet/events"
	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// measured is a kubelet that has nothing but what its metrics need.
func measured(t *testing.T) *Kubelet {
	t.Helper()
	k := &Kubelet{cfg: Config{Node: "n"}, log: slog.New(slog.DiscardHandler), workers: map[types.UID]*worker{}, found: map[types.UID]*remains{},
		queued: map[string]*v1.Pod{}, ending: map[string]int{}, ctx: t.Context(), events: events.New("n", slog.New(slog.DiscardHandler))}
	k.sync = newAPISide(k)
	k.metrics = newMetrics(k)
	return k
}

// scrape reads the metrics over HTTP, by name and labels, without zeros and buckets.
func scrape(t *testing.T, k *Kubelet) map[string]float64 {
	t.Helper()
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(k.metrics.registry, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if rec.Code != http.StatusOK {
		t.Fatalf("%d: %s", rec.Code, rec.Body)
	}
	out := map[string]float64{}
	for line := range strings.Lines(rec.Body.String()) {
		at := strings.LastIndexByte(line, ' ')
		if line[0] == '#' || strings.Contains(line, "_bucket{") || !strings.HasPrefix(line, "kube") {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
		if err != nil {
			t.Fatal(err)
		}
		if v != 0 {
			out[strings.TrimPrefix(line[:at], "kubelet_")] = v
		}
	}
	maps.DeleteFunc(out, func(name string, _ float64) bool { return strings.HasPrefix(name, "kubernetes_build_info{") })
	return out
}

func same(t *testing.T, want, got map[string]float64) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("metrics (-want +got):\n%s", d)
	}
}

// with adds what there always is.
func with(more map[string]float64) map[string]float64 {
	all := map[string]float64{`node_name{node="n"}`: 1, `cgroup_version`: 1}
	maps.Copy(all, more)
	return all
}

func TestCensus(t *testing.T) {
	k := measured(t)
	same(t, with(nil), scrape(t, k))
	k.facts.CgroupV2 = true
	add := func(uid types.UID, static bool, s lifecycle.State, conditions ...v1.PodCondition) *worker {
		s.Pod = &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: string(uid), UID: uid}}
		w := k.newWorker(s.Pod, static, s)
		w.shown.Store(&view{s, v1.PodStatus{Conditions: conditions}})
		k.workers[uid] = w
		return w
	}
	ready := lifecycle.Sandbox{ID: "s", Phase: lifecycle.Ready}
	add("static", true, lifecycle.State{Sandbox: ready, Containers: []lifecycle.Container{{Phase: lifecycle.Running}}})
	add("left", true, lifecycle.State{Sandbox: ready, Stage: lifecycle.Ending}).leaving = true
	add("api", false, lifecycle.State{Sandbox: ready, Containers: []lifecycle.Container{{Phase: lifecycle.Running}, {Phase: lifecycle.Exited}, {Phase: lifecycle.Starting}}},
		v1.PodCondition{Type: v1.PodResizePending, Reason: v1.PodReasonDeferred}, v1.PodCondition{Type: v1.PodResizeInProgress})
	add("done", false, lifecycle.State{Stage: lifecycle.Finished})
	add("over", false, lifecycle.State{Stage: lifecycle.Gone})
	k.found["stranger"] = &remains{}
	k.ending["ns/orphan"] = 2
	same(t, map[string]float64{
		`node_name{node="n"}`: 1, `cgroup_version`: 2, `running_pods`: 3,
		`running_containers{container_state="running"}`: 2, `running_containers{container_state="exited"}`: 1,
		`desired_pods{static=""}`: 3, `desired_pods{static="true"}`: 1, `active_pods{static=""}`: 1, `active_pods{static="true"}`: 2, `mirror_pods`: 1,
		`working_pods{config="desired",lifecycle="sync",static="true"}`: 1, `working_pods{config="orphan",lifecycle="terminating",static="true"}`: 1,
		`working_pods{config="desired",lifecycle="sync",static=""}`: 1, `working_pods{config="desired",lifecycle="terminated",static=""}`: 1,
		`working_pods{config="runtime_only",lifecycle="sync",static="unknown"}`: 1, `working_pods{config="runtime_only",lifecycle="terminating",static="unknown"}`: 2,
		`pod_pending_resizes{reason="deferred"}`: 1, `pod_in_progress_resizes`: 1,
	}, scrape(t, k))
}

func TestMetricsOfTheRuntime(t *testing.T) {
	k := measured(t)
	k.metrics.called("start_container", 2*time.Second, nil)
	k.metrics.called("start_container", time.Second, errors.New("no"))
	k.metrics.pulled(3<<20, 4*time.Second)
	k.metrics.pulled(200<<30, time.Second)
	for _, reason := range []string{"OutOfpods", "OutOfvendor/gpu", "OutOfvendor/fpga", "NodeAffinity"} {
		k.metrics.rejected(reason)
	}
	same(t, with(map[string]float64{
		`runtime_operations_total{operation_type="start_container"}`: 2, `runtime_operations_errors_total{operation_type="start_container"}`: 1,
		`runtime_operations_duration_seconds_sum{operation_type="start_container"}`: 3, `runtime_operations_duration_seconds_count{operation_type="start_container"}`: 2,
		`image_pull_duration_seconds_sum{image_size_in_bytes="0-10MB"}`: 4, `image_pull_duration_seconds_count{image_size_in_bytes="0-10MB"}`: 1,
		`image_pull_duration_seconds_sum{image_size_in_bytes="GT100GB"}`: 1, `image_pull_duration_seconds_count{image_size_in_bytes="GT100GB"}`: 1,
		`admission_rejections_total{reason="OutOfpods"}`: 1, `admission_rejections_total{reason="OutOfExtendedResources"}`: 2, `admission_rejections_total{reason="Other"}`: 1,
	}), scrape(t, k))
}

func TestMetricsOfResizes(t *testing.T) {
	k := measured(t)
	before := wanting("1")
	before.Spec.Containers[0].Resources.Limits = before.Spec.Containers[0].Resources.Requests
	after := wanting("2")
	k.metrics.resizes(before, after)
	k.metrics.resizes(after, wanting("1"))
	k.metrics.resizes(after, after)
	w := k.newWorker(before, false, lifecycle.New(before, time.Now()))
	k.workers[before.UID] = w
	if got := w.takeRoom(); got != "pod_updated" {
		t.Errorf("asked for because of %q", got)
	}
	w.room = "pods_removed"
	if first, second := w.takeRoom(), w.takeRoom(); first != "pods_removed" || second != "pod_updated" {
		t.Errorf("asked for because of %q, then of %q", first, second)
	}
	same(t, map[string]float64{
		`container_requested_resizes_total{operation="increase",requirement="requests",resource="cpu"}`: 1,
		`container_requested_resizes_total{operation="decrease",requirement="requests",resource="cpu"}`: 1,
		`container_requested_resizes_total{operation="remove",requirement="limits",resource="cpu"}`:     1,
	}, only(scrape(t, k), "container_requested"))
}

// A resize that the node had no room for counts by what made room, once it has it.
func TestMetricsOfDeferredResizes(t *testing.T) {
	k := measured(t)
	k.cfg.RootDir = t.TempDir()
	pod := wanting("1")
	pod.UID = "u"
	if err := os.MkdirAll(filepath.Dir(k.allocationFile("u")), 0o750); err != nil {
		t.Fatal(err)
	}
	s := lifecycle.New(pod, time.Now())
	w := k.newWorker(pod, false, s)
	asked := lifecycle.Allocate{Resources: lifecycle.Resources{pod.Spec.Containers[0].Name: wanting("2").Spec.Containers[0].Resources}}
	w.allocate(s, asked) // it was never deferred
	k.group.Wait()
	s.Resize.Reason = v1.PodReasonDeferred
	w.shown.Store(&view{state: s})
	k.workers["u"] = w
	k.roomMade("pods_removed")
	k.group.Wait()
	w.allocate(s, asked)
	k.group.Wait()
	same(t, map[string]float64{`pod_deferred_accepted_resizes_total{retry_trigger="pods_removed"}`: 1}, only(scrape(t, k), "pod_deferred"))
}

func TestMetricsOfRestarts(t *testing.T) {
	k := measured(t)
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "api-n", UID: "hash"}}
	k.countRestartLocked(pod)
	k.queued[fullName(pod)] = &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "api-n", UID: "another"}}
	k.countRestartLocked(pod)
	k.queued[fullName(pod)] = pod
	k.countRestartLocked(pod)
	same(t, map[string]float64{`restarted_pods_total{static="true"}`: 1}, only(scrape(t, k), "restarted"))
}

func only(all map[string]float64, prefix string) map[string]float64 {
	maps.DeleteFunc(all, func(name string, _ float64) bool { return !strings.HasPrefix(name, prefix) })
	return all
}

// What takes the time of a pod's start is told apart: images and init containers are not the node's doing.
func TestMetricsOfAStart(t *testing.T) {
	k := measured(t)
	now := time.Now()
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u", CreationTimestamp: metav1.NewTime(now.Add(-10 * time.Second))}}
	w := k.newWorker(pod, false, lifecycle.State{Pod: pod, Containers: []lifecycle.Container{
		{Kind: lifecycle.Init, Facts: lifecycle.Facts{StartedAt: now.Add(-5 * time.Second), FinishedAt: now.Add(-4 * time.Second)}}, {Kind: lifecycle.App}}})
	w.watched(pod, now) // it is not measured
	w.start.seen = now.Add(-9 * time.Second)
	w.start.pulled(now.Add(-8*time.Second), now.Add(-6*time.Second))
	w.start.pulled(now.Add(-7*time.Second), now.Add(-5*time.Second))
	w.watched(pod, now) // nothing runs
	w.phaseChanged(v1.PodPending, v1.PodPending)
	w.phaseChanged(v1.PodPending, v1.PodRunning)
	w.phaseChanged(v1.PodRunning, v1.PodRunning)
	pod.Status.ContainerStatuses = []v1.ContainerStatus{{State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(now)}}}}
	w.watched(pod, now)
	w.watched(pod, now.Add(time.Second))
	got := only(scrape(t, k), "pod_start")
	if took := got["pod_start_duration_seconds_sum"]; took < 9 || took > 12 {
		t.Errorf("pod ran after %v s, want 9", took)
	}
	delete(got, "pod_start_duration_seconds_sum")
	same(t, map[string]float64{"pod_start_duration_seconds_count": 1, "pod_start_total_duration_seconds_count": 1, "pod_start_total_duration_seconds_sum": 10,
		"pod_start_sli_duration_seconds_count": 1, "pod_start_sli_duration_seconds_sum": 6}, got)
	if stateless(&v1.Pod{Spec: v1.PodSpec{Volumes: []v1.Volume{{VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{}}}}}}) {
		t.Error("a pod with a directory of the node is stateless")
	}
}

// What fails to start is counted as begun and as failed, and what is given up as begun alone.
func TestMetricsOfFailedStarts(t *testing.T) {
	k := measured(t)
	groups, err := cgroups.New(cgroups.Config{Hierarchies: []cgroups.Hierarchy{{Dir: t.TempDir() + "/none", Unified: true, Controllers: []string{"cpu", "memory", "pids"}}}, Driver: "cgroupfs"}, k.log)
	if err != nil {
		t.Fatal(err)
	}
	k.groups = groups
	no := false
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u"}, Spec: v1.PodSpec{HostNetwork: true, HostUsers: &no,
		InitContainers: []v1.Container{{Name: "i"}}, Containers: []v1.Container{{Name: "c"}}}}
	s := lifecycle.New(pod, time.Now())
	w := k.newWorker(pod, false, s)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	w.makeSandbox(t.Context(), pod, lifecycle.MakeSandbox{})
	w.makeSandbox(over, pod, lifecycle.MakeSandbox{})
	w.startContainer(t.Context(), s, lifecycle.StartContainer{Name: "i"})
	w.startContainer(over, s, lifecycle.StartContainer{Name: "c"})
	same(t, map[string]float64{
		"started_pods_total": 2, "started_pods_errors_total": 1,
		`started_containers_total{container_type="init_container"}`: 1, `started_containers_total{container_type="container"}`: 1,
		`started_containers_errors_total{code="InvalidImageName",container_type="init_container"}`: 1,
	}, only(scrape(t, k), "started_"))
}

// The process, the runtime of Go and the build tell of themselves too.
func TestMetricsOfTheProcess(t *testing.T) {
	k := measured(t)
	families, err := k.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
	}
	for _, want := range []string{"go_goroutines", "go_gc_heap_live_bytes", "kubernetes_build_info", "process_resident_memory_bytes", "process_start_time_seconds"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s among %v", want, names)
		}
	}
}
