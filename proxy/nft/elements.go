package nft

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/proxy"
)

// The sets and maps of a table, but for those of a direction.
const (
	insideSet   = "inside"      // addresses of this node's own pods
	published   = "published"   // address . protocol . port that packets from outside are translated at
	keepSource  = "keep-source" // those of them that backends see clients' own addresses through
	limited     = "limited"     // those of them that only sources in allowed may ask
	allowed     = "allowed"     // address . protocol . port . source prefix
	hairpins    = "hairpins"    // address . address of the backends on this node
	affinitySet = "affinity"    // client . address . protocol . port . backend's mark; written by the rules
)

// direction is the maps for packets from one side, because a service may lead the two elsewhere.
type direction struct {
	name     string
	pick     string // address . protocol . port -> chain that chooses a backend
	empty    string // address . protocol . port -> chain that refuses
	backends string // address . protocol . port . slot -> address . port
}

var (
	inside  = direction{"inside", "inside-pick", "inside-empty", "inside-backends"}
	outside = direction{"outside", "outside-pick", "outside-empty", "outside-backends"}
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
	for _, d := range []direction{inside, outside} {
		for _, name := range []string{d.pick, d.empty} {
			m := add(name, frontend)
			m.IsMap, m.DataType = true, nftables.TypeVerdict
		}
		add(d.backends, append(slices.Clone(frontend), word), f.addr, port)
	}
	add(published, frontend)
	add(keepSource, frontend)
	add(limited, frontend)
	add(allowed, append(slices.Clone(frontend), f.addr)).Interval = true
	add(hairpins, []nftables.SetDatatype{f.addr, f.addr})
	return out
}

func (f family) affinity(tab *nftables.Table) *nftables.Set {
	return &nftables.Set{
		Table: tab, Name: affinitySet, Concatenation: true, Dynamic: true, HasTimeout: true, Size: 1 << 18,
		KeyType: nftables.MustConcatSetType(f.addr, f.addr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark),
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
	case inside.pick, inside.empty, inside.backends:
		return place{inside.name, p.key[:4*f.words+8]}
	case outside.pick, outside.empty, outside.backends, published, keepSource, limited, allowed:
		return place{outside.name, p.key[:4*f.words+8]}
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

// elements are all that a group has in the table of one family. Node ports are at each of nodes.
func (f family) elements(g *proxy.Group, nodes []netip.Addr, only proxy.Scope) []element {
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
				out = append(out, inside.lead(key, g, refuseChain)...)
			}
			if scope&proxy.Outside != 0 {
				empty := refuseChain
				if g.KeepSource {
					empty = dropChain
					out = append(out, element{place: place{keepSource, key}})
				}
				out = append(out, element{place: place{published, key}})
				out = append(out, outside.lead(key, g, empty)...)
				out = append(out, f.sources(key, g.Sources)...)
			}
		}
	}
	if len(out) == 0 {
		return nil
	}
	for _, a := range g.Here {
		out = append(out, element{place: place{hairpins, string(a.AsSlice()) + string(a.AsSlice())}})
	}
	return out
}

// lead is what a frontend has in the maps of a direction.
func (d direction) lead(key string, g *proxy.Group, refuse string) []element {
	if len(g.Backends) == 0 {
		return []element{{place: place{d.empty, key}, chain: refuse}}
	}
	if g.Affinity > 0 {
		return []element{{place: place{d.pick, key}, chain: stayChain(g)}}
	}
	out := []element{{place: place{d.pick, key}, chain: chooser{d, uint32(len(g.Backends))}.name()}}
	for i, b := range g.Backends {
		out = append(out, element{place: place{d.backends, key + words(uint32(i))}, data: string(b.Addr().AsSlice()) + padded(b.Port())})
	}
	return out
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

func words(v uint32) string { return string(native(v)) }

// chooser is a chain that chooses among so many backends of whatever was asked for.
type chooser struct {
	direction
	count uint32
}

func (c chooser) name() string { return fmt.Sprintf("%s-of-%d", c.direction.name, c.count) }

func chooserOf(name string) (chooser, bool) {
	side, count, _ := strings.Cut(name, "-of-")
	n, err := strconv.ParseUint(count, 10, 32)
	c := chooser{inside, uint32(n)}
	if side == outside.name {
		c.direction = outside
	}
	return c, err == nil && c.name() == name
}

const stayPrefix = "stay-"

// stayChain names the chain that chooses among a group's backends and has clients stay with them: by what the chain holds, so that
// another chain has another name.
func stayChain(g *proxy.Group) string {
	h := sha256.New()
	for _, b := range g.Backends {
		fmt.Fprintln(h, b)
	}
	fmt.Fprintln(h, seconds(g.Affinity))
	return stayPrefix + hex.EncodeToString(h.Sum(nil)[:12])
}

// markOf stands for a backend in the affinity of clients. Two of a service with the same one would have the first answer for the second.
func markOf(b netip.AddrPort) []byte {
	sum := sha256.Sum256([]byte(b.String()))
	return sum[:4]
}

func seconds(d time.Duration) time.Duration { return (d + time.Second - 1).Truncate(time.Second) }

func (e element) nft() nftables.SetElement {
	out := nftables.SetElement{Key: []byte(e.key), KeyEnd: []byte(e.end), Val: []byte(e.data)}
	if e.chain != "" {
		out.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.chain}
	}
	return out
}

// gone is e as the kernel wants it to delete it.
func (e element) gone() nftables.SetElement {
	return nftables.SetElement{Key: []byte(e.key), KeyEnd: []byte(e.end)}
}
