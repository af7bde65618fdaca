package conformance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func appTests() map[string]test {
	const stateful = "StatefulSet Basic StatefulSet functionality [StatefulSetBasic] "
	rows := under("[sig-apps] ", map[string]test{
		"Deployment Deployment should have a working scale subresource":                         slowly(scales("apps/v1/deployments", "Deployment")),
		"ReplicaSet Replicaset should have a working scale subresource":                         slowly(scales("apps/v1/replicasets", "ReplicaSet")),
		stateful + "should have a working scale subresource":                                    slowly(scales("apps/v1/statefulsets", "StatefulSet")),
		"ReplicationController should get and update a ReplicationController scale":             slowly(scales("v1/replicationcontrollers", "ReplicationController")),
		"Deployment RecreateDeployment should delete old pods and create new ones":              slowly(recreate),
		"Deployment RollingUpdateDeployment should delete old pods and create new ones":         quickly(rollingUpdate),
		"Deployment deployment should delete old replica sets":                                  slowly(oldReplicaSets),
		"Deployment deployment should support rollover":                                         slowly(rollover),
		"ReplicaSet should adopt matching pods on creation and release no longer matching pods": quickly(adopts("apps/v1/replicasets", "ReplicaSet", true)),
		"ReplicationController should adopt matching pods on creation":                          quickly(adopts("v1/replicationcontrollers", "ReplicationController", false)),
		"ReplicationController should release no longer matching pods":                          quickly(adopts("v1/replicationcontrollers", "ReplicationController", true)),
		"ReplicaSet should serve a basic image on each replica with a public image":             quickly(servesOnEach("apps/v1/replicasets", "ReplicaSet")),
		"ReplicationController should serve a basic image on each replica with a public image":  quickly(servesOnEach("v1/replicationcontrollers", "ReplicationController")),
		"Daemon set should run and stop simple daemon":                                          slowly(daemons),
		"Daemon set should retry creating failed daemon pods":                                   slowly(daemonFails),
		"Job should delete a job": quickly(jobDeleted),
		"Job should adopt matching orphans and release non-matching pods":                          quickly(jobAdopts),
		"Job should create pods for an Indexed job with completion indexes and specified hostname": slowly(jobRow{script: "echo $JOB_COMPLETION_INDEX; hostname", done: 3, indexed: true}.run),
		"Job should run a job to completion when tasks sometimes fail and are locally restarted":   slowly(jobRow{script: "if test -e /v0/$HOSTNAME; then exit 0; fi; touch /v0/$HOSTNAME; exit 1", done: 2, local: true}.run),
		"Job should allow to use the pod failure policy on exit code to fail the job early": quickly(jobRow{script: "exit 42", done: 2, fails: "PodFailurePolicy", spec: func(s *batchv1.JobSpec) {
			s.BackoffLimit, s.PodFailurePolicy = ptr[int32](6), exitPolicy(batchv1.PodFailurePolicyActionFailJob)
		}}.run),
		"Job should execute all indexes despite some failing when using backoffLimitPerIndex": slowly(jobRow{script: "exit $(test $((JOB_COMPLETION_INDEX % 2)) = 0; echo $?)", done: 3, indexed: true, fails: "FailedIndexes", failed: "1", spec: func(s *batchv1.JobSpec) {
			s.BackoffLimitPerIndex = ptr[int32](1)
		}}.run),
		"Job should mark indexes as failed when the FailIndex action is matched in podFailurePolicy": slowly(jobRow{script: "if test $JOB_COMPLETION_INDEX = 1; then exit 42; fi", done: 2, indexed: true, fails: "FailedIndexes", failed: "1", spec: func(s *batchv1.JobSpec) {
			s.BackoffLimitPerIndex, s.PodFailurePolicy = ptr[int32](1), exitPolicy(batchv1.PodFailurePolicyActionFailIndex)
		}}.run),
		"Job should terminate job execution when the number of failed indexes exceeds maxFailedIndexes": slowly(jobRow{script: "exit 1", done: 4, indexed: true, fails: "MaxFailedIndexesExceeded", spec: func(s *batchv1.JobSpec) {
			s.BackoffLimitPerIndex, s.MaxFailedIndexes = ptr[int32](0), ptr[int32](2)
		}}.run),
		"Job with successPolicy should succeeded when all indexes succeeded": slowly(jobRow{script: "exit 0", done: 2, indexed: true, success: true, spec: func(s *batchv1.JobSpec) {
			s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr("0-1")}}}
		}}.run),
		"Job with successPolicy succeededCount rule should succeeded even when some indexes remain pending": slowly(jobRow{script: "if test $JOB_COMPLETION_INDEX != 0; then sleep 1000; fi", done: 3, indexed: true, success: true, spec: func(s *batchv1.JobSpec) {
			s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededCount: ptr[int32](1)}}}
		}}.run),
		"Job with successPolicy succeededIndexes rule should succeeded even when some indexes remain pending": slowly(jobRow{script: "if test $JOB_COMPLETION_INDEX != 0; then sleep 1000; fi", done: 3, indexed: true, success: true, spec: func(s *batchv1.JobSpec) {
			s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr("0")}}}
		}}.run),
	})
	const gc = "[sig-api-machinery] Garbage collector should "
	rows[gc+"delete pods created by rc when not orphaning"] = slowly(collected("v1/replicationcontrollers", "ReplicationController", metav1.DeletePropagationBackground))
	rows[gc+"keep the rc around until all its pods are deleted if the deleteOptions says so"] = slowly(collected("v1/replicationcontrollers", "ReplicationController", metav1.DeletePropagationForeground))
	rows[gc+"orphan pods created by rc if delete options say so"] = slowly(collected("v1/replicationcontrollers", "ReplicationController", metav1.DeletePropagationOrphan))
	rows[gc+"delete RS created by deployment when not orphaning"] = slowly(collected("apps/v1/deployments", "Deployment", metav1.DeletePropagationBackground))
	rows[gc+"orphan RS created by deployment when deleteOptions.PropagationPolicy is Orphan"] = slowly(collected("apps/v1/deployments", "Deployment", metav1.DeletePropagationOrphan))
	rows[gc+"not be blocked by dependency circle"] = quickly(ownerCircle)
	return rows
}

