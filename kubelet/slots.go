package kubelet

import (
	"context"
	"slices"
	"sync"
	"time"
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
		return s.held(), nil
	}
	turn := make(chan struct{})
	*queue = append(*queue, turn)
	s.mu.Unlock()
	select {
	case <-turn:
		return s.held(), nil
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

// slotPatience is for how long a slot can be held. What takes longer waits for something that is stuck, a network plugin
// or a shim, and not for the processor: some stuck pods must not stop all others.
const slotPatience = 10 * time.Second

// held is the right to a slot; it ends when it is released, or by itself.
func (s *slots) held() (release func()) {
	end := sync.OnceFunc(s.release)
	late := time.AfterFunc(slotPatience, end)
	return func() {
		late.Stop()
		end()
	}
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
