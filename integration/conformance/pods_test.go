package conformance

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func podTests() map[string]test {
	healthy := func(p corev1.Probe) *corev1.Probe { p.PeriodSeconds, p.InitialDelaySeconds = 1, 2; return &p }
	exec := healthy(corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"cat", "/tmp/health"}}}})
	get := healthy(corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}})
	once := *exec
	once.FailureThreshold, once.InitialDelaySeconds = 1, 0
	tcp := healthy(corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}})
	live := func(p *corev1.Probe, pod func(*corev1.Pod)) func(*corev1.Pod) {
		return func(q *corev1.Pod) { pod(q); q.Spec.Containers[0].LivenessProbe = p }
	}
	const probing, blackbox = "Probing container ", "Container Runtime blackbox test when starting a container that exits "
	return under("[sig-node] ", map[string]test{
		probing + `should *not* be restarted with a exec "cat /tmp/health" liveness probe`:                             slowly(probed(live(exec, sh("touch /tmp/health; sleep 1000")), 0, 15*time.Second)),
		probing + "should *not* be restarted with a /healthz http liveness probe":                                      slowly(probed(live(get, container(nil, []string{"netexec"})), 0, 15*time.Second)),
		probing + "should *not* be restarted with a tcp:8080 liveness probe":                                           slowly(probed(live(tcp, container(nil, []string{"netexec"})), 0, 15*time.Second)),
		probing + `should be restarted with a exec "cat /tmp/health" liveness probe`:                                   quickly(probed(live(&once, sh("touch /tmp/health; sleep 1; rm /tmp/health; sleep 1000")), 1, 0)),
		probing + "should be restarted with a /healthz http liveness probe":                                            slowly(probed(live(get, container(nil, []string{"liveness"})), 1, 0)),
		probing + "should have monotonically increasing restart count":                                                 slowly(probed(live(&once, sh("sleep 1000")), 5, 0)),
		probing + "should *not* be restarted with a GRPC liveness probe":                                               slowly(probed(live(healthGRPC(5000), container(nil, []string{"grpc-health-checking"})), 0, 15*time.Second)),
		probing + "should be restarted with a GRPC liveness probe":                                                     slowly(probed(live(healthGRPC(2333), container(nil, []string{"grpc-health-checking"})), 1, 0)),
		probing + "with readiness probe should not be ready before initial delay and never restart":                    slowly(initialDelay),
		probing + "with readiness probe that fails should never be ready and never restart":                            slowly(neverReady),
		blackbox + "should run with the expected status":                                                               slowly(exitStates),
		"InitContainer should invoke init containers on a RestartAlways pod":                                           quickly(inits("Always", "true", true)),
		"InitContainer should invoke init containers on a RestartNever pod":                                            quickly(inits("Never", "true", true)),
		"InitContainer should not start app containers and fail the pod if init containers fail on a RestartNever pod": quickly(inits("Never", "false", false)),
		"InitContainer should not start app containers if init containers fail on a RestartAlways pod":                 slowly(inits("Always", "false", false)),
		"Kubelet when scheduling a busybox command that always fails in a pod should be possible to delete":            quickly(alwaysFails),
		"Kubelet when scheduling a busybox command that always fails in a pod should have an terminated reason":        quickly(alwaysFails),
		"KubeletManagedEtcHosts should test kubelet managed /etc/hosts file":                                           quickly(managedHosts),
		"Ephemeral Containers should update the ephemeral containers in an existing pod":                               quickly(ephemeral(2)),
		"Ephemeral Containers will start an ephemeral container in an existing pod":                                    quickly(ephemeral(1)),
		"Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart exec hook properly":   quickly(hook(true, true)),
		"Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart http hook properly":   quickly(hook(true, false)),
		"Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop exec hook properly":     quickly(hook(false, true)),
		"Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop http hook properly":     quickly(hook(false, false)),
		"PreStop should call prestop when killing a pod":                                                               quickly(hook(false, true)),
		"Pods should allow activeDeadlineSeconds to be updated":                                                        quickly(activeDeadline),
		"Pods should be submitted and removed":                                                                         quickly(podLife),
		"Pods should run through the lifecycle of Pods and PodStatus":                                                  quickly(podLife),
		"Pods should be updated":                                 quickly(podUpdated),
		"Pods should patch a pod status":                         quickly(podStatus),
		"Pods should contain environment variables for services": quickly(serviceEnv),
		"Pods should delete a collection of pods":                quickly(podCollection),
		"Pods should get a host IP":                              quickly(hostIP),
		"Pods Extended Pods Set QOS Class should be set on Pods with matching resource requests and limits for memory and cpu":                                                  quickly(qosClass),
		"Pods Extended (pod generation) Pod Generation pod generation should start at 1 and increment per update [MinimumKubeletVersion:1.34]":                                  quickly(generation),
		"Pods Extended (pod generation) Pod Generation custom-set generation on new pods and graceful delete":                                                                   quickly(generationSet),
		"Pods Extended (pod generation) Pod Generation issue 500 podspec updates and verify generation and observedGeneration eventually converge [MinimumKubeletVersion:1.34]": slowly(generation500),
		"Variable Expansion should verify that a failing subpath expansion can be modified during the lifecycle of a container":                                                 quickly(subPathMended),
		"Variable Expansion should allow substituting values in a volume subpath":                                                                                               quickly(subPathExpr("", true)),
		"Variable Expansion should succeed in writing subpaths in container":                                                                                                    quickly(subPathExpr("", true)),
		"Variable Expansion should fail substituting values in a volume subpath with absolute path":                                                                             quickly(subPathExpr("/tmp", false)),
		"Variable Expansion should fail substituting values in a volume subpath with backticks":                                                                                 quickly(subPathExpr("..", false)),
	})
}

