package system

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orlop-io/orlop/integration/clustertest"
)

// smallestVolume makes volumes of three sizes and a claim between two of them, and follows both to their end.
func smallestVolume(t *testing.T, c *clustertest.Cluster) {
	ns := c.Namespace(t)
	volumes := c.Client.CoreV1().PersistentVolumes()
	policies := map[string]corev1.PersistentVolumeReclaimPolicy{"1Gi": corev1.PersistentVolumeReclaimRetain, "2Gi": corev1.PersistentVolumeReclaimDelete, "5Gi": corev1.PersistentVolumeReclaimRetain}
	for size, policy := range policies {
		dir := corev1.HostPathDirectoryOrCreate
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: ns + "-" + size[:1]}, Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeReclaimPolicy: policy, StorageClassName: ns, PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp/" + ns, Type: &dir}}}}
		if _, err := volumes.Create(t.Context(), v, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = volumes.Delete(context.Background(), v.Name, metav1.DeleteOptions{}) })
	}
	claims := c.Client.CoreV1().PersistentVolumeClaims(ns)
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &ns, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1500Mi")}}}}
	if _, err := claims.Create(t.Context(), claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := c.Pod("p", nil)
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	c.RunPod(t, ns, pod)
	if bound, err := claims.Get(t.Context(), "c", metav1.GetOptions{}); err != nil || bound.Spec.VolumeName != ns+"-2" || bound.Status.Capacity.Storage().String() != "2Gi" {
		t.Fatalf("the claim is bound to %q: %+v (%v)", bound.Spec.VolumeName, bound.Status, err)
	}

	if err := claims.Delete(t.Context(), "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if held, err := claims.Get(t.Context(), "c", metav1.GetOptions{}); err != nil || held.DeletionTimestamp == nil {
		t.Fatalf("a claim that a pod uses was not held: %v", err)
	}
	if err := c.Client.CoreV1().Pods(ns).Delete(t.Context(), "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, 60*time.Second, "the claim and its volume to go", func(ctx context.Context) error {
		_, err1 := claims.Get(ctx, "c", metav1.GetOptions{})
		v, err2 := volumes.Get(ctx, ns+"-2", metav1.GetOptions{})
		if !apierrors.IsNotFound(err1) || !apierrors.IsNotFound(err2) {
			return fmt.Errorf("claim: %v; volume %s: %v", err1, v.Status.Phase, err2)
		}
		return nil
	})
	if kept, err := volumes.Get(t.Context(), ns+"-1", metav1.GetOptions{}); err != nil || kept.Status.Phase != corev1.VolumeAvailable {
		t.Errorf("another volume is %+v (%v)", kept, err)
	}
}

