package socklb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrFull is returned when a map cannot take one more entry; the text names the map, and why it did not grow.
var ErrFull = errors.New("the map is full")

// Usage is how full a map is.
type Usage struct {
	Map      string
	Entries  uint32
	Capacity uint32
	Limit    uint32 // capacity that it grows to at most
	Grown    uint32 // how often, by this process
	Err      error  // why it does not grow; nil when nothing is wrong
}

// Pressure is what part of the map is in use: a map that can grow stays below 3/4.
func (u Usage) Pressure() float64 { return float64(u.Entries) / float64(u.Capacity) }

// again is how long to wait before a map that could not grow is tried once more.
const again = 10 * time.Second

// batch is how many entries are read or written at a time.
const batch = 4096

// store is a map that grows: alone in a map of maps, where programs look for it, until a bigger one takes its place in one step. The newest is pinned beside
// that, as NAME_CAPACITY, because opening a map by its number takes privileges that the agent does not have. Readers may be many, the writer is one.
type store[K, V any] struct {
	name  string
	outer *ebpf.Map
	dir   string
	spec  *ebpf.MapSpec
	limit uint32

	entries atomic.Int64
	grown   atomic.Uint32

	// What the writer keeps back of a map that was empty; nil: nothing is kept back.
	keys   []K
	values []V
	many   func() error // is called when there are many

	mu    sync.RWMutex // held by readers and the writer; exclusively while m changes
	m     *ebpf.Map
	stuck error // why it did not grow the last time
	tried time.Time
}

func (s *store[K, V]) set(name, dir string, outer *ebpf.Map, spec *ebpf.MapSpec, limit uint32) {
	s.name, s.dir, s.outer, s.spec, s.limit = name, dir, outer, spec, limit
}

// open finds the map that programs use, or puts an empty one there. What an earlier process was about to put there is removed.
func (s *store[K, V]) open(start uint32) error {
	var id uint32
	if err := s.outer.Lookup(uint32(0), &id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("look for the map of %s: %w", s.name, err)
	}
	pins, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("list pinned maps: %w", err)
	}
	for _, p := range pins {
		capacity, ours := strings.CutPrefix(p.Name(), s.name+"_")
		if _, err := strconv.ParseUint(capacity, 10, 32); !ours || err != nil {
			continue
		}
		if err := s.recall(filepath.Join(s.dir, p.Name()), id); err != nil {
			return err
		}
	}
	if s.m == nil && id != 0 {
		return fmt.Errorf("the map of %s is not pinned in %s any more", s.name, s.dir)
	}
	if s.m == nil {
		if s.m, err = s.make(start); err != nil {
			return err
		}
		return s.use(s.m)
	}
	return s.each(func(K, V) { s.entries.Add(1) })
}

// recall takes the pinned map if it is the one that programs use, and unpins it otherwise.
func (s *store[K, V]) recall(pin string, id uint32) error {
	m, err := ebpf.LoadPinnedMap(pin, nil)
	if err != nil {
		return fmt.Errorf("open the map %s: %w", pin, err)
	}
	info, err := m.Info()
	if err != nil {
		m.Close()
		return fmt.Errorf("look at the map %s: %w", pin, err)
	}
	if found, ok := info.ID(); ok && uint32(found) == id && id != 0 {
		s.m = m
		return nil
	}
	m.Close()
	if err := os.Remove(pin); err != nil {
		return fmt.Errorf("remove a map that is not in use: %w", err)
	}
	return nil
}

func (s *store[K, V]) make(capacity uint32) (*ebpf.Map, error) {
	spec := s.spec.Copy()
	spec.Name, spec.MaxEntries, spec.Pinning = s.name, capacity, ebpf.PinNone
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make a map of %s for %d entries: %w", s.name, capacity, err)
	}
	return m, nil
}

// use has programs look into m from now on. It is pinned before: what programs use must be found again.
func (s *store[K, V]) use(m *ebpf.Map) error {
	pin := s.pin(m)
	if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a map that is not in use: %w", err)
	}
	if err := m.Pin(pin); err != nil {
		return fmt.Errorf("pin the map of %s: %w", s.name, err)
	}
	if err := s.outer.Put(uint32(0), m); err != nil {
		return errors.Join(fmt.Errorf("put the map of %s in force: %w", s.name, err), m.Unpin())
	}
	return nil
}

func (s *store[K, V]) pin(m *ebpf.Map) string {
	return filepath.Join(s.dir, s.name+"_"+strconv.FormatUint(uint64(m.MaxEntries()), 10))
}

