package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/proxy"
)

// The sets and maps of a table. Those of packets from inside and from outside are apart, because a service may lead the two elsewhere.
const (
	insideServices  = "inside-services"  // address . protocol . port -> generation . service . count . affinity
	insidePick      = "inside-pick"      // address . protocol . port -> chain that chooses a backend
	insideEmpty     = "inside-empty"     // address . protocol . port -> chain that refuses
	outsideServices = "outside-services" // the same for packets from outside
	outsidePick     = "outside-pick"
	outsideEmpty    = "outside-empty"
	keepSource      = "keep-source" // address . protocol . port that backends see clients' own addresses through
	limited         = "limited"     // address . protocol . port that only sources in allowed may ask
	allowed         = "allowed"     // address . protocol . port . source prefix
	backendsMap     = "backends"    // generation . slot -> address . port
	members         = "members"     // service . address . port of the backends that affinity may stay with
	hairpins        = "hairpins"    // address . address of the backends on this node
	insideSet       = "inside"      // addresses of this node's own pods
	affinityMap     = "affinity"    // service . client -> address . port; written by the rules
)

// family is where the headers of an IP version have what the rules ask for.
type family struct {
	table        nftables.TableFamily
	addr         nftables.SetDatatype
	saddr, daddr uint32 // offsets in the network header
	nfproto      uint32
	words        uint32 // of an address, in registers of 32 bits
}

var (
	ipv4 = family{nftables.TableFamilyIPv4, nftables.TypeIPAddr, 12, 16, unix.NFPROTO_IPV4, 1}
	ipv6 = family{nftables.TableFamilyIPv6, nftables.TypeIP6Addr, 8, 24, unix.NFPROTO_IPV6, 4}
)

func (f family) has(a netip.Addr) bool { return a.Is4() == (f.table == nftables.TableFamilyIPv4) }

// sets are all of a table, but for affinity's, which the rules fill.
func (f family) sets(tab *nftables.Table) map[string]*nftables.Set {
	word, port, proto := nftables.TypeMark, nftables.TypeInetService, nftables.TypeInetProto
	frontend := []nftables.SetDatatype{f.addr, proto, port}
	out := map[string]*nftables.Set{}
	add := func(name string, key []nftables.SetDatatype, data ...nftables.SetDatatype) *nftables.Set {
		s := &nftables.Set{Table: tab, Name: name, Concatenation: len(key) > 1, KeyType: nftables.MustConcatSetType(key...)}
		if len(data) > 0 {
			s.IsMap = true
			s.DataType = nftables.MustConcatSetType(data...)
		}
		out[name] = s
		return s
	}
	for _, name := range []string{insideServices, outsideServices} {
		add(name, frontend, word, word, word, word)
	}
	for _, name := range []string{insidePick, insideEmpty, outsidePick, outsideEmpty} {
		s := add(name, frontend)
		s.IsMap, s.DataType = true, nftables.TypeVerdict
	}
	add(keepSource, frontend)
	add(limited, frontend)
	add(allowed, append(slices.Clone(frontend), f.addr)).Interval = true
	add(backendsMap, []nftables.SetDatatype{word, word}, f.addr, port)
	add(members, []nftables.SetDatatype{word, f.addr, port})
	add(hairpins, []nftables.SetDatatype{f.addr, f.addr})
	return out
}

func (f family) affinity(tab *nftables.Table) *nftables.Set {
	return &nftables.Set{
		Table: tab, Name: affinityMap, IsMap: true, Concatenation: true, Dynamic: true, HasTimeout: true, Size: 1 << 18,
		KeyType:  nftables.MustConcatSetType(nftables.TypeMark, f.addr),
		DataType: nftables.MustConcatSetType(f.addr, nftables.TypeInetService),
	}
}

func (f family) inside(tab *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: tab, Name: insideSet, KeyType: f.addr, Interval: true}
}

// place is where an element is: at most one has it at a time.
type place struct{ set, key string }

// frontendOf names the frontend that a place belongs to, apart for packets from inside and from outside; no set, if it belongs to none.
func (f family) frontendOf(p place) place {
	switch p.set {
	case insideServices, insidePick, insideEmpty:
		return place{insideServices, p.key}
	case outsideServices, outsidePick, outsideEmpty, keepSource, limited, allowed:
		return place{outsideServices, p.key[:4*f.words+8]}
	}
	return place{}
}

// element is what a set or a map holds at a place: bytes as the kernel wants them, or the name of a chain.
type element struct {
	place
	end   string // of an interval of keys; "" none
	data  string // "" in a set
	chain string // of a map of verdicts
}

// entry is what a frontend leads to, as the services maps have it.
type entry struct {
	generation, service, count uint32
	affinity                   uint32 // seconds; 0 none
}

