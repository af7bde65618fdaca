package garbage

import (
	"maps"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// identity names an object.
type identity struct {
	gvr             schema.GroupVersionResource
	namespace, name string
	uid             types.UID
}

// object is what the collector knows of an object: who it is, and whom it belongs to.
type object struct {
	identity
	owners     []metav1.OwnerReference
	finalizers []string
	deleting   bool
}

func (o *object) has(finalizer string) bool { return slices.Contains(o.finalizers, finalizer) }

// foreground tells that o is being deleted, after its dependents.
func (o *object) foreground() bool { return o.deleting && o.has(metav1.FinalizerDeleteDependents) }

// orphaning tells that o is being deleted, and its dependents must be freed before.
func (o *object) orphaning() bool { return o.deleting && o.has(metav1.FinalizerOrphanDependents) }

// graph is who owns whom, of all objects that have been seen. It is safe for concurrent use.
type graph struct {
	mu         sync.Mutex
	objects    map[types.UID]*object
	dependents map[types.UID]map[types.UID]bool
}

func newGraph() *graph {
	return &graph{objects: map[types.UID]*object{}, dependents: map[types.UID]map[types.UID]bool{}}
}

// put takes o in, as new or changed, and returns the objects that must be looked at.
func (g *graph) put(o *object) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.objects[o.uid]
	if old != nil {
		g.unlinkLocked(old)
	}
	g.objects[o.uid] = o
	for _, ref := range o.owners {
		if g.dependents[ref.UID] == nil {
			g.dependents[ref.UID] = map[types.UID]bool{}
		}
		g.dependents[ref.UID][o.uid] = true
	}
	var look []types.UID
	if old == nil && len(o.owners) > 0 || old != nil && !sameOwners(old.owners, o.owners) {
		look = append(look, o.uid)
	}
	switch {
	case o.orphaning() && (old == nil || !old.orphaning()):
		look = append(look, o.uid)
	case o.foreground() && (old == nil || !old.foreground()):
		look = append(append(look, o.uid), g.dependentsLocked(o.uid)...)
	}
	if old != nil {
		// A dependent that no longer blocks may free an owner that waits.
		for _, ref := range old.owners {
			if owner := g.objects[ref.UID]; owner != nil && owner.foreground() {
				look = append(look, ref.UID)
			}
		}
	}
	return look
}

func sameOwners(a, b []metav1.OwnerReference) bool {
	return slices.EqualFunc(a, b, func(x, y metav1.OwnerReference) bool {
		return x.UID == y.UID && blocks(x) == blocks(y)
	})
}

func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

// remove forgets the object, which is gone, and returns those that must be looked at.
func (g *graph) remove(uid types.UID) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	look := g.dependentsLocked(uid)
	old := g.objects[uid]
	if old == nil {
		return look
	}
	g.unlinkLocked(old)
	delete(g.objects, uid)
	for _, ref := range old.owners {
		if owner := g.objects[ref.UID]; owner != nil && owner.foreground() {
			look = append(look, ref.UID)
		}
	}
	return look
}

func (g *graph) unlinkLocked(o *object) {
	for _, ref := range o.owners {
		delete(g.dependents[ref.UID], o.uid)
		if len(g.dependents[ref.UID]) == 0 {
			delete(g.dependents, ref.UID)
		}
	}
}

func (g *graph) dependentsLocked(uid types.UID) []types.UID {
	return slices.Sorted(maps.Keys(g.dependents[uid])) // in an order, so that a simulation can tell a story again
}

// get returns the object and its dependents, nil when it is not known.
func (g *graph) get(uid types.UID) (*object, []*object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var deps []*object
	for _, d := range g.dependentsLocked(uid) {
		deps = append(deps, g.objects[d])
	}
	return g.objects[uid], deps
}

// circle lists the dependents of an object that are being deleted after their own dependents, among whom the object is: each
// would wait for the other.
func (g *graph) circle(uid types.UID) map[types.UID]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	members := map[types.UID]bool{}
	for d := range g.dependents[uid] {
		if g.waitsForLocked(d, uid, map[types.UID]bool{}) {
			members[d] = true
		}
	}
	return members
}

// waitsForLocked tells that the object from waits for to.
func (g *graph) waitsForLocked(from, to types.UID, seen map[types.UID]bool) bool {
	if seen[from] || g.objects[from] == nil || !g.objects[from].foreground() {
		return false
	}
	seen[from] = true
	if g.dependents[from][to] {
		return true
	}
	for d := range g.dependents[from] {
		if g.waitsForLocked(d, to, seen) {
			return true
		}
	}
	return false
}

// missing lists the objects of a resource that are known but not there.
func (g *graph) missing(gvr schema.GroupVersionResource, there map[types.UID]bool) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	var gone []types.UID
	for uid, o := range g.objects {
		if o.gvr == gvr && !there[uid] {
			gone = append(gone, uid)
		}
	}
	slices.Sort(gone)
	return gone
}

// drop forgets all objects of a resource that is served no longer.
func (g *graph) drop(gvr schema.GroupVersionResource) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for uid, o := range g.objects {
		if o.gvr == gvr {
			g.unlinkLocked(o)
			delete(g.objects, uid)
		}
	}
}
