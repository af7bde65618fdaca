package deployment

import (
	"cmp"
	"math"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// View is all that the decision about a rollout rests on.
type View struct {
	Replicas, MaxSurge, MaxUnavailable int
	Recreate, Paused                   bool
	// OldPodsRunning tells that a pod of an old ReplicaSet has not ended; only Recreate asks.
	OldPodsRunning bool
	// New is the ReplicaSet with the Deployment's template, nil when it must be made.
	New *RS
	// Old are the others, in any order.
	Old []RS
	// StatusReplicas is what the Deployment's status shows.
	StatusReplicas int
}

// RS is a ReplicaSet's numbers.
type RS struct {
	Name      string
	UID       types.UID
	Replicas  int // wanted
	Available int
	// Unobserved tells that the ReplicaSet's status is of before its last change: the pods that it counts may have been
	// ended since, and as many new ones asked for. None of them is counted on, and none is held to be unavailable.
	Unobserved  bool
	Created     time.Time
	Desired     int // the Deployment's replicas when this one was last scaled; -1 when unknown
	MaxReplicas int // and that plus its surge then; -1 when unknown
}

// Plan is what one sync does: perhaps make the new ReplicaSet, and scale others.
type Plan struct {
	// CreateNew asks for the new ReplicaSet with CreateReplicas pods.
	CreateNew      bool
	CreateReplicas int
	// Scale maps a ReplicaSet's name to the replicas it must have.
	Scale map[string]int
}

// Decide returns the next step of v's rollout. Applied again and again, with pods
// becoming available between, it ends with all replicas in the new ReplicaSet.
func Decide(v View) Plan {
	if v.Paused || v.resized() {
		return Plan{Scale: v.proportional()}
	}
	if v.Recreate {
		return v.recreate()
	}
	return v.rolling()
}

// resized tells that the Deployment was scaled since its ReplicaSets were.
func (v View) resized() bool {
	for _, rs := range v.all() {
		if rs.Replicas > 0 && rs.Desired >= 0 && rs.Desired != v.Replicas {
			return true
		}
	}
	return false
}

// hasOld tells that an old ReplicaSet wants pods.
func (v View) hasOld() bool {
	return slices.ContainsFunc(v.Old, func(rs RS) bool { return rs.Replicas > 0 })
}

func (v View) all() []RS {
	all := slices.Clone(v.Old)
	if v.New != nil {
		all = append(all, *v.New)
	}
	return all
}

func (v View) recreate() Plan {
	down := map[string]int{}
	for _, rs := range v.Old {
		if rs.Replicas > 0 {
			down[rs.Name] = 0
		}
	}
	switch {
	case len(down) > 0:
		return Plan{Scale: down}
	case v.OldPodsRunning:
		return Plan{}
	case v.New == nil:
		return Plan{CreateNew: true, CreateReplicas: v.Replicas}
	case v.New.Replicas != v.Replicas:
		return Plan{Scale: map[string]int{v.New.Name: v.Replicas}}
	}
	return Plan{}
}

func (v View) rolling() Plan {
	if v.New == nil {
		return Plan{CreateNew: true, CreateReplicas: v.newReplicas(0)}
	}
	if v.New.Replicas > v.Replicas {
		return Plan{Scale: map[string]int{v.New.Name: v.Replicas}}
	}
	if want := v.newReplicas(v.New.Replicas); want != v.New.Replicas {
		return Plan{Scale: map[string]int{v.New.Name: want}}
	}
	return Plan{Scale: v.shrinkOld()}
}

// newReplicas is how many the new ReplicaSet, which has current, may have now.
func (v View) newReplicas(current int) int {
	total := 0
	for _, rs := range v.all() {
		total += rs.Replicas
	}
	room := v.Replicas + v.MaxSurge - total
	if room <= 0 {
		return current
	}
	return current + min(room, v.Replicas-current)
}

// shrinkOld takes away from the old ReplicaSets what availability allows: pods that
// never became available first, as they protect nobody.
func (v View) shrinkOld() map[string]int {
	total, available := 0, 0
	for _, rs := range v.all() {
		total += rs.Replicas
		available += rs.Available
	}
	minAvailable := v.Replicas - v.MaxUnavailable
	most := total - minAvailable - (v.New.Replicas - v.New.Available)
	old := slices.Clone(v.Old)
	slices.SortFunc(old, func(a, b RS) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name)) })
	scale := map[string]int{}
	for i := range old {
		take := min(most, old[i].Replicas-old[i].Available, old[i].Replicas)
		if take > 0 && !old[i].Unobserved {
			old[i].Replicas -= take
			scale[old[i].Name] = old[i].Replicas
			most -= take
		}
	}
	spare := min(available-minAvailable, most)
	for i := range old {
		take := min(spare, old[i].Replicas)
		if take > 0 {
			old[i].Replicas -= take
			scale[old[i].Name] = old[i].Replicas
			spare -= take
		}
	}
	return scale
}

