package chaos

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	tools "k8s.io/client-go/tools/watch"

	"github.com/orlop-io/orlop/integration/clustertest"
)

var (
	hang  = flag.Duration("hang", 5*time.Minute, "how long the container runtime is held still")
	apart = flag.Duration("apart", 10*time.Minute, "how long a node has no API server")
	crew  = flag.Int("pods", 100, "pods on the node whose kubelet is killed")
	churn = flag.Int("churn", 1000, "pods to make and end under random kills")
	flat  = flag.Int("flat", 10000, "pods to make and end while the kubelet's memory must not grow")
)

// TestNode breaks what a node rests on, one after the other, and wants its pods not to notice.
func TestNode(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a local cluster needs root")
	}
	c, err := clustertest.Up("chaos", 2)
	if c != nil {
		defer func() {
			if t.Failed() {
				for _, host := range c.Nodes {
					log, _ := c.Exec(host, "tail", "-n", "60", "/var/lib/orlop/chaos/logs/"+host+"/kubelet.log")
					t.Logf("the kubelet of %s:\n%s", host, log)
				}
			}
			must(t, c.Down())
		}()
	}
	must(t, err)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *clustertest.Cluster)
	}{
		{"kubelet killed", kubeletKilled}, {"runtime killed", runtimeKilled}, {"one pod stuck", oneStuck}, {"many end", manyEnd}, {"mounts propagate", mountsPropagate}, {"runtime hangs", runtimeHangs},
		{"sandboxes killed", sandboxesKilled}, {"network plugin fails", pluginFails}, {"network plugin hangs", pluginHangs},
		{"disk full", diskFull}, {"no API server", serverAway}, {"churn", churned}, {"memory", flatMemory},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, c) })
		wait(t, 5*time.Minute, "the pods of "+part.name+" to be gone", func() error { return empty(t.Context(), c) })
	}
}

// empty says whether no test has pods any more.
func empty(ctx context.Context, c *clustertest.Cluster) error {
	list, err := c.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.namespace!=" + metav1.NamespaceSystem})
	if err == nil && len(list.Items) > 0 {
		err = fmt.Errorf("%d are there, as %s/%s: %s", len(list.Items), list.Items[0].Namespace, list.Items[0].Name, list.Items[0].Status.Phase)
	}
	return err
}

// service is a program of a host, as `orlop status` tells of it.
type service struct{ Pid int }

func services(t *testing.T, c *clustertest.Cluster, host string) (containerd, kubelet int) {
	t.Helper()
	out, _ := c.Orlop("status", "--name", c.Name, "-o", "json") // it fails where something is not well
	var s struct {
		Hosts []struct {
			Name                string
			Containerd, Kubelet service
		}
	}
	must(t, json.NewDecoder(strings.NewReader(out)).Decode(&s))
	for _, h := range s.Hosts {
		if h.Name == host {
			return h.Containerd.Pid, h.Kubelet.Pid
		}
	}
	t.Fatalf("no host %s in %s", host, out)
	return 0, 0
}

// crowdOf makes pods on a node: every tenth is asked whether it is ready and alive, each second.
func crowdOf(t *testing.T, c *clustertest.Cluster, ns, host string, n int) {
	t.Helper()
	for i := range n {
		p := c.Pod(fmt.Sprintf("p%03d", i), nil, clustertest.On(host))
		p.Spec.Containers[0].Image = c.Image("pause")
		if i%10 == 0 {
			ask := &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 10, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}}
			p.Spec.Containers[0].Image, p.Spec.Containers[0].Args = c.Image("agnhost"), []string{"netexec"}
			p.Spec.Containers[0].ReadinessProbe, p.Spec.Containers[0].LivenessProbe = ask, ask.DeepCopy()
		}
		_, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{})
		must(t, err)
	}
	allReady(t, c, ns, 5*time.Minute)
}

func allReady(t *testing.T, c *clustertest.Cluster, ns string, within time.Duration) {
	t.Helper()
	wait(t, within, "all pods to be ready", func() error {
		list, err := c.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			if p := &list.Items[i]; !clustertest.Ready(p) {
				return fmt.Errorf("%s of %d is %s: %+v", p.Name, len(list.Items), p.Status.Phase, p.Status.ContainerStatuses)
			}
		}
		return nil
	})
}

