package probe

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// result is what one attempt amounts to.
type result int

const (
	unknown result = iota // the node could not ask; says nothing of the container
	success
	warning // counts as success
	failure
)

func (r result) String() string {
	return [...]string{"unknown", "successful", "successful", "failed"}[r]
}

// target is what one attempt needs to know. Its objects are never changed.
type target struct {
	pod       *v1.Pod
	container *v1.Container
	probe     *v1.Probe
	ip        string
	id        string
}

// worker counts one probe's answers on one container.
type worker struct {
	kind   Kind
	target target
	first  time.Time // when it may be asked for the first time
	due    time.Time // when it is asked next
	asking bool      // an answer is out
	ended  bool      // it is asked no more: started up, or failed and about to be restarted

	known bool // a verdict was told, or was known from before
	ok    bool // the verdict
	last  result
	run   int32 // like answers in a row
}

// updated is the worker for a container that runs; w is the one so far, or nil. A container with another ID starts anew.
func (w *worker) updated(kind Kind, t target, c Container, now time.Time) *worker {
	if w != nil && w.target.id == t.id {
		w.target = t
		return w
	}
	fresh := &worker{kind: kind, target: t}
	fresh.first = c.Started.Add(time.Duration(t.probe.InitialDelaySeconds) * time.Second)
	fresh.due = fresh.first
	if late := now.Sub(fresh.first); late > 0 && (c.Ready || c.StartedUp) {
		// The kubelet was started anew and knows how the container is. It asks at the times it would have asked at, for
		// all containers at once would be a storm.
		period := seconds(t.probe.PeriodSeconds, 10)
		fresh.due = fresh.first.Add((late/period + 1) * period)
	}
	switch kind {
	case Liveness:
		fresh.ok, fresh.known = true, true
	case Readiness:
		// Not known, so that the first verdict is told even if it confirms.
		fresh.ok = c.Ready
	case Startup:
		fresh.ok = c.StartedUp
		fresh.known, fresh.ended = c.StartedUp, c.StartedUp
	}
	return fresh
}

// take counts one answer and reports whether the verdict changed by it.
func (w *worker) take(r result, now time.Time) bool {
	period := seconds(w.target.probe.PeriodSeconds, 10)
	w.due = w.due.Add(period)
	if !w.due.After(now) {
		w.due = now.Add(period) // what was missed is not made up for
	}
	if r == unknown {
		return false
	}
	if r == warning {
		r = success
	}
	if r != w.last {
		w.last, w.run = r, 0
	}
	w.run++
	threshold := atLeast1(w.target.probe.SuccessThreshold, 1)
	if r == failure {
		threshold = atLeast1(w.target.probe.FailureThreshold, 3)
	}
	if w.run < threshold {
		return false
	}
	ok := r == success
	if w.known && w.ok == ok {
		return false
	}
	w.known, w.ok = true, ok
	switch w.kind {
	case Startup:
		w.ended = true
	case Liveness:
		w.ended = !ok
	}
	return true
}

// atLeast1 is n, or what the API server writes where nobody chose; static pods do without the API server.
func atLeast1(n, otherwise int32) int32 {
	if n < 1 {
		return otherwise
	}
	return n
}

func seconds(n, otherwise int32) time.Duration {
	return time.Duration(atLeast1(n, otherwise)) * time.Second
}
