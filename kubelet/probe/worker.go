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

// A freshly started container that waits to be found ready or started is asked more often than its period says, lest
// one answer that came a moment too early cost it a whole period: first after firstHurry, and then after half as much
// again each time. Until its period has passed for the first time, only a success counts; so it has failureThreshold
// whole periods to come up.
const firstHurry = 100 * time.Millisecond

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
	tick   time.Time // when it is asked next by its period; due is before that while hurry is not 0
	hurry  time.Duration
	asking bool // an answer is out
	ended  bool // it is asked no more: started up, or failed and about to be restarted

	known bool // a verdict was told, or was known from before
	ok    bool // the verdict
	last  result
	run   int32 // like answers in a row

	place int // in the agenda, from 1; 0: it is not there
}

func (w *worker) key() key { return key{w.target.pod.UID, w.target.container.Name, w.kind} }

// updated is the worker for a container that runs; w is the one so far, or nil. A container with another ID starts anew.
func (w *worker) updated(kind Kind, t target, c Container, now time.Time) *worker {
	if w != nil && w.target.id == t.id {
		w.target = t
		return w
	}
	fresh := &worker{kind: kind, target: t}
	fresh.first = c.Started.Add(time.Duration(t.probe.InitialDelaySeconds) * time.Second)
	fresh.due, fresh.tick = fresh.first, fresh.first
	period := seconds(t.probe.PeriodSeconds, 10)
	if late := now.Sub(fresh.first); late > 0 && (c.Ready || c.StartedUp) {
		// The kubelet was started anew and knows how the container is. It asks at the times it would have asked at, for
		// all containers at once would be a storm.
		fresh.due = fresh.first.Add((late/period + 1) * period)
		fresh.tick = fresh.due
	} else if kind != Liveness && late < period {
		fresh.hurry = firstHurry
		fresh.tick = fresh.first.Add(period)
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

// early tells whether what is due at the moment is asked out of turn.
func (w *worker) early() bool { return w.due.Before(w.tick) }

// schedule says when to ask next, after an answer.
func (w *worker) schedule(good bool, now time.Time) {
	period := seconds(w.target.probe.PeriodSeconds, 10)
	switch {
	case good && w.early():
		w.tick = now.Add(period) // the beat starts with the first success
	case !w.early():
		w.tick = w.tick.Add(period)
		if !w.tick.After(now) {
			w.tick = now.Add(period) // what was missed is not made up for
		}
	}
	w.due = w.tick
	if good || w.hurry >= period {
		w.hurry = 0
	}
	if w.hurry > 0 {
		w.due = sooner(w.tick, now.Add(w.hurry))
		w.hurry += w.hurry / 2
	}
}

func sooner(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// take counts one answer and reports whether the verdict changed by it.
func (w *worker) take(r result, now time.Time) bool {
	good := r == success || r == warning
	counts := good || !w.early()
	w.schedule(good, now)
	if !counts {
		return false
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
