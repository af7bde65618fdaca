package conformance

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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// workloadTests are the rows on updates and lifecycles of DaemonSets, Deployments, ReplicaSets and ReplicationControllers.
func workloadTests() map[string]test {
	return under("[sig-apps] ", map[string]test{
		"ControllerRevision should manage the lifecycle of a ControllerRevision":                         quickly(revisions),
		"Daemon set should rollback without unnecessary restarts":                                        slowly(daemonRollback),
		"Daemon set should run and stop complex daemon":                                                  slowly(daemonSelects),
		"Daemon set should update pod when spec was updated and update strategy is RollingUpdate":        slowly(daemonUpdate),
		"Deployment deployment should support proportional scaling":                                      slowly(proportional),
		"Deployment should run the lifecycle of a Deployment":                                            slowly(deploymentLifecycle),
		"ReplicaSet Replace and Patch tests":                                                             quickly(replicaSetChanges),
		"ReplicationController should surface a failure condition on a common issue like exceeded quota": quickly(quotaExceeded),
		"ReplicationController should test the lifecycle of a ReplicationController":                     quickly(controllerLifecycle),
	})
}

// daemon changes the DaemonSet d.
func daemon(t *testing.T, c *clustertest.Cluster, ns string, change func(*appsv1.DaemonSet)) {
	t.Helper()
	api := c.Client.AppsV1().DaemonSets(ns)
	c.Eventually(t, 10*time.Second, "the update", func(ctx context.Context) error {
		d, err := api.Get(ctx, "d", metav1.GetOptions{})
		if err == nil {
			change(d)
			_, err = api.Update(ctx, d, metav1.UpdateOptions{})
		}
		return err
	})
}

func daemonRound(n string) func(*appsv1.DaemonSet) {
	return func(d *appsv1.DaemonSet) {
		d.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "ROUND", Value: n}}
	}
}

func uids(pods []corev1.Pod) (out []string) {
	for _, p := range pods {
		out = append(out, string(p.UID))
	}
	slices.Sort(out)
	return out
}

