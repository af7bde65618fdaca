package system

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// web is a Deployment of netexec servers that are ready once they answer.
func web(c *clustertest.Cluster, name string, replicas int32, mutate ...func(*appsv1.Deployment)) *appsv1.Deployment {
	pod := c.Pod(name, []string{"netexec"})
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}},
		PeriodSeconds: 1,
	}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: pod.Labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec},
		},
	}
	for _, m := range mutate {
		m(d)
	}
	return d
}

// deploy creates the Deployment and waits until all replicas are available.
func deploy(t *testing.T, c *clustertest.Cluster, ns string, d *appsv1.Deployment) {
	t.Helper()
	if _, err := c.Client.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitDeployment(t, c, ns, d.Name, *d.Spec.Replicas)
}

func waitDeployment(t *testing.T, c *clustertest.Cluster, ns, name string, replicas int32) {
	t.Helper()
	c.Eventually(t, 2*time.Minute, "deployment "+name+" to be available", func(ctx context.Context) error {
		d, err := c.Client.AppsV1().Deployments(ns).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := d.Status; s.ObservedGeneration < d.Generation || s.AvailableReplicas != replicas || s.UpdatedReplicas != replicas || s.Replicas != replicas {
			return fmt.Errorf("its status is %+v", s)
		}
		return nil
	})
}

// podsOf lists the pods of app that are not being deleted.
func podsOf(t *testing.T, c *clustertest.Cluster, ns, app string) []corev1.Pod {
	t.Helper()
	list, err := c.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

func service(name string, port, target int32, mutate ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name},
			Ports:    []corev1.ServicePort{{Port: port, TargetPort: intstr.FromInt32(target)}},
		},
	}
	for _, m := range mutate {
		m(s)
	}
	return s
}

func chainOfEvents(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	deploy(t, c, ns, web(c, "web", 1))
	want := []string{
		"ScalingReplicaSet deployment-controller", "SuccessfulCreate replicaset-controller", "Scheduled default-scheduler",
		"Pulled kubelet", "Created kubelet", "Started kubelet",
	}
	c.Eventually(t, 20*time.Second, "all events of the chain", func(ctx context.Context) error {
		list, err := c.Client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var got []string
		for _, e := range list.Items {
			source := e.Source.Component
			if source == "" {
				source = e.ReportingController
			}
			got = append(got, e.Reason+" "+source)
		}
		for _, w := range want {
			if !slices.Contains(got, w) {
				return fmt.Errorf("no %q among %q", w, got)
			}
		}
		return nil
	})
}

