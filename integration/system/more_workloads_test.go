package system

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

func jobCompletes(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	pod := c.Pod("j", []string{"sh", "-c", "exit 0"})
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	two := int32(2)
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}, Spec: batchv1.JobSpec{
		Completions: &two, Parallelism: &two, Template: corev1.PodTemplateSpec{Spec: pod.Spec},
	}}
	if _, err := c.Client.BatchV1().Jobs(ns).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, time.Minute, "job to complete twice", func(ctx context.Context) error {
		got, err := c.Client.BatchV1().Jobs(ns).Get(ctx, "j", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, cond := range got.Status.Conditions {
			if cond.Type == batchv1.JobComplete && cond.Status == corev1.ConditionTrue && got.Status.Succeeded == 2 {
				return nil
			}
		}
		return fmt.Errorf("its status is %+v", got.Status)
	})
}

func statefulSetIsOrdered(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	headless := service("web", 80, 8080, func(s *corev1.Service) { s.Spec.ClusterIP = "None" })
	if _, err := c.Client.CoreV1().Services(ns).Create(t.Context(), headless, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	d := web(c, "web", 2)
	set := &appsv1.StatefulSet{ObjectMeta: d.ObjectMeta, Spec: appsv1.StatefulSetSpec{
		ServiceName: "web", Replicas: d.Spec.Replicas, Selector: d.Spec.Selector, Template: d.Spec.Template,
	}}
	if _, err := c.Client.AppsV1().StatefulSets(ns).Create(t.Context(), set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	second := c.WaitPod(t, ns, "web-1", "ready", clustertest.Ready)
	first := c.WaitPod(t, ns, "web-0", "ready", clustertest.Ready)
	for _, cond := range first.Status.Conditions {
		if cond.Type == corev1.PodReady && second.CreationTimestamp.Before(&cond.LastTransitionTime) {
			t.Errorf("web-1 was made at %s, before web-0 was ready at %s", second.CreationTimestamp, cond.LastTransitionTime)
		}
	}
	if out, err := c.InPod(ns, "web-1", "hostname"); err != nil || out != "web-1\n" {
		t.Errorf("web-1 calls itself %q (%v)", out, err)
	}
}

func kubeletReportsUse(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	c.RunPod(t, ns, c.Pod("p", []string{"netexec"}, clustertest.On(c.Nodes[1])))
	c.Eventually(t, 30*time.Second, "kubelet to report the pod's use", func(ctx context.Context) error {
		raw, err := c.Client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + c.Nodes[1] + "/proxy/stats/summary").DoRaw(ctx)
		if err != nil {
			return err
		}
		var summary struct {
			Pods []struct {
				PodRef     struct{ Name, Namespace string }
				Containers []struct {
					Name   string
					Memory struct{ WorkingSetBytes uint64 }
				}
			}
		}
		if err := json.Unmarshal(raw, &summary); err != nil {
			return err
		}
		for _, p := range summary.Pods {
			if p.PodRef.Namespace == ns && p.PodRef.Name == "p" && len(p.Containers) == 1 && p.Containers[0].Memory.WorkingSetBytes > 0 {
				return nil
			}
		}
		return fmt.Errorf("not among %d pods", len(summary.Pods))
	})
}