func revisions(t *testing.T, c *clustertest.Cluster) {
	ns := daemonSet(t, c)
	api := c.Client.AppsV1().ControllerRevisions(ns)
	list := func(label string, n int) []appsv1.ControllerRevision {
		t.Helper()
		var items []appsv1.ControllerRevision
		c.Eventually(t, 20*time.Second, fmt.Sprintf("%d revisions with %s", n, label), func(ctx context.Context) error {
			l, err := api.List(ctx, metav1.ListOptions{LabelSelector: label})
			if err == nil && len(l.Items) != n {
				err = fmt.Errorf("%d are there", len(l.Items))
			}
			if err == nil {
				items = l.Items
			}
			return err
		})
		return items
	}
	old := list("app=d", 1)[0]
	if old.Revision != 1 || metav1.GetControllerOf(&old) == nil {
		t.Errorf("the first revision is %d, owned by %v", old.Revision, old.OwnerReferences)
	}
	must(api.Patch(t.Context(), old.Name, types.StrategicMergePatchType, []byte(fmt.Sprintf(`{"metadata":{"labels":{%q:"patched"}}}`, old.Name)), metav1.PatchOptions{}))(t)
	list(old.Name+"=patched", 1)
	next := old.DeepCopy()
	next.ObjectMeta = metav1.ObjectMeta{Name: old.Name + "-x", Labels: old.Labels, OwnerReferences: old.OwnerReferences}
	next.Revision++
	next = must(api.Create(t.Context(), next, metav1.CreateOptions{}))(t)
	list("app=d", 2)
	must(api.Patch(t.Context(), next.Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"updated":"yes"}}}`), metav1.PatchOptions{}))(t)
	list("updated=yes", 1)
	ok(t, api.Delete(t.Context(), old.Name, metav1.DeleteOptions{}))
	list("app=d", 1)
	daemon(t, c, ns, daemonRound("2"))
	c.Eventually(t, 20*time.Second, "revision 3", func(ctx context.Context) error {
		l, err := api.List(ctx, metav1.ListOptions{LabelSelector: "app=d"})
		if err == nil && !slices.ContainsFunc(l.Items, func(r appsv1.ControllerRevision) bool { return r.Revision == 3 }) {
			err = fmt.Errorf("there are %d others", len(l.Items))
		}
		return err
	})
	ok(t, api.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "updated=yes"}))
	list("updated=yes", 0)
}

func daemonUpdate(t *testing.T, c *clustertest.Cluster) {
	ns := daemonSet(t, c)
	before := waitLiving(t, c, ns, "d", len(c.Nodes), nil)
	daemon(t, c, ns, daemonRound("2"))
	for _, p := range waitLiving(t, c, ns, "d", len(c.Nodes), ofRound("2")) {
		if p.Labels[appsv1.ControllerRevisionHashLabelKey] == before[0].Labels[appsv1.ControllerRevisionHashLabelKey] {
			t.Errorf("pod %s has the old revision's label", p.Name)
		}
	}
	if l := must(c.Client.AppsV1().ControllerRevisions(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=d"}))(t); len(l.Items) != 2 {
		t.Errorf("%d revisions", len(l.Items))
	}
}

func daemonRollback(t *testing.T, c *clustertest.Cluster) {
	ns := daemonSet(t, c)
	before := waitLiving(t, c, ns, "d", len(c.Nodes), nil)
	daemon(t, c, ns, func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "nowhere.invalid/none" })
	c.Eventually(t, 60*time.Second, "a pod of the update", func(ctx context.Context) error {
		now, err := living(ctx, c, ns, "d")
		if err == nil && !slices.ContainsFunc(now, func(p corev1.Pod) bool { return p.Spec.Containers[0].Image == "nowhere.invalid/none" }) {
			err = fmt.Errorf("%d pods", len(now))
		}
		return err
	})
	// The update hangs; those that it has not reached must not notice the way back.
	var spared []corev1.Pod
	for _, p := range must(living(t.Context(), c, ns, "d"))(t) {
		if p.Spec.Containers[0].Image == c.Image("agnhost") {
			spared = append(spared, p)
		}
	}
	if len(spared) != len(c.Nodes)-1 {
		t.Errorf("%d of %d pods were spared", len(spared), len(before))
	}
	daemon(t, c, ns, func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = c.Image("agnhost") })
	after := uids(waitLiving(t, c, ns, "d", len(c.Nodes), func(p corev1.Pod) bool { return p.Spec.Containers[0].Image == c.Image("agnhost") }))
	for _, p := range spared {
		if !slices.Contains(after, string(p.UID)) {
			t.Errorf("pod %s was restarted for nothing", p.Name)
		}
	}
}

func daemonSelects(t *testing.T, c *clustertest.Cluster) {
	ns, node := c.Namespace(t), c.Nodes[len(c.Nodes)-1]
	key := "conf.example/color"
	paint := func(color string) {
		t.Helper()
		value := "null"
		if color != "" {
			value = fmt.Sprintf("%q", color)
		}
		must(c.Client.CoreV1().Nodes().Patch(context.WithoutCancel(t.Context()), node, types.MergePatchType, []byte(fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, key, value)), metav1.PatchOptions{}))(t)
	}
	t.Cleanup(func() { paint("") })
	pod := c.Pod("d", nil, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{key: "blue"} })
	must(c.Client.AppsV1().DaemonSets(ns).Create(t.Context(), &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: pod.Labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec}}}, metav1.CreateOptions{}))(t)
	c.Eventually(t, 20*time.Second, "the DaemonSet to be observed", func(ctx context.Context) error {
		d, err := c.Client.AppsV1().DaemonSets(ns).Get(ctx, "d", metav1.GetOptions{})
		if err == nil && d.Status.ObservedGeneration == 0 {
			err = fmt.Errorf("its status is %+v", d.Status)
		}
		return err
	})
	waitLiving(t, c, ns, "d", 0, nil)
	paint("blue")
	waitLiving(t, c, ns, "d", 1, func(p corev1.Pod) bool { return p.Spec.NodeName == node })
	paint("green")
	waitLiving(t, c, ns, "d", 0, nil)
	daemon(t, c, ns, func(d *appsv1.DaemonSet) {
		d.Spec.Template.Spec.NodeSelector = map[string]string{key: "green"}
		d.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType}
	})
	waitLiving(t, c, ns, "d", 1, func(p corev1.Pod) bool { return p.Spec.NodeName == node && p.Spec.NodeSelector[key] == "green" })
}

// sizes waits until the ReplicaSets are of these sizes, the largest first.
func sizes(t *testing.T, c *clustertest.Cluster, ns string, want ...int32) {
	t.Helper()
	c.Eventually(t, 60*time.Second, fmt.Sprintf("ReplicaSets of %d", want), func(ctx context.Context) error {
		l, err := c.Client.AppsV1().ReplicaSets(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var got []int32
		for _, rs := range l.Items {
			got = append(got, *rs.Spec.Replicas)
		}
		slices.Sort(got)
		slices.Reverse(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("they are of %d", got)
		}
		return nil
	})
}

func proportional(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	edit := deployment(t, c, ns, 10, appsv1.RollingUpdateDeploymentStrategyType, func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers[0].Args = []string{"pause"}
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: ptr(intstr.FromInt32(3)), MaxUnavailable: ptr(intstr.FromInt32(2))}
	})
	waitLiving(t, c, ns, "d", 10, nil)
	edit(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nowhere.invalid/none" })
	sizes(t, c, ns, 8, 5) // two fewer of the old; with three more than ten
	edit(func(d *appsv1.Deployment) { d.Spec.Replicas = ptr[int32](30) })
	sizes(t, c, ns, 20, 13)
}

// seen waits for an event of that type about the object called name.
func seen(t *testing.T, w watch.Interface, want watch.EventType, name string, match func(metav1.Object) bool) {
	t.Helper()
	late := time.After(60 * time.Second)
	for {
		select {
		case e, open := <-w.ResultChan():
			if !open {
				t.Fatal("the watch ended")
			}
			if o, is := e.Object.(metav1.Object); is && e.Type == want && o.GetName() == name && (match == nil || match(o)) {
				return
			}
		case <-late:
			t.Fatalf("no %s of %s within a minute", want, name)
		}
	}
}

func deploymentLifecycle(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	api, label := c.Client.AppsV1().Deployments(ns), "conf="+ns
	w := must(api.Watch(t.Context(), metav1.ListOptions{LabelSelector: label}))(t)
	defer w.Stop()
	deployment(t, c, ns, 1, appsv1.RollingUpdateDeploymentStrategyType, func(d *appsv1.Deployment) { d.Labels = map[string]string{"conf": ns} })
	ready := func(n int32) func(metav1.Object) bool {
		return func(o metav1.Object) bool {
			d := o.(*appsv1.Deployment)
			return d.Status.AvailableReplicas == n && d.Status.ReadyReplicas == n && d.Status.UpdatedReplicas == n && d.Status.ObservedGeneration >= d.Generation
		}
	}
	seen(t, w, watch.Added, "d", nil)
	seen(t, w, watch.Modified, "d", ready(1))
	must(api.Patch(t.Context(), "d", types.StrategicMergePatchType, []byte(`{"metadata":{"annotations":{"patched":"yes"}},"spec":{"replicas":2,"template":{"spec":{"terminationGracePeriodSeconds":0}}}}`), metav1.PatchOptions{}))(t)
	seen(t, w, watch.Modified, "d", func(o metav1.Object) bool { return o.GetAnnotations()["patched"] == "yes" && ready(2)(o) })
	all := must(c.Client.AppsV1().Deployments("").List(t.Context(), metav1.ListOptions{LabelSelector: label}))(t)
	if len(all.Items) != 1 || *all.Items[0].Spec.Replicas != 2 {
		t.Errorf("in all namespaces: %+v", all.Items)
	}
	must(c.Client.AppsV1().Deployments(ns).Patch(t.Context(), "d", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"round":"two"}}}`), metav1.PatchOptions{}))(t)
	status := must(api.Get(t.Context(), "d", metav1.GetOptions{}))(t)
	if status.Labels["round"] != "two" {
		t.Errorf("labels %v", status.Labels)
	}
	must(api.Patch(t.Context(), "d", types.MergePatchType, []byte(`{"metadata":{"annotations":{"status":"patched"}},"status":{"readyReplicas":0,"availableReplicas":0}}`), metav1.PatchOptions{}, "status"))(t)
	seen(t, w, watch.Modified, "d", func(o metav1.Object) bool { return o.GetLabels()["round"] == "two" && ready(2)(o) }) // and the controller mends it
	ok(t, api.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: label}))
	seen(t, w, watch.Deleted, "d", nil)
}

