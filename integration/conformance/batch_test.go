package conformance

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// batchTests are the rows on CronJobs, and those on Jobs that no jobRow describes.
func batchTests() map[string]test {
	return under("[sig-apps] ", map[string]test{
		"CronJob should not schedule jobs when suspended":                                                       slowly(cronSuspended),
		"CronJob should not schedule new jobs when ForbidConcurrent":                                            slowly(cronForbids),
		"CronJob should replace jobs when ReplaceConcurrent":                                                    slowly(cronReplaces),
		"CronJob should schedule multiple jobs concurrently":                                                    slowly(cronAllows),
		"Job should manage the lifecycle of a job":                                                              quickly(jobLifecycle),
		"Job should allow to use a pod failure policy to ignore failure matching on DisruptionTarget condition": slowly(jobDisrupted),
	})
}

// cronJob makes one that runs each minute, for longer than two.
func cronJob(t *testing.T, c *clustertest.Cluster, ns string, policy batchv1.ConcurrencyPolicy, suspend bool) {
	t.Helper()
	pod := c.Pod("cron", nil, sh("sleep 300"), func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure })
	must(c.Client.BatchV1().CronJobs(ns).Create(t.Context(), &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "cron"}, Spec: batchv1.CronJobSpec{
		Schedule: "*/1 * * * *", ConcurrencyPolicy: policy, Suspend: &suspend,
		JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec}}},
	}}, metav1.CreateOptions{}))(t)
}

// cronActive waits until the CronJob's status satisfies want, and returns the names of the active Jobs.
func cronActive(t *testing.T, c *clustertest.Cluster, ns, what string, within time.Duration, want func([]string) bool) (names []string) {
	t.Helper()
	c.Eventually(t, within, what, func(ctx context.Context) error {
		cron, err := c.Client.BatchV1().CronJobs(ns).Get(ctx, "cron", metav1.GetOptions{})
		if err != nil {
			return err
		}
		names = nil
		for _, ref := range cron.Status.Active {
			names = append(names, ref.Name)
		}
		if !want(names) {
			return fmt.Errorf("active: %v", names)
		}
		return nil
	})
	return names
}

func jobNames(t *testing.T, c *clustertest.Cluster, ns string) (names []string) {
	t.Helper()
	for _, j := range must(c.Client.BatchV1().Jobs(ns).List(t.Context(), metav1.ListOptions{}))(t).Items {
		if j.DeletionTimestamp == nil {
			names = append(names, j.Name)
		}
	}
	slices.Sort(names)
	return names
}

func cronSuspended(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	cronJob(t, c, ns, batchv1.AllowConcurrent, true)
	for range 13 { // past a minute's begin, whichever it is
		time.Sleep(5 * time.Second)
		if jobs := jobNames(t, c, ns); len(jobs) > 0 {
			t.Fatalf("suspended, it made %v", jobs)
		}
	}
	cron := must(c.Client.BatchV1().CronJobs(ns).Get(t.Context(), "cron", metav1.GetOptions{}))(t)
	if len(cron.Status.Active) > 0 {
		t.Errorf("active: %v", cron.Status.Active)
	}
}

func one(names []string) bool { return len(names) == 1 }

func cronForbids(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	cronJob(t, c, ns, batchv1.ForbidConcurrent, false)
	first := cronActive(t, c, ns, "the first job", 75*time.Second, one)
	for range 13 {
		time.Sleep(5 * time.Second)
		if now := jobNames(t, c, ns); !slices.Equal(now, first) {
			t.Fatalf("jobs are %v; the first was %v", now, first)
		}
	}
}

func cronReplaces(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	cronJob(t, c, ns, batchv1.ReplaceConcurrent, false)
	first := cronActive(t, c, ns, "the first job", 75*time.Second, one)
	second := cronActive(t, c, ns, "another job", 75*time.Second, func(names []string) bool { return one(names) && names[0] != first[0] })
	c.Eventually(t, 30*time.Second, "the first job to go", func(ctx context.Context) error {
		if now := jobNames(t, c, ns); !slices.Equal(now, second) {
			return fmt.Errorf("jobs are %v", now)
		}
		return nil
	})
}

