package server

import (
	"sync"
	"time"
)

// memory keeps answers for some time, and not more than limit of them, for callers choose the keys.
type memory[K comparable, V any] struct {
	limit int

	mu   sync.Mutex
	kept map[K]remembered[V]
}

type remembered[V any] struct {
	value V
	until time.Time
}

func newMemory[K comparable, V any](limit int) *memory[K, V] {
	return &memory[K, V]{limit: limit, kept: map[K]remembered[V]{}}
}

func (m *memory[K, V]) recall(k K, now time.Time) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.kept[k]
	if !ok || !now.Before(r.until) {
		var none V
		return none, false
	}
	return r.value, true
}

// keep remembers v. When it is full it forgets what is over, or else anything.
func (m *memory[K, V]) keep(k K, v V, until time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.kept) >= m.limit {
		now := time.Now()
		for old, r := range m.kept {
			if !now.Before(r.until) {
				delete(m.kept, old)
			}
		}
		for old := range m.kept {
			if len(m.kept) < m.limit {
				break
			}
			delete(m.kept, old)
		}
	}
	m.kept[k] = remembered[V]{v, until}
}