// set is a workload of that kind whose pods carry app=name.
func set(t *testing.T, c *clustertest.Cluster, resource, kindName, ns, name string, replicas int) dynamic.ResourceInterface {
	t.Helper()
	selector := "selector: {matchLabels: {app: " + name + "}}"
	if kindName == "ReplicationController" {
		selector = "selector: {app: " + name + "}"
	}
	k := kind{resource: resource, name: name, object: fmt.Sprintf("kind: %s\nspec: {replicas: %d, %s, template: {metadata: {labels: {app: %s}}, spec: {terminationGracePeriodSeconds: 0, "+
		"containers: [{name: c, image: '%s', args: [serve-hostname]}]}}}", kindName, replicas, selector, name, c.Image("agnhost"))}
	api := must(dynamic.NewForConfig(c.Config))(t).Resource(gvr(resource)).Namespace(ns)
	o := k.make(t, ns, "x", 1)
	o.SetLabels(map[string]string{"app": name})
	must(api.Create(t.Context(), o, metav1.CreateOptions{}))(t)
	return api
}

// living are the pods of app that are not being deleted.
func living(ctx context.Context, c *clustertest.Cluster, ns, app string) ([]corev1.Pod, error) {
	list, err := c.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil }), nil
}

// waitLiving waits until n pods of app live, all ready, and match.
func waitLiving(t *testing.T, c *clustertest.Cluster, ns, app string, n int, match func(corev1.Pod) bool) []corev1.Pod {
	t.Helper()
	var pods []corev1.Pod
	c.Eventually(t, 90*time.Second, fmt.Sprintf("%d ready pods of %s", n, app), func(ctx context.Context) error {
		var err error
		if pods, err = living(ctx, c, ns, app); err != nil {
			return err
		}
		for _, p := range pods {
			if !clustertest.Ready(&p) || match != nil && !match(p) {
				return fmt.Errorf("pod %s is %s on %q: %+v", p.Name, p.Status.Phase, p.Spec.NodeName, p.Status.ContainerStatuses)
			}
		}
		if len(pods) != n {
			return fmt.Errorf("%d pods", len(pods))
		}
		return nil
	})
	return pods
}

