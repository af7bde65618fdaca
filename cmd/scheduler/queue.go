package scheduler

import (
	"cmp"
	"container/heap"
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
)

// forgotten is when a pod is tried again though nothing that could help was seen.
const forgotten = 5 * time.Minute

// waiting is a pod in the queue.
type waiting struct {
	pod      *Pod
	attempts int
	added    time.Time
	tried    time.Time
	cure     event
	index    int
	// seen collects the events since the present attempt began; they may be what it missed.
	seen event
}

// queue holds the pods to place. A pod is ready to be tried, or waits for an event that
// may help it, and then for its back-off. It is safe for concurrent use.
type queue struct {
	now func() time.Time
	// The pause before a pod is tried again doubles from the one to the other.
	firstBackoff, lastBackoff time.Duration
	// came is told of each pod that comes into a queue, and what brought it; it must not block.
	came func(queue, event string)

	mu     sync.Mutex
	ready  readyHeap
	byUID  map[types.UID]*waiting
	parked map[types.UID]*waiting // waits for an event
	paused map[types.UID]*waiting // waits for its back-off
	trying map[types.UID]*waiting
	wake   chan struct{}
}

func newQueue(now func() time.Time, first, last time.Duration, came func(queue, event string)) *queue {
	return &queue{
		now: now, firstBackoff: first, lastBackoff: last, came: came, byUID: map[types.UID]*waiting{}, parked: map[types.UID]*waiting{}, paused: map[types.UID]*waiting{},
		trying: map[types.UID]*waiting{}, wake: make(chan struct{}, 1),
	}
}

// The queues by upstream's names.
const (
	queueActive        = "active"
	queueBackoff       = "backoff"
	queueUnschedulable = "unschedulable"
	queueGated         = "gated"
)

func queueNames() []string {
	return []string{queueActive, queueBackoff, queueUnschedulable, queueGated}
}

// home is where a pod that waits for an event waits.
func (w *waiting) home() string {
	if len(w.pod.Spec.SchedulingGates) > 0 {
		return queueGated
	}
	return queueUnschedulable
}

// sizes counts the pods in each queue.
func (q *queue) sizes() map[string]int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := map[string]int{queueActive: len(q.ready), queueBackoff: len(q.paused)}
	for _, w := range q.parked {
		n[w.home()]++
	}
	return n
}

// history returns how often the pod has been tried, and for how long it has been known.
func (q *queue) history(uid types.UID) (attempts int, age time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.byUID[uid]
	if w == nil {
		return 0, 0
	}
	return w.attempts, q.now().Sub(w.added)
}

// put adds pod, or takes a changed one's place. A changed pod is tried anew.
func (q *queue) put(pod *Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.byUID[pod.UID]
	switch {
	case w == nil:
		w = &waiting{pod: pod, added: q.now(), index: -1}
		q.byUID[pod.UID] = w
		q.activateLocked(w, "PodAdd")
	case q.parked[pod.UID] != nil && changed(w.pod, pod):
		w.pod = pod
		q.releaseLocked(w, "PodUpdate")
	default:
		w.pod = pod
	}
}

// changed tells whether anything that a decision reads differs.
func changed(old, pod *Pod) bool {
	return old.Generation != pod.Generation || len(old.Spec.SchedulingGates) != len(pod.Spec.SchedulingGates) ||
		len(old.Labels) != len(pod.Labels) || old.requests.CPU != pod.requests.CPU || old.requests.Memory != pod.requests.Memory
}

// drop forgets the pod.
func (q *queue) drop(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.byUID[uid]
	if w == nil {
		return
	}
	delete(q.byUID, uid)
	delete(q.parked, uid)
	delete(q.paused, uid)
	delete(q.trying, uid)
	if w.index >= 0 {
		heap.Remove(&q.ready, w.index)
	}
}

// next waits for a pod to try, the one of highest priority that waited longest.
func (q *queue) next(ctx context.Context) *Pod {
	for {
		q.mu.Lock()
		q.unpauseLocked()
		if len(q.ready) > 0 {
			w := heap.Pop(&q.ready).(*waiting)
			w.attempts++
			w.tried, w.seen = q.now(), 0
			q.trying[w.pod.UID] = w
			q.mu.Unlock()
			return w.pod
		}
		sleep := q.soonestLocked()
		q.mu.Unlock()
		timer := time.NewTimer(sleep)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-q.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// fail parks a pod that was tried until one of the events in cure happens.
func (q *queue) fail(uid types.UID, cure event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.trying[uid]
	if w == nil {
		return
	}
	delete(q.trying, uid)
	w.cure = cure
	if w.seen&cure != 0 {
		q.releaseLocked(w, "ScheduleAttemptFailure")
		return
	}
	q.parked[uid] = w
	q.came(w.home(), "ScheduleAttemptFailure")
}

// happened releases the pods that the event may help.
func (q *queue) happened(e event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, w := range q.trying {
		w.seen |= e
	}
	for uid, w := range q.parked {
		if w.cure&e != 0 {
			delete(q.parked, uid)
			q.releaseLocked(w, e.String())
		}
	}
}

// releaseLocked lets w be tried once its back-off, which runs from the last try, is over.
func (q *queue) releaseLocked(w *waiting, why string) {
	delete(q.parked, w.pod.UID)
	if q.now().Before(q.backoffEnds(w)) {
		q.paused[w.pod.UID] = w
		q.came(queueBackoff, why)
		q.signal()
		return
	}
	q.activateLocked(w, why)
}

func (q *queue) backoffEnds(w *waiting) time.Time {
	pause := q.firstBackoff
	for i := 1; i < w.attempts && pause < q.lastBackoff; i++ {
		pause *= 2
	}
	return w.tried.Add(min(pause, q.lastBackoff))
}

func (q *queue) activateLocked(w *waiting, why string) {
	q.came(queueActive, why)
	heap.Push(&q.ready, w)
	q.signal()
}

func (q *queue) unpauseLocked() {
	now := q.now()
	for uid, w := range q.paused {
		if !now.Before(q.backoffEnds(w)) {
			delete(q.paused, uid)
			q.activateLocked(w, "BackoffComplete")
		}
	}
	for uid, w := range q.parked {
		if now.Sub(w.tried) > forgotten {
			delete(q.parked, uid)
			q.activateLocked(w, "UnschedulableTimeout")
		}
	}
}

func (q *queue) soonestLocked() time.Duration {
	sleep := 30 * time.Second
	for _, w := range q.paused {
		sleep = min(sleep, q.backoffEnds(w).Sub(q.now()))
	}
	return max(sleep, time.Millisecond)
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// readyHeap orders by priority, then by age in the queue.
type readyHeap []*waiting

func (h readyHeap) Len() int { return len(h) }
func (h readyHeap) Less(i, j int) bool {
	a, b := h[i], h[j]
	return cmp.Or(cmp.Compare(corehelpers.PodPriority(b.pod.Pod), corehelpers.PodPriority(a.pod.Pod)), a.added.Compare(b.added)) < 0
}
func (h readyHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *readyHeap) Push(x any) {
	w := x.(*waiting)
	w.index = len(*h)
	*h = append(*h, w)
}
func (h *readyHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h, w.index = old[:len(old)-1], -1
	return w
}
