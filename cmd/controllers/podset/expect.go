package podset

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// patience is how long an expectation holds a controller up. An event that has not
// come by then was lost with the watch, and the cache has been listed anew.
const patience = 5 * time.Minute

// Expectations remembers what a controller has done to an owner's pods and has not yet
// seen in its cache. While something is expected the cache is behind, and acting on it
// would do the same thing twice. The zero value is ready.
type Expectations struct {
	mu  sync.Mutex
	all map[string]*expected
}

type expected struct {
	creations int
	deletions map[types.UID]bool
	since     time.Time
}

// Expect says that key's controller is about to create and delete pods. It replaces
// what was expected before.
func (e *Expectations) Expect(key string, creations int, deletions []types.UID) {
	gone := make(map[types.UID]bool, len(deletions))
	for _, uid := range deletions {
		gone[uid] = true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all == nil {
		e.all = map[string]*expected{}
	}
	e.all[key] = &expected{creations: creations, deletions: gone, since: time.Now()}
}

// Created says that a pod of key was seen, or that making it failed.
func (e *Expectations) Created(key string) { e.CreatedN(key, 1) }

// CreatedN says Created n times.
func (e *Expectations) CreatedN(key string, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.all[key]; x != nil {
		x.creations -= n
	}
}

// Deleted says that the end of key's pod was seen, or that deleting it failed.
func (e *Expectations) Deleted(key string, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.all[key]; x != nil {
		delete(x.deletions, uid)
	}
}

// Satisfied tells that the cache shows all that was done for key.
func (e *Expectations) Satisfied(key string) bool { return e.Left(key) == 0 }

// Left is how long key may still be held up: whoever finds it so looks again then, for the event that it waits for may
// never come, and nothing else may happen. It is 0 where the cache shows all that was done.
func (e *Expectations) Left(key string) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leftLocked(key)
}

func (e *Expectations) leftLocked(key string) time.Duration {
	x := e.all[key]
	if x == nil || x.creations <= 0 && len(x.deletions) == 0 {
		return 0
	}
	return max(0, patience-time.Since(x.since))
}

// Going parts pods into those that stay, and those that key's controller has deleted though the cache does not show it.
func (e *Expectations) Going(key string, pods []*corev1.Pod) (stay, going []*corev1.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.leftLocked(key) == 0 {
		return pods, nil
	}
	for _, pod := range pods {
		if e.all[key].deletions[pod.UID] {
			going = append(going, pod)
		} else {
			stay = append(stay, pod)
		}
	}
	return stay, going
}

// Forget drops key, whose owner is gone.
func (e *Expectations) Forget(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.all, key)
}
