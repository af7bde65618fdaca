package pressure

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// bound lets the host's cgroup hold so much more of something than it does now, until the test ends. Pages of files that
// can be dropped do not count.
func bound(t *testing.T, file, usage string, more int64) {
	t.Helper()
	const top = "/sys/fs/cgroup/"
	now, err := strconv.ParseInt(sh(t, "cat "+top+usage), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if idle := sh(t, "sed -n 's/^total_inactive_file //p' "+top+filepath.Dir(file)+"/memory.stat 2>/dev/null || true"); idle != "" {
		n, err := strconv.ParseInt(idle, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		now -= n
	}
	before := sh(t, "cat "+top+file)
	sh(t, fmt.Sprintf("echo %d > %s%s", now+more, top, file))
	t.Cleanup(func() {
		if strings.HasPrefix(before, "922337") {
			before = "-1"
		}
		sh(t, "echo "+before+" > "+top+file)
	})
}

func asks(memory string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}
	}
}

// The pod that is furthest beyond its request goes, and nobody else; nobody comes who asked for nothing.
func TestMemoryHard(t *testing.T) {
	ns := cluster.Namespace(t)
	bound(t, "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", 700<<20)
	configure(t, "evictionHard: {memory.available: 350Mi}")
	cluster.RunPod(t, ns, consumer("within", []string{"--memory=60"}, asks("100Mi")))
	cluster.RunPod(t, ns, consumer("beyond", []string{"--memory=40"}, asks("10Mi")))
	began := time.Now()
	cluster.RunPod(t, ns, consumer("greedy", []string{"--memory=330", "--after=3s"}, asks("10Mi")))
	p := evicted(t, ns, "greedy", "The node was low on resource: memory. Threshold quantity: 350Mi, available: ", "Container c was using ", "request is 10Mi, has larger consumption of memory. ")
	t.Logf("%.1f s after it was made: %s", time.Since(began).Seconds(), p.Status.Message)
	told(t, ns, "greedy", "Evicted", "The node was low on resource: memory. ")
	told(t, metav1.NamespaceDefault, cluster.Nodes[0], "EvictionThresholdMet", "Attempting to reclaim memory")
	stays(t, ns, "within")
	stays(t, ns, "beyond")
	condition(t, corev1.NodeMemoryPressure, corev1.ConditionFalse)
}

// A soft threshold waits for its grace, and gives the pod one.
func TestMemorySoft(t *testing.T) {
	ns := cluster.Namespace(t)
	bound(t, "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", 700<<20)
	configure(t, "evictionHard: {memory.available: 50Mi}\nevictionSoft: {memory.available: 350Mi}\nevictionSoftGracePeriod: {memory.available: 5s}\nevictionMaxPodGracePeriod: 4")
	greedy := consumer("greedy", []string{"--memory=400"})
	thirty := int64(30)
	greedy.Spec.TerminationGracePeriodSeconds = &thirty
	greedy.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sleep", "20"}}}}
	cluster.RunPod(t, ns, greedy)
	began := time.Now()
	condition(t, corev1.NodeMemoryPressure, corev1.ConditionTrue)
	bestEffort := consumer("late", nil)
	if _, err := cluster.Client.CoreV1().Pods(ns).Create(t.Context(), bestEffort, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	late := cluster.WaitPod(t, ns, "late", "refused", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if want := "Pod was rejected: The node had condition: [MemoryPressure]. "; late.Status.Reason != "Evicted" || late.Status.Message != want {
		t.Errorf("a pod that came under pressure: %s %q, want Evicted %q", late.Status.Reason, late.Status.Message, want)
	}
	if time.Since(began) < 4*time.Second {
		stays(t, ns, "greedy")
	}
	evicted(t, ns, "greedy", "low on resource: memory. Threshold quantity: 350Mi")
	// Five seconds until it is due, four of grace.
	if took := time.Since(began); took < 7*time.Second || took > 25*time.Second {
		t.Errorf("it took %v, want about 9 s", took)
	}
	condition(t, corev1.NodeMemoryPressure, corev1.ConditionFalse)
}

func TestProcesses(t *testing.T) {
	ns := cluster.Namespace(t)
	bound(t, "pids/pids.max", "pids/pids.current", 1500)
	configure(t, "evictionHard: {pid.available: '1000'}")
	cluster.RunPod(t, ns, consumer("few", nil))
	cluster.RunPod(t, ns, consumer("many", []string{"--processes=150", "--after=2s"}))
	evicted(t, ns, "many", "The node was low on resource: pids. Threshold quantity: 1k, available: ")
	stays(t, ns, "few")
	condition(t, corev1.NodePIDPressure, corev1.ConditionFalse)
}
