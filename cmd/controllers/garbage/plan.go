package garbage

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// state is what became of an owner.
type state int

const (
	alive   state = iota
	absent        // gone, or another object under its name
	waiting       // being deleted, after its dependents
)

// step is what to do about one object.
type step int

const (
	nothing step = iota
	// freeDependents takes the object out of its dependents' owners, and its orphan finalizer off.
	freeDependents
	// finish takes the foreground finalizer off: nothing blocks the object's end.
	finish
	// wait looks at the dependents that block the object's end.
	wait
	// disown takes owners that are gone off an object that has others.
	disown
	// remove deletes the object.
	remove
)

// Decision is a step with its particulars.
type Decision struct {
	step   step
	owners []types.UID
	look   []types.UID
	policy metav1.DeletionPropagation
}

// decide says what to do about o, whose owners are in those states.
func decide(o *object, dependents []*object, owners map[types.UID]state) Decision {
	if o.orphaning() {
		return Decision{step: freeDependents}
	}
	if o.foreground() {
		return awaitDependents(o, dependents)
	}
	if o.deleting || len(o.owners) == 0 {
		return Decision{}
	}
	solid, others, anyWaiting := 0, []types.UID(nil), false
	for _, ref := range o.owners {
		switch owners[ref.UID] {
		case alive:
			solid++
		case waiting:
			anyWaiting = true
			others = append(others, ref.UID)
		default:
			others = append(others, ref.UID)
		}
	}
	switch {
	case len(others) == 0:
		return Decision{}
	case solid > 0:
		return Decision{step: disown, owners: others}
	case anyWaiting && len(dependents) > 0:
		return Decision{step: remove, policy: metav1.DeletePropagationForeground}
	case o.has(metav1.FinalizerOrphanDependents):
		return Decision{step: remove, policy: metav1.DeletePropagationOrphan}
	case o.has(metav1.FinalizerDeleteDependents):
		return Decision{step: remove, policy: metav1.DeletePropagationForeground}
	}
	return Decision{step: remove, policy: metav1.DeletePropagationBackground}
}

func awaitDependents(o *object, dependents []*object) Decision {
	var look []types.UID
	for _, d := range dependents {
		for _, ref := range d.owners {
			if ref.UID == o.uid && blocks(ref) {
				look = append(look, d.uid)
			}
		}
	}
	if len(look) == 0 {
		return Decision{step: finish}
	}
	return Decision{step: wait, look: look}
}
