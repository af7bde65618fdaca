package scheduler

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/component-base/metrics"
)

func minor(p *corev1.Pod) { p.Spec.SchedulerName = corev1.DefaultSchedulerName }

// running is a Scheduler over a fake API that binds as the real one does.
func running(t *testing.T, objs ...runtime.Object) (*fake.Clientset, *Scheduler, *events.FakeRecorder) {
	t.Helper()
	client := fake.NewClientset(objs...)
	client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.GetSubresource() != "binding" {
			return false, nil, nil
		}
		b := action.(clienttesting.CreateAction).GetObject().(*corev1.Binding)
		obj, err := client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), b.Namespace, b.Name)
		if err != nil {
			return true, nil, err
		}
		pod := obj.(*corev1.Pod).DeepCopy()
		pod.Spec.NodeName = b.Target.Name
		return true, b, client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), pod, b.Namespace)
	})
	shared := informers.NewSharedInformerFactory(client, 0)
	told := events.NewFakeRecorder(100)
	told.Verbose = true
	s, err := New(Defaults(), client, shared, map[string]Recorder{corev1.DefaultSchedulerName: told}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	shared.Start(ctx.Done())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended; shared.Shutdown() })
	return client, s, told
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("not within 10 s: %s", what)
}

// From a full node to the greater pod's place on it: the victim says why it goes, and the metrics count.
func TestPreemptsAndBinds(t *testing.T) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	client, s, events := running(t, ns, testNode("a"), testPod("low", minor, cpu("2"), priority(1), on("a")), testPod("high", minor, cpu("2"), priority(9)))
	registry := metrics.NewKubeRegistry()
	if err := s.Register(registry.Register, registry.CustomRegister); err != nil {
		t.Fatal(err)
	}
	pods := client.CoreV1().Pods("default")
	eventually(t, "high is bound", func() bool {
		p, err := pods.Get(t.Context(), "high", metav1.GetOptions{})
		return err == nil && p.Spec.NodeName == "a"
	})
	if _, err := pods.Get(t.Context(), "low", metav1.GetOptions{}); err == nil {
		t.Error("low is still there")
	}
	marked := false
	for _, a := range client.Actions() {
		if patch, ok := a.(clienttesting.PatchAction); ok && patch.GetName() == "low" {
			marked = strings.Contains(string(patch.GetPatch()), `"reason":"PreemptionByScheduler"`)
		}
	}
	if !marked {
		t.Error("the victim was not told why it goes")
	}
	var told []string
	for len(events.Events) > 0 {
		told = append(told, <-events.Events)
	}
	all := strings.Join(told, "\n")
	for _, want := range []string{"Preempted Preempting Preempted by pod high on node a", "FailedScheduling Scheduling 0/1 nodes are available: 1 Insufficient cpu."} {
		if !strings.Contains(all, want) {
			t.Errorf("no event %q in:\n%s", want, all)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range families {
		seen[f.GetName()] = true
	}
	for _, want := range []string{"scheduler_schedule_attempts_total", "scheduler_scheduling_attempt_duration_seconds", "scheduler_preemption_victims", "scheduler_pending_pods",
		"scheduler_queue_incoming_pods_total", "scheduler_cache_size", "scheduler_pod_scheduling_sli_duration_seconds", "scheduler_pod_scheduling_attempts",
		"scheduler_scheduling_algorithm_duration_seconds", "scheduler_preemption_attempts_total",
		"scheduler_framework_extension_point_duration_seconds"} {
		if !seen[want] {
			t.Errorf("no metric %s in %v", want, seen)
		}
	}
}

// A pod of another scheduler, or of none, is left alone.
func TestLeavesOthersAlone(t *testing.T) {
	client, s, _ := running(t, testNode("a"), testPod("theirs", func(p *corev1.Pod) { p.Spec.SchedulerName = "other" }), testPod("ours", minor))
	eventually(t, "ours is bound", func() bool {
		p, err := client.CoreV1().Pods("default").Get(t.Context(), "ours", metav1.GetOptions{})
		return err == nil && p.Spec.NodeName == "a"
	})
	if p, err := client.CoreV1().Pods("default").Get(t.Context(), "theirs", metav1.GetOptions{}); err != nil || p.Spec.NodeName != "" || s.queue.sizes()[queueUnschedulable] > 0 {
		t.Errorf("theirs: %v, %v", p, err)
	}
}

// Every plugin that is asked about a node is timed, and every extension point.
func TestTimings(t *testing.T) {
	m, registry := newMetrics(), metrics.NewKubeRegistry()
	registry.MustRegister(m.asked, m.points)
	c := clusterOf([]*corev1.Node{testNode("a"), testNode("b"), testNode("c", taint("k", corev1.TaintEffectNoSchedule))}, nil)
	req := &Request{Pod: NewPod(testPod("p", cpu("1"))), Timing: m.timing, Point: func(point string) func(bool) { return m.point("s", point) }}
	if v, _ := c.place(req); v.Node == "" {
		t.Fatal(v.Message)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]uint64{}
	for _, f := range families {
		for _, series := range f.GetMetric() {
			var labels []string
			for _, l := range series.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			counts[strings.Join(labels, " ")] = series.GetHistogram().GetSampleCount()
		}
	}
	for labels, want := range map[string]uint64{
		"Filter NodeResourcesFit Success": 2, "Filter TaintToleration Success": 2, "Filter TaintToleration Unschedulable": 1, "Filter VolumeZone Success": 0,
		"Score NodeResourcesFit Success": 2, "Filter s Success": 1, "Score s Success": 1,
	} {
		if counts[labels] != want {
			t.Errorf("%s: %d, want %d, of %v", labels, counts[labels], want, counts)
		}
	}
}

// A pod that claims devices waits: nobody here allocates them, and without them it must not run.
func TestDevicesAreNotForgotten(t *testing.T) {
	claims := testPod("claims", minor)
	claims.Generation = 2
	claims.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "g", ResourceClaimName: &claims.Name}}
	client, _, events := running(t, testNode("a"), claims)
	event := <-events.Events
	last, err := client.CoreV1().Pods(claims.Namespace).Get(t.Context(), "claims", metav1.GetOptions{})
	if err != nil || last.Spec.NodeName != "" || !strings.Contains(event, "spec.resourceClaims") {
		t.Errorf("%s; it is on %q, %v", event, last.Spec.NodeName, err)
	}
	eventually(t, "its condition says so of its second generation", func() bool {
		last, err := client.CoreV1().Pods(claims.Namespace).Get(t.Context(), "claims", metav1.GetOptions{})
		return err == nil && slices.ContainsFunc(last.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable && c.ObservedGeneration == 2
		})
	})
}

// A scheduler that starts knows every pod that has a node before it places the first: full caches are not enough.
func TestNothingIsPlacedBeforeAllIsKnown(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	node.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourcePods: resource.MustParse("9")}
	bound := testPod("bound", minor, cpu("1"))
	bound.Spec.NodeName = "a"
	client := fake.NewClientset(node, bound)
	shared := informers.NewSharedInformerFactory(client, 0)
	s, err := New(Defaults(), client, shared, map[string]Recorder{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	known := func() bool {
		return !slices.ContainsFunc(s.synced, func(synced cache.InformerSynced) bool { return !synced() })
	}
	s.cluster.mu.Lock() // no handler comes further
	shared.Start(t.Context().Done())
	for kind, filled := range shared.WaitForCacheSync(t.Context().Done()) {
		if !filled {
			t.Fatalf("%v are not listed", kind)
		}
	}
	if known() {
		t.Error("it would begin, and knows nothing yet of a pod that is on a node")
	}
	s.cluster.mu.Unlock()
	if !cache.WaitForCacheSync(t.Context().Done(), s.synced...) || !s.cluster.has(bound.UID) {
		t.Error("it begins, and does not know the pod that is on a node")
	}
}
