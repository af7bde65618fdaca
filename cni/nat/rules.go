package nat

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	wildcardName = "ports"   // protocol . port -> pod address . port
	exactName    = "ipports" // address . protocol . port -> pod address . port
	nodesName    = "nodes"

	// hairpin marks a packet of a pod on the bridge that was sent on to another pod on it. Its answer would go
	// straight from pod to pod, past the translation, unless the node stands in as its source. Only the first packet of a
	// connection meets a nat chain, so the mark never outlives it.
	hairpin = 0x1000

	ctStatusDNAT = 0x20 // IPS_DST_NAT

	r0 = unix.NFT_REG32_00
)

// family is where the headers of an IP version have what the rules ask for.
type family struct {
	table        nftables.TableFamily
	addr         nftables.SetDatatype
	saddr, daddr uint32 // offsets in the network header
	nfproto      uint32
	loopback     netip.Prefix // zero: no loopback destination can be translated (::1 has no route_localnet)
	multicast    netip.Prefix
}

var (
	ipv4 = family{
		table: nftables.TableFamilyIPv4, addr: nftables.TypeIPAddr, saddr: 12, daddr: 16, nfproto: unix.NFPROTO_IPV4,
		loopback: netip.MustParsePrefix("127.0.0.0/8"), multicast: netip.MustParsePrefix("224.0.0.0/4"),
	}
	ipv6 = family{
		table: nftables.TableFamilyIPv6, addr: nftables.TypeIP6Addr, saddr: 8, daddr: 24, nfproto: unix.NFPROTO_IPV6,
		multicast: netip.MustParsePrefix("ff00::/8"),
	}
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

func families(cfg Config) []family {
	var fs []family
	for _, f := range []family{ipv4, ipv6} {
		if slices.ContainsFunc(cfg.Subnets, f.has) {
			fs = append(fs, f)
		}
	}
	return fs
}

func (f family) has(p netip.Prefix) bool { return familyOf(p.Addr()).table == f.table }

func (f family) wildcard(tab *nftables.Table) *nftables.Set {
	return &nftables.Set{
		Table: tab, Name: wildcardName, IsMap: true, Concatenation: true, HasTimeout: true,
		KeyType:  nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
		DataType: nftables.MustConcatSetType(f.addr, nftables.TypeInetService),
	}
}

func (f family) exact(tab *nftables.Table) *nftables.Set {
	return &nftables.Set{
		Table: tab, Name: exactName, IsMap: true, Concatenation: true, HasTimeout: true,
		KeyType:  nftables.MustConcatSetType(f.addr, nftables.TypeInetProto, nftables.TypeInetService),
		DataType: nftables.MustConcatSetType(f.addr, nftables.TypeInetService),
	}
}

func (f family) nodes(tab *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: tab, Name: nodesName, KeyType: f.addr}
}

// element is p as an element of the map it belongs to. Fields of a key are padded to four bytes.
func (f family) element(tab *nftables.Table, p HostPort) (*nftables.Set, nftables.SetElement) {
	key := append([]byte{byte(p.Protocol), 0, 0, 0}, padded(p.Port)...)
	set := f.wildcard(tab)
	if p.HostIP.IsValid() {
		set, key = f.exact(tab), append(p.HostIP.AsSlice(), key...)
	}
	return set, nftables.SetElement{Key: key, Val: append(p.Pod.Addr().AsSlice(), padded(p.Pod.Port())...)}
}

// hostPort is the inverse of element.
func (f family) hostPort(e nftables.SetElement, exact bool) HostPort {
	n := int(f.addr.Bytes)
	var p HostPort
	key := e.Key
	if exact {
		p.HostIP, _ = netip.AddrFromSlice(key[:n])
		key = key[n:]
	}
	p.Protocol, p.Port = Protocol(key[0]), binary.BigEndian.Uint16(key[4:])
	pod, _ := netip.AddrFromSlice(e.Val[:n])
	p.Pod = netip.AddrPortFrom(pod, binary.BigEndian.Uint16(e.Val[n:]))
	return p
}

func padded(port uint16) []byte { return append(binary.BigEndian.AppendUint16(nil, port), 0, 0) }

