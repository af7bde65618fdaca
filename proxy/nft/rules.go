package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/proxy"
)

const (
	refuseChain = "refuse"
	dropChain   = "discard"
	insideChain = "inside" // goes to the chooser of a packet from inside
	// version is the name of an empty chain. It changes whenever the sets or the rules do: a table of another version is made anew.
	version = "version-2"

	// masqueradeMark is kube-proxy's bit 14, with its meaning: the packet's source becomes the node's address.
	masqueradeMark = 1 << 14

	ctStatusDNAT = 0x20 // IPS_DST_NAT

	r0 = unix.NFT_REG32_00
)

// The hooks come before those that publish host ports and translate for others, so that a refused packet meets none of them.
var (
	refusePriority = nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest - 10)
	dnatPriority   = nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest - 5)
	snatPriority   = nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 5)
)

// writer queues what makes up a table.
type writer struct {
	conn *nftables.Conn
	tab  *nftables.Table
	f    family
	// packets says that all packets are counted.
	packets bool
}

func (w writer) chain(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
	return w.conn.AddChain(&nftables.Chain{Table: w.tab, Name: name, Type: typ, Hooknum: hook, Priority: prio})
}

func (w writer) rule(c *nftables.Chain, parts ...[]expr.Any) {
	w.conn.AddRule(&nftables.Rule{Table: w.tab, Chain: c, Exprs: slices.Concat(parts...)})
}

// table queues a table with its sets and its rules.
//
// A packet from inside is one of this node's own or of its pods; all other packets are from outside, pods of other nodes too, since the answers to
// them must come back this way.
func (w writer) table() {
	f := w.f
	w.conn.AddTable(w.tab)
	for _, s := range f.sets(w.tab) {
		_ = w.conn.AddSet(s, nil) // fails only on an anonymous set
	}
	_ = w.conn.AddSet(f.affinity(w.tab), nil)
	_ = w.conn.AddSet(f.inside(w.tab), nil)
	_ = w.conn.AddSet(f.counts(w.tab, connectionsSet), nil)
	_ = w.conn.AddSet(f.counts(w.tab, failuresSet), nil)
	w.chain(version, "", nil, nil)
	if w.packets {
		w.countPackets()
	}

	drop := w.chain(dropChain, "", nil, nil)
	w.rule(drop, f.count(failuresSet))
	w.rule(drop, verdict(expr.VerdictDrop))
	w.refusals()
	pre := w.chain("prerouting-refuse", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, refusePriority)
	out := w.chain("output-refuse", nftables.ChainTypeFilter, nftables.ChainHookOutput, refusePriority)
	w.rule(out, f.frontend(), vmap(inside.empty))
	refuseInside := w.chain("refuse-inside", "", nil, nil)
	w.rule(refuseInside, f.frontend(), vmap(inside.empty))
	w.rule(pre, f.fromPods(), to(refuseInside.Name))
	w.rule(pre, f.frontend(), vmap(outside.empty))
	w.rule(pre, f.frontend(), in(limited, false), f.address(r0+f.words+2, f.saddr), in(allowed, true), to(drop.Name))

	nat := w.chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, dnatPriority)
	natOut := w.chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, dnatPriority)
	w.rule(natOut, f.frontend(), vmap(inside.pick))
	choose := w.chain(insideChain, "", nil, nil)
	w.rule(choose, f.frontend(), vmap(inside.pick))
	w.rule(nat, f.fromPods(), to(choose.Name))
	w.rule(nat, f.frontend(), in(published, false), f.frontend(), in(keepSource, true), setMark())
	w.rule(nat, f.frontend(), vmap(outside.pick))

	post := w.chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, snatPriority)
	w.rule(post, untranslated(), verdict(expr.VerdictReturn))
	w.rule(post, f.address(r0, f.saddr), f.address(r0+f.words, f.daddr), in(hairpins, false), masquerade())
	w.rule(post, marked(), masquerade())
}

// refusals queues the chain that tells a client at once that nobody serves: as the kernel does of a port that nobody listens on.
func (w writer) refusals() {
	c := w.chain(refuseChain, "", nil, nil)
	w.rule(c, w.f.count(failuresSet))
	tcp := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r0},
		&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: []byte{unix.IPPROTO_TCP}},
	}
	w.rule(c, tcp, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	code := uint8(3) // ICMP port unreachable
	if w.f.nfproto == unix.NFPROTO_IPV6 {
		code = 4 // the same of ICMPv6
	}
	w.rule(c, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code}})
}