func replicaSetChanges(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	rs := set(t, c, "apps/v1/replicasets", "ReplicaSet", ns, "s", 1)
	waitLiving(t, c, ns, "s", 1, nil)
	w := must(c.Client.AppsV1().ReplicaSets(ns).Watch(t.Context(), metav1.ListOptions{}))(t)
	defer w.Stop()
	c.Eventually(t, 10*time.Second, "the replacement", func(ctx context.Context) error {
		o, err := rs.Get(ctx, "s", metav1.GetOptions{})
		if err == nil {
			o.Object["spec"].(map[string]any)["replicas"] = int64(2)
			o.SetLabels(map[string]string{"replaced": "yes"})
			_, err = rs.Update(ctx, o, metav1.UpdateOptions{})
		}
		return err
	})
	waitLiving(t, c, ns, "s", 2, nil)
	patch := fmt.Sprintf(`{"metadata":{"labels":{"patched":"yes"}},"spec":{"replicas":3,"template":{"spec":{"containers":[{"name":"c","image":%q}]}}}}`, c.Image("busybox"))
	must(c.Client.AppsV1().ReplicaSets(ns).Patch(t.Context(), "s", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}))(t)
	seen(t, w, watch.Modified, "s", func(o metav1.Object) bool {
		r := o.(*appsv1.ReplicaSet)
		return *r.Spec.Replicas == 3 && r.Labels["patched"] == "yes" && r.Labels["replaced"] == "yes" && r.Spec.Template.Spec.Containers[0].Image == c.Image("busybox")
	})
	c.Eventually(t, 60*time.Second, "three pods", func(ctx context.Context) error {
		pods, err := living(ctx, c, ns, "s")
		if err == nil && len(pods) != 3 {
			err = fmt.Errorf("%d pods", len(pods))
		}
		return err
	})
}

