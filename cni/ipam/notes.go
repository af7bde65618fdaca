package ipam

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Note is a name that outlives a lease: something of this boot that is still to be taken away.
type Note struct {
	Name    string
	Written time.Time
}

// Remember notes a name, for this boot.
func (s *Store) Remember(name string) error {
	path := filepath.Join(s.boot, notesDir, name)
	err := writeFile(path, nil)
	if errors.Is(err, fs.ErrNotExist) { // the first of this boot
		if err = s.Exclusive(func() error { return nil }); err == nil {
			err = writeFile(path, nil)
		}
	}
	if err != nil {
		return fmt.Errorf("note %s: %w", name, err)
	}
	return nil
}

// Forget removes a note. One that is not there is no error.
func (s *Store) Forget(name string) error {
	if err := os.Remove(filepath.Join(s.boot, notesDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget %s: %w", name, err)
	}
	return nil
}

// Notes lists what is noted.
func (s *Store) Notes() ([]Note, error) {
	notes, err := listFiles(filepath.Join(s.boot, notesDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list notes: %w", err)
	}
	return notes, nil
}