func restarts(p *corev1.Pod) int32 {
	if len(p.Status.ContainerStatuses) == 0 {
		return 0
	}
	return p.Status.ContainerStatuses[0].RestartCount
}

// healthGRPC asks the port for its health.
func healthGRPC(port int32) *corev1.Probe {
	return &corev1.Probe{InitialDelaySeconds: 2, PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: port}}}
}

// probed wants so many restarts, or for want 0 none while it stays.
func probed(pod func(*corev1.Pod), want int32, stays time.Duration) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		c.RunPod(t, ns, c.Pod("one", nil, pod, func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr[int64](0) }))
		if want == 0 {
			time.Sleep(stays)
			p := must(c.Client.CoreV1().Pods(ns).Get(t.Context(), "one", metav1.GetOptions{}))(t)
			if restarts(p) != 0 {
				t.Errorf("%d restarts", restarts(p))
			}
			return
		}
		last := int32(0)
		c.Eventually(t, 5*time.Minute, fmt.Sprintf("%d restarts", want), func(ctx context.Context) error {
			p, err := c.Client.CoreV1().Pods(ns).Get(ctx, "one", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if n := restarts(p); n < last {
				t.Fatalf("restarts went from %d to %d", last, n)
			} else if last = n; n < want {
				return fmt.Errorf("%d restarts", n)
			}
			return nil
		})
	}
}

func readiness(c *corev1.Container, command string, delay int32) {
	c.ReadinessProbe = &corev1.Probe{InitialDelaySeconds: delay, PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{command}}}}
}

func initialDelay(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	p := c.RunPod(t, ns, c.Pod("one", nil, first(func(ct *corev1.Container) { readiness(ct, "true", 8) })))
	var ready time.Time
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodReady {
			ready = cond.LastTransitionTime.Time
		}
	}
	if d := ready.Sub(p.Status.ContainerStatuses[0].State.Running.StartedAt.Time); d < 7*time.Second || restarts(p) > 0 {
		t.Errorf("ready %s after its start, %d restarts", d, restarts(p))
	}
}

func neverReady(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	createPod(t, c, ns, c.Pod("one", nil, first(func(ct *corev1.Container) { readiness(ct, "false", 0) })))
	c.WaitPod(t, ns, "one", "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	for range 10 {
		time.Sleep(time.Second)
		if p := must(c.Client.CoreV1().Pods(ns).Get(t.Context(), "one", metav1.GetOptions{}))(t); clustertest.Ready(p) || restarts(p) > 0 {
			t.Fatalf("ready %v, %d restarts", clustertest.Ready(p), restarts(p))
		}
	}
}

