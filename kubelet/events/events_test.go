package events

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	goruntime "runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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

// What is remembered of thousands of pods that came and went is little, for it is kept for minutes.
func TestRemembersLittle(t *testing.T) {
	c, s := &counter{told: map[key]told{}, spent: map[types.UID]bucket{}}, forgetful{}
	live := func() uint64 {
		goruntime.GC()
		var m goruntime.MemStats
		goruntime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := live()
	for i := range 1000 {
		for _, reason := range []string{"Scheduled", "Pulled", "Created", "Started"} {
			pod := fmt.Sprintf("some-deployment-5d4f8c7b9-%05d", i)
			e := &v1.Event{ObjectMeta: metav1.ObjectMeta{Name: pod + "." + reason, Namespace: "some-namespace"}, Type: v1.EventTypeNormal, Reason: reason,
				Message:        fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod %s", strings.Repeat("registry.example.org/", 10), pod),
				InvolvedObject: v1.ObjectReference{Kind: "Pod", Namespace: "some-namespace", Name: pod, UID: types.UID(fmt.Sprintf("%036d", i)), FieldPath: "spec.containers{app}"}}
			if err := c.send(t.Context(), s, e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if grew := live() - before; grew > 1<<20 {
		t.Errorf("%d KB are held for %d events", grew>>10, len(c.told))
	}
	if len(c.told) != 4000 {
		t.Errorf("%d events are remembered, want 4000", len(c.told))
	}
}

// forgetful keeps no event.
type forgetful struct{}

func (forgetful) Create(_ context.Context, e *v1.Event) (*v1.Event, error) { return e, nil }
func (forgetful) Patch(context.Context, string, string, []byte) error      { return nil }