func scales(resource, kindName string) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		api := set(t, c, resource, kindName, ns, "s", 1)
		waitLiving(t, c, ns, "s", 1, nil)
		scale := must(api.Get(t.Context(), "s", metav1.GetOptions{}, "scale"))(t)
		if scale.GetKind() != "Scale" || fmt.Sprint(scale.Object["spec"]) != "map[replicas:1]" {
			t.Errorf("scale is %v", scale.Object)
		}
		scale.Object["spec"] = map[string]any{"replicas": int64(2)}
		scale.SetResourceVersion("") // whatever the controller wrote meanwhile: the update is to be unconditional
		must(api.Update(t.Context(), scale, metav1.UpdateOptions{}, "scale"))(t)
		waitLiving(t, c, ns, "s", 2, nil)
		if kindName != "ReplicationController" {
			must(api.Patch(t.Context(), "s", types.MergePatchType, []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{}, "scale"))(t)
			waitLiving(t, c, ns, "s", 3, nil)
		}
	}
}

// deployment makes one of netexec pods and returns how to change its template.
func deployment(t *testing.T, c *clustertest.Cluster, ns string, replicas int32, strategy appsv1.DeploymentStrategyType, mutate ...func(*appsv1.Deployment)) (edit func(func(*appsv1.Deployment))) {
	t.Helper()
	pod := c.Pod("d", []string{"netexec"})
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: pod.Labels},
		Strategy: appsv1.DeploymentStrategy{Type: strategy}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec}}}
	for _, m := range mutate {
		m(d)
	}
	api := c.Client.AppsV1().Deployments(ns)
	must(api.Create(t.Context(), d, metav1.CreateOptions{}))(t)
	return func(change func(*appsv1.Deployment)) {
		t.Helper()
		c.Eventually(t, 10*time.Second, "the update", func(ctx context.Context) error {
			d, err := api.Get(ctx, "d", metav1.GetOptions{})
			if err == nil {
				change(d)
				_, err = api.Update(ctx, d, metav1.UpdateOptions{})
			}
			return err
		})
	}
}

func round(n string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "ROUND", Value: n}}
	}
}

func ofRound(n string) func(corev1.Pod) bool {
	return func(p corev1.Pod) bool {
		return len(p.Spec.Containers[0].Env) == 1 && p.Spec.Containers[0].Env[0].Value == n
	}
}

func recreate(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	edit := deployment(t, c, ns, 1, appsv1.RecreateDeploymentStrategyType)
	waitLiving(t, c, ns, "d", 1, nil)
	events := record(t, must(c.Client.CoreV1().Pods(ns).Watch(t.Context(), metav1.ListOptions{LabelSelector: "app=d"}))(t))
	edit(round("2"))
	waitLiving(t, c, ns, "d", 1, ofRound("2"))
	running := map[bool]int{} // by "new"
	for _, e := range events() {
		p := e.Object.(*corev1.Pod)
		isNew := ofRound("2")(*p)
		running[isNew] = 0
		if e.Type != "DELETED" && p.Status.Phase == corev1.PodRunning {
			running[isNew] = 1
		}
		if running[true]+running[false] > 1 {
			t.Fatal("old and new ran together")
		}
	}
}