func (e entry) bytes() string {
	return words(e.generation) + words(e.service) + words(e.count) + words(e.affinity)
}

func entryOf(b []byte) (entry, error) {
	if len(b) < 16 {
		return entry{}, fmt.Errorf("a service of %d bytes, want 16", len(b))
	}
	w := binary.NativeEndian
	return entry{w.Uint32(b), w.Uint32(b[4:]), w.Uint32(b[8:]), w.Uint32(b[12:])}, nil
}

// elements are all that a group has in the table of one family. Node ports are at each of nodes.
func (f family) elements(g *proxy.Group, e entry, nodes []netip.Addr, only proxy.Scope) []element {
	var out []element
	for _, fr := range g.Frontends {
		scope := fr.Scope & only
		addrs := []netip.Addr{fr.Addr}
		if fr.Addr.IsUnspecified() {
			addrs = nodes
		}
		for _, a := range addrs {
			if !f.has(a) || fr.Addr.Is4() != a.Is4() {
				continue
			}
			key := frontendKey(a, fr)
			if scope&proxy.Inside != 0 {
				out = append(out, lead(key, e, insideServices, insidePick, insideEmpty, refuseChain)...)
			}
			if scope&proxy.Outside != 0 {
				empty := refuseChain
				if g.KeepSource {
					empty = dropChain
					out = append(out, element{place: place{keepSource, key}})
				}
				out = append(out, lead(key, e, outsideServices, outsidePick, outsideEmpty, empty)...)
				out = append(out, f.sources(key, g.Sources)...)
			}
		}
	}
	if len(out) == 0 {
		return nil
	}
	for i, b := range g.Backends {
		at := string(b.Addr().AsSlice()) + padded(b.Port())
		out = append(out, element{place: place{backendsMap, words(e.generation) + words(uint32(i))}, data: at})
		if e.affinity > 0 {
			out = append(out, element{place: place{members, words(e.service) + at}})
		}
	}
	for _, a := range g.Here {
		out = append(out, element{place: place{hairpins, string(a.AsSlice()) + string(a.AsSlice())}})
	}
	return out
}

func lead(key string, e entry, services, pick, empty, refuse string) []element {
	out := []element{{place: place{services, key}, data: e.bytes()}}
	if e.count == 0 {
		return append(out, element{place: place{empty, key}, chain: refuse})
	}
	return append(out, element{place: place{pick, key}, chain: chooser{services, e.count, e.affinity}.name()})
}

// sources are the elements that admit a frontend's clients. Ranges of the other family admit nobody here, and one within another
// would overlap it, which an interval map refuses.
func (f family) sources(key string, ranges []netip.Prefix) []element {
	if len(ranges) == 0 {
		return nil
	}
	out := []element{{place: place{limited, key}}}
	for i, p := range ranges {
		within := slices.ContainsFunc(ranges, func(o netip.Prefix) bool { return o.Bits() < p.Bits() && o.Overlaps(p) })
		if f.has(p.Addr()) && !within && !slices.Contains(ranges[:i], p) {
			out = append(out, element{place: place{allowed, key + string(p.Masked().Addr().AsSlice())}, end: key + string(last(p).AsSlice())})
		}
	}
	return out
}

// last is the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func frontendKey(a netip.Addr, f proxy.Frontend) string {
	return string(a.AsSlice()) + string([]byte{byte(f.Protocol), 0, 0, 0}) + padded(f.Port)
}

func padded(port uint16) string {
	return string(append(binary.BigEndian.AppendUint16(nil, port), 0, 0))
}

func words(v uint32) string { return string(binary.NativeEndian.AppendUint32(nil, v)) }

// chooser is a chain that chooses among so many backends of the services in a map, and lets a client stay with its choice for so many seconds.
type chooser struct {
	services        string
	count, affinity uint32
}

func (c chooser) name() string {
	side, _, _ := strings.Cut(c.services, "-")
	if c.affinity > 0 {
		return fmt.Sprintf("%s-of-%d-stay-%d", side, c.count, c.affinity)
	}
	return fmt.Sprintf("%s-of-%d", side, c.count)
}

func chooserOf(name string) (chooser, bool) {
	side, rest, _ := strings.Cut(name, "-")
	c := chooser{services: side + "-services"}
	if n, _ := fmt.Sscanf(rest, "of-%d-stay-%d", &c.count, &c.affinity); n == 0 {
		return chooser{}, false
	}
	return c, c.name() == name
}

func seconds(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32((d + time.Second - 1) / time.Second)
}

func (e element) nft() nftables.SetElement {
	out := nftables.SetElement{Key: []byte(e.key), KeyEnd: []byte(e.end), Val: []byte(e.data)}
	if e.chain != "" {
		out.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.chain}
	}
	return out
}

func wordOf(key string) uint32 { return binary.NativeEndian.Uint32([]byte(key)) }
