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

// releaseForeign gives back what host-local gave att before this plugin took its place. Usually there is nothing to read.
func (s *Store) releaseForeign(att Attachment) error {
	entries, err := os.ReadDir(s.network)
	if err != nil {
		return fmt.Errorf("read IPAM folder: %w", err)
	}
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err != nil || !e.Type().IsRegular() {
			continue
		}
		path := filepath.Join(s.network, e.Name())
		b, err := os.ReadFile(path)
		if err == nil && holds(string(b), att) {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("give back address %s of host-local: %w", e.Name(), err)
		}
	}
	return nil
}

func holds(content string, att Attachment) bool {
	id, ifname, both := strings.Cut(strings.TrimSpace(content), "\n")
	return strings.TrimSpace(id) == att.ContainerID && (!both || strings.TrimSpace(ifname) == att.IfName)
}