// witness notes everything that a watch shows of a namespace's pods and that must not be while all is to stay as it is.
type witness struct {
	mu   sync.Mutex
	saw  []string
	stop func()
}

// watchPods wants no pod of those there are to restart, to become unready or to be shown as another than it was.
func watchPods(t *testing.T, c *clustertest.Cluster, ns string) *witness {
	t.Helper()
	list, err := c.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	before := map[string]*corev1.Pod{}
	for i := range list.Items {
		before[list.Items[i].Name] = &list.Items[i]
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := &witness{stop: cancel}
	events, err := tools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return c.Client.CoreV1().Pods(ns).Watch(ctx, o)
		}})
	must(t, err)
	go func() {
		for e := range events.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok && before[p.Name] != nil {
				for _, d := range changes(before[p.Name], p) {
					w.mu.Lock()
					w.saw = append(w.saw, p.Name+": "+d)
					w.mu.Unlock()
				}
			}
		}
	}()
	return w
}

// changes are what two statuses of a running pod must have in common and have not.
func changes(was, is *corev1.Pod) []string {
	var out []string
	differ := func(what string, a, b any) {
		if a != b {
			out = append(out, fmt.Sprintf("%s was %v, is %v", what, a, b))
		}
	}
	differ("phase", was.Status.Phase, is.Status.Phase)
	differ("address", was.Status.PodIP, is.Status.PodIP)
	differ("start", was.Status.StartTime.Unix(), is.Status.StartTime.Unix())
	differ("ready", clustertest.Ready(was), clustertest.Ready(is))
	for _, k := range was.Status.Conditions {
		for _, now := range is.Status.Conditions {
			if now.Type == k.Type {
				differ(string(k.Type), k.Status, now.Status)
				differ("time of "+string(k.Type), k.LastTransitionTime.Unix(), now.LastTransitionTime.Unix())
			}
		}
	}
	for i := range was.Status.ContainerStatuses {
		a, b := &was.Status.ContainerStatuses[i], &is.Status.ContainerStatuses[i]
		differ("container", a.ContainerID, b.ContainerID)
		differ("restarts", a.RestartCount, b.RestartCount)
		differ("container's readiness", a.Ready, b.Ready)
	}
	return out
}

// check ends the watch and fails the test for what was seen.
func (w *witness) check(t *testing.T) {
	t.Helper()
	w.stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, s := range w.saw {
		if t.Errorf("seen: %s", s); i > 20 {
			return
		}
	}
}

// kubeletMetric reads one number of a kubelet.
func kubeletMetric(ctx context.Context, c *clustertest.Cluster, host, name string) (n float64, err error) {
	text, err := c.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(host).SubResource("proxy").Suffix("metrics").DoRaw(ctx)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			_, err := fmt.Sscan(rest, &n)
			return n, err
		}
	}
	return 0, fmt.Errorf("the kubelet of %s has no %s", host, name)
}

// kubeletKilled wants a killed kubelet to be back at work within two seconds, and nobody to have noticed.
func kubeletKilled(t *testing.T, c *clustertest.Cluster) {
	ns, host := c.Namespace(t), c.Nodes[1]
	crowdOf(t, c, ns, host, *crew)
	for range 3 {
		time.Sleep(3 * time.Second)
		w := watchPods(t, c, ns)
		_, pid := services(t, c, host)
		must(t, syscall.Kill(pid, syscall.SIGKILL))
		killed := time.Now()
		wait(t, 30*time.Second, "the kubelet to have all its pods again", func() error {
			n, err := kubeletMetric(t.Context(), c, host, "kubelet_running_pods")
			if err == nil && int(n) < *crew {
				err = fmt.Errorf("%v of its pods run", n)
			}
			return err
		})
		if took := time.Since(killed); took > 2*time.Second {
			t.Errorf("back at work after %v, wanted are 2 s", took)
		} else {
			t.Logf("back at work after %v", took)
		}
		time.Sleep(8 * time.Second) // what is told wrongly is told late, too
		w.check(t)
	}
}