// proportional spreads a change of the Deployment's size over its ReplicaSets, so that
// a rollout under way keeps its balance of old and new.
func (v View) proportional() map[string]int {
	active := slices.DeleteFunc(v.all(), func(rs RS) bool { return rs.Replicas == 0 })
	if only := v.activeOrLatest(active); only != nil {
		// Where the number is right already, scaling to it renews the annotations.
		return map[string]int{only.Name: v.Replicas}
	}
	scale := map[string]int{}
	if n := v.New; n != nil && n.Replicas == v.Replicas && n.Desired == v.Replicas && n.Available == v.Replicas {
		for _, rs := range v.Old {
			if rs.Replicas > 0 {
				scale[rs.Name] = 0
			}
		}
		return scale
	}
	if v.Recreate {
		return scale
	}
	return v.share(active)
}

// activeOrLatest returns the one ReplicaSet that has pods or, when none has, the new
// or else the newest one. With several active it returns nil.
func (v View) activeOrLatest(active []RS) *RS {
	switch {
	case len(active) == 1:
		return &active[0]
	case len(active) > 1:
		return nil
	case v.New != nil:
		return v.New
	case len(v.Old) > 0:
		newest := slices.MaxFunc(v.Old, func(a, b RS) int { return a.Created.Compare(b.Created) })
		return &newest
	}
	return nil
}

func (v View) share(active []RS) map[string]int {
	total := 0
	for _, rs := range active {
		total += rs.Replicas
	}
	allowed := 0
	if v.Replicas > 0 {
		allowed = v.Replicas + v.MaxSurge
	}
	toAdd := allowed - total
	// Bigger ones first; among equals the newer grows and the older shrinks first.
	slices.SortFunc(active, func(a, b RS) int {
		age := a.Created.Compare(b.Created)
		if toAdd > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(b.Replicas, a.Replicas), age, cmp.Compare(a.Name, b.Name))
	})
	added := 0
	sizes := make([]int, len(active))
	for i, rs := range active {
		sizes[i] = rs.Replicas
		if toAdd == 0 {
			continue
		}
		// Those that remember different sizes may want different things. None grows while others shrink: the pods that come
		// would be too many until the others are gone.
		part := v.fraction(rs)
		if toAdd > 0 {
			part = max(min(part, toAdd-added), 0)
		} else {
			part = min(max(part, toAdd-added), 0)
		}
		sizes[i] += part
		added += part
	}
	if len(active) > 0 { // rounding's remainder
		sizes[0] = max(sizes[0]+toAdd-added, 0)
	}
	if toAdd < 0 {
		v.protect(active, sizes)
	}
	scale := map[string]int{}
	for i, rs := range active {
		scale[rs.Name] = sizes[i]
	}
	return scale
}

// protect moves the loss that sizes are from available pods to those that are not, until enough of the former stay.
// What rounding leaves over falls on the biggest ReplicaSet, and that may be the one whose pods serve.
func (v View) protect(active []RS, sizes []int) {
	before, after := 0, 0
	for i, rs := range active {
		before += rs.Available
		after += min(rs.Available, sizes[i])
	}
	missing := min(v.Replicas-v.MaxUnavailable, before) - after
	for i, keeps := range active {
		for j, gives := range active {
			move := min(missing, keeps.Available-sizes[i], sizes[j]-gives.Available)
			if move > 0 && !gives.Unobserved {
				sizes[i], sizes[j] = sizes[i]+move, sizes[j]-move
				missing -= move
			}
		}
	}
}

// fraction is by how much rs changes when the Deployment goes from the size that rs
// remembers to the present one.
func (v View) fraction(rs RS) int {
	if v.Replicas == 0 {
		return -rs.Replicas
	}
	before := rs.MaxReplicas
	if before <= 0 {
		before = v.StatusReplicas
	}
	if before <= 0 {
		return 0
	}
	return int(math.Round(float64(rs.Replicas*(v.Replicas+v.MaxSurge))/float64(before))) - rs.Replicas
}
