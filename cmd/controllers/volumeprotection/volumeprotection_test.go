package volumeprotection

import (
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
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

// A class stays as long as a claim has it, is on the way to it, or a volume has it.
func TestAttributesInUse(t *testing.T) {
	name := "gold"
	for what, object := range map[string]runtime.Object{
		"wanted":   &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: &name}},
		"current":  &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c"}, Status: corev1.PersistentVolumeClaimStatus{CurrentVolumeAttributesClassName: &name}},
		"target":   &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c"}, Status: corev1.PersistentVolumeClaimStatus{ModifyVolumeStatus: &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: name}}},
		"volume's": &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{VolumeAttributesClassName: &name}},
		"unused":   &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c"}},
	} {
		now := metav1.Now()
		class := &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{OfAttributes}, DeletionTimestamp: &now}}
		client := fake.NewClientset(class)
		shared := informers.NewSharedInformerFactory(client, 0)
		a, err := NewAttributes(client, shared, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		store := shared.Core().V1().PersistentVolumeClaims().Informer().GetStore()
		if _, ok := object.(*corev1.PersistentVolume); ok {
			store = shared.Core().V1().PersistentVolumes().Informer().GetStore()
		}
		if err := errors.Join(store.Add(object), shared.Storage().V1().VolumeAttributesClasses().Informer().GetStore().Add(class), a.sync(t.Context(), name)); err != nil {
			t.Fatal(err)
		}
		kept := !slices.ContainsFunc(client.Actions(), func(a clienttesting.Action) bool { return a.GetVerb() == "update" })
		if kept != (what != "unused") {
			t.Errorf("%s: kept is %t", what, kept)
		}
	}
}

// A claim is let go when its pod goes, though all that the cache shows is another pod of that name, which waits: a list that
// follows a watch's end tells no more.
func TestLetsGoWhenAPodTakesTheNameOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := metav1.Now()
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c", Finalizers: []string{OfClaims}, DeletionTimestamp: &now}}
		past := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", UID: "first", ResourceVersion: "1"}}
		past.Spec.NodeName = "node"
		past.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
		next := past.DeepCopy()
		next.UID, next.ResourceVersion, next.Spec.NodeName = "second", "2", ""
		client := fake.NewClientset(claim, past)
		shared := informers.NewSharedInformerFactory(client, 0)
		c, err := NewClaims(client, shared, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		shared.Start(t.Context().Done())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = c.Run(t.Context()) }()
		t.Cleanup(func() { <-ended; shared.Shutdown() })
		kept := func() bool {
			last, err := client.CoreV1().PersistentVolumeClaims("n").Get(t.Context(), "c", metav1.GetOptions{})
			return err == nil && len(last.Finalizers) > 0
		}
		time.Sleep(time.Second)
		if !kept() {
			t.Fatal("let go while a pod uses it")
		}
		if err := client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), next, "n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if kept() {
			t.Fatal("still kept, and nobody uses it")
		}
	})
}
