package conformance

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// preemptionTests are the rows in which pods make place for others, or leave a tainted node.
func preemptionTests() map[string]test {
	const preemption, taints = "[sig-scheduling] SchedulerPreemption ", "[sig-node] NoExecuteTaintManager "
	return map[string]test{
		preemption + "validates basic preemption works":                                           {quick: true, serial: true, run: preempts(corev1.NamespaceDefault, "conf-high")},
		preemption + "validates lower priority pod preemption by critical pod":                    {quick: true, serial: true, run: preempts(metav1.NamespaceSystem, "system-cluster-critical")},
		preemption + "validates pod disruption condition is added to the preempted pod":           {quick: true, serial: true, run: preemptedSaysWhy},
		preemption + "PreemptionExecutionPath runs ReplicaSets to verify preemption running path": {quick: true, serial: true, run: preemptionPath},
		taints + "Single Pod removing taint cancels eviction":                                     {serial: true, run: taintRemoved},
		taints + "Multiple Pods evicts pods with minTolerationSeconds":                            {serial: true, run: taintedInTurn},
	}
}

// rare is a resource that only these rows know.
const rare corev1.ResourceName = "conf.example/rare"

// offer lets a node offer n of rare until the test ends.
func offer(t *testing.T, c *clustertest.Cluster, node, n string) {
	t.Helper()
	patch := func(value string) error {
		body := fmt.Sprintf(`{"status":{"capacity":{%q:%s},"allocatable":{%q:%s}}}`, rare, value, rare, value)
		_, err := c.Client.CoreV1().Nodes().Patch(context.Background(), node, types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{}, "status")
		return err
	}
	ok(t, patch(`"`+n+`"`))
	t.Cleanup(func() {
		if err := patch("null"); err != nil {
			t.Error(err)
		}
	})
}

// priorities makes the PriorityClasses conf-low, conf-medium and conf-high.
func priorities(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	for i, name := range []string{"conf-low", "conf-medium", "conf-high"} {
		_, err := c.Client.SchedulingV1().PriorityClasses().Create(t.Context(), &schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Value: int32(i+1) * 1000,
		}, metav1.CreateOptions{})
		ok(t, err)
		t.Cleanup(func() {
			if err := c.Client.SchedulingV1().PriorityClasses().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

// takes asks for n of rare, with a priority.
func takes(n, class string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.PriorityClassName = class
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: listOf(string(rare), n), Limits: listOf(string(rare), n)}
	}
}

// preempts fills all nodes with pods of low and medium priority, and wants the low one to make
// place for a pod of that class.
func preempts(namespace, class string) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		priorities(t, c)
		for i, node := range c.Nodes {
			offer(t, c, node, "5")
			filler := "conf-medium"
			if i == 0 {
				filler = "conf-low"
			}
			c.RunPod(t, ns, c.Pod(fmt.Sprintf("filler-%d", i), nil, takes("4", filler), func(p *corev1.Pod) {
				p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
			}))
		}
		in := ns
		if namespace != corev1.NamespaceDefault {
			in = namespace
		}
		preemptor := c.Pod("conf-preemptor", nil, takes("4", class))
		t.Cleanup(func() {
			_ = c.Client.CoreV1().Pods(in).Delete(context.Background(), preemptor.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr[int64](0)})
		})
		if got := c.RunPod(t, in, preemptor); got.Spec.NodeName != c.Nodes[0] {
			t.Errorf("it runs on %s", got.Spec.NodeName)
		}
		if left := must(c.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=filler-0"}))(t); len(left.Items) != 0 && left.Items[0].DeletionTimestamp == nil {
			t.Error("the pod of low priority stays")
		}
		if kept := must(c.Client.CoreV1().Pods(ns).Get(t.Context(), "filler-1", metav1.GetOptions{}))(t); kept.DeletionTimestamp != nil {
			t.Error("the pod of medium priority leaves")
		}
	}
}

func preemptedSaysWhy(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	priorities(t, c)
	node := c.Nodes[1]
	offer(t, c, node, "1")
	c.RunPod(t, ns, c.Pod("victim", nil, takes("1", "conf-low"), func(p *corev1.Pod) { p.Finalizers = []string{"conf.example/hold"} }))
	createPod(t, c, ns, c.Pod("preemptor", nil, takes("1", "conf-high")))
	c.WaitPod(t, ns, "victim", "marked as preempted", func(p *corev1.Pod) bool {
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.DisruptionTarget && cond.Status == corev1.ConditionTrue && cond.Reason == corev1.PodReasonPreemptionByScheduler {
				return p.DeletionTimestamp != nil
			}
		}
		return false
	})
	must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), "victim", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))(t)
	c.WaitPod(t, ns, "preemptor", "running", clustertest.Ready)
}