// put makes the value of a key v, in a bigger map if need be.
func (s *store[K, V]) put(k *K, v *V) error {
	if s.many != nil {
		s.keys, s.values = append(s.keys, *k), append(s.values, *v)
		if len(s.keys) == batch {
			return s.many()
		}
		return nil
	}
	s.reserve(1)
	err := s.m.Update(k, v, ebpf.UpdateNoExist)
	switch {
	case err == nil:
		s.entries.Add(1)
		return nil
	case errors.Is(err, ebpf.ErrKeyExist):
		return s.m.Update(k, v, ebpf.UpdateAny)
	case errors.Is(err, unix.E2BIG):
		return s.full()
	default:
		return err
	}
}

func (s *store[K, V]) empty() bool { return s.entries.Load() == 0 }

// begin keeps back what is put from now on. No key may come twice.
func (s *store[K, V]) begin(many func() error) {
	s.many, s.keys, s.values = many, make([]K, 0, batch), make([]V, 0, batch)
}

// flush puts what was kept back.
func (s *store[K, V]) flush() error {
	if len(s.keys) == 0 {
		return nil
	}
	s.reserve(len(s.keys))
	n, err := s.m.BatchUpdate(s.keys, s.values, nil)
	s.entries.Add(int64(n))
	s.keys, s.values = s.keys[:0], s.values[:0]
	if err != nil {
		return fmt.Errorf("fill %s: %w", s.name, err)
	}
	return nil
}

func (s *store[K, V]) end() { s.many, s.keys, s.values = nil, nil, nil }

// full says what to do, too.
func (s *store[K, V]) full() error {
	why := s.stuck
	if why == nil {
		why = errors.New("it cannot grow")
	}
	return fmt.Errorf("%w: %s has its %d entries: %w: what does not fit is not translated, until the cluster has fewer services and endpoints", ErrFull, s.name, s.m.MaxEntries(), why)
}

// remove deletes a key. One that is not there is no error.
func (s *store[K, V]) remove(k *K) error {
	if err := s.flush(); err != nil { // it may be among what was kept back
		return err
	}
	err := s.m.Delete(k)
	if err == nil {
		s.entries.Add(-1)
	}
	return gone(err)
}

// reserve makes room for more entries, if it can: a quarter of the map stays free. Where it cannot, the map serves on as it is.
func (s *store[K, V]) reserve(more int) {
	need := s.entries.Load() + int64(more)
	capacity := int64(s.m.MaxEntries())
	if need*4 <= capacity*3 {
		return
	}
	for need*4 > capacity*3 && capacity < int64(s.limit) {
		capacity = min(2*capacity, int64(s.limit))
	}
	var err error
	switch {
	case capacity == int64(s.m.MaxEntries()):
		err = fmt.Errorf("it grows to %d entries at most", s.limit)
	case s.stuck != nil && time.Since(s.tried) < again:
		return
	default:
		err = s.grow(uint32(capacity))
	}
	s.mu.Lock()
	s.stuck, s.tried = err, time.Now()
	s.mu.Unlock()
}

// grow puts all into a map of that capacity, and that in the place of the one in use. A process that dies on the way leaves the old or the new one in use, and both whole.
func (s *store[K, V]) grow(capacity uint32) error {
	old := s.m
	m, err := s.make(capacity)
	if err != nil {
		return err
	}
	err = copyMap[K, V](old, m)
	if err == nil {
		err = s.use(m)
	}
	if err != nil {
		m.Close()
		return fmt.Errorf("let %s grow to %d entries: %w", s.name, capacity, err)
	}
	s.mu.Lock()
	s.m = m
	s.mu.Unlock()
	s.grown.Add(1)
	if err := os.Remove(s.pin(old)); err != nil {
		return fmt.Errorf("remove the map that was in use: %w", err)
	}
	return old.Close()
}

func copyMap[K, V any](from, to *ebpf.Map) error {
	return chunks(from, func(keys []K, values []V) error {
		_, err := to.BatchUpdate(keys, values, nil)
		return err
	})
}

// chunks reads a hash table, in the order of its buckets: what stays there is read once.
func chunks[K, V any](m *ebpf.Map, take func([]K, []V) error) error {
	n := min(batch, int(m.MaxEntries()))
	keys, values := make([]K, n), make([]V, n)
	var at ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&at, keys, values, nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return err
		}
		if n > 0 {
			if err := take(keys[:n], values[:n]); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

// each reads all entries. It fails rather than leave one out.
func (s *store[K, V]) each(do func(K, V)) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return chunks(s.m, func(keys []K, values []V) error {
		for i := range keys {
			do(keys[i], values[i])
		}
		return nil
	})
}

func (s *store[K, V]) lookup(k *K, v *V) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.m.Lookup(k, v)
}

func (s *store[K, V]) usage() Usage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Usage{s.name, uint32(s.entries.Load()), s.m.MaxEntries(), s.limit, s.grown.Load(), s.stuck}
}

func (s *store[K, V]) close() error {
	return s.m.Close() // of nil, too
}
