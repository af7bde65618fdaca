// Package pressure lets a node run out of what it has: memory, disk, inodes, processes, and looks at whom the kubelet ends,
// what it tells, and what it removes before.
//
// The node is a host of a local cluster with little of each: bounds on the host's own cgroup, and a small tmpfs as the
// kubelet's directory. Nothing of the machine's own is used up.
package pressure

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

var cluster *clustertest.Cluster

func TestMain(m *testing.M) {
	os.Exit(clustertest.Main(m, "pressure", 1, func(c *clustertest.Cluster) { cluster = c }))
}

const (
	rootDir = "/mnt/kubelet" // a tmpfs of 64 MiB and 4000 inodes
	dropIn  = "/var/lib/kubelet/config.d/90-test.conf"
)

// sh runs a command on the node.
func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := cluster.Exec(cluster.Nodes[0], "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// configure starts the kubelet anew with more in its configuration, and waits until it is ready. At the end of the test
// it gets back what it had.
func configure(t *testing.T, config string) {
	t.Helper()
	sh(t, "cat > "+dropIn+" <<'END'\napiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nevictionPressureTransitionPeriod: 3s\n"+config+"\nEND\n")
	restart(t)
	t.Cleanup(func() {
		sh(t, "rm -f "+dropIn)
		restart(t)
	})
}

func restart(t *testing.T) {
	t.Helper()
	before := kubeletPID(t)
	since := time.Now()
	sh(t, "kill -9 "+before)
	cluster.Eventually(t, 60*time.Second, "the kubelet to be back", func(ctx context.Context) error {
		if now := kubeletPID(t); now == "" || now == before {
			return fmt.Errorf("its process is %q", now)
		}
		_, err := cluster.Exec(cluster.Nodes[0], "wget", "-q", "-O", "-", "http://127.0.0.1:10248/healthz")
		return err
	})
	// Its pods are known once it has told of the node.
	cluster.Eventually(t, 60*time.Second, "the node to be told of", func(ctx context.Context) error {
		n, err := cluster.Client.CoreV1().Nodes().Get(ctx, cluster.Nodes[0], metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && c.LastHeartbeatTime.Time.After(since.Add(-time.Second)) {
				return nil
			}
		}
		return fmt.Errorf("conditions are %v", n.Status.Conditions)
	})
}

// kubeletPID is the process that serves this node: all processes of the machine can be seen.
func kubeletPID(t *testing.T) string {
	t.Helper()
	out, err := cluster.Exec(cluster.Nodes[0], "sh", "-c", `me=$(readlink /proc/self/ns/mnt); for p in /proc/[0-9]*; do [ "$(cat $p/comm 2>/dev/null)" = orlop-kubelet ] && [ "$(readlink $p/ns/mnt)" = "$me" ] && echo ${p#/proc/}; done; true`)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// condition waits for one of the node's conditions.
func condition(t *testing.T, kind corev1.NodeConditionType, want corev1.ConditionStatus) {
	t.Helper()
	cluster.Eventually(t, 60*time.Second, fmt.Sprintf("%s to be %s", kind, want), func(ctx context.Context) error {
		n, err := cluster.Client.CoreV1().Nodes().Get(ctx, cluster.Nodes[0], metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == kind && c.Status == want {
				return nil
			}
		}
		return fmt.Errorf("conditions are %v", n.Status.Conditions)
	})
}

// told waits for an event whose message contains a text.
func told(t *testing.T, ns, object, reason, text string) {
	t.Helper()
	cluster.Eventually(t, 30*time.Second, "event "+reason+" on "+object, func(ctx context.Context) error {
		list, err := cluster.Client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + object})
		if err != nil {
			return err
		}
		var have []string
		for _, e := range list.Items {
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return nil
			}
			have = append(have, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("there are %q", have)
	})
}

// evicted waits until a pod has been ended by the node, and returns it.
func evicted(t *testing.T, ns, name string, wants ...string) *corev1.Pod {
	t.Helper()
	p := cluster.WaitPod(t, ns, name, "evicted", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if p.Status.Reason != "Evicted" {
		t.Errorf("pod %s failed for %q: %q", name, p.Status.Reason, p.Status.Message)
	}
	for _, want := range wants {
		if !strings.Contains(p.Status.Message, want) {
			t.Errorf("pod %s: message %q, want %q in it", name, p.Status.Message, want)
		}
	}
	found := false
	for _, c := range p.Status.Conditions {
		found = found || c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonTerminationByKubelet
	}
	if !found {
		t.Errorf("pod %s: no condition says that it was disrupted: %v", name, p.Status.Conditions)
	}
	return p
}

// stays says that a pod runs on as if nothing were.
func stays(t *testing.T, ns, name string) {
	t.Helper()
	p, err := cluster.Client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if p.Status.Phase != corev1.PodRunning || p.Status.Reason != "" || p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("pod %s: %s %s %s, restarted %d times", name, p.Status.Phase, p.Status.Reason, p.Status.Message, p.Status.ContainerStatuses[0].RestartCount)
	}
}

// consumer is a pod that uses something up, on the node past the scheduler.
func consumer(name string, args []string, mutate ...func(*corev1.Pod)) *corev1.Pod {
	return cluster.Pod(name, append([]string{"consume"}, args...), append([]func(*corev1.Pod){clustertest.On(cluster.Nodes[0]), func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}
	}}, mutate...)...)
}

// emptyDir gives the pod a volume at /v.
func emptyDir(p *corev1.Pod) {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "v", MountPath: "/v"})
}