func rollingUpdate(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	set(t, c, "apps/v1/replicasets", "ReplicaSet", ns, "d", 1)
	old := waitLiving(t, c, ns, "d", 1, nil)
	deployment(t, c, ns, 1, appsv1.RollingUpdateDeploymentStrategyType, round("2"))
	waitLiving(t, c, ns, "d", 1, ofRound("2"))
	rs := must(c.Client.AppsV1().ReplicaSets(ns).Get(t.Context(), "d", metav1.GetOptions{}))(t)
	if owner := metav1.GetControllerOf(rs); owner == nil || owner.Kind != "Deployment" || *rs.Spec.Replicas != 0 {
		t.Errorf("the old ReplicaSet of %s has owner %v and %d replicas", old[0].Name, owner, *rs.Spec.Replicas)
	}
}

func oldReplicaSets(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	edit := deployment(t, c, ns, 1, appsv1.RollingUpdateDeploymentStrategyType, func(d *appsv1.Deployment) { d.Spec.RevisionHistoryLimit = ptr[int32](0) })
	waitLiving(t, c, ns, "d", 1, nil)
	edit(round("2"))
	c.Eventually(t, 60*time.Second, "old ReplicaSets to go", func(ctx context.Context) error {
		l, err := c.Client.AppsV1().ReplicaSets(ns).List(ctx, metav1.ListOptions{})
		if err == nil && (len(l.Items) != 1 || len(l.Items[0].Spec.Template.Spec.Containers[0].Env) != 1) {
			err = fmt.Errorf("%d are there", len(l.Items))
		}
		return err
	})
}

func rollover(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	edit := deployment(t, c, ns, 2, appsv1.RollingUpdateDeploymentStrategyType, func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = 2 })
	waitLiving(t, c, ns, "d", 2, nil)
	edit(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nowhere.invalid/none" })
	edit(round("3"))
	edit(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = c.Image("agnhost") })
	waitLiving(t, c, ns, "d", 2, ofRound("3"))
	sets := must(c.Client.AppsV1().ReplicaSets(ns).List(t.Context(), metav1.ListOptions{}))(t)
	for _, rs := range sets.Items {
		if len(rs.Spec.Template.Spec.Containers[0].Env) == 0 && *rs.Spec.Replicas != 0 {
			t.Errorf("old ReplicaSet %s has %d replicas", rs.Name, *rs.Spec.Replicas)
		}
	}
}