// runtimeKilled kills containerd, and a container while it is away.
func runtimeKilled(t *testing.T, c *clustertest.Cluster) {
	ns, host := c.Namespace(t), c.Nodes[1]
	crowdOf(t, c, ns, host, 11)
	victim := c.RunPod(t, c.Namespace(t), c.Pod("victim", []string{"netexec"}, clustertest.On(host)))
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		w := watchPods(t, c, ns)
		pid := processOf(t, c, victim)
		containerd, _ := services(t, c, host)
		must(t, syscall.Kill(containerd, sig))
		must(t, syscall.Kill(pid, syscall.SIGKILL))
		wait(t, 30*time.Second, "the killed container to run again", func() error {
			now, err := c.Client.CoreV1().Pods(victim.Namespace).Get(t.Context(), victim.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if s := now.Status.ContainerStatuses[0]; s.RestartCount != victim.Status.ContainerStatuses[0].RestartCount+1 || !clustertest.Ready(now) {
				return fmt.Errorf("its status is %+v", s)
			}
			victim = now
			return nil
		})
		w.check(t)
		time.Sleep(11 * time.Second) // the next restart is the first after a steady run of the runtime
	}
}

// processOf is the first process of a pod's first container.
func processOf(t *testing.T, c *clustertest.Cluster, p *corev1.Pod) int {
	t.Helper()
	return taskOf(t, c, p.Spec.NodeName, strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://"))
}

func taskOf(t *testing.T, c *clustertest.Cluster, host, id string) (pid int) {
	t.Helper()
	out, err := c.Exec(host, "ctr", "-n", "k8s.io", "tasks", "ls")
	must(t, err)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == id {
			_, err := fmt.Sscan(f[1], &pid)
			must(t, err)
			return pid
		}
	}
	t.Fatalf("no task of container %s:\n%s", id, out)
	return 0
}

// parentOf is the process above another: a container's shim.
func parentOf(t *testing.T, pid int) (ppid int) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	_, err = fmt.Sscan(f[1], &ppid)
	must(t, err)
	return ppid
}

// oneStuck holds the shim of one pod still while the pod is to end, and wants all others to come and go meanwhile.
func oneStuck(t *testing.T, c *clustertest.Cluster) {
	ns, host := c.Namespace(t), c.Nodes[1]
	var shims []int
	const stuck = 6 // more than are made side by side
	for i := range stuck {
		p := c.RunPod(t, ns, c.Pod(fmt.Sprintf("stuck-%d", i), []string{"netexec"}, clustertest.On(host)))
		shims = append(shims, parentOf(t, processOf(t, c, p)))
	}
	defer func() {
		for _, pid := range shims {
			_ = syscall.Kill(pid, syscall.SIGCONT) // gone, if all was well
		}
	}()
	for i, pid := range shims {
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
		must(t, c.Client.CoreV1().Pods(ns).Delete(t.Context(), fmt.Sprintf("stuck-%d", i), metav1.DeleteOptions{}))
	}
	others := c.Namespace(t)
	for end, i := time.Now().Add(45*time.Second), 0; time.Now().Before(end); i++ {
		p := c.Pod(fmt.Sprintf("other-%d", i), []string{"netexec"}, clustertest.On(host))
		begun := time.Now()
		c.RunPod(t, others, p)
		must(t, c.Client.CoreV1().Pods(others).Delete(t.Context(), p.Name, metav1.DeleteOptions{}))
		gone(t, c, others, p.Name)
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("a pod beside the stuck ones came and went in %v", took)
		}
		if err := nodeReady(t.Context(), c, host); err != nil {
			t.Fatal(err)
		}
	}
	for _, pid := range shims {
		must(t, syscall.Kill(pid, syscall.SIGCONT))
	}
	for i := range stuck {
		gone(t, c, ns, fmt.Sprintf("stuck-%d", i))
	}
}

func nodeReady(ctx context.Context, c *clustertest.Cluster, host string) error {
	n, err := c.Client.CoreV1().Nodes().Get(ctx, host, metav1.GetOptions{})
	if err != nil {
		return err
	}
	at := slices.IndexFunc(n.Status.Conditions, func(k corev1.NodeCondition) bool { return k.Type == corev1.NodeReady })
	if k := n.Status.Conditions[at]; k.Status != corev1.ConditionTrue {
		return fmt.Errorf("node %s is not ready: %s: %s", host, k.Reason, k.Message)
	}
	return nil
}

