package metricsapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)

// said is a kubelet's answer, after so much CPU time of its one container.
func said(node, container float64, measured time.Time, started time.Time) string {
	return fmt.Sprintf(`# HELP node_cpu_usage_seconds_total Cumulative cpu time
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total %g %d
# TYPE node_memory_working_set_bytes gauge
node_memory_working_set_bytes 1.048576e+09 %[2]d
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} %[3]g %[2]d
# TYPE container_memory_working_set_bytes gauge
container_memory_working_set_bytes{container="c",namespace="ns",pod="p"} 2.097152e+06 %[2]d
# TYPE container_start_time_seconds gauge
container_start_time_seconds{container="c",namespace="ns",pod="p"} %[4]g
# TYPE pod_cpu_usage_seconds_total counter
pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 9
# TYPE resource_scrape_error gauge
resource_scrape_error 0
`, node, measured.UnixMilli(), container, float64(started.UnixMilli())/1000)
}

func scraped(t *testing.T, text string, at time.Time) *sample {
	t.Helper()
	s, err := parse(strings.NewReader(text), at)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestUsageIsADifference(t *testing.T) {
	began := t0.Add(-time.Hour)
	before, last := scraped(t, said(100, 10, t0, began), t0), scraped(t, said(103, 10.5, t0.Add(2*time.Second), began), t0.Add(2*time.Second))
	u, ok := between(before.node, last.node)
	if cpu, mem := u.resources[corev1.ResourceCPU], u.resources[corev1.ResourceMemory]; !ok || cpu.String() != "1500m" || mem.String() != "1000Mi" || u.window != 2*time.Second {
		t.Errorf("node: %v %v", u, ok)
	}
	key := container{"ns", "p", "c"}
	u, ok = between(before.containers[key], last.containers[key])
	if cpu, mem := u.resources[corev1.ResourceCPU], u.resources[corev1.ResourceMemory]; !ok || cpu.String() != "250m" || mem.String() != "2Mi" {
		t.Errorf("container: %v %v", u, ok)
	}
}

func TestUsageOfWhatBeganMeanwhile(t *testing.T) {
	has := counter{at: t0.Add(4 * time.Second), cpu: 1, memory: 5, started: t0}
	for name, tt := range map[string]struct {
		had  counter
		has  counter
		want string
	}{
		"not seen before":        {counter{}, has, "250m"},
		"restarted":              {counter{at: t0, cpu: 50, memory: 5, started: t0.Add(-time.Hour)}, has, "250m"},
		"the counter went back":  {counter{at: t0, cpu: 50, memory: 5, started: t0}, has, "250m"},
		"began a moment ago":     {counter{}, counter{at: t0.Add(100 * time.Millisecond), cpu: 1, memory: 5, started: t0}, ""},
		"measured at one moment": {has, has, ""},
		"no memory":              {counter{}, counter{at: t0.Add(time.Hour), cpu: 1, memory: -1, started: t0}, ""},
		"not there any more":     {has, counter{}, ""},
		"start not known":        {counter{}, counter{at: t0.Add(time.Hour), cpu: 1, memory: 1}, ""},
	} {
		u, ok := between(tt.had, tt.has)
		cpu := u.resources[corev1.ResourceCPU]
		if got := cpu.String(); ok != (tt.want != "") || ok && got != tt.want {
			t.Errorf("%s: %s, %v; want %q", name, got, ok, tt.want)
		}
	}
}

func TestPodIsToldWholeOrNotAtAll(t *testing.T) {
	began := t0.Add(-time.Hour)
	l := looks{scraped(t, said(1, 10, t0, began), t0), scraped(t, said(2, 11, t0.Add(2*time.Second), began), t0.Add(2*time.Second))}
	running := func(names ...string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}}
		for _, n := range names {
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: n, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
		}
		return p
	}
	if m, ok := podMetrics(running("c"), l); !ok || len(m.Containers) != 1 || m.Window.Duration != 2*time.Second {
		t.Errorf("%+v, %v", m, ok)
	}
	if m, ok := podMetrics(running("c", "new"), l); ok {
		t.Errorf("half a pod: %+v", m)
	}
	done := running("c", "done")
	done.Status.ContainerStatuses[1].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	if _, ok := podMetrics(done, l); !ok {
		t.Error("a container that has ended is in the way")
	}
	if _, ok := podMetrics(running(), l); ok {
		t.Error("a pod that runs nothing uses something")
	}
}

func TestKubeletsAreAskedWhenSomebodyAsks(t *testing.T) {
	now, asked := t0, 0
	var fail error
	c := newCollector(func(context.Context, string) (*sample, error) {
		asked++
		return &sample{at: now}, fail
	})
	c.now, c.pause = func() time.Time { return now }, time.Millisecond
	look := func(after time.Duration, want int) {
		t.Helper()
		now = now.Add(after)
		before := asked
		if _, _, err := c.look(t.Context(), "n"); err != nil {
			t.Fatal(err)
		}
		if asked-before != want {
			t.Errorf("asked %d times, want %d", asked-before, want)
		}
	}
	look(0, 2)                // the first to ask waits for a second look
	look(time.Second, 0)      // fresh
	look(15*time.Second, 1)   // an autoscaler's pace
	look(200*time.Second, 2)  // nobody asked for long
	fail = errors.New("away") // and gone
	now = now.Add(time.Hour)
	if _, _, err := c.look(t.Context(), "n"); err == nil {
		t.Error("a kubelet that is away has metrics")
	}
	c.keep(map[string]bool{"m": true})
	if len(c.nodes) != 0 {
		t.Error("a node that is gone is remembered")
	}
}

func TestBadAnswers(t *testing.T) {
	for _, text := range []string{"<html>", "node_cpu_usage_seconds_total abc\n"} {
		if _, err := parse(strings.NewReader(text), t0); err == nil {
			t.Errorf("read %q", text)
		}
	}
	s := scraped(t, "", t0)
	if _, ok := between(s.node, s.node); ok {
		t.Error("an empty answer tells of a node")
	}
}

func TestTable(t *testing.T) {
	use := func(cpu, memory string) metricsv1beta1.ContainerMetrics {
		return metricsv1beta1.ContainerMetrics{Usage: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}}
	}
	list := &metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{
		{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Window: metav1.Duration{Duration: 10 * time.Second}, Containers: []metricsv1beta1.ContainerMetrics{use("1m", "1Mi")}},
		{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Window: metav1.Duration{Duration: 15 * time.Second}, Containers: []metricsv1beta1.ContainerMetrics{use("1m", "1Mi"), use("2m", "1Mi")}},
	}}
	out, err := table(list)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(out.Rows[0].Cells, out.Rows[1].Cells); got != "[a 3m 2Mi 15s] [b 1m 1Mi 10s]" {
		t.Error(got)
	}
}
