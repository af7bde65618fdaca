package ipam

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// foreignPath is where the plugin host-local says that an address is taken: a file whose first line is the container, the second
// its interface.
func (s *Store) foreignPath(a netip.Addr) string { return s.network + "/" + a.String() }

// Foreign lists what host-local gave before this plugin took its place. Old versions of it kept no interface, which is empty then.
func (s *Store) Foreign() ([]Lease, error) {
	entries, err := os.ReadDir(s.network)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read IPAM folder: %w", err)
	}
	var out []Lease
	for _, e := range entries {
		a, err := netip.ParseAddr(e.Name())
		if err != nil || !e.Type().IsRegular() {
			continue
		}
		b, written, err := readFile(filepath.Join(s.network, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read address %s of host-local: %w", e.Name(), err)
		}
		id, ifname, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
		out = append(out, Lease{Attachment: Attachment{strings.TrimSpace(id), strings.TrimSpace(ifname)}, Addrs: []netip.Addr{a}, Written: written})
	}
	return out, nil
}

// DropForeign gives back what Foreign returned.
func (s *Store) DropForeign(l Lease) error {
	for _, a := range l.Addrs {
		if err := os.Remove(s.foreignPath(a)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("give back address %s of host-local: %w", a, err)
		}
	}
	return nil
}

// releaseForeign gives back what host-local gave att. Usually there is nothing to read.
func (s *Store) releaseForeign(att Attachment) error {
	leases, err := s.Foreign()
	if err != nil {
		return err
	}
	for _, l := range leases {
		if l.ContainerID != att.ContainerID || l.IfName != "" && l.IfName != att.IfName {
			continue
		}
		if err := s.DropForeign(l); err != nil {
			return err
		}
	}
	return nil
}