// preemptionPath runs sets of rising priority on one node. The last takes the place of the two
// lowest, whose pods come back and wait; those between stay.
func preemptionPath(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	priorities(t, c)
	offer(t, c, c.Nodes[1], "1000")
	api := must(dynamic.NewForConfig(c.Config))(t).Resource(gvr("apps/v1/replicasets")).Namespace(ns)
	run := func(name, class, n string, replicas int) {
		t.Helper()
		k := kind{resource: "apps/v1/replicasets", name: name, object: fmt.Sprintf("kind: ReplicaSet\nspec: {replicas: %d, selector: {matchLabels: {app: %s}}, template: {metadata: {labels: {app: %s}}, "+
			"spec: {priorityClassName: %s, terminationGracePeriodSeconds: 0, containers: [{name: c, image: '%s', resources: {requests: {%s: '%s'}, limits: {%s: '%s'}}}]}}}", replicas, name, name, class, c.Image("agnhost"), rare, n, rare, n)}
		must(api.Create(t.Context(), k.make(t, ns, "x", 1), metav1.CreateOptions{}))(t)
	}
	seen := map[string]map[types.UID]bool{}
	w := must(c.Client.CoreV1().Pods(ns).Watch(t.Context(), metav1.ListOptions{}))(t)
	defer w.Stop()
	run("low", "conf-low", "200", 1)
	run("lower", "conf-low", "300", 1)
	run("medium", "conf-medium", "450", 1)
	for _, name := range []string{"low", "lower", "medium"} {
		waitLiving(t, c, ns, name, 1, nil)
	}
	run("high", "conf-high", "500", 1)
	waitLiving(t, c, ns, "high", 1, nil)
	want := map[string]int{"low": 2, "lower": 2, "medium": 1, "high": 1}
	late := time.After(60 * time.Second)
	for {
		select {
		case e, open := <-w.ResultChan():
			p, is := e.Object.(*corev1.Pod)
			if !open || !is {
				t.Fatalf("the watch ended: %v", e.Object)
			}
			if seen[p.Labels["app"]] == nil {
				seen[p.Labels["app"]] = map[types.UID]bool{}
			}
			seen[p.Labels["app"]][p.UID] = true
			missing := 0
			for name, n := range want {
				missing += max(n-len(seen[name]), 0)
				if len(seen[name]) > n {
					t.Fatalf("%s has had %d pods, want %d", name, len(seen[name]), n)
				}
			}
			if missing == 0 {
				return
			}
		case <-late:
			t.Fatalf("pods seen: %v, want %v", seen, want)
		}
	}
}

// taint puts a NoExecute taint on a node until the returned function, or the test, ends it.
func taint(t *testing.T, c *clustertest.Cluster, node string) (remove func()) {
	t.Helper()
	patch := func(taints string) error {
		_, err := c.Client.CoreV1().Nodes().Patch(context.Background(), node, types.MergePatchType, []byte(`{"spec":{"taints":`+taints+`}}`), metav1.PatchOptions{})
		return err
	}
	ok(t, patch(`[{"key":"conf.example/evict","value":"yes","effect":"NoExecute"}]`))
	remove = func() {
		if err := patch("null"); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(remove)
	return remove
}

func toleratesFor(node string, seconds int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
		p.Spec.Tolerations = []corev1.Toleration{{Key: "conf.example/evict", Value: "yes", Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds}}
	}
}

func taintRemoved(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	node := c.Nodes[1]
	c.RunPod(t, ns, c.Pod("one", nil, toleratesFor(node, 10)))
	remove := taint(t, c, node)
	time.Sleep(4 * time.Second)
	remove()
	time.Sleep(10 * time.Second)
	if p := must(c.Client.CoreV1().Pods(ns).Get(t.Context(), "one", metav1.GetOptions{}))(t); p.DeletionTimestamp != nil || !clustertest.Ready(p) {
		t.Errorf("it is being deleted: %v, or not ready: %s", p.DeletionTimestamp, p.Status.Phase)
	}
}

func taintedInTurn(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	node := c.Nodes[1]
	c.RunPod(t, ns, c.Pod("first", nil, toleratesFor(node, 3)))
	c.RunPod(t, ns, c.Pod("second", nil, toleratesFor(node, 15)))
	taint(t, c, node)
	begin := time.Now()
	leaves := func(name string, least time.Duration) {
		t.Helper()
		c.Eventually(t, 60*time.Second, name+" to leave", func(ctx context.Context) error {
			p, err := c.Client.CoreV1().Pods(ns).Get(ctx, name, metav1.GetOptions{})
			if err == nil && p.DeletionTimestamp == nil {
				return fmt.Errorf("it stays")
			}
			return nil
		})
		if took := time.Since(begin); took < least {
			t.Errorf("%s left after %s, before its time", name, took)
		}
	}
	leaves("first", 2*time.Second)
	if p := must(c.Client.CoreV1().Pods(ns).Get(t.Context(), "second", metav1.GetOptions{}))(t); p.DeletionTimestamp != nil {
		t.Error("the second leaves with the first")
	}
	leaves("second", 14*time.Second)
}
