package scheduler

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"
)

// A pod whose binding was written though its answer was lost keeps its place on the node, which would be filled twice
// otherwise; one that was refused gives it back. While the API is away, nobody knows.
func TestALostAnswerIsAskedFor(t *testing.T) {
	lost := errors.New("connection reset by peer")
	for _, tc := range []struct {
		name    string
		written bool
		err     error
		away    time.Duration
		kept    bool
	}{
		{"written, and the answer lost", true, lost, 0, true},
		{"written, and then the API was away", true, lost, time.Minute, true},
		{"never written", false, lost, 0, false},
		{"timed out, and written", true, apierrors.NewInternalError(errors.New("etcdserver: request timed out")), 0, true},
		{"refused", false, apierrors.NewConflict(corev1.Resource("pods"), "p", errors.New("bound")), 0, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			pod := testPod("p", minor, cpu("2"))
			client := fake.NewClientset(pod)
			began := time.Now()
			client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
				if bound := pod.DeepCopy(); tc.written {
					bound.Spec.NodeName = "a"
					if err := client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), bound, bound.Namespace); err != nil {
						t.Error(err)
					}
				}
				return true, nil, tc.err
			})
			client.PrependReactor("get", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
				return time.Since(began) < tc.away, nil, errors.New("connection refused")
			})
			recorders := map[string]Recorder{corev1.DefaultSchedulerName: &events.FakeRecorder{}}
			s, err := New(Defaults(), client, informers.NewSharedInformerFactory(client, 0), recorders, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			s.cluster.setNode(testNode("a"))
			p := NewPod(pod)
			verdict, _ := s.cluster.place(&Request{Pod: p, Profile: s.config.Profiles[corev1.DefaultSchedulerName]})
			if verdict.Node != "a" {
				t.Fatalf("%s: placed on %q: %s", tc.name, verdict.Node, verdict.Message)
			}
			s.bind(t.Context(), p, verdict, began)
			if kept := s.cluster.has(p.UID); kept != tc.kept {
				t.Errorf("%s: keeps its place: %t", tc.name, kept)
			}
		})
	}
}
