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
	// number is in the order of arrival: a clock may show two the same time.
	number uint64
	tried  time.Time
	// by are the plugins that ruled all nodes out, and cures the events after which it may fit.
	by    plugins
	cures event
	index int
	// began is how many changes there had been when the present attempt began: it may have missed later ones.
	began uint64
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
	// arrived counts the pods that came.
	arrived uint64
	// recent are the last changes, change n at n modulo their number.
	recent  [rememberedChanges]change
	changes uint64
	// wanted counts the parked pods by what they wait for.
	wanted map[event]int
}

// rememberedChanges bounds what is known of the time of an attempt: a pod whose attempt took longer is tried again.
const rememberedChanges = 1024

func newQueue(now func() time.Time, first, last time.Duration, came func(queue, event string)) *queue {
	return &queue{
		now: now, firstBackoff: first, lastBackoff: last, came: came, byUID: map[types.UID]*waiting{}, parked: map[types.UID]*waiting{}, paused: map[types.UID]*waiting{},
		trying: map[types.UID]*waiting{}, wake: make(chan struct{}, 1), wanted: map[event]int{},
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

// refusal is a plugin of a profile that rules nodes out.
type refusal struct{ plugin, profile string }

// refused counts the pods that wait, by who ruled nodes out for them.
func (q *queue) refused() map[refusal]int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := map[refusal]int{}
	for _, w := range q.parked {
		for _, plugin := range w.by.names() {
			n[refusal{plugin, w.pod.Spec.SchedulerName}]++
		}
		if w.home() == queueGated {
			n[refusal{"SchedulingGates", w.pod.Spec.SchedulerName}]++
		}
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
		q.arrived++
		w = &waiting{pod: pod, added: q.now(), number: q.arrived, index: -1}
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
	q.unparkLocked(w)
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
			w.tried, w.began = q.now(), q.changes
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

// fail parks a pod that was tried until something happens that may help against those plugins that ruled all nodes out.
func (q *queue) fail(uid types.UID, by plugins) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.trying[uid]
	if w == nil {
		return
	}
	delete(q.trying, uid)
	w.by, w.cures = by, by.cures()
	if q.missedLocked(w) {
		q.releaseLocked(w, "ScheduleAttemptFailure")
		return
	}
	q.parked[uid] = w
	q.wanted[w.cures]++
	q.came(w.home(), "ScheduleAttemptFailure")
}

// again lets a pod that was tried be tried again whatever happens, after its back-off.
func (q *queue) again(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w := q.trying[uid]; w != nil {
		delete(q.trying, uid)
		q.releaseLocked(w, "ScheduleAttemptFailure")
	}
}

// missedLocked tells whether something happened since w's attempt began that may help it.
func (q *queue) missedLocked(w *waiting) bool {
	if q.changes-w.began > rememberedChanges {
		return w.by != 0
	}
	for n := w.began; n < q.changes; n++ {
		if w.by != 0 && w.by.helps(w.pod, q.recent[n%rememberedChanges]) {
			return true
		}
	}
	return false
}

// happened releases the pods that the change may help.
func (q *queue) happened(c change) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.recent[q.changes%rememberedChanges] = c
	q.changes++
	wanted := false
	for cures := range q.wanted {
		wanted = wanted || cures&c.event != 0
	}
	if !wanted {
		return
	}
	for _, w := range q.parked {
		if w.cures&c.event != 0 && w.by.helps(w.pod, c) {
			q.releaseLocked(w, c.event.String())
		}
	}
}

// unparkLocked takes w from the pods that wait for an event, if it is there.
func (q *queue) unparkLocked(w *waiting) {
	if q.parked[w.pod.UID] == nil {
		return
	}
	delete(q.parked, w.pod.UID)
	if q.wanted[w.cures]--; q.wanted[w.cures] == 0 {
		delete(q.wanted, w.cures)
	}
}

// releaseLocked lets w be tried once its back-off, which runs from the last try, is over.
func (q *queue) releaseLocked(w *waiting, why string) {
	q.unparkLocked(w)
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
	for _, w := range q.parked {
		if now.Sub(w.tried) > forgotten {
			q.unparkLocked(w)
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

// readyHeap orders by priority, then by age in the queue. No two are equal, so that it does not matter in what order
// those come whose back-off ended together.
type readyHeap []*waiting

func (h readyHeap) Len() int { return len(h) }
func (h readyHeap) Less(i, j int) bool {
	a, b := h[i], h[j]
	return cmp.Or(cmp.Compare(corehelpers.PodPriority(b.pod.Pod), corehelpers.PodPriority(a.pod.Pod)), cmp.Compare(a.number, b.number)) < 0
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
