package job

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// memory is what this program knows of Jobs beyond their objects. All of it may be lost: then a cache is trusted, and
// pauses are as long as the pods that are there ask for.
type memory struct {
	mu sync.Mutex
	// versions are those that this program wrote last. A cache that has not come so far shows fewer ends than were
	// counted, and would have pods made for them again.
	versions map[string]string
	rows     map[string]row
}

// row is how many pods failed since the last success, and when the last of them did.
type row struct {
	failures int
	last     time.Time
}

func (m *memory) wrote(key, version string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.versions == nil {
		m.versions = map[string]string{}
	}
	m.versions[key] = version
}

// behind tells that version is older than what was written. Versions that cannot be compared are not.
func (m *memory) behind(key, version string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	last, ok := m.versions[key]
	if !ok {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(version, last)
	return err == nil && order < 0
}

func (m *memory) row(key string) row {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rows[key]
}

func (m *memory) keepRow(key string, r row) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rows == nil {
		m.rows = map[string]row{}
	}
	m.rows[key] = r
}

func (m *memory) forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.versions, key)
	delete(m.rows, key)
}
