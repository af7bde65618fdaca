package userspace

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/orlop-io/orlop/proxy"
)

// target is a group as it is now, and what is remembered of it while its endpoints change.
type target struct {
	group *proxy.Group
	state *state
}

// state is whose turn it is, and which client stays with which backend.
type state struct {
	mu      sync.Mutex
	next    int
	clients map[netip.Addr]visit
}

type visit struct {
	backend netip.AddrPort
	until   time.Time
}

func (t *target) serves() bool { return t != nil && len(t.group.Backends) > 0 }

func (t *target) has(b netip.AddrPort) bool { return t != nil && slices.Contains(t.group.Backends, b) }

// pick is the backend for a client: the one it stays with, or the next in turn. Not is one that has just failed it; the zero value is none.
func (t *target) pick(client netip.Addr, not netip.AddrPort, now time.Time) (netip.AddrPort, bool) {
	if !t.serves() {
		return netip.AddrPort{}, false
	}
	t.state.mu.Lock()
	defer t.state.mu.Unlock()
	v, known := t.state.clients[client]
	b := v.backend
	if !known || !now.Before(v.until) || b == not || t.group.Affinity == 0 || !t.has(b) {
		b = t.group.Backends[t.state.next%len(t.group.Backends)]
		t.state.next++
	}
	if t.group.Affinity > 0 {
		if t.state.clients == nil {
			t.state.clients = map[netip.Addr]visit{}
		}
		t.state.clients[client] = visit{b, now.Add(t.group.Affinity)}
	}
	return b, true
}

// forget drops the clients whose time is over.
func (s *state) forget(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, v := range s.clients {
		if !now.Before(v.until) {
			delete(s.clients, c)
		}
	}
}