func rolloutAndUndo(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	deploy(t, c, ns, web(c, "web", 3))
	kubectl := func(args ...string) string {
		t.Helper()
		out, err := c.Kubectl(append([]string{"-n", ns}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	kubectl("scale", "deployment", "web", "--replicas=4")
	waitDeployment(t, c, ns, "web", 4)
	kubectl("scale", "deployment", "web", "--replicas=2")
	waitDeployment(t, c, ns, "web", 2)
	kubectl("set", "env", "deployment/web", "GENERATION=2")
	kubectl("rollout", "status", "deployment/web", "--timeout=90s")
	env := func() string {
		return kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].env}")
	}
	if !strings.Contains(env(), "GENERATION") {
		t.Errorf("the update is lost: %s", env())
	}
	if history := kubectl("rollout", "history", "deployment/web"); !strings.Contains(history, "2") {
		t.Errorf("no second revision in:\n%s", history)
	}
	kubectl("rollout", "undo", "deployment/web")
	kubectl("rollout", "status", "deployment/web", "--timeout=90s")
	if env() != "" {
		t.Errorf("undo left %s", env())
	}
	sets, err := c.Client.AppsV1().ReplicaSets(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(sets.Items) != 2 {
		t.Errorf("%d ReplicaSets (%v), want 2", len(sets.Items), err)
	}
}

func replacedPod(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	deploy(t, c, ns, web(c, "web", 2))
	gone := podsOf(t, c, ns, "web")[0].Name
	if err := c.Client.CoreV1().Pods(ns).Delete(t.Context(), gone, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitDeployment(t, c, ns, "web", 2)
	c.Eventually(t, time.Minute, "pod "+gone+" to be gone and replaced", func(context.Context) error {
		pods := podsOf(t, c, ns, "web")
		if len(pods) != 2 || slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Name == gone }) {
			return fmt.Errorf("%d pods", len(pods))
		}
		return nil
	})
}

func daemonSet(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	d := web(c, "every", 1)
	ds := &appsv1.DaemonSet{ObjectMeta: d.ObjectMeta, Spec: appsv1.DaemonSetSpec{Selector: d.Spec.Selector, Template: d.Spec.Template}}
	if _, err := c.Client.AppsV1().DaemonSets(ns).Create(t.Context(), ds, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, time.Minute, "a ready pod on each node", func(ctx context.Context) error {
		got, err := c.Client.AppsV1().DaemonSets(ns).Get(ctx, "every", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if int(got.Status.NumberReady) != len(c.Nodes) {
			return fmt.Errorf("%d are ready", got.Status.NumberReady)
		}
		return nil
	})
	nodes := map[string]bool{}
	for _, p := range podsOf(t, c, ns, "every") {
		nodes[p.Spec.NodeName] = true
	}
	if len(nodes) != len(c.Nodes) {
		t.Errorf("the pods are on %v", nodes)
	}
}

func replicationController(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	d := web(c, "rc", 2)
	rc := &corev1.ReplicationController{ObjectMeta: d.ObjectMeta, Spec: corev1.ReplicationControllerSpec{
		Replicas: d.Spec.Replicas, Selector: d.Spec.Selector.MatchLabels, Template: &d.Spec.Template,
	}}
	if _, err := c.Client.CoreV1().ReplicationControllers(ns).Create(t.Context(), rc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, time.Minute, "two ready pods", func(ctx context.Context) error {
		got, err := c.Client.CoreV1().ReplicationControllers(ns).Get(ctx, "rc", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got.Status.ReadyReplicas != 2 {
			return fmt.Errorf("%d are ready", got.Status.ReadyReplicas)
		}
		return nil
	})
}

func endpointAddresses(ctx context.Context, c *clustertest.Cluster, ns, name string) (ready, notReady []string, err error) {
	e, err := c.Client.CoreV1().Endpoints(ns).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, nil, err
	}
	for _, s := range e.Subsets {
		for _, a := range s.Addresses {
			ready = append(ready, a.IP)
		}
		for _, a := range s.NotReadyAddresses {
			notReady = append(notReady, a.IP)
		}
	}
	return ready, notReady, nil
}

func endpointsFollow(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	deploy(t, c, ns, web(c, "web", 2))
	if _, err := c.Client.CoreV1().Services(ns).Create(t.Context(), service("web", 80, 8080), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	same := func(ctx context.Context) error {
		ready, _, err := endpointAddresses(ctx, c, ns, "web")
		if err != nil {
			return err
		}
		var want []string
		for _, p := range podsOf(t, c, ns, "web") {
			want = append(want, p.Status.PodIP)
		}
		slices.Sort(ready)
		slices.Sort(want)
		if !slices.Equal(ready, want) {
			return fmt.Errorf("endpoints %v, pods %v", ready, want)
		}
		return nil
	}
	c.Eventually(t, 30*time.Second, "endpoints to be the pods", same)
	gone := podsOf(t, c, ns, "web")[0]
	if err := c.Client.CoreV1().Pods(ns).Delete(t.Context(), gone.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitDeployment(t, c, ns, "web", 2)
	c.Eventually(t, 30*time.Second, "endpoints to be the new pods", same)
	c.Eventually(t, 30*time.Second, "the endpoint slice to hold the two", func(ctx context.Context) error {
		found, err := c.Client.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
		if err != nil || len(found.Items) != 1 || len(found.Items[0].Endpoints) != 2 {
			return fmt.Errorf("the endpoint slices are %+v (%v)", found.Items, err)
		}
		return nil
	})
}

func schedulerFilters(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	c.RunPod(t, ns, c.Pod("chosen", []string{"pause"}, func(p *corev1.Pod) {
		p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": c.Nodes[1]}
	}))
	pod, err := c.Client.CoreV1().Pods(ns).Get(t.Context(), "chosen", metav1.GetOptions{})
	if err != nil || pod.Spec.NodeName != c.Nodes[1] {
		t.Errorf("the pod is on %s (%v), want %s", pod.Spec.NodeName, err, c.Nodes[1])
	}
	for name, tt := range map[string]struct {
		mutate func(*corev1.Pod)
		reason string
	}{
		"selector": {func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"no": "node"} }, "node(s) didn't match Pod's node affinity/selector"},
		"resources": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("1000")}
		}, "Insufficient cpu"},
	} {
		if _, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), c.Pod(name, []string{"pause"}, tt.mutate), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		p := c.WaitPod(t, ns, name, "unschedulable", func(p *corev1.Pod) bool {
			return slices.ContainsFunc(p.Status.Conditions, func(cond corev1.PodCondition) bool {
				return cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse && cond.Reason == corev1.PodReasonUnschedulable
			})
		})
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodScheduled && (!strings.HasPrefix(cond.Message, "0/2 nodes are available") || !strings.Contains(cond.Message, tt.reason)) {
				t.Errorf("%s: the message is %q", name, cond.Message)
			}
		}
	}
}

func schedulerSpreads(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	deploy(t, c, ns, web(c, "web", 4))
	count := map[string]int{}
	for _, p := range podsOf(t, c, ns, "web") {
		count[p.Spec.NodeName]++
	}
	if count[c.Nodes[0]] != 2 || count[c.Nodes[1]] != 2 {
		t.Errorf("four pods are spread as %v", count)
	}
}

func unknownScheduler(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	pod := c.Pod("p", []string{"pause"}, func(p *corev1.Pod) { p.Spec.SchedulerName = "nobody" })
	if _, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.RunPod(t, ns, c.Pod("other", []string{"pause"})) // it was made later and runs already
	got, err := c.Client.CoreV1().Pods(ns).Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil || got.Spec.NodeName != "" {
		t.Errorf("the pod is on %q (%v)", got.Spec.NodeName, err)
	}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: c.Nodes[1]}}
	if err := c.Client.CoreV1().Pods(ns).Bind(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got = c.WaitPod(t, ns, "p", "ready", clustertest.Ready); got.Spec.NodeName != c.Nodes[1] {
		t.Errorf("the pod runs on %q", got.Spec.NodeName)
	}
}
