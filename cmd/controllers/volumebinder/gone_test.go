package volumebinder

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
)

// watched runs a controller over the objects of client for a second, does act, and gives it another second.
func watched(t *testing.T, client *fake.Clientset, act func(context.Context)) {
	t.Helper()
	shared := informers.NewSharedInformerFactory(client, 0)
	c, err := New(client, Recyclers{}, shared, &record.FakeRecorder{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	shared.Start(ctx.Done())
	go func() { ended <- c.Run(ctx) }()
	time.Sleep(time.Second)
	act(ctx)
	time.Sleep(time.Second)
	stop()
	<-ended
	shared.Shutdown()
}

func phaseOf(t *testing.T, client *fake.Clientset, name string) corev1.PersistentVolumePhase {
	t.Helper()
	v, err := client.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return v.Status.Phase
}

// A claim may go between the two writes that bind it: it does not name its volume yet, which is kept for it. Its end must wake
// the volume.
func TestTheEndOfAClaimWakesTheVolumeThatIsKeptForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := volume("v", "1Gi", of("c", "uid-c"))
		v.Status.Phase = corev1.VolumeBound
		client := fake.NewClientset(v, claim("2Gi")) // more than v has, so that they are not bound meanwhile
		watched(t, client, func(ctx context.Context) {
			if err := client.CoreV1().PersistentVolumeClaims("n").Delete(ctx, "c", metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
		if got := phaseOf(t, client, "v"); got != corev1.VolumeReleased {
			t.Errorf("the volume is %s", got)
		}
	})
}

// After a gap in the watch a claim that went and one that came under its name look like one change.
func TestAnotherClaimOfThatNameWakesTheVolumeOfTheFormer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := volume("v", "1Gi", of("c", "uid-c"))
		v.Status.Phase = corev1.VolumeBound
		client := fake.NewClientset(v, claim("2Gi"))
		watched(t, client, func(ctx context.Context) {
			next := claim("2Gi")
			next.UID = "uid-next"
			if _, err := client.CoreV1().PersistentVolumeClaims("n").Update(ctx, next, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		})
		if got := phaseOf(t, client, "v"); got != corev1.VolumeReleased {
			t.Errorf("the volume is %s", got)
		}
	})
}

// The cache may not know yet that a claim has taken the volume that was chosen for it.
func TestAVolumeThatGoesIsNotTakenFromItsClaimByALateCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := metav1.Now()
		v := volume("v", "1Gi", of("c", "uid-c"))
		v.Annotations = map[string]string{boundByController: "yes"}
		v.Finalizers, v.DeletionTimestamp = []string{"kubernetes.io/pv-protection"}, &now
		v.Status.Phase = corev1.VolumeBound
		client := fake.NewClientset(v, claim("2Gi"))
		client.PrependReactor("get", "persistentvolumeclaims", func(clienttesting.Action) (bool, runtime.Object, error) {
			live := claim("2Gi")
			live.Spec.VolumeName = "v"
			return true, live, nil
		})
		watched(t, client, func(context.Context) {})
		got, err := client.CoreV1().PersistentVolumes().Get(t.Context(), "v", metav1.GetOptions{})
		if err != nil || got.Spec.ClaimRef == nil {
			t.Errorf("the volume is of %v (%v)", got.Spec.ClaimRef, err)
		}
	})
}