func exitStates(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	// Each fails once and then goes on (a mark on a volume), or ends well.
	for _, tt := range []struct {
		policy   corev1.RestartPolicy
		script   string
		phase    corev1.PodPhase
		ready    bool
		restarts int32
	}{
		{"Always", "if test -e /v0/m; then sleep 1000; fi; touch /v0/m; exit 1", "Running", true, 1},
		{"OnFailure", "if test -e /v0/m; then exit 0; fi; touch /v0/m; exit 1", "Succeeded", false, 1},
		{"Never", "exit 1", "Failed", false, 0},
	} {
		name := strings.ToLower(string(tt.policy))
		createPod(t, c, ns, c.Pod(name, nil, sh(tt.script, mounted(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})),
			func(p *corev1.Pod) { p.Spec.RestartPolicy = tt.policy }))
		p := c.WaitPod(t, ns, name, "as its policy wants", func(p *corev1.Pod) bool {
			return p.Status.Phase == tt.phase && restarts(p) == tt.restarts && clustertest.Ready(p) == tt.ready
		})
		if s := p.Status.ContainerStatuses[0].State; (s.Running != nil) != tt.ready || (s.Terminated != nil) == tt.ready {
			t.Errorf("%s: state %+v", tt.policy, s)
		}
	}
}

func inits(policy corev1.RestartPolicy, second string, good bool) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		createPod(t, c, ns, c.Pod("one", nil, func(p *corev1.Pod) {
			p.Spec.RestartPolicy = policy
			main := p.Spec.Containers[0]
			p.Spec.InitContainers = []corev1.Container{{Name: "i1", Image: main.Image, Command: []string{"true"}}, {Name: "i2", Image: main.Image, Command: []string{second}}}
			if policy == "Never" {
				p.Spec.Containers[0].Command = []string{"true"}
			}
		}))
		switch {
		case good && policy == "Always":
			c.WaitPod(t, ns, "one", "ready", clustertest.Ready)
		case !good && policy == "Always":
			p := c.WaitPod(t, ns, "one", "trying its second init container again", func(p *corev1.Pod) bool {
				return len(p.Status.InitContainerStatuses) == 2 && p.Status.InitContainerStatuses[1].RestartCount >= 2
			})
			if p.Status.Phase != corev1.PodPending || p.Status.ContainerStatuses[0].State.Waiting == nil {
				t.Errorf("phase %s, app %+v", p.Status.Phase, p.Status.ContainerStatuses[0].State)
			}
			return
		default:
			c.WaitPod(t, ns, "one", "ended", clustertest.Ended)
		}
		p := must(c.Client.CoreV1().Pods(ns).Get(t.Context(), "one", metav1.GetOptions{}))(t)
		initialized := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodInitialized && c.Status == corev1.ConditionTrue
		})
		one, two, app := p.Status.InitContainerStatuses[0].State.Terminated, p.Status.InitContainerStatuses[1].State.Terminated, p.Status.ContainerStatuses[0].State
		if initialized != good || one == nil || two == nil || two.StartedAt.Before(&one.FinishedAt) || !good && (p.Status.Phase != "Failed" || app.Waiting == nil) {
			t.Errorf("phase %s, initialized %v, init %+v %+v, app %+v", p.Status.Phase, initialized, one, two, app)
		}
	}
}

func alwaysFails(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	createPod(t, c, ns, c.Pod("one", nil, container([]string{"false"}, nil)))
	c.WaitPod(t, ns, "one", "terminated with a reason", func(p *corev1.Pod) bool {
		if len(p.Status.ContainerStatuses) == 0 {
			return false
		}
		s := p.Status.ContainerStatuses[0]
		return s.State.Terminated != nil && s.State.Terminated.Reason == "Error" || s.LastTerminationState.Terminated != nil && s.LastTerminationState.Terminated.Reason == "Error"
	})
	ok(t, c.Client.CoreV1().Pods(ns).Delete(t.Context(), "one", metav1.DeleteOptions{}))
	waitLiving(t, c, ns, "one", 0, nil)
}

func managedHosts(t *testing.T, c *clustertest.Cluster) {
	const mark = "# Kubernetes-managed hosts file"
	ns := c.Namespace(t)
	configMap(t, c, ns, "hosts", map[string]string{"hosts": "127.0.0.1 own\n"})
	c.RunPod(t, ns, c.Pod("one", nil, mounted(kinds()[0].volume(shape{source: "hosts"})), func(p *corev1.Pod) {
		own := *p.Spec.Containers[0].DeepCopy()
		own.Name, own.VolumeMounts = "own", []corev1.VolumeMount{{Name: "v0", MountPath: "/etc/hosts", SubPath: "hosts"}}
		p.Spec.Containers = append(p.Spec.Containers, own)
	}))
	c.RunPod(t, ns, c.Pod("host", nil, func(p *corev1.Pod) { p.Spec.HostNetwork = true }))
	for _, tt := range []struct {
		pod, container string
		managed        bool
	}{{"one", "c", true}, {"one", "own", false}, {"host", "c", false}} {
		out := must(c.Kubectl("exec", "-n", ns, tt.pod, "-c", tt.container, "--", "cat", "/etc/hosts"))(t)
		if strings.Contains(out, mark+".") != tt.managed && strings.Contains(out, mark) != tt.managed {
			t.Errorf("%s/%s, want managed %v: %s", tt.pod, tt.container, tt.managed, out)
		}
	}
}

