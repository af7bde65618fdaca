package scheduler

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func priority(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }

func TestQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(time.Now, time.Second, 10*time.Second, func(string, string) {})
		q.put(NewPod(testPod("first")))
		time.Sleep(time.Millisecond)
		q.put(NewPod(testPod("second")))
		q.put(NewPod(testPod("important", priority(5))))
		for _, want := range []string{"important", "first", "second"} {
			if got := q.next(t.Context()); got.Name != want {
				t.Errorf("got %s, want %s", got.Name, want)
			}
		}
	})
}

// Pods that came, failed and may be tried again at the same moments have an order all the same.
func TestQueueOrderAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(time.Now, time.Second, 10*time.Second, func(string, string) {})
		var want []string
		for i := range 8 {
			want = append(want, fmt.Sprint("p", i))
			q.put(NewPod(testPod(want[i])))
		}
		for range want {
			q.fail(q.next(t.Context()).UID, byNodeAffinity)
		}
		q.happened(change{event: nodeLabelled})
		var got []string
		for range want {
			got = append(got, q.next(t.Context()).Name)
		}
		if !slices.Equal(want, got) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestQueueWaitsForTheRightEventAndTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(time.Now, time.Second, 10*time.Second, func(string, string) {})
		q.put(NewPod(testPod("p")))
		q.next(t.Context())
		q.fail("p", byNodeAffinity)
		limited, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		q.happened(change{event: podGone})
		start := time.Now()
		time.AfterFunc(20*time.Millisecond, func() { q.happened(change{event: nodeLabelled}) })
		if got := q.next(limited); got == nil {
			t.Fatal("the event did not release the pod")
		}
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("tried again after %v, want %v", waited, time.Second)
		}
	})
}

func TestQueueRemembersEventsDuringATry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(time.Now, time.Second, 10*time.Second, func(string, string) {})
		q.put(NewPod(testPod("p")))
		q.next(t.Context())
		q.happened(change{event: nodeLabelled}) // between the decision and its outcome
		q.fail("p", byNodeAffinity)
		limited, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if q.next(limited) == nil {
			t.Error("an event during the try was lost")
		}
	})
}

// A pod whose binding failed needs no event, only its back-off; of a try that has ended, nobody can ask that again.
func TestQueueTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(time.Now, time.Second, 10*time.Second, func(string, string) {})
		q.put(NewPod(testPod("p")))
		limited, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		q.next(limited)
		q.again("p")
		q.again("p")
		if q.next(limited) == nil || time.Since(began) != time.Second {
			t.Errorf("tried again after %v", time.Since(began))
		}
		q.fail("p", byNodeAffinity)
		q.again("p")
		if q.next(limited) != nil {
			t.Errorf("tried after %v, though nothing happened that could help", time.Since(began))
		}
	})
}

func TestQueueForgetsDroppedPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(time.Now, time.Second, 10*time.Second, func(string, string) {})
		q.put(NewPod(testPod("p")))
		q.drop("p")
		limited, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got := q.next(limited); got != nil {
			t.Errorf("got %s, which was dropped", got.Name)
		}
	})
}

func TestQueueCountsItsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		came := map[string]int{}
		q := newQueue(time.Now, time.Second, 10*time.Second, func(queue, event string) { came[queue+" "+event]++ })
		gated := func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }
		for _, p := range []*corev1.Pod{testPod("a", priority(9)), testPod("b", priority(8), gated), testPod("c", priority(7)), testPod("d")} {
			q.put(NewPod(p))
		}
		for range 3 {
			q.fail(q.next(t.Context()).UID, byNodeAffinity)
		}
		q.happened(change{event: podGone})
		if n := q.sizes(); n[queueActive] != 1 || n[queueUnschedulable] != 2 || n[queueGated] != 1 || n[queueBackoff] != 0 {
			t.Errorf("sizes %v", n)
		}
		if n := q.refused(); n[refusal{nodeAffinity, ""}] != 3 || n[refusal{"SchedulingGates", ""}] != 1 || len(n) != 2 {
			t.Errorf("refused %v", n)
		}
		q.happened(change{event: nodeLabelled})
		if n := q.sizes(); n[queueBackoff] != 3 || came["active PodAdd"] != 4 || came["unschedulable ScheduleAttemptFailure"] != 2 || came["gated ScheduleAttemptFailure"] != 1 || came["backoff NodeUpdateNodeLabel"] != 3 {
			t.Errorf("sizes %v, came %v", n, came)
		}
		if attempts, _ := q.history("a"); attempts != 1 {
			t.Errorf("a was tried %d times", attempts)
		}
	})
}
