package volumeexpander

import (
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

func TestTellsOnceForEachSize(t *testing.T) {
	shared, events := informers.NewSharedInformerFactory(fake.NewClientset(), 0), record.NewFakeRecorder(5)
	c, err := New(shared, events, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	size := func(s string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(s)}
	}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c", UID: "u"},
		Spec:   corev1.PersistentVolumeClaimSpec{VolumeName: "v", Resources: corev1.VolumeResourceRequirements{Requests: size("1Gi")}},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: size("1Gi")}}
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}}
	claims := shared.Core().V1().PersistentVolumeClaims().Informer().GetStore()
	if err := shared.Core().V1().PersistentVolumes().Informer().GetStore().Add(volume); err != nil {
		t.Fatal(err)
	}
	step := func(want string, mutate func()) {
		t.Helper()
		mutate()
		if err := claims.Update(claim.DeepCopy()); err != nil {
			t.Fatal(err)
		}
		if err := c.sync(t.Context(), "n/c"); err != nil {
			t.Fatal(err)
		}
		got := ""
		select {
		case got = <-events.Events:
		default:
		}
		if !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	step("", func() {})
	step("Warning ExternalExpanding Ignoring the PVC: didn't find a plugin", func() { claim.Spec.Resources.Requests = size("2Gi") })
	step("", func() { claim.Labels = map[string]string{"a": "b"} })
	step("Normal ExternalExpanding", func() {
		claim.Spec.Resources.Requests = size("3Gi")
		volume.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: "d"}
	})
	step("", func() { claim.Status.Capacity = size("3Gi") })
	step("", func() { claim.Spec.Resources.Requests, claim.Status.Phase = size("4Gi"), corev1.ClaimLost })
}
