package socklb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// before is the layout that an agent of an earlier version leaves. Its maps of services do not grow; their keys and values are this layout's.
const before = "v2"

// begin makes the folder of the maps, and says whether what the layout before has is to be copied there: the folder is new, and that one is there.
//
// What sockets and clients chose is the same in both layouts, and not copied but shared: the programs before write it until they are replaced, one after the
// other, and without it a socket of UDP that waits for an answer would have it from a stranger.
func (l *LB) begin() (inherits bool, err error) {
	maps, old := Maps(l.cfg.PinDir), filepath.Join(l.cfg.PinDir, before)
	if _, err := os.Stat(maps); err == nil {
		return false, nil
	}
	if _, err := os.Stat(old); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(maps, 0o700); err != nil {
			return false, fmt.Errorf("make pin folder: %w", err)
		}
		return false, nil
	}
	tmp := filepath.Join(l.cfg.PinDir, "new-"+layout)
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o700)); err != nil {
		return false, fmt.Errorf("make pin folder: %w", err)
	}
	for _, name := range []string{objectMapSockets, objectMapChoices} {
		if err := share(filepath.Join(old, name), filepath.Join(tmp, name)); err != nil {
			return false, err
		}
	}
	if err := os.Rename(tmp, maps); err != nil {
		return false, fmt.Errorf("name the pin folder: %w", err)
	}
	return true, nil
}

// share pins a map at a second place. One that is not there is no error.
func share(from, to string) error {
	m, err := ebpf.LoadPinnedMap(from, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", from, err)
	}
	defer m.Close()
	second, err := m.Clone() // a map that knows its pin would be moved
	if err != nil {
		return err
	}
	defer second.Close()
	if err := second.Pin(to); err != nil {
		return fmt.Errorf("pin %s: %w", to, err)
	}
	return nil
}

// inherit copies the services of the layout before, so that they keep the numbers by which sockets, clients and flows know them. Members come first: a start that
// is cut off then knows at least which numbers are taken.
func (l *LB) inherit() error {
	dir := filepath.Join(l.cfg.PinDir, before)
	err := errors.Join(l.members.take(dir), l.backends.take(dir), l.tables.take(dir), l.frontends.take(dir))
	if err != nil {
		return fmt.Errorf("copy services from layout %s: %w", before, err)
	}
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, objectMapSources), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the sources of layout %s: %w", before, err)
	}
	defer m.Close()
	var k objectSource
	var v uint32
	it := m.Iterate()
	for it.Next(&k, &v) {
		if err := l.objs.Sources.Put(&k, v); err != nil {
			return fmt.Errorf("copy sources from layout %s: %w", before, err)
		}
	}
	return it.Err()
}

// take copies a map of the same name that does not grow. One that is not there, or has other keys or values, is left alone.
func (s *store[K, V]) take(dir string) error {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, s.name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", s.name, err)
	}
	defer m.Close()
	if m.Type() != ebpf.Hash || m.KeySize() != s.spec.KeySize || m.ValueSize() != s.spec.ValueSize {
		return nil
	}
	return chunks(m, func(keys []K, values []V) error {
		for i := range keys {
			if err := s.put(&keys[i], &values[i]); err != nil {
				return err
			}
		}
		return nil
	})
}
