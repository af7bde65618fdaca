package conformance

import (
	"context"
	"fmt"
	"k8s.io/apimachinery/pkg/watch"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// statefulTests are the rows on what StatefulSets do to their pods.
func statefulTests() map[string]test {
	return under("[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] ", map[string]test{
		"Burst scaling should run to completion even with unhealthy pods":                      slowly(statefulBurst),
		"Scaling should happen in predictable order and halt if any stateful pod is unhealthy": slowly(statefulOrder),
		"Should recreate evicted statefulset":                                                  slowly(statefulEvicted),
		"should perform canary updates and phased rolling updates of template modifications":   slowly(statefulCanary),
		"should perform rolling updates and roll backs of template modifications":              slowly(statefulRollback),
	})
}

// stateful is a StatefulSet under test. Its pods are ready while a file is there.
type stateful struct {
	*clustertest.Cluster
	t  *testing.T
	ns string
}

func newStateful(t *testing.T, c *clustertest.Cluster, replicas int32, ready bool, mutate ...func(*appsv1.StatefulSet)) stateful {
	t.Helper()
	s := stateful{c, t, c.Namespace(t)}
	script := "while true; do sleep 1; done"
	if ready {
		script = "touch /tmp/ready; " + script
	}
	pod := c.Pod("s", nil, sh(script), first(func(c *corev1.Container) {
		c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/tmp/ready"}}}}
	}))
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: appsv1.StatefulSetSpec{ServiceName: "s", Replicas: &replicas,
		Selector: &metav1.LabelSelector{MatchLabels: pod.Labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec}}}
	for _, m := range mutate {
		m(set)
	}
	must(c.Client.AppsV1().StatefulSets(s.ns).Create(t.Context(), set, metav1.CreateOptions{}))(t)
	return s
}

func (s stateful) edit(change func(*appsv1.StatefulSet)) {
	s.t.Helper()
	api := s.Client.AppsV1().StatefulSets(s.ns)
	s.Eventually(s.t, 10*time.Second, "the update", func(ctx context.Context) error {
		set, err := api.Get(ctx, "s", metav1.GetOptions{})
		if err == nil {
			change(set)
			_, err = api.Update(ctx, set, metav1.UpdateOptions{})
		}
		return err
	})
}

func (s stateful) scale(n int32) { s.edit(func(set *appsv1.StatefulSet) { set.Spec.Replicas = &n }) }

func (s stateful) round(n string) {
	s.edit(func(set *appsv1.StatefulSet) {
		set.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "ROUND", Value: n}}
	})
}

func (s stateful) partition(n int32) {
	s.edit(func(set *appsv1.StatefulSet) {
		set.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: &n}}
	})
}

// ready makes a pod ready or not, and waits until it is.
func (s stateful) ready(ordinal int, yes bool) {
	s.t.Helper()
	s.touch(ordinal, yes)
	s.WaitPod(s.t, s.ns, fmt.Sprintf("s-%d", ordinal), fmt.Sprintf("ready %t", yes), func(p *corev1.Pod) bool { return clustertest.Ready(p) == yes })
}

func (s stateful) touch(ordinal int, yes bool) {
	s.t.Helper()
	name, do := fmt.Sprintf("s-%d", ordinal), "rm"
	if yes {
		do = "touch"
	}
	s.Eventually(s.t, 20*time.Second, do+" in "+name, func(context.Context) error { // its phase may be ahead of its container
		_, err := s.InPod(s.ns, name, do, "/tmp/ready")
		return err
	})
}

// text is the pods in their order: "0:2+ 1:2 2:1+" are the ordinal, the round, and whether it is ready.
func (s stateful) text(ctx context.Context) (string, error) {
	pods, err := s.Client.CoreV1().Pods(s.ns).List(ctx, metav1.ListOptions{LabelSelector: "app=s"})
	if err != nil {
		return "", err
	}
	var out []string
	for _, p := range pods.Items {
		round := "1"
		if env := p.Spec.Containers[0].Env; len(env) > 0 {
			round = env[0].Value
		}
		word := strings.TrimPrefix(p.Name, "s-") + ":" + round
		if p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning {
			word += "?"
		} else if clustertest.Ready(&p) {
			word += "+"
		}
		out = append(out, word)
	}
	slices.Sort(out)
	return strings.Join(out, " "), nil
}

