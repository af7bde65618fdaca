package ebpf

import (
	"errors"

	"github.com/orlop-io/orlop/proxy"
)

// name says which port a service of the maps is of; empty, that it is gone.
func (b *Backend) name(service uint32, port string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if port == "" {
		delete(b.ports, service)
		return
	}
	if b.ports == nil {
		b.ports = map[uint32]string{}
	}
	b.ports[service] = port
}

// Traffic returns what became of clients, by the service's port they asked for. It may be called at any time, and forgets the traffic of services that are gone.
func (b *Backend) Traffic() (map[string]proxy.Traffic, error) {
	all, err := b.lb.Traffic()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock() // a service has its name before it is in the maps, so one that has traffic by now and no name is gone
	out := map[string]proxy.Traffic{}
	var errs []error
	for id, t := range all {
		port := b.ports[id]
		if port == "" && b.whole {
			errs = append(errs, b.lb.DeleteTraffic(id))
		}
		if port != "" {
			out[port] = out[port].Plus(proxy.Traffic(t))
		}
	}
	return out, errors.Join(errs...)
}
