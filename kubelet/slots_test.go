package kubelet

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestSlotsGoToContainersFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		release, err := s.forSandbox(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		wait := func(ctx context.Context, name string, take func(context.Context) (func(), error)) {
			go func() {
				release, err := take(ctx)
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
		wait(t.Context(), "sandbox 1", s.forSandbox)
		wait(ended, "sandbox 2", s.forSandbox)
		wait(t.Context(), "sandbox 3", s.forSandbox)
		wait(t.Context(), "container 1", s.forContainer)
		wait(t.Context(), "container 2", s.forContainer)
		end()
		synctest.Wait()
		release()
		synctest.Wait()
		if want := []string{"sandbox 2 gave up", "container 1", "container 2", "sandbox 1", "sandbox 3"}; !slices.Equal(order, want) {
			t.Errorf("order %q, want %q", order, want)
		}
		if s.free != 1 {
			t.Errorf("%d slots are free at the end, want 1", s.free)
		}
	})
}

// A slot that is given to somebody who gives up at the same time must not be lost.
func TestSlotsAreNotLost(t *testing.T) {
	s := newSlots(2)
	done := make(chan struct{})
	const takers = 200
	for i := range takers {
		go func() {
			ctx, cancel := context.WithCancel(t.Context())
			go cancel()
			take := s.forContainer
			if i%2 == 0 {
				take = s.forSandbox
			}
			release, err := take(ctx)
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
	if s.free != 2 || len(s.containers)+len(s.sandboxes) > 0 {
		t.Errorf("%d free, %d and %d wait; want 2 free", s.free, len(s.containers), len(s.sandboxes))
	}
}

func TestStuckHoldersLoseTheirSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		stuck, err := s.forSandbox(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		next, err := s.forSandbox(t.Context())
		if err != nil || time.Since(begun) != slotPatience {
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
