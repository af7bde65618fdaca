package nft

import (
	"errors"
	"fmt"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/proxy"
)

// The sets that the rules fill, an element for each frontend that somebody has asked for, with a counter. Only the first packet of a connection, and those that are
// refused or dropped, come by a rule that counts.
const (
	connectionsSet = "connections"
	failuresSet    = "failures"
)

// counted is how many frontends are counted at most; what has no room is not.
const counted = 1 << 16

func (f family) counts(tab *nftables.Table, name string) *nftables.Set {
	return &nftables.Set{
		Table: tab, Name: name, Concatenation: true, Dynamic: true, Size: counted,
		KeyType: nftables.MustConcatSetType(f.addr, nftables.TypeInetProto, nftables.TypeInetService),
	}
}

// count counts the packet for where it goes to. It is a rule of its own: where there is no room the packet goes on with the next.
func (f family) count(set string) []expr.Any {
	return append(f.frontend(), &expr.Dynset{SrcRegKey: r0, SetName: set, Operation: unix.NFT_DYNSET_OP_ADD, Exprs: []expr.Any{&expr.Counter{}}})
}

// ports are of the services that frontends are of.
type ports struct {
	mu sync.Mutex
	of map[place]string
}

func (p *ports) set(at place, port string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if port == "" {
		delete(p.of, at)
		return
	}
	if p.of == nil {
		p.of = map[place]string{}
	}
	p.of[at] = port
}

// at is the port of a frontend's key; empty where there is none any more.
func (p *ports) at(key string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if port := p.of[place{outside.name, key}]; port != "" {
		return port
	}
	return p.of[place{inside.name, key}]
}

// Traffic returns what became of clients since the tables were made, by the service's port they asked for. It may be called at any time, and forgets frontends that are
// gone.
func (b *Backend) Traffic() (map[string]proxy.Traffic, error) {
	out := map[string]proxy.Traffic{}
	var errs []error
	for _, s := range b.sides {
		tab := &nftables.Table{Name: Table, Family: s.f.table}
		errs = append(errs,
			s.read(s.f.counts(tab, connectionsSet), func(port string, n uint64) { out[port] = out[port].Plus(proxy.Traffic{Connections: n}) }),
			s.read(s.f.counts(tab, failuresSet), func(port string, n uint64) { out[port] = out[port].Plus(proxy.Traffic{Failures: n}) }))
	}
	return out, errors.Join(errs...)
}

func (s *side) read(set *nftables.Set, add func(port string, packets uint64)) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	if _, err := conn.GetSetByName(set.Table, set.Name); errors.Is(err, unix.ENOENT) {
		return nil // there is no table while there is nothing to translate
	}
	list, err := conn.GetSetElements(set)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("read %s: %w", set.Name, err)
	}
	for _, e := range list {
		port := s.ports.at(string(e.Key))
		if port != "" && e.Counter != nil {
			add(port, e.Counter.Packets)
		}
		if port != "" {
			continue
		}
		// A transaction each: the table may have gone meanwhile.
		if err := conn.SetDeleteElements(set, []nftables.SetElement{{Key: e.Key}}); err != nil {
			return fmt.Errorf("forget what a frontend counted: %w", err)
		}
		if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("forget what a frontend counted: %w", err)
		}
	}
	return nil
}