// ruleset queues the transaction that makes the table, its sets and its rules, over whatever version is there.
func ruleset(conn *nftables.Conn, tab *nftables.Table, f family, cfg Config, marker string, stale []string) {
	conn.AddTable(tab)
	sets := []*nftables.Set{f.wildcard(tab), f.exact(tab), f.nodes(tab)}
	for _, s := range sets {
		_ = conn.AddSet(s, nil) // fails only on an anonymous set
	}
	chain := func(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		c := &nftables.Chain{Table: tab, Name: name, Type: typ, Hooknum: hook, Priority: prio}
		conn.AddChain(c)
		conn.FlushChain(c)
		return c
	}
	rule := func(c *nftables.Chain, parts ...[]expr.Any) {
		conn.AddRule(&nftables.Rule{Table: tab, Chain: c, Exprs: slices.Concat(parts...)})
	}
	pods := slices.DeleteFunc(slices.Clone(cfg.Subnets), func(p netip.Prefix) bool { return !f.has(p) })

	publish := chain("publish", "", nil, nil)
	for _, lookup := range [][]expr.Any{f.lookupExact(), f.lookupWildcard()} {
		for _, p := range pods {
			rule(publish, f.prefix(f.saddr, p), lookup, setHairpin(), f.dnat())
		}
		rule(publish, lookup, f.dnat())
	}
	for name, hook := range map[string]*nftables.ChainHook{"prerouting": nftables.ChainHookPrerouting, "output": nftables.ChainHookOutput} {
		c := chain(name, nftables.ChainTypeNAT, hook, nftables.ChainPriorityNATDest)
		rule(c, toLocal(), jump(publish.Name))
	}

	egress := chain("egress", "", nil, nil)
	rule(egress, out(cfg.Bridge), verdict(expr.VerdictReturn))
	for _, p := range append(slices.Clone(cfg.Direct), f.multicast) {
		if f.has(p) {
			rule(egress, f.prefix(f.daddr, p), verdict(expr.VerdictReturn))
		}
	}
	rule(egress, f.nodeDestination(), verdict(expr.VerdictReturn))
	rule(egress, []expr.Any{&expr.Masq{}})

	post := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	rule(post, translated(expr.CmpOpNeq), marked(), out(cfg.Bridge), []expr.Any{&expr.Masq{}})
	if f.loopback.IsValid() {
		rule(post, translated(expr.CmpOpNeq), f.prefix(f.saddr, f.loopback), out(cfg.Bridge), []expr.Any{&expr.Masq{}})
		// A host port on 127.0.0.1 needs route_localnet on the bridge; what else comes from there to it must not pass.
		in := chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
		rule(in, iif(cfg.Bridge), f.prefix(f.daddr, f.loopback), translated(expr.CmpOpEq), verdict(expr.VerdictDrop))
	}
	if cfg.Masquerade {
		for _, p := range pods {
			rule(post, f.prefix(f.saddr, p), jump(egress.Name))
		}
	}
	for _, name := range stale {
		conn.DelChain(&nftables.Chain{Table: tab, Name: name})
	}
	conn.AddChain(&nftables.Chain{Table: tab, Name: marker})
}

// prefix goes on when the address at offset of the network header is in p.
func (f family) prefix(offset uint32, p netip.Prefix) []expr.Any {
	n := f.addr.Bytes
	mask := make([]byte, n)
	for i := range p.Bits() {
		mask[i/8] |= 1 << (7 - i%8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: r0, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n},
		&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: n, Mask: mask, Xor: make([]byte, n)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: p.Masked().Addr().AsSlice()},
	}
}

// lookupWildcard goes on when protocol and port are published, with the pod's address and port from r0 on.
func (f family) lookupWildcard() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r0},
		&expr.Payload{DestRegister: r0 + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: r0, DestRegister: r0, IsDestRegSet: true, SetName: wildcardName},
	}
}

func (f family) lookupExact() []expr.Any {
	n := f.addr.Bytes
	return []expr.Any{
		&expr.Payload{DestRegister: r0, Base: expr.PayloadBaseNetworkHeader, Offset: f.daddr, Len: n},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r0 + n/4},
		&expr.Payload{DestRegister: r0 + n/4 + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: r0, DestRegister: r0, IsDestRegSet: true, SetName: exactName},
	}
}

func (f family) dnat() []expr.Any {
	return []expr.Any{&expr.NAT{
		Type: expr.NATTypeDestNAT, Family: f.nfproto, RegAddrMin: r0, RegProtoMin: r0 + f.addr.Bytes/4, Specified: true,
	}}
}

func (f family) nodeDestination() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: r0, Base: expr.PayloadBaseNetworkHeader, Offset: f.daddr, Len: f.addr.Bytes},
		&expr.Lookup{SourceRegister: r0, SetName: nodesName},
	}
}

// toLocal goes on for packets to an address of the node.
func toLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: r0, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
	}
}

// setHairpin uses a register that no lookup's answer lies in.
func setHairpin() []expr.Any {
	const r = r0 + 8
	word := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: r},
		&expr.Bitwise{SourceRegister: r, DestRegister: r, Len: 4, Mask: word(^uint32(hairpin)), Xor: word(hairpin)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: r},
	}
}

func marked() []expr.Any {
	return append([]expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: r0}}, anyBit(hairpin, expr.CmpOpNeq)...)
}

// translated compares the connection's destination-was-translated bit with zero.
func translated(op expr.CmpOp) []expr.Any {
	return append([]expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: r0}}, anyBit(ctStatusDNAT, op)...)
}

func anyBit(bit uint32, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, bit), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: r0, Data: make([]byte, 4)},
	}
}

func out(iface string) []expr.Any { return ifaceIs(expr.MetaKeyOIFNAME, iface) }
func iif(iface string) []expr.Any { return ifaceIs(expr.MetaKeyIIFNAME, iface) }

func ifaceIs(key expr.MetaKey, iface string) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, iface)
	return []expr.Any{&expr.Meta{Key: key, Register: r0}, &expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: name}}
}

func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }
