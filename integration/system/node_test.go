package system

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func controlPlaneAndWorkers(t *testing.T, c *clustertest.Cluster) {
	nodes, err := c.Client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != len(c.Nodes) {
		t.Fatalf("%d nodes (%v), want %d", len(nodes.Items), err, len(c.Nodes))
	}
	for _, n := range nodes.Items {
		_, isControlPlane := n.Labels["node-role.kubernetes.io/control-plane"]
		if isControlPlane != (n.Name == c.Nodes[0]) {
			t.Errorf("node %s: control plane: %v", n.Name, isControlPlane)
		}
	}
}

// hostProcesses lists "pid comm cgroup" of the host's processes.
func hostProcesses(t *testing.T, c *clustertest.Cluster, host string) string {
	t.Helper()
	out, err := c.Exec(host, "sh", "-c", `for p in $(find /sys/fs/cgroup -name cgroup.procs | xargs cat | sort -un); do
		[ -r /proc/$p/comm ] && echo $p $(cat /proc/$p/comm) $(grep -m1 -E '^0::|^[0-9]+:name=systemd:' /proc/$p/cgroup); done; true`)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func kubeletAloneIsPlain(t *testing.T, c *clustertest.Cluster) {
	procs := hostProcesses(t, c, c.Nodes[0])
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller", "kube-scheduler", "orlop-agent", "coredns"} {
		for line := range strings.Lines(procs) {
			if f := strings.Fields(line); len(f) > 2 && f[1] == name && !strings.Contains(f[2], "/kubepods") {
				t.Errorf("%s does not run in a pod: %s", name, line)
			}
		}
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller", "kube-scheduler"} {
		if !strings.Contains(procs, " "+name) {
			t.Errorf("no process %s on %s", name, c.Nodes[0])
		}
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		pod, err := c.Client.CoreV1().Pods("kube-system").Get(t.Context(), name+"-"+c.Nodes[0], metav1.GetOptions{})
		if err != nil {
			t.Error(err)
		} else if pod.Annotations["kubernetes.io/config.source"] != "file" {
			t.Errorf("%s is not a static pod: %v", pod.Name, pod.Annotations)
		}
	}
}

func onlyAPIServerTalksToEtcd(t *testing.T, c *clustertest.Cluster) {
	out, err := c.Exec(c.Nodes[0], "ss", "-Htnp", "state", "established", "( dport = :2379 )")
	if err != nil {
		t.Fatal(err)
	}
	seen := false
	for line := range strings.Lines(out) {
		if strings.Contains(line, "users:") {
			seen = true
			if !strings.Contains(line, `"kube-apiserver"`) && !strings.Contains(line, `"etcd"`) {
				t.Errorf("somebody else talks to etcd: %s", line)
			}
		}
	}
	if !seen {
		t.Errorf("no connection to etcd in:\n%s", out)
	}
}

func kubeletCreatesNode(t *testing.T, c *clustertest.Cluster) {
	for _, name := range c.Nodes {
		n, err := c.Client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if n.Labels["kubernetes.io/hostname"] != name || n.Status.NodeInfo.KubeletVersion == "" || n.Status.NodeInfo.ContainerRuntimeVersion == "" || n.Status.Capacity.Pods().Value() == 0 {
			t.Errorf("node %s is not whole: %v %+v", name, n.Labels, n.Status.NodeInfo)
		}
		lease, err := c.Client.CoordinationV1().Leases("kube-node-lease").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || lease.Spec.RenewTime == nil || time.Since(lease.Spec.RenewTime.Time) > time.Minute {
			t.Errorf("the lease of %s is %+v (%v)", name, lease.Spec, err)
		}
	}
}

func logsExecAttachPortForward(t *testing.T, c *clustertest.Cluster) {
	for _, node := range c.Nodes {
		t.Run(node, func(t *testing.T) {
			ns := c.Namespace(t)
			c.RunPod(t, ns, c.Pod("p", []string{"sh", "-c", "echo started; exec /testimage netexec"}, clustertest.On(node)))
			c.RunPod(t, ns, c.Pod("reader", []string{"cat"}, clustertest.On(node), func(p *corev1.Pod) { p.Spec.Containers[0].Stdin = true }))

			if out, err := c.Kubectl("logs", "-n", ns, "p"); err != nil || out != "started\n" {
				t.Errorf("logs: %q, %v", out, err)
			}
			if out, err := c.InPod(ns, "p", "hostname"); err != nil || strings.TrimSpace(out) != "p" {
				t.Errorf("exec: %q, %v", out, err)
			}
			if out, err := c.KubectlIn([]byte("typed"), "exec", "-i", "-n", ns, "p", "--", "cat"); err != nil || out != "typed" {
				t.Errorf("exec -i: %q, %v", out, err)
			}
			if _, err := c.InPod(ns, "p", "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "exit code 7") {
				t.Errorf("exec of a command that fails: %v", err)
			}
			attach(t, c, ns)
			portForward(t, c, ns)
		})
	}
}

func attach(t *testing.T, c *clustertest.Cluster, ns string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := c.KubectlCommand(ctx, "attach", "-i", "-n", ns, "reader")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	done := make(chan struct{})
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, io.Discard
	go func() {
		defer close(done)
		buf := make([]byte, 1024)
		for {
			n, err := r.Read(buf)
			out.Write(buf[:n])
			if err != nil || strings.Contains(out.String(), "through attach") {
				return
			}
		}
	}()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // what is written before the stream stands would be echoed to nobody
	io.WriteString(in, "through attach\n")
	select {
	case <-done:
	case <-ctx.Done():
		t.Errorf("attach: nothing came back")
	}
	cancel()
	r.Close()
	cmd.Wait()
}

func portForward(t *testing.T, c *clustertest.Cluster, ns string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := c.KubectlCommand(ctx, "port-forward", "-n", ns, "pod/p", ":8080")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	buf := make([]byte, 256)
	n, err := out.Read(buf)
	if err != nil {
		t.Fatalf("port-forward said nothing: %v", err)
	}
	// Forwarding from 127.0.0.1:40000 -> 8080
	f := strings.Fields(string(buf[:n]))
	if len(f) < 3 {
		t.Fatalf("port-forward said %q", buf[:n])
	}
	resp, err := http.Get("http://" + f[2] + "/hostname")
	if err != nil {
		t.Fatalf("port-forward: %v", err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "p" {
		t.Errorf("port-forward: answered by %q", body)
	}
}

func killedContainerIsRestarted(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	c.RunPod(t, ns, c.Pod("p", []string{"netexec"}))
	if _, err := c.InPod(ns, "p", "sh", "-c", "kill -9 1 || wget -q -O - http://127.0.0.1:8080/exit?code=3"); err == nil {
		t.Log("the command outlived the container")
	}
	c.WaitPod(t, ns, "p", "restarted once and ready", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount == 1 && clustertest.Ready(p) &&
			p.Status.ContainerStatuses[0].LastTerminationState.Terminated != nil
	})
}

func livenessProbe(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	pod := c.Pod("p", []string{"sh", "-c", "touch /tmp/health; exec /testimage pause"}, func(p *corev1.Pod) {
		p.Spec.Containers[0].LivenessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"cat", "/tmp/health"}}},
			PeriodSeconds: 1, FailureThreshold: 2, InitialDelaySeconds: 1,
		}
	})
	c.RunPod(t, ns, pod)
	if out, err := c.InPod(ns, "p", "rm", "/tmp/health"); err != nil {
		t.Fatal(out, err)
	}
	c.WaitPod(t, ns, "p", "restarted", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount >= 1 && clustertest.Ready(p)
	})
	c.Eventually(t, 20*time.Second, "event Unhealthy", func(context.Context) error {
		out, err := c.Kubectl("get", "events", "-n", ns)
		if err == nil && !strings.Contains(out, "Unhealthy") {
			err = errors.New(out)
		}
		return err
	})
}

func gracefulDeletion(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	dir := t.TempDir()
	kind := corev1.HostPathDirectory
	grace := int64(20)
	pod := c.Pod("p", []string{"pause"}, clustertest.On(c.Nodes[1]), func(p *corev1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = &grace
		p.Spec.Volumes = []corev1.Volume{{Name: "d", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: &kind}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "d", MountPath: "/d"}}
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"touch", "/d/stopped"}}}}
	})
	c.RunPod(t, ns, pod)
	began := time.Now()
	if err := c.Client.CoreV1().Pods(ns).Delete(t.Context(), "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, time.Minute, "pod to be gone", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().Pods(ns).Get(ctx, "p", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is still there"), err)
	})
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the pod ended by its grace period (%s), not by SIGTERM", took)
	}
	if _, err := os.Stat(filepath.Join(dir, "stopped")); err != nil {
		t.Errorf("preStop did not run: %v", err)
	}
}

