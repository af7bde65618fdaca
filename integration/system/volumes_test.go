package system

import (
	"context"
	"fmt"
	"testing"
	"time"

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