func adopts(resource, kindName string, release bool) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		c.RunPod(t, ns, c.Pod("s", nil))
		set(t, c, resource, kindName, ns, "s", 1)
		owned := func(want string) {
			t.Helper()
			c.WaitPod(t, ns, "s", "owned by "+want, func(p *corev1.Pod) bool {
				owner := metav1.GetControllerOf(p)
				return owner == nil && want == "" || owner != nil && owner.Kind == want
			})
		}
		owned(kindName)
		if release {
			must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), "s", types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`), metav1.PatchOptions{}))(t)
			owned("")
		}
	}
}

func servesOnEach(resource, kindName string) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		set(t, c, resource, kindName, ns, "s", 2)
		for _, p := range waitLiving(t, c, ns, "s", 2, nil) {
			c.Eventually(t, 20*time.Second, "the answer of "+p.Name, func(ctx context.Context) error {
				b, err := c.Client.CoreV1().Pods(ns).ProxyGet("http", p.Name, "9376", "", nil).DoRaw(ctx)
				if err == nil && string(b) != p.Name {
					err = fmt.Errorf("%s", b)
				}
				return err
			})
		}
	}
}

func daemonSet(t *testing.T, c *clustertest.Cluster) string {
	t.Helper()
	ns := c.Namespace(t)
	pod := c.Pod("d", nil)
	must(c.Client.AppsV1().DaemonSets(ns).Create(t.Context(), &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: pod.Labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec}}}, metav1.CreateOptions{}))(t)
	waitLiving(t, c, ns, "d", len(c.Nodes), nil)
	return ns
}

func daemons(t *testing.T, c *clustertest.Cluster) {
	ns := daemonSet(t, c)
	pods := waitLiving(t, c, ns, "d", len(c.Nodes), nil)
	ok(t, c.Client.CoreV1().Pods(ns).Delete(t.Context(), pods[0].Name, metav1.DeleteOptions{}))
	waitLiving(t, c, ns, "d", len(c.Nodes), func(p corev1.Pod) bool { return p.Name != pods[0].Name })
}

func daemonFails(t *testing.T, c *clustertest.Cluster) {
	ns := daemonSet(t, c)
	p := waitLiving(t, c, ns, "d", len(c.Nodes), nil)[0]
	p.Status.Phase = corev1.PodFailed
	p.ResourceVersion = ""
	must(c.Client.CoreV1().Pods(ns).UpdateStatus(t.Context(), &p, metav1.UpdateOptions{}))(t)
	waitLiving(t, c, ns, "d", len(c.Nodes), func(q corev1.Pod) bool { return q.Name != p.Name })
}

func exitPolicy(action batchv1.PodFailurePolicyAction) *batchv1.PodFailurePolicy {
	return &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: action,
		OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: "In", Values: []int32{42}}}}}
}

// jobRow is a Job of a script and how it must end.
type jobRow struct {
	script  string
	done    int32 // completions and parallelism
	indexed bool
	local   bool   // restarted in place
	fails   string // the reason it fails for; "" when it completes
	failed  string // the failed indexes
	success bool   // ends by its success policy
	spec    func(*batchv1.JobSpec)
}

func (r jobRow) job(t *testing.T, c *clustertest.Cluster, ns string) {
	t.Helper()
	pod := c.Pod("j", nil, sh(r.script), func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever })
	if r.local {
		pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		mounted(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})(pod)
	}
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}, Spec: batchv1.JobSpec{Completions: &r.done, Parallelism: &r.done,
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec}}}
	if r.indexed {
		j.Spec.CompletionMode = ptr(batchv1.IndexedCompletion)
	}
	if r.spec != nil {
		r.spec(&j.Spec)
	}
	must(c.Client.BatchV1().Jobs(ns).Create(t.Context(), j, metav1.CreateOptions{}))(t)
}

func (r jobRow) run(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	r.job(t, c, ns)
	var j *batchv1.Job
	c.Eventually(t, 2*time.Minute, "the job to end", func(ctx context.Context) error {
		var err error
		j, err = c.Client.BatchV1().Jobs(ns).Get(ctx, "j", metav1.GetOptions{})
		if err == nil && !slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == "Complete" || c.Type == "Failed" }) {
			err = fmt.Errorf("its status is %+v", j.Status)
		}
		return err
	})
	has := map[batchv1.JobConditionType]string{}
	for _, cond := range j.Status.Conditions {
		has[cond.Type] = cond.Reason
	}
	_, complete := has["Complete"]
	_, success := has["SuccessCriteriaMet"]
	switch {
	case complete != (r.fails == "") || has["Failed"] != r.fails:
		t.Errorf("it ended with %v", has)
	case r.success && !success:
		t.Errorf("no SuccessCriteriaMet in %v", has)
	case complete && !r.success && j.Status.Succeeded != r.done:
		t.Errorf("%d succeeded, want %d", j.Status.Succeeded, r.done)
	case r.failed != "" && (j.Status.FailedIndexes == nil || *j.Status.FailedIndexes != r.failed):
		t.Errorf("failed indexes %v, want %s", j.Status.FailedIndexes, r.failed)
	}
	if r.indexed && complete && !r.success {
		r.indexes(t, c, ns)
	}
}

func (r jobRow) indexes(t *testing.T, c *clustertest.Cluster, ns string) {
	t.Helper()
	pods := must(c.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=j"}))(t)
	for _, p := range pods.Items {
		i := p.Annotations["batch.kubernetes.io/job-completion-index"]
		if p.Labels["batch.kubernetes.io/job-completion-index"] != i || i == "" || p.Spec.Hostname != "j-"+i {
			t.Errorf("pod %s: index %q, labels %v, hostname %s", p.Name, i, p.Labels, p.Spec.Hostname)
		}
		if out := logs(t, c, ns, p.Name); out != i+"\nj-"+i+"\n" {
			t.Errorf("pod %s of index %s printed %q", p.Name, i, out)
		}
	}
}

func jobDeleted(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	jobRow{script: "sleep 1000", done: 2}.job(t, c, ns)
	waitLiving(t, c, ns, "j", 2, nil)
	ok(t, c.Client.BatchV1().Jobs(ns).Delete(t.Context(), "j", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationBackground)}))
	waitLiving(t, c, ns, "j", 0, nil)
}

func jobAdopts(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	jobRow{script: "sleep 1000", done: 2}.job(t, c, ns)
	name := waitLiving(t, c, ns, "j", 2, nil)[0].Name
	patch := func(p string) {
		must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), name, types.MergePatchType, []byte(p), metav1.PatchOptions{}))(t)
	}
	owner := func(p *corev1.Pod) bool { return metav1.GetControllerOf(p) != nil }
	patch(`{"metadata":{"ownerReferences":null}}`)
	c.WaitPod(t, ns, name, "adopted", owner)
	patch(`{"metadata":{"labels":null}}`)
	c.WaitPod(t, ns, name, "released", func(p *corev1.Pod) bool { return !owner(p) })
}

// collected deletes an owner and looks what becomes of what it owns.
func collected(resource, kindName string, policy metav1.DeletionPropagation) func(*testing.T, *clustertest.Cluster) {
	return func(t *testing.T, c *clustertest.Cluster) {
		ns := c.Namespace(t)
		api := set(t, c, resource, kindName, ns, "s", 3)
		waitLiving(t, c, ns, "s", 3, nil)
		ok(t, api.Delete(t.Context(), "s", metav1.DeleteOptions{PropagationPolicy: &policy}))
		c.Eventually(t, 60*time.Second, "the owner to go", func(ctx context.Context) error {
			_, err := api.Get(ctx, "s", metav1.GetOptions{})
			if err != nil && strings.Contains(err.Error(), "not found") {
				return nil
			}
			return fmt.Errorf("it is there (%v)", err)
		})
		pods := must(c.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=s"}))(t)
		switch policy {
		case metav1.DeletePropagationForeground:
			if len(pods.Items) != 0 {
				t.Errorf("%d pods outlived their owner", len(pods.Items))
			}
		case metav1.DeletePropagationBackground:
			waitLiving(t, c, ns, "s", 0, nil)
		case metav1.DeletePropagationOrphan:
			stay := 30 * time.Second
			if kindName == "Deployment" {
				stay = 5 * time.Second
			}
			time.Sleep(stay)
			for _, p := range waitLiving(t, c, ns, "s", 3, nil) {
				if owner := metav1.GetControllerOf(&p); owner != nil && owner.Kind == kindName {
					t.Errorf("%s is still owned by %s", p.Name, owner.Name)
				}
			}
		}
	}
}

func ownerCircle(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	var pods []*corev1.Pod
	for i := range 3 {
		pods = append(pods, createPod(t, c, ns, c.Pod(fmt.Sprintf("p%d", i), nil, func(p *corev1.Pod) { p.Labels["app"] = "circle" })))
	}
	for i, p := range pods {
		owner := pods[(i+2)%3]
		patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}]}}`, owner.Name, owner.UID)
		must(c.Client.CoreV1().Pods(ns).Patch(t.Context(), p.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}))(t)
	}
	ok(t, c.Client.CoreV1().Pods(ns).Delete(t.Context(), "p0", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationForeground)}))
	waitLiving(t, c, ns, "circle", 0, nil)
}
