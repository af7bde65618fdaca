package scheduler

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// tellings are the writes of pods' conditions that are under way, one of a pod at a time: of two at once the older may be carried out
// last, and what it says would stand for as long as the pod is not tried again, or on a pod that has a node by then.
type tellings struct {
	mu sync.Mutex
	of map[types.UID]*telling
}

type telling struct {
	next  func(after bool) // the newest that waits, nil for none
	ended chan struct{}
}

// add takes in a write, which is told whether it comes after another that the cache may not show yet. It returns what has to be
// run for it, which is nothing where that is under way already; of several that wait then the newest is written.
func (t *tellings) add(uid types.UID, write func(after bool)) (run func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if under := t.of[uid]; under != nil {
		under.next = write
		return func() {}
	}
	own := &telling{ended: make(chan struct{})}
	if t.of == nil {
		t.of = map[types.UID]*telling{}
	}
	t.of[uid] = own
	return func() {
		for after := false; write != nil; after = true {
			write(after)
			write = t.following(uid, own)
		}
	}
}

// following returns what waits, or ends it.
func (t *tellings) following(uid types.UID, own *telling) func(after bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := own.next
	if own.next = nil; next == nil {
		delete(t.of, uid)
		close(own.ended)
	}
	return next
}

// settle returns when nothing is being written of a pod any more. What waited is not written.
func (t *tellings) settle(ctx context.Context, uid types.UID) {
	t.mu.Lock()
	under := t.of[uid]
	if under != nil {
		under.next = nil
	}
	t.mu.Unlock()
	if under == nil {
		return
	}
	select {
	case <-under.ended:
	case <-ctx.Done():
	}
}
