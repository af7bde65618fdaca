package kubelet

import (
	"context"
	"slices"
	"sync"
)

// slots bound what is being made at once: more side by side only make each slower. Who waits longest is next, but a
// container comes before any sandbox: of many pods that begin together the first ones then run soon, and none later.
type slots struct {
	mu   sync.Mutex
	free int
	// containers and sandboxes wait, the oldest first; a closed channel has been given a slot. Both are empty while free > 0.
	containers, sandboxes []chan struct{}
}

func newSlots(n int) *slots { return &slots{free: n} }

// forContainer waits for the right to make a container.
func (s *slots) forContainer(ctx context.Context) (release func(), err error) {
	return s.take(ctx, &s.containers)
}

// forSandbox waits for the right to make a sandbox.
func (s *slots) forSandbox(ctx context.Context) (release func(), err error) {
	return s.take(ctx, &s.sandboxes)
}

func (s *slots) take(ctx context.Context, queue *[]chan struct{}) (func(), error) {
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return s.release, nil
	}
	turn := make(chan struct{})
	*queue = append(*queue, turn)
	s.mu.Unlock()
	select {
	case <-turn:
		return s.release, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := slices.Index(*queue, turn); at >= 0 {
		*queue = slices.Delete(*queue, at, at+1)
	} else {
		s.nextLocked() // it was given one at the same time
	}
	return nil, ctx.Err()
}

func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextLocked()
}

// nextLocked passes a slot on.
func (s *slots) nextLocked() {
	for _, queue := range []*[]chan struct{}{&s.containers, &s.sandboxes} {
		if len(*queue) > 0 {
			close((*queue)[0])
			*queue = slices.Delete(*queue, 0, 1)
			return
		}
	}
	s.free++
}
