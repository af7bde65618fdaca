package userspace

import (
	"sync"
	"sync/atomic"

	"github.com/orlop-io/orlop/proxy"
)

// traffic counts what became of clients, by the port of a service. The zero value is ready.
type traffic struct{ ports sync.Map } // of *count

type count struct{ connections, failures atomic.Uint64 }

func (t *traffic) of(g *proxy.Group) *count {
	c, known := t.ports.Load(g.Port)
	if !known {
		c, _ = t.ports.LoadOrStore(g.Port, &count{})
	}
	return c.(*count)
}

// keep forgets the ports that a model does not have.
func (t *traffic) keep(model proxy.Model) {
	there := map[string]bool{}
	for _, g := range model {
		there[g.Port] = true
	}
	t.ports.Range(func(port, _ any) bool {
		if !there[port.(string)] {
			t.ports.Delete(port)
		}
		return true
	})
}

// unserve counts a client that nobody serves.
func (b *Backend) unserve(t *target) {
	if t != nil {
		b.traffic.of(t.group).failures.Add(1)
	}
}

// Traffic returns what became of clients since the backend was opened, by the service's port they asked for. Connections are counted when a backend has taken them.
func (b *Backend) Traffic() (map[string]proxy.Traffic, error) {
	out := map[string]proxy.Traffic{}
	b.traffic.ports.Range(func(port, c any) bool {
		n := c.(*count)
		out[port.(string)] = proxy.Traffic{Connections: n.connections.Load(), Failures: n.failures.Load()}
		return true
	})
	return out, nil
}
