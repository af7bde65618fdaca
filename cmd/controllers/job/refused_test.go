package job

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
)

// A pod that a quota refuses is tried again after a second, then two, then four.
func TestARefusedPodIsNotTriedAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j", Namespace: "ns", UID: "u"}}
		job.Spec = batchv1.JobSpec{Parallelism: ptr[int32](1), Completions: ptr[int32](1), BackoffLimit: ptr[int32](6),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}
		client := fake.NewClientset(job)
		tries := 0
		client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			tries++
			return true, nil, apierrors.NewForbidden(corev1.Resource("pods"), "", nil)
		})
		shared := informers.NewSharedInformerFactory(client, 0)
		c, err := New(client, shared, &record.FakeRecorder{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		shared.Start(ctx.Done())
		go func() { ended <- c.Run(ctx) }()
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if tries < 3 || tries > 4 { // one of them is due to the status that was written
			t.Errorf("%d tries in six seconds", tries)
		}
		stop()
		<-ended
		shared.Shutdown()
	})
}
