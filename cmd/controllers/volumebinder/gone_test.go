package volumebinder

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

// A claim may go between the two writes that bind it: it does not name its volume yet, which is kept for it. Its end must wake
// the volume.
func TestTheEndOfAClaimWakesTheVolumeThatIsKeptForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := volume("v", "1Gi", of("c", "uid-c"))
		v.Status.Phase = corev1.VolumeBound
		going := claim("2Gi") // so that it is not bound meanwhile
		client := fake.NewClientset(v, going)
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
		if err := client.CoreV1().PersistentVolumeClaims("n").Delete(ctx, "c", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		got, err := client.CoreV1().PersistentVolumes().Get(ctx, "v", metav1.GetOptions{})
		if err != nil || got.Status.Phase != corev1.VolumeReleased {
			t.Errorf("the volume is %s (%v)", got.Status.Phase, err)
		}
		stop()
		<-ended
		shared.Shutdown()
	})
}
