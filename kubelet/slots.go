package kubelet

import (
	"context"
	"slices"
	"sync"
	"time"
)

// slots bound what is being done at once: more side by side only makes each slower. Who waits longest is next among those
// that do the same. Of those that begin a container comes before any sandbox: of many pods that begin together the first ones
// then run soon, and none later. Of those that end they take turns: all are told so soon, and the first are soon gone, so
// that others have their room.
type slots struct {
	// patience is for how long a slot can be held. What takes longer waits for something else than the processor, for one
	// that is stuck or is taking leave: it must not stop all others.
	patience [turns]time.Duration
	// before are slots that go before these: while any of them is held, patience is not less than yielding. May be nil.
	before *slots
	size   int
	// inTurns has containers and sandboxes take turns; else containers go first.
	inTurns bool

	mu   sync.Mutex
	free int
	last turn // that was passed on to
	// waiting have the oldest first; a closed channel has been given a slot. All are empty while free > 0.
	waiting [turns][]chan struct{}
}

// turn is what a slot is wanted for; the least comes first.
type turn int

const (
	atOnce    turn = iota // an end without grace: somebody is in need
	container             // of a pod, that begins or ends
	sandbox
	turns
)

// newStarts gives slots for making sandboxes and containers. What takes long there is a network plugin or a shim.
func newStarts(n int) *slots {
	const patience = 10 * time.Second
	return &slots{size: n, free: n, patience: [turns]time.Duration{container: patience, sandbox: patience}}
}

// yielding is how long an end keeps its slot at least while something begins. A signal takes 40 ms of a processor, so that
// on a busy machine it is not out when a slot that nobody waits for goes on: of a hundred ends twenty would then be under
// way beside a start that waits for the processor. A hundred that take all their grace are signalled within 13 seconds.
const yielding = 500 * time.Millisecond

// newEnds gives slots for ending them. A container that was signalled may take all its grace, and does not need the
// processor for that; a hundred that do are all signalled within three seconds by four slots. What begins goes before.
func newEnds(n int, starts *slots) *slots {
	const signalled = 100 * time.Millisecond
	return &slots{size: n, free: n, before: starts, inTurns: true, patience: [turns]time.Duration{atOnce: signalled, container: signalled, sandbox: 3 * time.Second}}
}

// take waits for a slot.
func (s *slots) take(ctx context.Context, what turn) (release func(), err error) {
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return s.held(what), nil
	}
	given := make(chan struct{})
	s.waiting[what] = append(s.waiting[what], given)
	s.mu.Unlock()
	select {
	case <-given:
		return s.held(what), nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := slices.Index(s.waiting[what], given); at >= 0 {
		s.waiting[what] = slices.Delete(s.waiting[what], at, at+1)
	} else {
		s.nextLocked() // it was given one at the same time
	}
	return nil, ctx.Err()
}

// held is the right to a slot; it ends when it is released, or by itself.
func (s *slots) held(what turn) (release func()) {
	end := sync.OnceFunc(s.release)
	late := time.AfterFunc(s.patience[what], func() {
		if s.before == nil || !s.before.busy() {
			end()
		}
	})
	last := time.AfterFunc(max(s.patience[what], yielding), end)
	return func() {
		late.Stop()
		last.Stop()
		end()
	}
}

// busy says whether any slot is held.
func (s *slots) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.free < s.size
}

func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextLocked()
}

// nextLocked passes a slot on.
func (s *slots) nextLocked() {
	order := [...]turn{atOnce, container, sandbox}
	if s.inTurns && s.last == container {
		order = [...]turn{atOnce, sandbox, container}
	}
	for _, what := range order {
		if queue := s.waiting[what]; len(queue) > 0 {
			close(queue[0])
			s.waiting[what], s.last = slices.Delete(queue, 0, 1), what
			return
		}
	}
	s.free++
}
