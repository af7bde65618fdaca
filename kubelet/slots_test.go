package kubelet

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhoIsNext(t *testing.T) {
	for _, tt := range []struct {
		name  string
		slots *slots
		want  []string
	}{
		{"begin", newStarts(1), []string{"sandbox 2 gave up", "container 1", "container 2", "sandbox 1", "sandbox 3"}},
		{"end", newEnds(1, nil), []string{"sandbox 2 gave up", "at once", "container 1", "sandbox 1", "container 2", "sandbox 3"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := tt.slots
				release, err := s.take(t.Context(), sandbox)
				if err != nil {
					t.Fatal(err)
				}
				var order []string
				wait := func(ctx context.Context, name string, what turn) {
					go func() {
						release, err := s.take(ctx, what)
						if err != nil {
							order = append(order, name+" gave up")
							return
						}
						order = append(order, name)
						release()
					}()
					synctest.Wait()
				}
				ended, end := context.WithCancel(t.Context())
				wait(t.Context(), "sandbox 1", sandbox)
				wait(ended, "sandbox 2", sandbox)
				wait(t.Context(), "sandbox 3", sandbox)
				wait(t.Context(), "container 1", container)
				wait(t.Context(), "container 2", container)
				if s.inTurns {
					wait(t.Context(), "at once", atOnce)
				}
				end()
				synctest.Wait()
				release()
				synctest.Wait()
				if !slices.Equal(order, tt.want) {
					t.Errorf("order %q, want %q", order, tt.want)
				}
				if s.free != 1 {
					t.Errorf("%d slots are free at the end, want 1", s.free)
				}
			})
		})
	}
}

// A slot that is given to somebody who gives up at the same time must not be lost.
func TestSlotsAreNotLost(t *testing.T) {
	s := newStarts(2)
	done := make(chan struct{})
	const takers = 200
	for i := range takers {
		go func() {
			ctx, cancel := context.WithCancel(t.Context())
			go cancel()
			release, err := s.take(ctx, turn(i%int(turns)))
			if err == nil {
				release()
			} else if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			done <- struct{}{}
		}()
	}
	for range takers {
		<-done
	}
	if s.free != 2 || len(slices.Concat(s.waiting[:]...)) > 0 {
		t.Errorf("%d free, %v wait; want 2 free", s.free, s.waiting)
	}
}

func TestStuckHoldersLoseTheirSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStarts(1)
		stuck, err := s.take(t.Context(), sandbox)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		next, err := s.take(t.Context(), sandbox)
		if err != nil || time.Since(begun) != s.patience[sandbox] {
			t.Fatalf("the next one began after %v: %v", time.Since(begun), err)
		}
		stuck() // at last: it has none to give back any more
		if s.free != 0 {
			t.Error("a slot was given back twice")
		}
		next()
		if s.free != 1 {
			t.Errorf("%d slots are free at the end, want 1", s.free)
		}
	})
}

// Of a hundred containers that take all their grace each is signalled within three seconds, and one that has none is before all.
func TestACrowdEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEnds(4, newStarts(4))
		begun := time.Now()
		signalled, urgent := time.Duration(0), time.Duration(0)
		var mu sync.Mutex
		var group sync.WaitGroup
		stop := func(what turn, grace time.Duration, at *time.Duration) {
			group.Go(func() {
				release, err := s.take(t.Context(), what)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				*at = max(*at, time.Since(begun))
				mu.Unlock()
				time.Sleep(grace)
				release()
			})
			synctest.Wait()
		}
		for range 100 {
			stop(container, 30*time.Second, &signalled)
		}
		stop(atOnce, 0, &urgent)
		group.Wait()
		if signalled > 3*time.Second || signalled < time.Second {
			t.Errorf("the last container was signalled after %v, want one to three seconds", signalled)
		}
		if urgent > 100*time.Millisecond {
			t.Errorf("one without grace was signalled after %v", urgent)
		}
		if s.free != 4 {
			t.Errorf("%d slots are free at the end, want 4", s.free)
		}
	})
}

// While a pod begins, those of a crowd that ends wait for each other: what they take of the processors it has to wait for.
func TestEndsGiveWayToStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		starts := newStarts(4)
		ends := newEnds(4, starts)
		begun, err := starts.take(t.Context(), sandbox)
		if err != nil {
			t.Fatal(err)
		}
		var signalled atomic.Int32
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				release, err := ends.take(t.Context(), container)
				if err != nil {
					t.Error(err)
					return
				}
				signalled.Add(1)
				time.Sleep(30 * time.Second)
				release()
			})
			synctest.Wait() // one after the other, for the sake of the count
		}
		time.Sleep(2*yielding - time.Millisecond)
		synctest.Wait()
		if signalled.Load() != 8 {
			t.Errorf("%d of a hundred were signalled while a pod began for %v, want 8", signalled.Load(), 2*yielding)
		}
		begun()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if signalled.Load() != 100 {
			t.Errorf("%d of a hundred were signalled three seconds later", signalled.Load())
		}
		group.Wait()
		if starts.free != 4 || ends.free != 4 {
			t.Errorf("%d and %d slots are free at the end, want 4 of each", starts.free, ends.free)
		}
	})
}