func quotaExceeded(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	must(c.Client.CoreV1().ResourceQuotas(ns).Create(t.Context(), &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("2")}}}, metav1.CreateOptions{}))(t)
	c.Eventually(t, 30*time.Second, "the quota to be counted", func(ctx context.Context) error {
		q, err := c.Client.CoreV1().ResourceQuotas(ns).Get(ctx, "q", metav1.GetOptions{})
		if err == nil && len(q.Status.Hard) == 0 {
			err = fmt.Errorf("its status is %+v", q.Status)
		}
		return err
	})
	rc := set(t, c, "v1/replicationcontrollers", "ReplicationController", ns, "s", 3)
	fails := func(want bool) {
		t.Helper()
		c.Eventually(t, 60*time.Second, fmt.Sprintf("ReplicaFailure %t", want), func(ctx context.Context) error {
			r, err := c.Client.CoreV1().ReplicationControllers(ns).Get(ctx, "s", metav1.GetOptions{})
			if err != nil {
				return err
			}
			has := slices.ContainsFunc(r.Status.Conditions, func(cond corev1.ReplicationControllerCondition) bool {
				return cond.Type == corev1.ReplicationControllerReplicaFailure && cond.Status == corev1.ConditionTrue && strings.Contains(cond.Message, "exceeded quota")
			})
			if r.Status.ObservedGeneration < r.Generation || has != want {
				return fmt.Errorf("its status is %+v", r.Status)
			}
			return nil
		})
	}
	fails(true)
	must(rc.Patch(t.Context(), "s", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{}))(t)
	fails(false)
}

func controllerLifecycle(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	api := c.Client.CoreV1().ReplicationControllers(ns)
	w := must(api.Watch(t.Context(), metav1.ListOptions{}))(t)
	defer w.Stop()
	set(t, c, "v1/replicationcontrollers", "ReplicationController", ns, "s", 1)
	ready := func(n int32) func(metav1.Object) bool {
		return func(o metav1.Object) bool {
			r := o.(*corev1.ReplicationController)
			return r.Status.ReadyReplicas == n && r.Status.Replicas == n && *r.Spec.Replicas == n
		}
	}
	seen(t, w, watch.Added, "s", nil)
	seen(t, w, watch.Modified, "s", ready(1))
	must(api.Patch(t.Context(), "s", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"conf":"patched"}}}`), metav1.PatchOptions{}))(t)
	seen(t, w, watch.Modified, "s", func(o metav1.Object) bool { return o.GetLabels()["conf"] == "patched" })
	must(api.Patch(t.Context(), "s", types.MergePatchType, []byte(`{"status":{"readyReplicas":0,"availableReplicas":0}}`), metav1.PatchOptions{}, "status"))(t)
	seen(t, w, watch.Modified, "s", ready(1)) // the controller mends it
	must(api.Get(t.Context(), "s", metav1.GetOptions{}))(t)
	scale := must(api.GetScale(t.Context(), "s", metav1.GetOptions{}))(t)
	scale.Spec.Replicas, scale.ResourceVersion = 2, ""
	must(api.UpdateScale(t.Context(), "s", scale, metav1.UpdateOptions{}))(t)
	seen(t, w, watch.Modified, "s", ready(2))
	c.Eventually(t, 10*time.Second, "the update", func(ctx context.Context) error {
		r, err := api.Get(ctx, "s", metav1.GetOptions{})
		if err == nil {
			r.Labels["conf"] = "updated"
			_, err = api.Update(ctx, r, metav1.UpdateOptions{})
		}
		return err
	})
	all := must(c.Client.CoreV1().ReplicationControllers("").List(t.Context(), metav1.ListOptions{LabelSelector: "conf=updated,app=s"}))(t)
	if len(all.Items) != 1 {
		t.Errorf("%d in all namespaces", len(all.Items))
	}
	ok(t, api.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "conf=updated"}))
	seen(t, w, watch.Deleted, "s", nil)
}