// chooser queues the chain of a chooser. A packet that is between two lookups while a transaction takes a slot away gets the first.
func (w writer) chooser(c chooser) {
	chain := w.chain(c.name(), "", nil, nil)
	slot := r0 + w.f.words + 2
	w.rule(chain, w.f.count(connectionsSet))
	for _, count := range []uint32{c.count, 1} {
		w.rule(chain, w.f.frontend(), []expr.Any{
			&expr.Numgen{Register: slot, Modulus: count, Type: unix.NFT_NG_RANDOM},
			&expr.Lookup{SourceRegister: r0, DestRegister: r0, IsDestRegSet: true, SetName: c.backends},
		}, w.f.dnat(r0))
	}
}

// stay queues the chain of a group whose clients stay with their backend: two rules a backend, the first for a client that has been there
// within the timeout, the second for one that is given to it. A backend that goes takes its rules along; what clients had with it expires.
func (w writer) stay(g *proxy.Group) {
	chain := w.chain(stayChain(g), "", nil, nil)
	w.rule(chain, w.f.count(connectionsSet))
	for _, b := range g.Backends {
		w.rule(chain, w.f.visit(b), []expr.Any{&expr.Lookup{SourceRegister: r0, SetName: affinitySet}, note(g)}, w.f.dnatTo(b))
	}
	for i, b := range g.Backends {
		w.rule(chain, oneOf(len(g.Backends)-i), w.f.visit(b), []expr.Any{note(g)}, w.f.dnatTo(b))
	}
	for i, b := range g.Backends { // there is no room to note more clients
		w.rule(chain, oneOf(len(g.Backends)-i), w.f.dnatTo(b))
	}
}

// note has the client at r0 and behind it stay for the group's timeout from now.
func note(g *proxy.Group) expr.Any {
	return &expr.Dynset{SrcRegKey: r0, SetName: affinitySet, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: seconds(g.Affinity)}
}

// visit leaves a client, what it asks for, and a backend's mark in r0 and behind it: with addresses of four words 11 of 16 registers.
func (f family) visit(b netip.AddrPort) []expr.Any {
	return slices.Concat(f.address(r0, f.saddr), f.frontendAt(r0+f.words),
		[]expr.Any{&expr.Immediate{Register: r0 + 2*f.words + 2, Data: markOf(b)}})
}

// oneOf goes on with one of n packets.
func oneOf(n int) []expr.Any {
	return []expr.Any{
		&expr.Numgen{Register: r0, Modulus: uint32(n), Type: unix.NFT_NG_RANDOM},
		&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: make([]byte, 4)},
	}
}

func (f family) dnatTo(b netip.AddrPort) []expr.Any {
	return append([]expr.Any{
		&expr.Immediate{Register: r0, Data: b.Addr().AsSlice()},
		&expr.Immediate{Register: r0 + f.words, Data: binary.BigEndian.AppendUint16(nil, b.Port())},
	}, f.dnat(r0)...)
}

func (f family) frontend() []expr.Any { return f.frontendAt(r0) }

// frontendAt leaves where the packet goes to in at and behind it.
func (f family) frontendAt(at uint32) []expr.Any {
	return append(f.address(at, f.daddr),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: at + f.words},
		&expr.Payload{DestRegister: at + f.words + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
}

func (f family) address(at, offset uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: at, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4 * f.words}}
}

func (f family) dnat(at uint32) []expr.Any {
	return []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: f.nfproto, RegAddrMin: at, RegProtoMin: at + f.words, Specified: true}}
}

// fromPods goes on when the source is a pod of this node.
func (f family) fromPods() []expr.Any {
	return append(f.address(r0, f.saddr), in(insideSet, false)...)
}

// untranslated goes on when no rule has given the connection another destination.
func untranslated() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: r0},
		&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: 4, Mask: native(ctStatusDNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: make([]byte, 4)},
	}
}

// setMark notes that the packet's source must become the node's.
func setMark() []expr.Any {
	return mark(func(load, store expr.Any) []expr.Any {
		return []expr.Any{load, &expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: 4, Mask: native(^uint32(masqueradeMark)), Xor: native(masqueradeMark)}, store}
	})
}

// marked goes on with a packet that setMark has noted, and takes the note away: what the packet is put into must not have it.
func marked() []expr.Any {
	return mark(func(load, store expr.Any) []expr.Any {
		return []expr.Any{
			load,
			&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: 4, Mask: native(masqueradeMark), Xor: native(0)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: r0, Data: native(0)},
			load,
			&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: 4, Mask: native(^uint32(masqueradeMark)), Xor: native(0)},
			store,
		}
	})
}

func mark(with func(load, store expr.Any) []expr.Any) []expr.Any {
	return with(&expr.Meta{Key: expr.MetaKeyMARK, Register: r0}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: r0})
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// in goes on when what is at r0 and behind it is in a set; with not, when it is not.
func in(set string, not bool) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: r0, SetName: set, Invert: not}}
}

// vmap goes where a map says for what is at r0 and behind it.
func vmap(name string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: r0, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: name}}
}

func to(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func masquerade() []expr.Any { return []expr.Any{&expr.Masq{FullyRandom: true}} }