func staticPodWithoutAPI(t *testing.T, c *clustertest.Cluster) {
	host := c.Nodes[0]
	manifest := func(generation string) string {
		return `apiVersion: v1
kind: Pod
metadata: {name: own, namespace: default}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "` + c.Image("agnhost") + `", args: [sh, -c, "echo ` + generation + ` > /out/generation; exec /testimage pause"], volumeMounts: [{name: out, mountPath: /out}]}]
  volumes: [{name: out, hostPath: {path: /run/own-test, type: DirectoryOrCreate}}]
`
	}
	write := func(name, content string) {
		t.Helper()
		// As kubeadm users do it: written elsewhere, then moved in.
		if _, err := c.Exec(host, "sh", "-c", "cat > /etc/kubernetes/"+name+" <<'EOF'\n"+content+"EOF\nmv /etc/kubernetes/"+name+" /etc/kubernetes/manifests/"+name); err != nil {
			t.Fatal(err)
		}
	}
	generation := func(want string) {
		t.Helper()
		c.Eventually(t, time.Minute, "static pod to run generation "+want, func(context.Context) error {
			out, err := c.Exec(host, "cat", "/run/own-test/generation")
			if err == nil && strings.TrimSpace(out) != want {
				err = fmt.Errorf("it runs %q", out)
			}
			return err
		})
	}
	if _, err := c.Exec(host, "mv", "/etc/kubernetes/manifests/kube-apiserver.yaml", "/etc/kubernetes/kube-apiserver.yaml"); err != nil {
		t.Fatal(err)
	}
	back := func() {
		c.Exec(host, "rm", "-f", "/etc/kubernetes/manifests/own.yaml")
		c.Exec(host, "mv", "/etc/kubernetes/kube-apiserver.yaml", "/etc/kubernetes/manifests/kube-apiserver.yaml")
	}
	defer func() {
		back()
		c.Eventually(t, 2*time.Minute, "API server to be back", func(ctx context.Context) error {
			_, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
			return err
		})
	}()
	c.Eventually(t, time.Minute, "API server to be away", func(ctx context.Context) error {
		if _, err := c.Client.Discovery().ServerVersion(); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	write("own.yaml", manifest("one"))
	generation("one")
	write("own.yaml", manifest("two"))
	generation("two")
	if _, err := c.Exec(host, "rm", "/etc/kubernetes/manifests/own.yaml"); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, time.Minute, "static pod to end", func(context.Context) error {
		out, err := c.Exec(host, "ls", "/var/log/pods")
		if err == nil && strings.Contains(out, "default_own-") {
			err = errors.New("its logs are still there: " + out)
		}
		return err
	})
}

func initEnvVolumes(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	if _, err := c.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("cm"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "hidden"}}
	if _, err := c.Client.CoreV1().Secrets(ns).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := c.Pod("p", []string{"sh", "-c", `cat /empty/init /cm/k /secret/k /down/name /var/run/secrets/kubernetes.io/serviceaccount/namespace; echo; echo $NAME $CM $SECRET $KUBERNETES_SERVICE_HOST; cat /etc/hosts`})
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "empty", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}},
		{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}}},
	}
	main := &pod.Spec.Containers[0]
	for _, v := range []string{"empty", "cm", "secret", "down"} {
		main.VolumeMounts = append(main.VolumeMounts, corev1.VolumeMount{Name: v, MountPath: "/" + v})
	}
	main.Env = []corev1.EnvVar{
		{Name: "NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		{Name: "CM", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Key: "k"}}},
		{Name: "SECRET", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "k"}}},
	}
	pod.Spec.InitContainers = []corev1.Container{{
		Name: "init", Image: main.Image, Args: []string{"sh", "-c", "echo from-init > /empty/init"},
		VolumeMounts: []corev1.VolumeMount{{Name: "empty", MountPath: "/empty"}},
	}}
	if _, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if p := c.WaitPod(t, ns, "p", "ended", clustertest.Ended); p.Status.Phase != corev1.PodSucceeded {
		t.Errorf("it ended as %s", p.Status.Phase)
	}
	out, err := c.Kubectl("logs", "-n", ns, "p", "-c", "c")
	if err != nil {
		t.Fatal(err)
	}
	if want := "from-init\nvhiddenp" + ns + "\np v hidden 10.96.0.1\n# Kubernetes-managed hosts file."; !strings.HasPrefix(out, want) {
		t.Errorf("got\n%s\nwant it to begin with\n%s", out, want)
	}
}

// namespacesOf reads the namespaces of a container's first process, from within.
func namespacesOf(t *testing.T, c *clustertest.Cluster, ns, pod, container string) string {
	t.Helper()
	out, err := c.Kubectl("exec", "-n", ns, pod, "-c", container, "--", "ls", "-l", "/proc/self/ns/net", "/proc/self/ns/ipc", "/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for line := range strings.Lines(out) {
		_, id, _ := strings.Cut(strings.TrimSpace(line), " -> ")
		ids = append(ids, id)
	}
	return strings.Join(ids, " ")
}

