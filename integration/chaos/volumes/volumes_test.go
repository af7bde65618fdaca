// Package volumes takes away what the provisioner of local paths works with, while it works: no directory may be left
// without a volume, and no volume without its directory.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/orlop-io/orlop/integration/clustertest"
)

const base = "/var/lib/orlop-local-path"

var cluster *clustertest.Cluster

func TestMain(m *testing.M) {
	os.Exit(clustertest.Main(m, "vol", 2, func(c *clustertest.Cluster) { cluster = c }))
}

// stateful is a StatefulSet of pods that each write into a volume of their own.
func stateful(c *clustertest.Cluster, name string, replicas int32) *appsv1.StatefulSet {
	labels := map[string]string{"app": name}
	return &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, PodManagementPolicy: appsv1.ParallelPodManagement, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To(int64(0)),
			Containers: []corev1.Container{{Name: "c", Image: c.Image("busybox"), Command: []string{"sh", "-c", "mkdir -p /data/a/b && echo began >> /data/a/b/log && sleep 1000"},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}},
		}},
		VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}},
	}}
}

// agree tells whether there is a volume for every claim, a directory for every volume, and nothing else.
func agree(ctx context.Context, c *clustertest.Cluster, want int) error {
	volumes, err := c.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, v := range volumes.Items {
		if v.Status.Phase != corev1.VolumeBound {
			return fmt.Errorf("volume %s is %s", v.Name, v.Status.Phase)
		}
		wanted[v.Annotations["orlop.io/local-path-node"]+" "+v.Name] = true
	}
	there := map[string]bool{}
	for _, node := range c.Nodes {
		out, err := c.Exec(node, "sh", "-c", "ls "+base+" 2>/dev/null || true")
		if err != nil {
			return err
		}
		for _, name := range strings.Fields(out) {
			there[node+" "+name] = true
		}
	}
	for dir := range there {
		if !wanted[dir] {
			return fmt.Errorf("a directory without a volume: %s", dir)
		}
	}
	helpers, err := c.Client.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{LabelSelector: "orlop.io/local-path-act"})
	if err != nil {
		return err
	}
	if len(wanted) != want || len(there) != want || len(helpers.Items) != 0 {
		return fmt.Errorf("%d volumes, %d directories, wanted %d; %d helpers", len(wanted), len(there), want, len(helpers.Items))
	}
	return nil
}

// killManager ends the controller manager without a word; the kubelet starts it again.
func killManager(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	if _, err := c.Exec(c.Nodes[0], "sh", "-c", `for p in $(find /sys/fs/cgroup -name cgroup.procs | xargs cat | sort -un); do
		[ "$(cat /proc/$p/comm 2>/dev/null)" = kube-controller ] && kill -9 $p; done; true`); err != nil {
		t.Fatal(err)
	}
}

func allReady(ctx context.Context, c *clustertest.Cluster, ns, name string, replicas int32) error {
	set, err := c.Client.AppsV1().StatefulSets(ns).Get(ctx, name, metav1.GetOptions{})
	if err == nil && set.Status.ReadyReplicas != replicas {
		err = fmt.Errorf("%d of %d are ready", set.Status.ReadyReplicas, replicas)
	}
	return err
}

// TestManagerKilled kills it while directories are made, and while they are removed.
func TestManagerKilled(t *testing.T) {
	c, ns := cluster, cluster.Namespace(t)
	const replicas = 8
	if _, err := c.Client.AppsV1().StatefulSets(ns).Create(t.Context(), stateful(c, "db", replicas), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		time.Sleep(1500 * time.Millisecond)
		killManager(t, c)
	}
	c.Eventually(t, 3*time.Minute, "all pods to have their volumes", func(ctx context.Context) error {
		return errors.Join(allReady(ctx, c, ns, "db", replicas), agree(ctx, c, replicas))
	})
	if err := c.Client.AppsV1().StatefulSets(ns).Delete(t.Context(), "db", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Client.CoreV1().PersistentVolumeClaims(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		time.Sleep(1500 * time.Millisecond)
		killManager(t, c)
	}
	c.Eventually(t, 3*time.Minute, "nothing to be left", func(ctx context.Context) error { return agree(ctx, c, 0) })
}

// TestNodeGone takes the Node of a claim that waits for its directory: the claim goes elsewhere. A volume that was
// released while its node was not there keeps its directory until somebody says otherwise.
func TestNodeGone(t *testing.T) {
	c, ns := cluster, cluster.Namespace(t)
	claim := stateful(c, "x", 1).Spec.VolumeClaimTemplates[0]
	claim.Name = "lost"
	claim.Annotations = map[string]string{"volume.kubernetes.io/selected-node": "nowhere"}
	claims := c.Client.CoreV1().PersistentVolumeClaims(ns)
	if _, err := claims.Create(t.Context(), &claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := c.Pod("p", []string{"pause"}, func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "lost"}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	})
	c.RunPod(t, ns, pod)
	if err := agree(t.Context(), c, 1); err != nil {
		c.Eventually(t, time.Minute, "one directory", func(ctx context.Context) error { return agree(ctx, c, 1) })
	}
	if err := errors.Join(c.Client.CoreV1().Pods(ns).Delete(t.Context(), "p", metav1.DeleteOptions{}), claims.Delete(t.Context(), "lost", metav1.DeleteOptions{})); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, time.Minute, "nothing to be left", func(ctx context.Context) error {
		if _, err := claims.Get(ctx, "lost", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the claim: %v", err)
		}
		return agree(ctx, c, 0)
	})
}