// runtimeHangs holds containerd still: the node must say so, what runs goes on, and all that was asked for meanwhile happens
// afterwards.
func runtimeHangs(t *testing.T, c *clustertest.Cluster) {
	ns, host := c.Namespace(t), c.Nodes[1]
	crowdOf(t, c, ns, host, 11)
	asked := c.Namespace(t)
	c.RunPod(t, asked, c.Pod("goes", []string{"netexec"}, clustertest.On(host)))
	w := watchPods(t, c, ns)
	pid, _ := services(t, c, host)
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	begun := time.Now()
	resume := sync.OnceValue(func() error { return syscall.Kill(pid, syscall.SIGCONT) })
	defer resume()
	_, err := c.Client.CoreV1().Pods(asked).Create(t.Context(), c.Pod("comes", []string{"netexec"}, clustertest.On(host)), metav1.CreateOptions{})
	must(t, err)
	must(t, c.Client.CoreV1().Pods(asked).Delete(t.Context(), "goes", metav1.DeleteOptions{}))
	wait(t, time.Minute, "the node to say that its runtime is down", func() error {
		err := nodeReady(t.Context(), c, host)
		if err == nil || !strings.Contains(err.Error(), "container runtime is down") {
			return fmt.Errorf("it says %v", err)
		}
		return nil
	})
	t.Logf("the node said so after %v", time.Since(begun))
	// Others mark its pods as not ready then: that is how it has to be.
	w.stop()
	time.Sleep(time.Until(begun.Add(*hang)))
	must(t, resume())
	back := time.Now()
	wait(t, 30*time.Second, "the node to be ready", func() error { return nodeReady(t.Context(), c, host) })
	t.Logf("the node was ready again after %v", time.Since(back))
	c.WaitPod(t, asked, "comes", "ready", clustertest.Ready)
	gone(t, c, asked, "goes")
	allReady(t, c, ns, time.Minute)
	list, err := c.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for _, p := range list.Items {
		if n := p.Status.ContainerStatuses[0].RestartCount; n != 0 {
			t.Errorf("%s was restarted %d times", p.Name, n)
		}
	}
}

// sandboxesKilled kills pauses and shims: the pods begin anew, each once.
func sandboxesKilled(t *testing.T, c *clustertest.Cluster) {
	ns, host := c.Namespace(t), c.Nodes[1]
	for _, victim := range []string{"pause", "shim", "both"} {
		p := c.RunPod(t, ns, c.Pod(victim, []string{"netexec"}, clustertest.On(host)))
		pid := processOf(t, c, p)
		shim := parentOf(t, pid)
		if victim != "shim" {
			must(t, syscall.Kill(sandboxOf(t, shim, pid), syscall.SIGKILL))
		}
		if victim != "pause" {
			must(t, syscall.Kill(shim, syscall.SIGKILL))
		}
		wait(t, time.Minute, "pod "+victim+" to run in a new sandbox", func() error {
			now, err := c.Client.CoreV1().Pods(ns).Get(t.Context(), p.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if s := now.Status.ContainerStatuses[0]; !clustertest.Ready(now) || s.RestartCount != 1 || s.ContainerID == p.Status.ContainerStatuses[0].ContainerID {
				return fmt.Errorf("its status is %+v", s)
			}
			return nil
		})
	}
}

// sandboxOf is the shim's other child.
func sandboxOf(t *testing.T, shim, but int) (pid int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", shim, shim))
	must(t, err)
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", shim))
	must(t, err)
	for _, e := range tasks { // a child is listed with the thread that made it
		more, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", shim, e.Name()))
		if err == nil {
			text = append(append(text, ' '), more...)
		}
	}
	for f := range strings.FieldsSeq(string(text)) {
		_, err := fmt.Sscan(f, &pid)
		must(t, err)
		if pid != but {
			return pid
		}
	}
	t.Fatalf("shim %d has no child but %d", shim, but)
	return 0
}
