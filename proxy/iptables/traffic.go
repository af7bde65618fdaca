package iptables

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/orlop-io/orlop/proxy"
)

// Traffic returns what became of clients since the chains were first written by this process, by the service's port they asked for. It may be called at any time. It reads all rules, which with many
// services takes seconds.
func (b *Backend) Traffic() (map[string]proxy.Traffic, error) {
	out := map[string]proxy.Traffic{}
	var errs []error
	for _, s := range b.sides {
		errs = append(errs, s.ledger.read(func() (map[string]uint64, error) {
			var found map[string]uint64
			err := s.tool.visit(s.f.v4, func() visitor {
				found = map[string]uint64{}
				return visitor{func(chain) {}, func(r rule) {
					if r.packets > 0 && r.counts() {
						found[r.at.name] += r.packets
					}
				}}
			})
			return found, err
		}))
		s.ledger.sum(out)
	}
	return out, errors.Join(errs...)
}

// counts tells whether a rule counts clients: the one of an endpoint's chain that leads to no other chain, and those of chains where the others end. Only the first packet of a connection comes to the
// table nat, and to our rules in filter.
func (r rule) counts() bool {
	switch {
	case strings.HasPrefix(r.at.name, endpoints):
		return r.to == ""
	case strings.HasPrefix(r.at.name, stayed), strings.HasPrefix(r.at.name, refusing), strings.HasPrefix(r.at.name, dropping):
		return true
	}
	return false
}

// counter tells whether a chain has a rule that counts: it is its last.
func counter(c chain, rules []string) bool {
	return len(rules) > 0 && ruleAs(c, rules[len(rules)-1]).counts()
}

// ledger is what the chains of a family have counted, beyond the times that they are written anew or go. A chain that nothing leads to any more goes only when it has been read since, so that nothing
// is lost with an endpoint. The zero value is ready.
type ledger struct {
	reading sync.Mutex // of two readings the second is the younger

	mu     sync.Mutex
	clock  uint64 // of the changes: a reading that began before one says nothing of what that has written
	chains map[string]tally
	idle   map[string]idle // chains that nothing leads to
	ports  map[portKey]proxy.Traffic
}

// tally is what of a chain's packets is counted in its port already.
type tally struct {
	at      chain
	of      portKey
	packets uint64
	since   uint64 // when its rules were written
}

type idle struct {
	since uint64
	read  bool // whole
}

// read adds what has been counted since the last reading, by the names of chains, as list tells it.
func (l *ledger) read(list func() (map[string]uint64, error)) error {
	l.reading.Lock()
	defer l.reading.Unlock()
	l.mu.Lock()
	began := l.clock
	l.mu.Unlock()
	found, err := list()
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, packets := range found {
		t, known := l.chains[name]
		if !known || t.since > began {
			continue
		}
		if packets < t.packets { // somebody has set it to nothing
			t.packets = 0
		}
		more := proxy.Traffic{Connections: packets - t.packets}
		if t.at.table == filter {
			more = proxy.Traffic{Failures: packets - t.packets}
		}
		l.ports[t.of] = l.ports[t.of].Plus(more)
		t.packets = packets
		l.chains[name] = t
	}
	for name, i := range l.idle {
		i.read = i.read || i.since <= began
		l.idle[name] = i
	}
	return nil
}

// sum adds what is counted to out, by ports.
func (l *ledger) sum(out map[string]proxy.Traffic) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, t := range l.ports {
		out[k.port] = out[k.port].Plus(t)
	}
}

// keep has want hold those chains of have that still count for a port which there is, and have not been read whole.
func (l *ledger) keep(have, want layout, units map[portKey]*unit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c, rules := range have {
		if _, there := want[c]; there || !counter(c, rules) || units[l.chains[c.name].of] == nil || l.idle[c.name].read {
			continue
		}
		want[c] = rules
	}
}

// settled tells whether there are chains that keep holds no more.
func (l *ledger) settled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range l.idle {
		if i.read {
			return true
		}
	}
	return false
}

// wrote notes that the chains of want are in force where those of have were.
func (l *ledger) wrote(have, want layout, units map[portKey]*unit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock++
	if l.chains == nil {
		l.chains, l.idle, l.ports = map[string]tally{}, map[string]idle{}, map[portKey]proxy.Traffic{}
	}
	for name, t := range l.chains {
		switch u := units[t.of]; {
		case !counter(t.at, want[t.at]):
			delete(l.chains, name)
			delete(l.idle, name)
		case u.own[t.at] != nil:
			delete(l.idle, name)
		case l.idle[name] == (idle{}):
			l.idle[name] = idle{since: l.clock}
		}
	}
	for k, u := range units {
		for c, rules := range u.own {
			if old, there := have[c]; counter(c, rules) && (!there || !slices.Equal(old, rules)) {
				l.chains[c.name] = tally{at: c, of: k, since: l.clock}
			}
		}
	}
	maps.DeleteFunc(l.ports, func(k portKey, _ proxy.Traffic) bool { return units[k] == nil })
}