func (s stateful) wait(want string) {
	s.t.Helper()
	s.Eventually(s.t, 90*time.Second, "pods "+want, func(ctx context.Context) error {
		got, err := s.text(ctx)
		if err == nil && got != want {
			err = fmt.Errorf("%s", got)
		}
		return err
	})
}

// stays is wait, and that it stays so for some seconds.
func (s stateful) stays(want string) {
	s.t.Helper()
	s.wait(want)
	for range 10 {
		time.Sleep(300 * time.Millisecond)
		if got := must(s.text(s.t.Context()))(s.t); got != want {
			s.t.Fatalf("pods are %s, and were %s", got, want)
		}
	}
}

// status waits until the StatefulSet's status satisfies want.
func (s stateful) status(what string, want func(appsv1.StatefulSetStatus) bool) appsv1.StatefulSetStatus {
	s.t.Helper()
	var status appsv1.StatefulSetStatus
	s.Eventually(s.t, 30*time.Second, what, func(ctx context.Context) error {
		set, err := s.Client.AppsV1().StatefulSets(s.ns).Get(ctx, "s", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if status = set.Status; set.Generation != status.ObservedGeneration || !want(status) {
			return fmt.Errorf("it is %+v", status)
		}
		return nil
	})
	return status
}

func oneRevision(st appsv1.StatefulSetStatus) bool {
	return st.CurrentRevision == st.UpdateRevision && st.CurrentRevision != ""
}

func statefulBurst(t *testing.T, c *clustertest.Cluster) {
	s := newStateful(t, c, 1, false, func(set *appsv1.StatefulSet) { set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement })
	s.wait("0:1")
	s.scale(3)
	s.wait("0:1 1:1 2:1")
	s.ready(1, true)
	s.scale(5)
	s.wait("0:1 1:1+ 2:1 3:1 4:1")
	s.scale(0)
	s.wait("")
	s.status("no replicas", func(st appsv1.StatefulSetStatus) bool { return st.Replicas == 0 })
}

// The pods come in order and go in the opposite one, and wait for each other.
func statefulOrder(t *testing.T, c *clustertest.Cluster) {
	s := newStateful(t, c, 1, false)
	events := record(t, must(c.Client.CoreV1().Pods(s.ns).Watch(t.Context(), metav1.ListOptions{LabelSelector: "app=s"}))(t))
	s.wait("0:1")
	s.scale(3)
	s.stays("0:1") // the first is not ready: nothing comes
	s.ready(0, true)
	s.stays("0:1+ 1:1")
	s.ready(1, true)
	s.wait("0:1+ 1:1+ 2:1")
	s.ready(2, true)
	for n := range 3 {
		s.ready(n, false)
	}
	s.scale(0)
	s.stays("0:1 1:1 2:1") // all are sick: nothing goes
	for n := 2; n >= 0; n-- {
		s.touch(n, true)
	}
	s.wait("")
	var came, went []string
	threeEnds := func(list []watch.Event) bool { // a list may know of the last before the watch does
		n := 0
		for _, e := range list {
			if e.Type == watch.Deleted {
				n++
			}
		}
		return n == 3
	}
	for _, e := range events(threeEnds) {
		switch e.Type {
		case watch.Added:
			came = append(came, e.Object.(*corev1.Pod).Name)
		case watch.Deleted:
			went = append(went, e.Object.(*corev1.Pod).Name)
		}
	}
	if !slices.Equal(came, []string{"s-0", "s-1", "s-2"}) || !slices.Equal(went, []string{"s-2", "s-1", "s-0"}) {
		t.Errorf("they came as %v and went as %v", came, went)
	}
}

func statefulEvicted(t *testing.T, c *clustertest.Cluster) {
	node := c.Nodes[len(c.Nodes)-1]
	port := first(func(c *corev1.Container) { c.Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 21017}} })
	s := stateful{c, t, c.Namespace(t)}
	c.RunPod(t, s.ns, c.Pod("blocker", nil, port, clustertest.On(node)))
	pod := c.Pod("s", nil, port, clustertest.On(node))
	must(c.Client.AppsV1().StatefulSets(s.ns).Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: appsv1.StatefulSetSpec{ServiceName: "s",
		Selector: &metav1.LabelSelector{MatchLabels: pod.Labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec}}}, metav1.CreateOptions{}))(t)
	seen := map[string]bool{}
	c.Eventually(t, 60*time.Second, "the refused pod to be made again", func(ctx context.Context) error {
		p, err := c.Client.CoreV1().Pods(s.ns).Get(ctx, "s-0", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if seen[string(p.UID)] = true; len(seen) < 2 {
			return fmt.Errorf("pod is %s: %s", p.Status.Phase, p.Status.Reason)
		}
		return nil
	})
	ok(t, c.Client.CoreV1().Pods(s.ns).Delete(t.Context(), "blocker", metav1.DeleteOptions{}))
	c.WaitPod(t, s.ns, "s-0", "running", clustertest.Ready)
}

