package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/orlop-io/orlop/proxy"
)

// Held is where the tables lead those who ask for an address.
type Held struct {
	Backends []netip.AddrPort // sorted; none: they are refused
	// Stays says that clients stay with their backend: which there are is in a chain's rules, and is not read.
	Stays bool
}

// Held reads the tables. Each frontend has one scope, and node ports are at each of the node's addresses, which NodePorts returns.
func (b *Backend) Held() (map[proxy.Frontend]Held, error) {
	out := map[proxy.Frontend]Held{}
	for _, s := range b.sides {
		now := &side{f: s.f}
		if err := now.adopt(); err != nil {
			return nil, err
		}
		for p, e := range now.have {
			scope := proxy.Inside
			switch p.set {
			case outside.pick, outside.empty, outside.backends:
				scope = proxy.Outside
			case inside.pick, inside.empty, inside.backends:
			default:
				continue
			}
			at := s.f.asked(p.key, scope)
			h := out[at]
			switch p.set {
			case inside.backends, outside.backends:
				h.Backends = append(h.Backends, s.f.backend(e.data))
			case inside.pick, outside.pick:
				h.Stays = true // unless there are backends
			}
			out[at] = h
		}
	}
	for at, h := range out {
		slices.SortFunc(h.Backends, netip.AddrPort.Compare)
		h.Stays = h.Stays && len(h.Backends) == 0
		out[at] = h
	}
	return out, nil
}

// NodePorts are where node ports are asked.
func (b *Backend) NodePorts() []netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.node.NodePorts)
}

// asked undoes frontendKey; what follows in a key is left out.
func (f family) asked(key string, scope proxy.Scope) proxy.Frontend {
	n := 4 * f.words
	a, _ := netip.AddrFromSlice([]byte(key[:n]))
	return proxy.Frontend{Addr: a, Protocol: proxy.Protocol(key[n]), Port: binary.BigEndian.Uint16([]byte(key[n+4:])), Scope: scope}
}

func (f family) backend(data string) netip.AddrPort {
	a, _ := netip.AddrFromSlice([]byte(data[:4*f.words]))
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16([]byte(data[4*f.words:])))
}