func cronAllows(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	cronJob(t, c, ns, batchv1.AllowConcurrent, false)
	cronActive(t, c, ns, "two jobs at once", 150*time.Second, func(names []string) bool { return len(names) >= 2 })
	running := 0
	for _, j := range must(c.Client.BatchV1().Jobs(ns).List(t.Context(), metav1.ListOptions{}))(t).Items {
		if j.Status.CompletionTime == nil {
			running++
		}
	}
	if running < 2 {
		t.Errorf("%d jobs run", running)
	}
}

func jobLifecycle(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	label := "conf=" + ns
	jobRow{script: "exit 0", done: 1, spec: func(s *batchv1.JobSpec) { s.Suspend = ptr(true) }}.job(t, c, ns)
	api := c.Client.BatchV1().Jobs(ns)
	c.Eventually(t, 20*time.Second, "the suspended condition", func(ctx context.Context) error {
		j, err := api.Get(ctx, "j", metav1.GetOptions{})
		if err == nil && !slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == batchv1.JobSuspended && c.Status == "True" }) {
			err = fmt.Errorf("its status is %+v", j.Status)
		}
		return err
	})
	patched := must(api.Patch(t.Context(), "j", types.StrategicMergePatchType, []byte(fmt.Sprintf(`{"metadata":{"labels":{"conf":%q}},"spec":{"suspend":true}}`, ns)), metav1.PatchOptions{}))(t)
	if patched.Labels["conf"] != ns {
		t.Errorf("after the patch its labels are %v", patched.Labels)
	}
	c.Eventually(t, 20*time.Second, "the replacement", func(ctx context.Context) error {
		j, err := api.Get(ctx, "j", metav1.GetOptions{})
		if err == nil {
			j.Spec.Suspend, j.Annotations = ptr(false), map[string]string{"updated": "true"}
			_, err = api.Update(ctx, j, metav1.UpdateOptions{})
		}
		return err
	})
	all := must(c.Client.BatchV1().Jobs("").List(t.Context(), metav1.ListOptions{LabelSelector: label}))(t)
	if len(all.Items) != 1 || all.Items[0].Annotations["updated"] != "true" || *all.Items[0].Spec.Suspend {
		t.Errorf("in all namespaces: %+v", all.Items)
	}
	c.Eventually(t, 60*time.Second, "the resumed job to complete", func(ctx context.Context) error {
		j, err := api.Get(ctx, "j", metav1.GetOptions{})
		if err == nil && j.Status.Succeeded != 1 {
			err = fmt.Errorf("its status is %+v", j.Status)
		}
		return err
	})
	ok(t, api.DeleteCollection(t.Context(), metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationBackground)}, metav1.ListOptions{LabelSelector: label}))
	c.Eventually(t, 30*time.Second, "the job to go", func(ctx context.Context) error {
		left, err := c.Client.BatchV1().Jobs("").List(ctx, metav1.ListOptions{LabelSelector: label})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%d are left", len(left.Items))
		}
		return err
	})
}

func jobDisrupted(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	jobRow{script: "while ! test -e /tmp/go; do sleep 1; done", done: 1, spec: func(s *batchv1.JobSpec) {
		s.BackoffLimit = ptr[int32](0)
		s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}}}}
	}}.job(t, c, ns)
	evicted := waitLiving(t, c, ns, "j", 1, nil)[0]
	ok(t, c.Client.PolicyV1().Evictions(ns).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: evicted.Name}}))
	var next corev1.Pod
	c.Eventually(t, 60*time.Second, "another pod", func(ctx context.Context) error {
		pods, err := c.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: "app=j"})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			if p.UID != evicted.UID && clustertest.Ready(&p) {
				next = p
				return nil
			}
		}
		return fmt.Errorf("%d pods", len(pods.Items))
	})
	must(c.InPod(ns, next.Name, "touch", "/tmp/go"))(t)
	c.Eventually(t, 60*time.Second, "the job to complete", func(ctx context.Context) error {
		j, err := c.Client.BatchV1().Jobs(ns).Get(ctx, "j", metav1.GetOptions{})
		if err == nil && (j.Status.CompletionTime == nil || j.Status.Failed != 0 || j.Status.Succeeded != 1) {
			err = fmt.Errorf("its status is %+v", j.Status)
		}
		return err
	})
}
