package system

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// holdings lists what a host holds for pods, one thing a line.
const holdings = `
find /sys/fs/cgroup -type d -path '*kubepods*' -name 'pod*' 2>/dev/null | sed 's,.*/,cgroup ,' | sort -u
grep -o '/var/lib/kubelet/pods/[^ ]*' /proc/self/mounts | sed 's/^/mount /'
ls /run/netns | grep cni- | sed 's/^/netns /'
find /var/lib/cni/orlop -type f -path '*/addrs/*' | sed 's,.*/,lease ,'
ls /sys/class/net | grep '^orl.*[0-9a-f]' | grep -v orlop0 | sed 's/^/link /'
ls /var/log/pods | sed 's/^/logs /'
ls /var/log/containers | sed 's/^/log /'
ls /var/lib/kubelet/pods | sed 's/^/volumes /'
ctr -n k8s.io containers ls -q | sed 's/^/container /'
true`

// kubeletCrashes kills the kubelet again and again while pods come and while they go: all of them must come up, without
// a restart, and nothing of them may stay.
func kubeletCrashes(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	host := c.Nodes[1]
	const pods = 12
	steady := c.RunPod(t, ns, c.Pod("steady", []string{"netexec"}, clustertest.On(host)))
	c.Eventually(t, time.Minute, "nothing else to be starting", func(ctx context.Context) error { return whole(ctx, c) })
	before, err := c.Exec(host, "sh", "-c", holdings)
	if err != nil {
		t.Fatal(err)
	}
	for i := range pods {
		pod := c.Pod(fmt.Sprintf("p%d", i), []string{"pause"}, clustertest.On(host), inMemory(int32(9400+i)))
		pod.Labels["app"] = "crash"
		if _, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	killThrice(t, c, host)
	c.Eventually(t, time.Minute, "all pods to be ready", func(ctx context.Context) error {
		list, err := c.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, p := range list.Items {
			if !clustertest.Ready(&p) {
				return fmt.Errorf("%s is %s", p.Name, p.Status.Phase)
			}
			if n := p.Status.ContainerStatuses[0].RestartCount; n != 0 {
				t.Fatalf("%s was restarted %d times, its last end: %+v", p.Name, n, p.Status.ContainerStatuses[0].LastTerminationState.Terminated)
			}
		}
		return nil
	})
	if err := c.Client.CoreV1().Pods(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=crash"}); err != nil {
		t.Fatal(err)
	}
	killThrice(t, c, host)
	c.Eventually(t, time.Minute, "all of them to be gone without a trace", func(ctx context.Context) error {
		list, err := c.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: "app=crash"})
		if err != nil {
			return err
		}
		if len(list.Items) > 0 {
			return fmt.Errorf("%d are still there", len(list.Items))
		}
		after, err := c.Exec(host, "sh", "-c", holdings)
		if left := added(before, after); len(left) > 0 {
			return errors.Join(err, fmt.Errorf("left on the host:\n%s", strings.Join(left, "\n")))
		}
		return err
	})
	now, err := c.Client.CoreV1().Pods(ns).Get(t.Context(), "steady", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	since := func(p *corev1.Pod) (out time.Time) {
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
				out = cond.LastTransitionTime.Time
			}
		}
		return out
	}
	if !since(now).Equal(since(steady)) || now.Status.ContainerStatuses[0].ContainerID != steady.Status.ContainerStatuses[0].ContainerID {
		t.Errorf("the pod beside them was ready since %v as %s, and is since %v as %s", since(steady), steady.Status.ContainerStatuses[0].ContainerID,
			since(now), now.Status.ContainerStatuses[0].ContainerID)
	}
}

// inMemory gives a pod a mount, a port of the host and a request, each of which leaves something behind if it is forgotten.
func inMemory(port int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "m", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "m", MountPath: "/m"}}
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: port}}
	}
}

func killThrice(t *testing.T, c *clustertest.Cluster, host string) {
	t.Helper()
	for range 3 {
		time.Sleep(400 * time.Millisecond)
		kill(t, c, host, "orlop-kubelet")
	}
}

// added are the lines of after that before does not have.
func added(before, after string) []string {
	had := map[string]bool{}
	for line := range strings.Lines(before) {
		had[line] = true
	}
	var out []string
	for line := range strings.Lines(after) {
		if !had[line] {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}