func statefulCanary(t *testing.T, c *clustertest.Cluster) {
	s := newStateful(t, c, 3, true)
	s.wait("0:1+ 1:1+ 2:1+")
	before := s.status("one revision", oneRevision)
	s.partition(3)
	s.round("2")
	after := s.status("another revision", func(st appsv1.StatefulSetStatus) bool { return !oneRevision(st) })
	if after.CurrentRevision != before.CurrentRevision {
		t.Errorf("the current revision was %s and is %s", before.CurrentRevision, after.CurrentRevision)
	}
	s.stays("0:1+ 1:1+ 2:1+") // above the partition is none
	s.partition(2)
	s.stays("0:1+ 1:1+ 2:2+")
	for _, name := range []string{"s-0", "s-2"} {
		ok(t, c.Client.CoreV1().Pods(s.ns).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	s.wait("0:1+ 1:1+ 2:2+") // each at the revision it had
	for name, revision := range map[string]string{"s-0": after.CurrentRevision, "s-2": after.UpdateRevision} {
		if p := must(c.Client.CoreV1().Pods(s.ns).Get(t.Context(), name, metav1.GetOptions{}))(t); p.Labels[appsv1.ControllerRevisionHashLabelKey] != revision {
			t.Errorf("%s has revision %s, want %s", name, p.Labels[appsv1.ControllerRevisionHashLabelKey], revision)
		}
	}
	s.partition(1)
	s.stays("0:1+ 1:2+ 2:2+")
	s.partition(0)
	s.wait("0:2+ 1:2+ 2:2+")
	done := s.status("the new revision only", oneRevision)
	if done.CurrentRevision != after.UpdateRevision {
		t.Errorf("the revision is %s, want %s", done.CurrentRevision, after.UpdateRevision)
	}
}

func statefulRollback(t *testing.T, c *clustertest.Cluster) {
	s := newStateful(t, c, 3, true)
	s.wait("0:1+ 1:1+ 2:1+")
	one := s.status("one revision", oneRevision).CurrentRevision
	events := record(t, must(c.Client.CoreV1().Pods(s.ns).Watch(t.Context(), metav1.ListOptions{LabelSelector: "app=s"}))(t))
	s.ready(1, false)
	s.round("2")
	s.stays("0:1+ 1:1 2:1+") // one is sick
	s.ready(1, true)
	s.wait("0:2+ 1:2+ 2:2+")
	two := s.status("the second revision only", oneRevision).CurrentRevision
	var went []string
	for _, e := range events() {
		if e.Type == "DELETED" {
			went = append(went, e.Object.(*corev1.Pod).Name)
		}
	}
	if one == two || !slices.Equal(went, []string{"s-2", "s-1", "s-0"}) {
		t.Errorf("from %s to %s, pods went as %v", one, two, went)
	}
	s.edit(func(set *appsv1.StatefulSet) { set.Spec.Template.Spec.Containers[0].Env = nil })
	s.wait("0:1+ 1:1+ 2:1+")
	if back := s.status("the first revision only", oneRevision).CurrentRevision; back != one {
		t.Errorf("rolled back to revision %s, want %s", back, one)
	}
	revisions := must(c.Client.AppsV1().ControllerRevisions(s.ns).List(t.Context(), metav1.ListOptions{}))(t)
	if len(revisions.Items) != 2 {
		t.Errorf("%d revisions, want the two", len(revisions.Items))
	}
}
