package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/proxy"
)

// visits are what clients do at a frontend and a backend: the end of the key of their affinity.
type visits map[string]bool

// ended adds those at the frontends of list with the backends that a group with affinity had and has no more.
func (v visits) ended(list []element, before, after *proxy.Group) {
	if before == nil || before.Affinity == 0 {
		return
	}
	for _, b := range before.Backends {
		if slices.Contains(after.Backends, b) {
			continue
		}
		for _, e := range list {
			if e.set == inside.pick || e.set == outside.pick {
				v[e.key+string(markOf(b))] = true
			}
		}
	}
}

// forget ends that clients stay with backends that are gone. Should one come back before the timeout, clients would go back to it from where they
// have been meanwhile.
func (s *side) forget(gone visits) error {
	if len(gone) == 0 {
		return nil
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	set := s.f.affinity(s.tab)
	all, err := conn.GetSetElements(set)
	if err != nil {
		return fmt.Errorf("read affinities: %w", err)
	}
	for _, e := range all {
		if client := int(4 * s.f.words); len(e.Key) < client || !gone[string(e.Key[client:])] {
			continue
		}
		// One transaction each: the element may have expired, which fails the whole of its own.
		if err := conn.SetDeleteElements(set, []nftables.SetElement{{Key: e.Key}}); err != nil {
			return fmt.Errorf("end affinity: %w", err)
		}
		if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("end affinity: %w", err)
		}
	}
	return nil
}