func ephemeral(n int) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		c.RunPod(t, ns, c.Pod("one", nil))
		for i := range n {
			c.Eventually(t, 10*time.Second, "the ephemeral container to be taken", func(ctx context.Context) error {
				p, err := c.Client.CoreV1().Pods(ns).Get(ctx, "one", metav1.GetOptions{})
				if err == nil {
					p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
						Name: fmt.Sprintf("e%d", i), Image: c.Image("agnhost"), Command: []string{"sh", "-c", "echo polo; sleep 1000"}}})
					_, err = c.Client.CoreV1().Pods(ns).UpdateEphemeralContainers(ctx, "one", p, metav1.UpdateOptions{})
				}
				return err
			})
			p := c.WaitPod(t, ns, "one", "running it", func(p *corev1.Pod) bool {
				return len(p.Status.EphemeralContainerStatuses) == i+1 && p.Status.EphemeralContainerStatuses[i].State.Running != nil
			})
			if len(p.Spec.EphemeralContainers) != i+1 {
				t.Errorf("%d recorded", len(p.Spec.EphemeralContainers))
			}
			c.Eventually(t, 10*time.Second, "its output", func(context.Context) error {
				if out := logs(t, c, ns, "one", fmt.Sprintf("e%d", i)); out != "polo\n" {
					return fmt.Errorf("%q", out)
				}
				return nil
			})
		}
	}
}

// hook runs a pod with a hook that calls a server pod, which prints the path asked for.
func hook(post, byExec bool) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		server := c.RunPod(t, ns, c.Pod("server", []string{"netexec"}, first(func(ct *corev1.Container) {
			ct.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}}
		})))
		path := "/shell?shellCommand=touch%20/tmp/called"
		h := &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Host: server.Status.PodIP, Port: intstr.FromInt32(8080), Path: path}}
		if byExec {
			h = &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"wget", "-q", "-O-", "http://" + server.Status.PodIP + ":8080" + path}}}
		}
		c.RunPod(t, ns, c.Pod("hooked", nil, first(func(ct *corev1.Container) {
			ct.Lifecycle = &corev1.Lifecycle{PostStart: h}
			if !post {
				ct.Lifecycle = &corev1.Lifecycle{PreStop: h}
			}
		}), func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr[int64](15) }))
		called := func(context.Context) error {
			_, err := c.InPod(ns, "server", "test", "-e", "/tmp/called")
			return err
		}
		if !post {
			if called(t.Context()) == nil {
				t.Error("the hook was called before the end")
			}
			ok(t, c.Client.CoreV1().Pods(ns).Delete(t.Context(), "hooked", metav1.DeleteOptions{}))
		}
		c.Eventually(t, 20*time.Second, "the hook's call", called)
	}
}

func activeDeadline(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	c.RunPod(t, ns, c.Pod("one", nil))
	must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), "one", types.MergePatchType, []byte(`{"spec":{"activeDeadlineSeconds":1}}`), metav1.PatchOptions{}))(t)
	p := c.WaitPod(t, ns, "one", "failed", clustertest.Ended)
	if p.Status.Phase != corev1.PodFailed || p.Status.Reason != "DeadlineExceeded" {
		t.Errorf("phase %s, reason %s", p.Status.Phase, p.Status.Reason)
	}
}

