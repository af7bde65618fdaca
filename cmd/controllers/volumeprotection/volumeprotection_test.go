package volumeprotection

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDecide(t *testing.T) {
	now := metav1.Now()
	for _, tc := range []struct {
		name       string
		finalizers []string
		deleted    *metav1.Time
		used       bool
		want       []string
		changed    bool
	}{
		{"new", []string{"x"}, nil, false, []string{"x", OfClaims}, true},
		{"protected", []string{OfClaims}, nil, false, []string{OfClaims}, false},
		{"deleted in use", []string{OfClaims}, &now, true, []string{OfClaims}, false},
		{"deleted", []string{"x", OfClaims}, &now, false, []string{"x"}, true},
		{"deleted, for somebody else to end", []string{"x"}, &now, false, []string{"x"}, false},
	} {
		got, changed := Decide(&metav1.ObjectMeta{Finalizers: tc.finalizers, DeletionTimestamp: tc.deleted}, OfClaims, tc.used)
		if !slices.Equal(got, tc.want) || changed != tc.changed {
			t.Errorf("%s: %v, changed %t", tc.name, got, changed)
		}
	}
}

func TestUses(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "a", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}},
		{Name: "b", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
	}}}
	if Uses(pod, "c") {
		t.Error("a pod without a node uses nothing")
	}
	pod.Spec.NodeName = "n"
	for claim, want := range map[string]bool{"c": true, "p-b": true, "other": false} {
		if Uses(pod, claim) != want {
			t.Errorf("%s: want %t", claim, want)
		}
	}
}
