package probe

import (
	"context"
	"fmt"
	"log/slog"
	goruntime "runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// crowd makes probes of n pods, each asked by two every ten seconds, that began evenly in the first nine of them.
func crowd(t testing.TB, n int, attempt attempt) (*Probes, func()) {
	t.Helper()
	p, err := New(Config{Runtime: &node{}, Log: slog.New(slog.DiscardHandler), Changed: func(Verdict) {}, attempt: attempt})
	if err != nil {
		t.Fatal(err)
	}
	return p, func() {
		begun := time.Now()
		for i := range n {
			pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprint(i))}, Spec: v1.PodSpec{Containers: []v1.Container{
				{Name: "c", LivenessProbe: ask("live", 0, 10, 3), ReadinessProbe: ask("ready", 0, 10, 3)}}}}
			p.Sync(pod, "10.0.0.1", []Container{{Name: "c", ID: "id", Started: begun.Add(time.Duration(i) * 9 * time.Second / time.Duration(n))}})
		}
	}
}

// Five thousand containers that are asked twice each, and answer in 5 ms, need a goroutine for each question that is out, not
// for each probe; and every one is asked in every period.
func TestThousandsOfProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pods, periods = 5000, 6
		var asked, most atomic.Int64
		before := int64(goruntime.NumGoroutine())
		p, fill := crowd(t, pods, func(context.Context, target) answer {
			asked.Add(1)
			if n := int64(goruntime.NumGoroutine()) - before; n > most.Load() {
				most.Store(n)
			}
			time.Sleep(5 * time.Millisecond)
			return answer{result: success}
		})
		fill()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		time.Sleep(periods*10*time.Second - 500*time.Millisecond)
		cancel()
		<-done
		if want := int64(2 * pods * periods); asked.Load() != want {
			t.Errorf("asked %d times, want %d", asked.Load(), want)
		}
		if most.Load() > 40 {
			t.Errorf("there were %d goroutines at once for %d probes", most.Load(), 2*pods)
		}
	})
}

// What ends leaves nothing behind to be looked at.
func TestAgendaForgets(t *testing.T) {
	p, fill := crowd(t, 100, nil)
	fill()
	fill() // the same containers again
	if len(p.agenda) != 200 {
		t.Fatalf("%d wait for their time, want 200", len(p.agenda))
	}
	for i := range 50 {
		p.EndLiveness(types.UID(fmt.Sprint(i)))
	}
	if len(p.agenda) != 150 {
		t.Errorf("%d wait after liveness ended for half, want 150", len(p.agenda))
	}
	for i := range 100 {
		p.Remove(types.UID(fmt.Sprint(i)))
	}
	if len(p.agenda)+len(p.workers) != 0 {
		t.Errorf("%d and %d are left", len(p.agenda), len(p.workers))
	}
}

// A liveness probe ends with the pod's life, and the startup probe too: readiness, which waited for it, goes on.
func TestReadinessOutlivesStartup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{begun: time.Now(), sick: map[string]bool{"start": true}}
		p, err := New(Config{Runtime: n, Log: slog.New(slog.DiscardHandler), attempt: n.attempt, Changed: func(v Verdict) { n.note("%s %v", v.Kind, v.OK) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: v1.PodSpec{Containers: []v1.Container{
			{Name: "c", StartupProbe: ask("start", 0, 1, 100), ReadinessProbe: ask("ready", 0, 1, 1)}}}}
		p.Sync(pod, "10.0.0.1", []Container{{Name: "c", ID: "id", Started: time.Now()}})
		time.Sleep(5500 * time.Millisecond)
		p.EndLiveness("u")
		time.Sleep(100 * time.Millisecond)
		cancel()
		<-done
		if last := n.events[len(n.events)-1]; last != "5.5s Readiness true" {
			t.Errorf("the last event is %q, want readiness at once", last)
		}
	})
}

func BenchmarkLaunch(b *testing.B) {
	p, fill := crowd(b, 2500, nil)
	fill()
	now := time.Now().Add(-time.Hour)
	for b.Loop() {
		p.launch(now, func(*worker, target) {})
	}
}