func podLife(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	w := must(c.Client.CoreV1().Pods(ns).Watch(t.Context(), metav1.ListOptions{LabelSelector: "app=one"}))(t)
	defer w.Stop()
	createPod(t, c, ns, c.Pod("one", nil, func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr[int64](5) }))
	next := func(what string, match func(string, *corev1.Pod) bool) {
		t.Helper()
		late := time.After(60 * time.Second)
		for {
			select {
			case e := <-w.ResultChan():
				if p, is := e.Object.(*corev1.Pod); is && match(string(e.Type), p) {
					return
				}
			case <-late:
				t.Fatalf("the watch did not tell: %s", what)
			}
		}
	}
	next("added", func(e string, _ *corev1.Pod) bool { return e == "ADDED" })
	next("ready", func(_ string, p *corev1.Pod) bool { return clustertest.Ready(p) })
	must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), "one", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"patched":"yes"}}}`), metav1.PatchOptions{}))(t)
	next("patched", func(_ string, p *corev1.Pod) bool { return p.Labels["patched"] == "yes" })
	ok(t, c.Client.CoreV1().Pods(ns).Delete(t.Context(), "one", metav1.DeleteOptions{}))
	next("marked for deletion", func(_ string, p *corev1.Pod) bool {
		return p.DeletionTimestamp != nil && *p.DeletionGracePeriodSeconds == 5
	})
	next("deleted", func(e string, _ *corev1.Pod) bool { return e == "DELETED" })
	waitLiving(t, c, ns, "one", 0, nil)
}

func podUpdated(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	createPod(t, c, ns, c.Pod("one", nil))
	must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), "one", types.MergePatchType, []byte(`{"metadata":{"labels":{"time":"new"}}}`), metav1.PatchOptions{}))(t)
	if l := must(c.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "time=new"}))(t); len(l.Items) != 1 {
		t.Errorf("%d pods with the new label", len(l.Items))
	}
}

func podStatus(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	createPod(t, c, ns, c.Pod("one", nil, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"no": "node"} }))
	p := must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), "one", types.StrategicMergePatchType, []byte(`{"status":{"message":"Patched by e2e test","reason":"E2E"}}`), metav1.PatchOptions{}, "status"))(t)
	if p.Status.Reason != "E2E" || p.Status.Message != "Patched by e2e test" {
		t.Errorf("status %+v", p.Status)
	}
}

func serviceEnv(t *testing.T, c *clustertest.Cluster) {
	said{make: func(t *testing.T, c *clustertest.Cluster, ns string) {
		s := must(c.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "foo-service"},
			Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 8765, TargetPort: intstr.FromInt32(8080)}}}}, metav1.CreateOptions{}))(t)
		configMap(t, c, ns, "ip", map[string]string{"ip": s.Spec.ClusterIP})
		time.Sleep(time.Second) // the node has to see the Service before the pod
	}, pod: sh("env; echo host $(test $FOO_SERVICE_SERVICE_HOST = $(cat /v0/ip) && echo right)", mounted(kinds()[0].volume(shape{source: "ip"}))),
		want: []string{"FOO_SERVICE_SERVICE_PORT=8765\n", "FOO_SERVICE_PORT=tcp://", "FOO_SERVICE_PORT_8765_TCP_PROTO=tcp\n", "FOO_SERVICE_PORT_8765_TCP_PORT=8765\n",
			"FOO_SERVICE_PORT_8765_TCP_ADDR=", "host right\n"}}.run(t, c)
}

func podCollection(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	for i := range 3 {
		createPod(t, c, ns, c.Pod(fmt.Sprintf("p%d", i), nil, func(p *corev1.Pod) { p.Labels["app"] = "all" }))
	}
	ok(t, c.Client.CoreV1().Pods(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{GracePeriodSeconds: ptr[int64](1)}, metav1.ListOptions{LabelSelector: "app=all"}))
	c.Eventually(t, 30*time.Second, "pods to go", func(ctx context.Context) error {
		l, err := c.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err == nil && len(l.Items) > 0 {
			err = fmt.Errorf("%d are left", len(l.Items))
		}
		return err
	})
}

func hostIP(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	p := c.RunPod(t, ns, c.Pod("one", nil))
	if net.ParseIP(p.Status.HostIP) == nil {
		t.Errorf("host IP %q", p.Status.HostIP)
	}
}

func qosClass(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	p := createPod(t, c, ns, c.Pod("one", nil, resources, first(func(ct *corev1.Container) { ct.Resources.Requests = ct.Resources.Limits })))
	if p.Status.QOSClass != corev1.PodQOSGuaranteed {
		t.Errorf("class %s", p.Status.QOSClass)
	}
}

func generation(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	p := c.RunPod(t, ns, c.Pod("one", nil))
	if p.Generation != 1 {
		t.Errorf("generation %d at first", p.Generation)
	}
	for i, patch := range []string{`[{"op":"add","path":"/spec/activeDeadlineSeconds","value":5000}]`, `[{"op":"add","path":"/spec/tolerations/-","value":{"key":"a","operator":"Exists"}}]`,
		`[{"op":"replace","path":"/spec/containers/0/image","value":"` + c.Image("busybox") + `"}]`} {
		p = must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), "one", types.JSONPatchType, []byte(patch), metav1.PatchOptions{}))(t)
		if p.Generation != int64(i+2) {
			t.Errorf("generation %d after %s, want %d", p.Generation, patch, i+2)
		}
	}
	p = must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), "one", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}))(t)
	if p.Generation != 4 {
		t.Errorf("generation %d after a label", p.Generation)
	}
	c.WaitPod(t, ns, "one", "observed", func(p *corev1.Pod) bool { return p.Status.ObservedGeneration == 4 })
}

func generationSet(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	createPod(t, c, ns, c.Pod("one", nil, func(p *corev1.Pod) {
		p.Generation, p.Finalizers, p.Spec.TerminationGracePeriodSeconds = 100, []string{"conf.example/f"}, ptr[int64](3)
	}))
	c.WaitPod(t, ns, "one", "ready, of generation 1", func(p *corev1.Pod) bool { return clustertest.Ready(p) && p.Generation == 1 })
	ok(t, c.Client.CoreV1().Pods(ns).Delete(t.Context(), "one", metav1.DeleteOptions{}))
	if p := must(c.Client.CoreV1().Pods(ns).Get(t.Context(), "one", metav1.GetOptions{}))(t); p.Generation != 2 {
		t.Errorf("generation %d after the deletion", p.Generation)
	}
	must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), "one", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))(t)
}

// subPathExpr mounts a path that a variable names: the pod's name, or a value that must be refused.
func subPathExpr(value string, good bool) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		createPod(t, c, ns, c.Pod("one", nil, sh("echo written > /sub/f; cat /v0/$POD_NAME/f", mounted(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})),
			first(func(ct *corev1.Container) {
				ct.Env = []corev1.EnvVar{field("POD_NAME", "metadata.name")}
				if value != "" {
					ct.Env = []corev1.EnvVar{{Name: "POD_NAME", Value: value}}
				}
				ct.VolumeMounts = append(ct.VolumeMounts, corev1.VolumeMount{Name: "v0", MountPath: "/sub", SubPathExpr: "$(POD_NAME)"})
			}), func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		if !good {
			c.WaitPod(t, ns, "one", "refused", func(p *corev1.Pod) bool {
				return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
					strings.Contains(p.Status.ContainerStatuses[0].State.Waiting.Reason, "ConfigError")
			})
			return
		}
		c.WaitPod(t, ns, "one", "ended", clustertest.Ended)
		if out := logs(t, c, ns, "one"); out != "written\n" {
			t.Errorf("it printed %q", out)
		}
	}
}

// generation500 changes a pod's tolerations and expects the kubelet to have seen the last change, if not each.
func generation500(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	c.RunPod(t, ns, c.Pod("one", nil))
	for i := range 499 {
		patch := fmt.Sprintf(`[{"op":"add","path":"/spec/tolerations/-","value":{"key":"k%d","operator":"Exists"}}]`, i)
		must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), "one", types.JSONPatchType, []byte(patch), metav1.PatchOptions{}))(t)
	}
	c.WaitPod(t, ns, "one", "observed at generation 500", func(p *corev1.Pod) bool { return p.Generation == 500 && p.Status.ObservedGeneration == 500 })
}

// subPathMended has a path that cannot be mounted until an annotation that it is made of is changed.
func subPathMended(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	createPod(t, c, ns, c.Pod("one", nil, sh("echo written > /sub/f; sleep 1000", mounted(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})),
		func(p *corev1.Pod) { p.Annotations = map[string]string{"mysubpath": "/tmp"} },
		first(func(ct *corev1.Container) {
			ct.Env = []corev1.EnvVar{field("SUB", "metadata.annotations['mysubpath']")}
			ct.VolumeMounts = append(ct.VolumeMounts, corev1.VolumeMount{Name: "v0", MountPath: "/sub", SubPathExpr: "$(SUB)"})
		})))
	c.WaitPod(t, ns, "one", "refused", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == "CreateContainerConfigError"
	})
	must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), "one", types.MergePatchType, []byte(`{"metadata":{"annotations":{"mysubpath":"mypath"}}}`), metav1.PatchOptions{}))(t)
	c.WaitPod(t, ns, "one", "ready", clustertest.Ready)
	c.Eventually(t, 10*time.Second, "the file in the new path", func(context.Context) error {
		out, err := c.InPod(ns, "one", "cat", "/v0/mypath/f")
		if err == nil && out != "written\n" {
			err = fmt.Errorf("%q", out)
		}
		return err
	})
}
