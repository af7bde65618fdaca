package ephemeralvolume

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestClaims(t *testing.T) {
	class := "fast"
	template := &corev1.PersistentVolumeClaimTemplate{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", UID: "u"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "plain"}, {Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: template}}},
	}}}
	got := Claims(pod)
	if len(got) != 1 || got[0].Name != "p-scratch" || got[0].Labels["a"] != "b" || *got[0].Spec.StorageClassName != "fast" || !metav1.IsControlledBy(got[0], pod) {
		t.Errorf("%+v", got)
	}
	now := metav1.Now()
	pod.DeletionTimestamp = &now
	if len(Claims(pod)) != 0 {
		t.Error("a pod that goes wants claims")
	}
}
