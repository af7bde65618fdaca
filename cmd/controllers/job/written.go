package job

import (
	"sync"

	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// written remembers the version of each Job that this program wrote last. A cache that has not come so far
// shows fewer ends than were counted, and would have pods made for them again.
type written struct {
	mu       sync.Mutex
	versions map[string]string
}

func (w *written) note(key, version string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.versions == nil {
		w.versions = map[string]string{}
	}
	w.versions[key] = version
}

// behind tells that version is older than what was written. Versions that cannot be compared are not.
func (w *written) behind(key, version string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, ok := w.versions[key]
	if !ok {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(version, last)
	return err == nil && order < 0
}

func (w *written) forget(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.versions, key)
}
