package nft

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	refuseChain = "refuse"
	dropChain   = "drop"
	insideChain = "inside" // goes to the chooser of a packet from inside
	// version is the name of an empty chain. It changes whenever the sets or the rules do: a table of another version is made anew.
	version = "version-1"

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
	w.chain(version, "", nil, nil)

	drop := w.chain(dropChain, "", nil, nil)
	w.rule(drop, verdict(expr.VerdictDrop))
	w.refusals()
	pre := w.chain("prerouting-refuse", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, refusePriority)
	out := w.chain("output-refuse", nftables.ChainTypeFilter, nftables.ChainHookOutput, refusePriority)
	w.rule(out, f.frontend(), vmap(insideEmpty))
	refuseInside := w.chain("refuse-inside", "", nil, nil)
	w.rule(refuseInside, f.frontend(), vmap(insideEmpty))
	w.rule(pre, f.fromPods(), to(refuseInside.Name))
	w.rule(pre, f.frontend(), vmap(outsideEmpty))
	w.rule(pre, f.frontend(), in(limited, false), f.address(r0+f.words+2, f.saddr), in(allowed, true), verdict(expr.VerdictDrop))

	nat := w.chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, dnatPriority)
	natOut := w.chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, dnatPriority)
	w.rule(natOut, f.frontend(), vmap(insidePick))
	choose := w.chain(insideChain, "", nil, nil)
	w.rule(choose, f.frontend(), vmap(insidePick))
	w.rule(nat, f.fromPods(), to(choose.Name))
	w.rule(nat, f.frontend(), vmap(outsidePick))

	post := w.chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, snatPriority)
	w.rule(post, untranslated(), verdict(expr.VerdictReturn))
	w.rule(post, f.address(r0, f.saddr), f.address(r0+f.words, f.daddr), in(hairpins, false), masquerade())
	w.rule(post, f.fromPods(), verdict(expr.VerdictReturn))
	w.rule(post, fromHere(), verdict(expr.VerdictReturn))
	w.rule(post, f.asked(), in(keepSource, false), verdict(expr.VerdictReturn))
	w.rule(post, f.asked(), in(outsideServices, false), masquerade())
}

// refusals queues the chain that tells a client at once that nobody serves: as the kernel does of a port that nobody listens on.
func (w writer) refusals() {
	c := w.chain(refuseChain, "", nil, nil)
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

// chooser queues the chain of a chooser. A rule finds nothing in the registers that an earlier one left, so each looks its service up anew.
func (w writer) chooser(c chooser) {
	chain := w.chain(c.name(), "", nil, nil)
	if c.affinity > 0 {
		w.rule(chain, w.f.stay(c))
		w.rule(chain, w.f.remember(c))
	}
	w.rule(chain, w.f.pick(c, r0), w.f.dnat(r0)) // also where there is no room to remember
}

// Registers of the rules with affinity: a service, of which the number is used, and behind it the backend; then the service again, and behind its
// number the client. With addresses of four words they end at the thirteenth of sixteen.
const (
	first   = r0
	backend = first + 2
	second  = r0 + 7
	client  = second + 2
)

// stay goes to the backend that the client was given before, if the service still has it.
func (f family) stay(c chooser) []expr.Any {
	return slices.Concat(
		f.service(c.services, first), f.address(first+2, f.saddr),
		[]expr.Any{
			&expr.Lookup{SourceRegister: first + 1, DestRegister: backend, IsDestRegSet: true, SetName: affinityMap},
			&expr.Lookup{SourceRegister: first + 1, SetName: members},
		},
		f.service(c.services, second), f.address(client, f.saddr),
		[]expr.Any{f.note(c, unix.NFT_DYNSET_OP_UPDATE)},
		f.dnat(backend),
	)
}

// remember chooses a backend and notes it for the client's next connection. An update alone would keep what is noted.
func (f family) remember(c chooser) []expr.Any {
	return slices.Concat(
		f.pick(c, backend),
		f.service(c.services, second), f.address(client, f.saddr),
		[]expr.Any{f.note(c, dynsetDelete), f.note(c, unix.NFT_DYNSET_OP_UPDATE)},
		f.dnat(backend),
	)
}

const dynsetDelete = 2 // NFT_DYNSET_OP_DELETE

func (f family) note(c chooser, op uint32) expr.Any {
	d := &expr.Dynset{SrcRegKey: second + 1, SrcRegData: backend, SetName: affinityMap, Operation: op}
	if op != dynsetDelete {
		d.Timeout = time.Duration(c.affinity) * time.Second
	}
	return d
}

// pick leaves the address and port of a backend taken at random in to and behind it.
func (f family) pick(c chooser, to uint32) []expr.Any {
	return append(f.service(c.services, first),
		&expr.Numgen{Register: first + 1, Modulus: c.count, Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: first, DestRegister: to, IsDestRegSet: true, SetName: backendsMap})
}

// service leaves a service's generation, number, count and affinity in at and behind it.
func (f family) service(services string, at uint32) []expr.Any {
	return append(f.frontendAt(at), &expr.Lookup{SourceRegister: at, DestRegister: at, IsDestRegSet: true, SetName: services})
}

func (f family) frontend() []expr.Any { return f.frontendAt(r0) }

// frontendAt leaves where the packet goes to in at and behind it.
func (f family) frontendAt(at uint32) []expr.Any {
	return append(f.address(at, f.daddr),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: at + f.words},
		&expr.Payload{DestRegister: at + f.words + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
}

// asked leaves where the connection went to before it was translated in r0 and behind it.
func (f family) asked() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDST, Register: r0, Direction: 0},
		&expr.Ct{Key: expr.CtKeyPROTOCOL, Register: r0 + f.words},
		&expr.Ct{Key: expr.CtKeyPROTODST, Register: r0 + f.words + 1, Direction: 0},
	}
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
		&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, ctStatusDNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: make([]byte, 4)},
	}
}

// fromHere goes on when the source is an address of the node.
func fromHere() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: r0, ResultADDRTYPE: true, FlagSADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
	}
}

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
