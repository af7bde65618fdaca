package ipam

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Fault is one thing in the store that no step of the plugin leaves while it holds the lock.
type Fault struct {
	What   string // the fault, as told to a person
	Repair string // what Repair does about it
	act    func() error
}

// Verify lists the store's faults and changes nothing.
func (s *Store) Verify() (faults []Fault, err error) {
	if _, err := os.Lstat(s.boot); errors.Is(err, fs.ErrNotExist) {
		return nil, nil // no lease in this boot
	}
	err = s.Exclusive(func() error {
		faults, err = s.faults()
		return err
	})
	return faults, err
}

// Repair mends the store's faults, and returns them.
func (s *Store) Repair() (faults []Fault, err error) {
	if _, err := os.Lstat(s.boot); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	err = s.Exclusive(func() error {
		if faults, err = s.faults(); err != nil {
			return err
		}
		var errs []error
		for _, f := range faults {
			errs = append(errs, f.act())
		}
		return errors.Join(errs...)
	})
	return faults, err
}

func (s *Store) faults() ([]Fault, error) {
	leases, err := s.List()
	if err != nil {
		return nil, err
	}
	var out []Fault
	named := map[netip.Addr]bool{} // by leases, whether they have them or not
	for _, l := range leases {
		if l.Torn {
			out = append(out, Fault{fmt.Sprintf("lease %s cannot be read", l.key), "remove it, and free its addresses", func() error { return s.release(l.key) }})
			continue
		}
		for _, a := range l.Addrs {
			named[a] = true
			holder, taken, err := readLease(s.addrPath(a))
			if err == nil && taken && holder.Attachment == l.Attachment {
				continue
			}
			out = append(out, Fault{
				fmt.Sprintf("container %s %s does not hold %s, which its lease names", l.ContainerID, l.IfName, a),
				"give it the address if nobody has it, else remove the lease", func() error { return s.regain(l, a) },
			})
		}
	}
	entries, err := os.ReadDir(filepath.Join(s.boot, addrsDir))
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	torn := slices.ContainsFunc(leases, func(l Lease) bool { return l.Torn }) // their addresses go with them
	for _, e := range entries {
		a, err := netip.ParseAddr(e.Name())
		if err == nil && (named[a] || torn && s.tornAddr(a)) {
			continue
		}
		path := filepath.Join(s.boot, addrsDir, e.Name())
		out = append(out, Fault{fmt.Sprintf("address %s is taken by no lease", e.Name()), "free it", func() error {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}})
	}
	slices.SortFunc(out, func(a, b Fault) int { return strings.Compare(a.What, b.What) })
	return out, nil
}

func (s *Store) tornAddr(a netip.Addr) bool {
	_, _, err := readLease(s.addrPath(a))
	return errors.Is(err, ErrTorn)
}

// regain takes an address for the lease that names it, or removes the lease: a container without its address has no network anyway.
func (s *Store) regain(l Lease, a netip.Addr) error {
	if s.tornAddr(a) {
		if err := os.Remove(s.addrPath(a)); err != nil {
			return err
		}
	}
	err := os.Link(s.leasePath(l.Attachment), s.addrPath(a))
	if errors.Is(err, fs.ErrExist) {
		return s.release(l.key)
	}
	return err
}