// pausePID is the process of the pod's sandbox on its host.
func pausePID(t *testing.T, c *clustertest.Cluster, pod *corev1.Pod) string {
	t.Helper()
	for line := range strings.Lines(hostProcesses(t, c, pod.Spec.NodeName)) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "pause" && strings.Contains(strings.ReplaceAll(f[2], "_", "-"), string(pod.UID)) {
			return f[0]
		}
	}
	t.Fatalf("pod %s has no pause process", pod.Name)
	return ""
}

func twoContainers(t *testing.T, c *clustertest.Cluster, ns string) *corev1.Pod {
	t.Helper()
	return c.RunPod(t, ns, c.Pod("p", []string{"netexec"}, func(p *corev1.Pod) {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "second", Image: p.Spec.Containers[0].Image, Args: []string{"pause"}})
	}))
}

func pauseHoldsNamespaces(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	pod := twoContainers(t, c, ns)
	first, second := namespacesOf(t, c, ns, "p", "c"), namespacesOf(t, c, ns, "p", "second")
	if first != second {
		t.Errorf("the containers live in %s and %s", first, second)
	}
	out, err := c.Exec(pod.Spec.NodeName, "readlink", "/proc/"+pausePID(t, c, pod)+"/ns/net")
	if err != nil || !strings.HasPrefix(first, strings.TrimSpace(out)) {
		t.Errorf("the pause lives in %s (%v), the containers in %s", out, err, first)
	}
}

func restartedContainerJoins(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	pod := twoContainers(t, c, ns)
	before := namespacesOf(t, c, ns, "p", "c")
	pause := pausePID(t, c, pod)
	c.InPod(ns, "p", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/exit?code=3") // its connection dies with the server
	c.WaitPod(t, ns, "p", "restarted", func(p *corev1.Pod) bool {
		return clustertest.Ready(p) && p.Status.ContainerStatuses[0].RestartCount+p.Status.ContainerStatuses[1].RestartCount == 1
	})
	if after := namespacesOf(t, c, ns, "p", "c"); after != before {
		t.Errorf("the container lived in %s, after its restart in %s", before, after)
	}
	if now := pausePID(t, c, pod); now != pause {
		t.Errorf("the pause was %s and is %s", pause, now)
	}
}

func pauseDies(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	pod := twoContainers(t, c, ns)
	old := pausePID(t, c, pod)
	if _, err := c.Exec(pod.Spec.NodeName, "kill", "-9", old); err != nil {
		t.Fatal(err)
	}
	c.WaitPod(t, ns, "p", "made again", func(p *corev1.Pod) bool {
		return clustertest.Ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1 && p.Status.ContainerStatuses[1].RestartCount == 1
	})
	if now := pausePID(t, c, pod); now == old {
		t.Error("the pause is the same")
	}
	if first, second := namespacesOf(t, c, ns, "p", "c"), namespacesOf(t, c, ns, "p", "second"); first != second {
		t.Errorf("the containers live in %s and %s", first, second)
	}
}

func nodeStopped(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	seconds := int64(10)
	d := web(c, "web", 2)
	for _, key := range []string{"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"} {
		d.Spec.Template.Spec.Tolerations = append(d.Spec.Template.Spec.Tolerations,
			corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds})
	}
	deploy(t, c, ns, d)
	host := c.Nodes[1]
	if out, err := c.Orlop("stop", "--name", c.Name, host); err != nil {
		t.Fatal(out, err)
	}
	defer func() {
		if out, err := c.Orlop("start", "--name", c.Name, host); err != nil {
			t.Fatal(out, err)
		}
		c.Eventually(t, 2*time.Minute, "node "+host+" to be ready again", func(ctx context.Context) error {
			n, err := c.Client.CoreV1().Nodes().Get(ctx, host, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, cond := range n.Status.Conditions {
				if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
					return nil
				}
			}
			return fmt.Errorf("its conditions are %+v", n.Status.Conditions)
		})
	}()
	c.Eventually(t, 3*time.Minute, "both replicas to run on "+c.Nodes[0], func(context.Context) error {
		ready := 0
		for _, p := range podsOf(t, c, ns, "web") {
			if p.Spec.NodeName == c.Nodes[0] && clustertest.Ready(&p) {
				ready++
			}
		}
		if ready != 2 {
			return fmt.Errorf("%d do", ready)
		}
		return nil
	})
}
