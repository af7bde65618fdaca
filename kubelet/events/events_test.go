package events

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// store keeps events by name.
type store map[string]*v1.Event

func (s store) Create(_ context.Context, e *v1.Event) (*v1.Event, error) {
	c := *e
	s[e.Name] = &c
	return e, nil
}

func (s store) Patch(_ context.Context, _, name string, patch []byte) error {
	return json.Unmarshal(patch, s[name])
}

func TestRepetitionsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r, s := New("n1", slog.Default()), store{}
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}, Spec: v1.PodSpec{InitContainers: []v1.Container{{Name: "i"}}}}
		done := make(chan error)
		go func() { done <- r.Run(ctx, s) }()
		for range 3 {
			r.Pod(pod, "i", true, "BackOff", "again")
			synctest.Wait()
		}
		r.Pod(pod, "c", false, "Started", "Container started")
		time.Sleep(behind)
		synctest.Wait()
		cancel()
		<-done
		got := map[string]string{}
		for _, e := range s {
			got[e.Reason] = fmt.Sprint(e.Count, " ", e.Type, " ", e.InvolvedObject.FieldPath)
		}
		if len(got) != 2 || got["BackOff"] != "3 Warning spec.initContainers{i}" || got["Started"] != "1 Normal spec.containers{c}" {
			t.Errorf("events %v", got)
		}
	})
}

func TestFloodIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r, s := New("n1", slog.Default()), store{}
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}}
		for i := range 100 {
			r.Pod(pod, "", true, "FailedMount", fmt.Sprint(i))
		}
		done := make(chan error)
		go func() { done <- r.Run(ctx, s) }()
		synctest.Wait()
		cancel()
		<-done
		if len(s) != burst {
			t.Errorf("%d events, want %d", len(s), burst)
		}
	})
}
