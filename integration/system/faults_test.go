package system

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// restarts maps each container of the cluster to its restart count.
func restarts(t *testing.T, c *clustertest.Cluster) map[string]int32 {
	t.Helper()
	pods, err := c.Client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int32{}
	for _, p := range pods.Items {
		for _, cs := range p.Status.ContainerStatuses {
			out[p.Namespace+"/"+p.Name+"/"+cs.Name] = cs.RestartCount
		}
	}
	return out
}

// faults kills one program after the other under load through a Service: no
// new connection may fail and no kept one may break, from five seconds before
// to twenty seconds after each, and no other container may restart.
func faults(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	_, ip := serve(t, c, ns)
	for _, victim := range []struct{ name, comm, container string }{
		{"kubelet", "orlop-kubelet", ""},
		{"containerd", "containerd", ""},
		{"agent", "orlop-agent", "orlop-agent"},
		{"API server", "kube-apiserver", "kube-apiserver"},
	} {
		t.Run(victim.name, func(t *testing.T) {
			before := restarts(t, c)
			load := make(chan string, 1)
			// Hosts are used, not `kubectl exec`: its own connection ends with the API server.
			go func() {
				out, err := c.Exec(c.Nodes[1], c.Bin+"/testimage", "load", "--target", ip+":80", "--rate", "60", "--long", "10", "--for", "25s")
				if err != nil {
					out = err.Error()
				}
				load <- out
			}()
			time.Sleep(5 * time.Second)
			killed := 0
			for _, host := range c.Nodes {
				killed += kill(t, c, host, victim.comm)
			}
			if killed == 0 {
				t.Errorf("no process %s to kill", victim.comm)
			}
			out := <-load
			var report struct {
				Tried, Failed, Broken, Asked int64
				Error                        string
			}
			if err := json.Unmarshal([]byte(strings.TrimSpace(out)), &report); err != nil {
				t.Fatalf("load: %v: %s", err, out)
			}
			if report.Tried < 1000 || report.Failed != 0 || report.Broken != 0 {
				t.Errorf("under kill -9 of %s: %+v", victim.name, report)
			}
			c.Eventually(t, time.Minute, "cluster to be whole again", func(ctx context.Context) error { return whole(ctx, c) })
			counted := victim.container == ""
			for name, count := range restarts(t, c) {
				if was, ok := before[name]; ok && strings.HasSuffix(name, "/"+victim.container) {
					counted = counted || count > was
				}
				if was, ok := before[name]; ok && count != was && (victim.container == "" || !strings.HasSuffix(name, "/"+victim.container)) {
					t.Errorf("container %s restarted: %d times, before %d", name, count, was)
				}
			}
			if !counted {
				t.Errorf("the restart of %s is not counted", victim.container)
			}
		})
	}
}

// kill ends the host's processes called comm, as a crash does, and says how many.
func kill(t *testing.T, c *clustertest.Cluster, host, comm string) (killed int) {
	t.Helper()
	for line := range strings.Lines(hostProcesses(t, c, host)) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == comm {
			if _, err := c.Exec(host, "kill", "-9", f[0]); err != nil {
				t.Error(err)
			}
			killed++
		}
	}
	return killed
}

// whole says what is not ready of nodes and of kube-system's pods.
func whole(ctx context.Context, c *clustertest.Cluster) error {
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, n := range nodes.Items {
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue {
				return fmt.Errorf("node %s: %s", n.Name, cond.Message)
			}
		}
	}
	pods, err := c.Client.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, p := range pods.Items {
		if !clustertest.Ready(&p) {
			return fmt.Errorf("pod %s is not ready", p.Name)
		}
	}
	return nil
}
