// Package eviction decides when the node is short of something, and which pod has to go for it.
//
// It is pure: signals are measured, pods are measured and ended, and images are removed by the caller. Step keeps the
// node's conditions and says which thresholds are due; Rank and Message say who goes and in which words; Exceeded finds
// pods that use more storage than they may. Names, order and texts are upstream's, because people and controllers read
// them.
package eviction

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Signal is something the node can run out of.
type Signal string

// Signals, by the names that thresholds have in the kubelet's configuration.
const (
	MemoryAvailable  Signal = "memory.available"
	NodeFsAvailable  Signal = "nodefs.available"
	NodeFsInodes     Signal = "nodefs.inodesFree"
	ImageFsAvailable Signal = "imagefs.available"
	ImageFsInodes    Signal = "imagefs.inodesFree"
	PIDAvailable     Signal = "pid.available"
	// AllocatableMemory is what pods together may still use; its threshold is that of MemoryAvailable.
	AllocatableMemory Signal = "allocatableMemory.available"
)

// signals are all signals, the most urgent first.
var signals = [...]Signal{MemoryAvailable, AllocatableMemory, NodeFsAvailable, NodeFsInodes, ImageFsAvailable, ImageFsInodes, PIDAvailable}

// Resources as messages name them.
const (
	Inodes v1.ResourceName = "inodes"
	Pids   v1.ResourceName = "pids"
)

// Resource is what is short when the signal is low.
func (s Signal) Resource() v1.ResourceName {
	switch s {
	case MemoryAvailable, AllocatableMemory:
		return v1.ResourceMemory
	case NodeFsInodes, ImageFsInodes:
		return Inodes
	case PIDAvailable:
		return Pids
	}
	return v1.ResourceEphemeralStorage
}

// Condition is the node's condition while the signal is low.
func (s Signal) Condition() v1.NodeConditionType {
	switch s.Resource() {
	case v1.ResourceMemory:
		return v1.NodeMemoryPressure
	case Pids:
		return v1.NodePIDPressure
	}
	return v1.NodeDiskPressure
}

func (s Signal) urgency() int { return slices.Index(signals[:], s) }

// Amount is a number of bytes, inodes or processes, or a share of what there is.
type Amount struct {
	Number int64
	// Share counts if it is not 0: 0.1 is a tenth.
	Share float64
}

// Of is the amount where there is so much in all.
func (a Amount) Of(capacity int64) int64 {
	if a.Share != 0 {
		return int64(float64(capacity) * a.Share)
	}
	return a.Number
}

// Threshold says below what a signal is low.
type Threshold struct {
	Signal Signal
	Below  Amount
	// Grace is how long the signal must be low; 0 is a hard threshold.
	Grace time.Duration
	// Reclaim is how much more than Below there must be before an eviction ends.
	Reclaim Amount
}

// Hard says whether pods are ended at once.
func (t Threshold) Hard() bool { return t.Grace == 0 }

func (t Threshold) met(o Observation, reclaim bool) bool {
	limit := t.Below.Of(o.Capacity)
	if reclaim {
		limit += t.Reclaim.Of(o.Capacity)
	}
	return o.Available < limit
}

// Observation is one measurement of a signal.
type Observation struct{ Available, Capacity int64 }

// Observations are measurements of one moment; a signal that could not be measured is absent.
type Observations map[Signal]Observation

// Config is what the node bears and for how long.
type Config struct {
	// Thresholds come from Parse.
	Thresholds []Threshold
	// Transition is how long a condition stays after its signal was low last.
	Transition time.Duration
	// MaxGrace bounds the grace of pods that are ended for a soft threshold.
	MaxGrace time.Duration
}

// State is what Step remembers from one look to the next. The zero value has seen nothing.
type State struct {
	since map[Threshold]time.Time // first look at which it was met, of those met now
	due   map[Threshold]bool
	seen  map[v1.NodeConditionType]time.Time // last look at which the condition held
}

// Due is a threshold to act on, and what was measured.
type Due struct {
	Threshold
	Observation
}

// Decision is what follows from one look.
type Decision struct {
	// Conditions of the node that hold, sorted.
	Conditions []v1.NodeConditionType
	// Due thresholds, the most urgent first.
	Due []Due
}

// Step takes the measurements of a moment.
func Step(cfg Config, s State, obs Observations, now time.Time) (State, Decision) {
	next := State{since: map[Threshold]time.Time{}, due: map[Threshold]bool{}, seen: map[v1.NodeConditionType]time.Time{}}
	for c, at := range s.seen {
		next.seen[c] = at
	}
	var d Decision
	for _, t := range cfg.Thresholds {
		o, ok := obs[t.Signal]
		if !ok || !t.met(o, s.due[t]) {
			continue
		}
		since, before := s.since[t]
		if !before {
			since = now
		}
		next.since[t] = since
		next.seen[t.Signal.Condition()] = now
		if now.Sub(since) >= t.Grace {
			next.due[t] = true
			d.Due = append(d.Due, Due{t, o})
		}
	}
	for c, at := range next.seen {
		if at.Equal(now) || now.Sub(at) < cfg.Transition {
			d.Conditions = append(d.Conditions, c)
		}
	}
	slices.Sort(d.Conditions)
	slices.SortStableFunc(d.Due, func(a, b Due) int {
		if n := a.Signal.urgency() - b.Signal.urgency(); n != 0 {
			return n
		}
		return int(min(max(a.Grace-b.Grace, -1), 1))
	})
	return next, d
}

// Near says whether a signal is below twice its threshold, so that the next look should come soon. Disks do not count: they
// do not fill in a moment, and are often as full for years.
func Near(cfg Config, obs Observations) bool {
	for _, t := range cfg.Thresholds {
		if o, ok := obs[t.Signal]; ok && t.Signal.Condition() != v1.NodeDiskPressure && o.Available < 2*t.Below.Of(o.Capacity) {
			return true
		}
	}
	return false
}

// Still gives those of due that newer measurements confirm.
func Still(due []Due, obs Observations) []Due {
	var out []Due
	for _, d := range due {
		if o, ok := obs[d.Signal]; ok && d.met(o, true) {
			out = append(out, Due{d.Threshold, o})
		}
	}
	return out
}

// Grace is how long a pod that is ended for the threshold has.
func (c Config) Grace(t Threshold, pod *v1.Pod) time.Duration {
	if t.Hard() {
		return time.Second
	}
	grace := c.MaxGrace
	if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
		grace = min(grace, time.Duration(*own)*time.Second)
	}
	return max(grace, time.Second)
}