// localVolumes follows the claims of a StatefulSet that names no class, of a user who is not root, from the first
// write to the end of their directories.
func localVolumes(t *testing.T, c *clustertest.Cluster) {
	ns, replicas, user, grace := c.Namespace(t), int32(2), int64(1000), int64(0)
	labels := map[string]string{"app": "db"}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, PodManagementPolicy: appsv1.ParallelPodManagement, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace, SecurityContext: &corev1.PodSecurityContext{RunAsUser: &user},
			Containers: []corev1.Container{{Name: "c", Image: c.Image("busybox"), Command: []string{"sh", "-c", "echo began >> /data/log && sleep 1000"},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}},
		}},
		VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}},
	}}
	if _, err := c.Client.AppsV1().StatefulSets(ns).Create(t.Context(), set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.WaitPod(t, ns, "db-1", "ready", clustertest.Ready)
	first := c.WaitPod(t, ns, "db-0", "ready", clustertest.Ready)
	claim, err := c.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "data-db-0", metav1.GetOptions{})
	if err != nil || claim.Spec.StorageClassName == nil || *claim.Spec.StorageClassName != "local-path" {
		t.Fatalf("the claim's class is %v (%v)", claim.Spec.StorageClassName, err)
	}
	volume, err := c.Client.CoreV1().PersistentVolumes().Get(t.Context(), claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil || volume.Spec.Local == nil || volume.Spec.NodeAffinity == nil {
		t.Fatalf("the claim has volume %+v (%v)", volume, err)
	}
	logOf := func() (string, error) { return c.Exec(first.Spec.NodeName, "cat", volume.Spec.Local.Path+"/log") }
	if text, err := logOf(); err != nil || strings.Count(text, "began") != 1 {
		t.Fatalf("on the node there is %q (%v)", text, err)
	}
	if err := c.Client.CoreV1().Pods(ns).Delete(t.Context(), "db-0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	again := c.WaitPod(t, ns, "db-0", "made anew", func(p *corev1.Pod) bool { return p.UID != first.UID && clustertest.Ready(p) })
	if text, err := logOf(); err != nil || again.Spec.NodeName != first.Spec.NodeName || strings.Count(text, "began") != 2 {
		t.Errorf("on %s the volume holds %q (%v)", again.Spec.NodeName, text, err)
	}

	if err := c.Client.AppsV1().StatefulSets(ns).Delete(t.Context(), "db", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Client.CoreV1().PersistentVolumeClaims(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, 60*time.Second, "the volume and its directory to go", func(ctx context.Context) error {
		if _, err := c.Client.CoreV1().PersistentVolumes().Get(ctx, volume.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the volume: %v", err)
		}
		if _, err := c.Exec(first.Spec.NodeName, "test", "!", "-e", volume.Spec.Local.Path); err != nil {
			return errors.New("the directory is still there")
		}
		return nil
	})
}

// TestRecycledVolume has a volume of the policy Recycle used, given back and emptied, on the one node that has it.
func TestRecycledVolume(t *testing.T) {
	c, ns := cluster, cluster.Namespace(t)
	node, path := c.Nodes[1], "/tmp/"+ns
	if out, err := c.Exec(node, "sh", "-c", "mkdir -p "+path+"/deep && echo old > "+path+"/deep/file && echo old > "+path+"/.hidden"); err != nil {
		t.Fatal(err, out)
	}
	t.Cleanup(func() {
		if out, err := c.Exec(node, "rm", "-r", path); err != nil {
			t.Error(err, out)
		}
	})
	volumes, claims := c.Client.CoreV1().PersistentVolumes(), c.Client.CoreV1().PersistentVolumeClaims(ns)
	modes, space := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	_, err := volumes.Create(t.Context(), &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: corev1.PersistentVolumeSpec{
		Capacity: space, AccessModes: modes, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRecycle, StorageClassName: ns,
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = volumes.Delete(context.Background(), ns, metav1.DeleteOptions{}) })
	_, err = claims.Create(t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &ns, AccessModes: modes, Resources: corev1.VolumeResourceRequirements{Requests: space}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	phase := func(want corev1.PersistentVolumePhase) {
		t.Helper()
		c.Eventually(t, 60*time.Second, fmt.Sprintf("the volume to be %s", want), func(ctx context.Context) error {
			v, err := volumes.Get(ctx, ns, metav1.GetOptions{})
			if err == nil && v.Status.Phase != want {
				err = fmt.Errorf("it is %s: %s", v.Status.Phase, v.Status.Message)
			}
			return err
		})
	}
	phase(corev1.VolumeBound)
	if err := claims.Delete(t.Context(), "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	phase(corev1.VolumeAvailable)
	if left, err := c.Exec(node, "ls", "-A", path); err != nil || left != "" {
		t.Errorf("the volume still holds %q (%v)", left, err)
	}
	if v, err := volumes.Get(t.Context(), ns, metav1.GetOptions{}); err != nil || v.Spec.ClaimRef != nil {
		t.Errorf("the volume is kept for %v (%v)", v.Spec.ClaimRef, err)
	}
}
