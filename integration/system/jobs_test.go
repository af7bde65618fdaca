package system

import (
	"context"
	"fmt"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// jobsSurviveCrashes kills the controller manager twice while an
// Indexed Job runs: each index runs once, and each pod is counted once.
func jobsSurviveCrashes(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	const indexes = int32(24)
	parallel, mode, total := int32(4), batchv1.IndexedCompletion, indexes
	pod := c.Pod("j", []string{"sh", "-c", "sleep 1"})
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}, Spec: batchv1.JobSpec{Completions: &total, Parallelism: &parallel, CompletionMode: &mode,
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec}}}
	jobs := c.Client.BatchV1().Jobs(ns)
	if _, err := jobs.Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pods, err := c.Client.CoreV1().Pods(ns).Watch(t.Context(), metav1.ListOptions{LabelSelector: "app=j"})
	if err != nil {
		t.Fatal(err)
	}
	made, ended := map[string]bool{}, make(chan struct{})
	go func() {
		defer close(ended)
		for e := range pods.ResultChan() {
			if p, is := e.Object.(*corev1.Pod); is {
				made[string(p.UID)] = true
			}
		}
	}()
	killed := 0
	var status batchv1.JobStatus
	deadline := time.Now().Add(4 * time.Minute)
	for kills := 0; status.CompletionTime == nil && time.Now().Before(deadline); {
		if kills < 2 && int(status.Succeeded) >= 4+8*kills {
			killed += kill(t, c, c.Nodes[0], "kube-controller")
			kills++
		}
		time.Sleep(300 * time.Millisecond)
		got, err := jobs.Get(t.Context(), "j", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		status = got.Status
	}
	pods.Stop()
	<-ended
	if killed < 2 {
		t.Errorf("the controller manager was killed %d times", killed)
	}
	if status.Succeeded != indexes || status.Failed != 0 || status.CompletedIndexes != fmt.Sprintf("0-%d", indexes-1) || len(made) != int(indexes) {
		t.Errorf("%d pods were made; the status is %+v", len(made), status)
	}
	c.Eventually(t, time.Minute, "the cluster to be whole", func(ctx context.Context) error { return whole(ctx, c) })
}
