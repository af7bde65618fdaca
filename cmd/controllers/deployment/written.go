package deployment

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// written remembers the ReplicaSets as they were last written for each Deployment. Deciding on a cache that does not show
// them yet would give the same room away twice. The zero value is ready.
type written struct {
	mu sync.Mutex
	// sets are by Deployment's key and ReplicaSet's name.
	sets map[string]map[string]*appsv1.ReplicaSet
	// doubts are names of ReplicaSets, by Deployment's key, of which it is not known whether the last write was done:
	// its answer was lost, or a conflict says that the cache is behind.
	doubts map[string]map[string]bool
}

// note says that rs was written so for the Deployment called key.
func (w *written) note(key string, rs *appsv1.ReplicaSet) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sets == nil {
		w.sets = map[string]map[string]*appsv1.ReplicaSet{}
	}
	if w.sets[key] == nil {
		w.sets[key] = map[string]*appsv1.ReplicaSet{}
	}
	w.sets[key][rs.Name] = rs
	delete(w.doubts[key], rs.Name)
}

// doubt says that writing the ReplicaSet of that name failed.
func (w *written) doubt(key, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.doubts == nil {
		w.doubts = map[string]map[string]bool{}
	}
	if w.doubts[key] == nil {
		w.doubts[key] = map[string]bool{}
	}
	w.doubts[key][name] = true
}

// doubted lists the names that are in doubt.
func (w *written) doubted(key string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.doubts[key]))
}

// trust says that there is no ReplicaSet of that name.
func (w *written) trust(key, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.doubts[key], name)
}

// forget drops key, which is gone.
func (w *written) forget(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.sets, key)
	delete(w.doubts, key)
}

// settle drops what cached, by name, shows, and returns what it does not.
func (w *written) settle(key string, cached map[string]*appsv1.ReplicaSet) (unseen []*appsv1.ReplicaSet) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(w.sets[key])) {
		rs := w.sets[key][name]
		if shows(cached[name], rs) {
			delete(w.sets[key], name)
		} else {
			unseen = append(unseen, rs)
		}
	}
	return unseen
}

// shows tells that cached is as new as rs. Versions that cannot be compared say nothing, and hold nobody up.
func shows(cached, rs *appsv1.ReplicaSet) bool {
	if cached == nil {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(cached.ResourceVersion, rs.ResourceVersion)
	return err != nil || order >= 0
}

// behind tells that the cache does not show what was written for the Deployment called key.
func (c *Controller) behind(ctx context.Context, key, namespace string) (bool, error) {
	for _, name := range c.written.doubted(key) {
		rs, err := c.client.AppsV1().ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			c.written.trust(key, name)
		case err != nil:
			return false, fmt.Errorf("read ReplicaSet %s: %w", name, err)
		default:
			c.written.note(key, rs)
		}
	}
	cached := map[string]*appsv1.ReplicaSet{}
	look := func(name string) {
		if rs, err := c.sets.ReplicaSets(namespace).Get(name); err == nil {
			cached[name] = rs
		}
	}
	for _, rs := range c.written.settle(key, nil) {
		look(rs.Name)
	}
	for _, rs := range c.written.settle(key, cached) {
		if cached[rs.Name] != nil {
			return true, nil
		}
		// Not there yet, or not there any more?
		_, err := c.client.AppsV1().ReplicaSets(namespace).Get(ctx, rs.Name, metav1.GetOptions{})
		if err == nil {
			return true, nil
		} else if !apierrors.IsNotFound(err) {
			return false, fmt.Errorf("read ReplicaSet %s: %w", rs.Name, err)
		}
		cached[rs.Name] = rs
		c.written.settle(key, cached)
	}
	return false, nil
}
