package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"
)

// slowSink takes a while for each event, and has some troubles before it takes any.
type slowSink struct {
	takes time.Duration

	mu       sync.Mutex
	troubles []error
	events   []*corev1.Event
	patched  int
}

func (s *slowSink) CreateWithEventNamespaceWithContext(_ context.Context, e *corev1.Event) (*corev1.Event, error) {
	time.Sleep(s.takes)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.troubles) > 0 {
		err := s.troubles[0]
		s.troubles = s.troubles[1:]
		return nil, err
	}
	s.events = append(s.events, e)
	return e, nil
}

func (s *slowSink) PatchWithEventNamespaceWithContext(_ context.Context, e *corev1.Event, _ []byte) (*corev1.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.patched++
	return e, nil
}

// writing records by f, and returns what was written a while later.
func writing(t *testing.T, sink *slowSink, f func(w *eventWriter)) (w *eventWriter) {
	w = newEventWriter(sink, slog.New(slog.DiscardHandler))
	if err := metrics.NewKubeRegistry().Register(w.dropped); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.run(ctx) }()
	f(w)
	time.Sleep(10 * time.Minute)
	stop()
	<-done
	return w
}

func dropped(t *testing.T, w *eventWriter) float64 {
	t.Helper()
	n, err := testutil.GetCounterMetricValue(w.dropped)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// In a rush bindings go first, but not for long, and not while ever more events come.
func TestEventsGiveWay(t *testing.T) {
	pod := &corev1.Pod{}
	pod.Name, pod.Namespace, pod.UID = "p", "n", "u"
	for _, tt := range []struct {
		name      string
		events    int
		rush      time.Duration
		none, all time.Duration // since their begin: when none is written yet, and when all are
	}{
		{"no rush", 1, 0, 0, time.Millisecond},
		{"a short rush", 1, time.Second, 900 * time.Millisecond, 1100 * time.Millisecond},
		{"a long rush", 1, time.Hour, 1900 * time.Millisecond, 2100 * time.Millisecond},
		{"more than may wait", eventShards*courteousEvents + 1000, time.Hour, time.Second, 2100 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, sink := time.Now(), &slowSink{}
				written := func() int {
					sink.mu.Lock()
					defer sink.mu.Unlock()
					return len(sink.events)
				}
				w := newEventWriter(sink, slog.New(slog.DiscardHandler))
				w.rush = func() bool { return time.Since(began) < tt.rush }
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); w.run(ctx) }()
				defer func() { stop(); <-done }()
				for i := range tt.events {
					p := pod.DeepCopy()
					p.Name, p.UID = fmt.Sprint("p", i), types.UID(fmt.Sprint("u", i))
					w.recorder("c", "host").Eventf(p, nil, corev1.EventTypeNormal, "R", "Doing", "m")
				}
				time.Sleep(tt.none)
				synctest.Wait()
				if n := written(); tt.none > 0 && (n == 0) != (tt.events == 1) {
					t.Errorf("after %v %d are written", tt.none, n)
				}
				time.Sleep(tt.all - tt.none)
				synctest.Wait()
				if n := written(); n != tt.events {
					t.Errorf("after %v %d of %d are written", tt.all, n, tt.events)
				}
			})
		})
	}
}

// Thousands of pods are scheduled at once, and each is told, in order, though the API server is slow.
func TestEventsAreNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pods = 5000
		sink := &slowSink{takes: 20 * time.Millisecond}
		began := time.Now()
		w := writing(t, sink, func(w *eventWriter) {
			r := w.recorder("default-scheduler", "host")
			for i := range pods {
				p := testPod(fmt.Sprint("p", i))
				r.Eventf(p, nil, corev1.EventTypeWarning, "FailedScheduling", "Doing", "no room")
				r.Eventf(p, nil, corev1.EventTypeNormal, "Scheduled", "Binding", "Successfully assigned %v/%v to %v", p.Namespace, p.Name, "n")
			}
			if waited := time.Since(began); waited > 0 {
				t.Errorf("recording took %v", waited)
			}
		})
		last := map[string]string{}
		for _, e := range sink.events {
			last[e.InvolvedObject.Name] = e.Reason
		}
		scheduled := 0
		for _, reason := range last {
			if reason == "Scheduled" {
				scheduled++
			}
		}
		if len(sink.events) != 2*pods || scheduled != pods || dropped(t, w) != 0 {
			t.Errorf("%d events, %d pods were told last that they are scheduled, %v dropped", len(sink.events), scheduled, dropped(t, w))
		}
		if e := sink.events[0]; e.Source.Component != "default-scheduler" || e.ReportingController != "default-scheduler" || e.ReportingInstance != "default-scheduler-host" || e.Action != "Doing" || e.Related != nil || e.Namespace != "default" || e.InvolvedObject.Kind != "Pod" {
			t.Errorf("%+v", e)
		}
	})
}

func TestEventsThatDoNotFitAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &slowSink{takes: time.Millisecond}
		const many = queuedEvents + 1000 // at once
		w := writing(t, sink, func(w *eventWriter) {
			for i := range many {
				p := testPod(fmt.Sprint("p", i))
				p.UID = "one shard"
				w.recorder("s", "host").Eventf(p, nil, corev1.EventTypeNormal, "Scheduled", "Doing", "message %d", i)
			}
		})
		if n := dropped(t, w); n < 900 || n > 1000 {
			t.Errorf("%v of %d dropped, %d written", n, many, len(sink.events))
		}
	})
}

func TestEventsAreTriedAgain(t *testing.T) {
	for _, tc := range []struct {
		name     string
		troubles []error
		written  int
	}{
		{"no trouble", nil, 1},
		{"nobody answers", []error{errors.New("connection refused"), errors.New("connection refused")}, 1},
		{"too busy", []error{apierrors.NewTooManyRequests("later", 1)}, 1},
		{"refused", []error{apierrors.NewBadRequest("no")}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			sink := &slowSink{troubles: tc.troubles}
			writing(t, sink, func(w *eventWriter) {
				w.recorder("s", "host").Eventf(testPod("p"), nil, corev1.EventTypeNormal, "Scheduled", "Doing", "m")
			})
			if len(sink.events) != tc.written {
				t.Errorf("%s: %d written", tc.name, len(sink.events))
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		sink := &slowSink{}
		writing(t, sink, func(w *eventWriter) {
			for range 3 {
				w.recorder("s", "host").Eventf(testPod("p"), nil, corev1.EventTypeWarning, "FailedScheduling", "Doing", "no room")
			}
		})
		if len(sink.events) != 1 || sink.patched != 2 {
			t.Errorf("repetitions: %d written, %d patched", len(sink.events), sink.patched)
		}
	})
}

// An event says who else had to do with it, and a note that is no format stays as it is.
func TestEventsTellWhoElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &slowSink{}
		writing(t, sink, func(w *eventWriter) {
			w.recorder("s", "host").Eventf(testPod("victim"), testPod("high"), corev1.EventTypeNormal, "Preempted", "Preempting", "%s", "100% taken")
		})
		if len(sink.events) != 1 {
			t.Fatalf("%d events", len(sink.events))
		}
		if e := sink.events[0]; e.InvolvedObject.Name != "victim" || e.Related == nil || e.Related.Name != "high" || e.Related.Kind != "Pod" || e.Action != "Preempting" || e.Message != "100% taken" {
			t.Errorf("%+v", e)
		}
	})
}
