package iptables

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/orlop-io/orlop/proxy"
)

// The tables that hold our chains.
const (
	nat    = "nat"
	filter = "filter"
)

// The chains that are always there, by upstream's names, but for the last three, which are our own.
const (
	services    = "KUBE-SERVICES"
	nodePorts   = "KUBE-NODEPORTS"
	postrouting = "KUBE-POSTROUTING"
	markMasq    = "KUBE-MARK-MASQ"
	external    = "KUBE-EXTERNAL-SERVICES"
	forward     = "KUBE-FORWARD"
	firewall    = "KUBE-PROXY-FIREWALL"
	outsideMasq = "KUBE-MASQ-OUTSIDE" // marks what is from outside
	owner       = "KUBE-ORLOP"        // says that the chains of its table are ours
)

// The prefixes of the chains whose rules count clients.
const (
	endpoints = "KUBE-SEP-"
	stayed    = "KUBE-DNAT-"
	refusing  = "KUBE-REFUSE-"
	dropping  = "KUBE-DROP-"
)

// prefixes are of the names of chains that a service has. The last is the name of one that all services had.
var prefixes = []string{"KUBE-SVC-", "KUBE-SVL-", endpoints, stayed, "KUBE-EXT-", "KUBE-FW-", refusing, dropping, "KUBE-REFUSE"}

const masqueradeMark = "0x4000" // kube-proxy's bit 14

// chain is where a rule is.
type chain struct{ table, name string }

// layout is the rules of each chain, without the "-A NAME".
type layout map[chain][]string

// jump is a rule of ours in a chain of the kernel's.
type jump struct {
	table, from, to string
	only            string // which packets
}

// jumps lead from the kernel's chains to ours. Only new connections meet filters.
func jumps() (out []jump) {
	for _, from := range []string{"PREROUTING", "OUTPUT"} {
		out = append(out, jump{nat, from, services, ""})
	}
	out = append(out, jump{nat, "POSTROUTING", postrouting, ""}, jump{filter, "FORWARD", forward, ""}, jump{filter, "INPUT", nodePorts, ""})
	for _, from := range []string{"INPUT", "FORWARD", "OUTPUT"} {
		for _, to := range []string{services, external, firewall} {
			out = append(out, jump{filter, from, to, "-m conntrack --ctstate NEW "})
		}
	}
	return out
}

func (j jump) rule() string {
	return j.only + `-m comment --comment "kubernetes services" -j ` + j.to
}

// owned are the chains of the names that we write, whoever has made them.
func owned(c chain) bool {
	switch c.name {
	case services, nodePorts, postrouting, markMasq, external, forward, firewall, outsideMasq, owner, probeChain:
		return true
	}
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(c.name, p) })
}

// family is an IP version.
type family struct {
	v4   bool
	bits int
}

func (f family) has(a netip.Addr) bool { return a.Is4() == f.v4 }

// base is what does not depend on services. Packets from inside are the node's own and its pods'; with no range of pods known nobody's cluster
// address is masqueraded.
func (f family) base(node proxy.Node, health []uint16, masquerade string) layout {
	outside := append(f.inside(node, "-j RETURN"), "-j "+markMasq)
	l := layout{
		{nat, owner}: nil, {filter, owner}: nil,
		{nat, markMasq}:    {"-j MARK --or-mark " + masqueradeMark},
		{nat, outsideMasq}: outside,
		{nat, postrouting}: {
			"-m mark ! --mark " + masqueradeMark + "/" + masqueradeMark + " -j RETURN",
			"-j MARK --xor-mark " + masqueradeMark,
			masquerade,
		},
		{filter, forward}: { // where a host drops what it forwards
			"-m mark --mark " + masqueradeMark + "/" + masqueradeMark + " -j ACCEPT",
			"-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		},
		{filter, nodePorts}: nil,
	}
	for _, p := range health {
		l[chain{filter, nodePorts}] = append(l[chain{filter, nodePorts}], fmt.Sprintf(`-m comment --comment "health check node port" -p tcp --dport %d -j ACCEPT`, p))
	}
	return l
}

// inside is a rule for each way to be from inside.
func (f family) inside(node proxy.Node, verdict string) (out []string) {
	for _, p := range node.Inside {
		if f.has(p.Addr()) {
			out = append(out, fmt.Sprintf("-s %s %s", p.Masked(), verdict))
		}
	}
	return append(out, "-m addrtype --src-type LOCAL "+verdict)
}

// portKey is a port of a service.
type portKey struct {
	port  string
	proto proxy.Protocol
}

func (k portKey) compare(o portKey) int {
	return cmp.Or(strings.Compare(k.port, o.port), cmp.Compare(k.proto, o.proto))
}

func (k portKey) hash(more string) string {
	sum := sha256.Sum256([]byte(k.port + k.protocol() + more))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}

func (k portKey) protocol() string {
	if k.proto == proxy.UDP {
		return "udp"
	}
	return "tcp"
}

func (k portKey) endpoint(b netip.AddrPort) string { return endpoints + k.hash(b.String()) }

// unit is one port of a service, and what it has in the tables.
type unit struct {
	key    portKey
	groups map[string]*proxy.Group
	own    layout // its chains
	// Its rules in chains that services share.
	shared layout
}

// front is an address that is asked for, and where packets from inside and from outside lead; nil nowhere.
type front struct {
	proxy.Frontend
	in, out *proxy.Group
}

// fronts are a unit's frontends, in an order that does not change.
func (u *unit) fronts() []front {
	byAddr := map[proxy.Frontend]*front{}
	for _, name := range slices.Sorted(maps.Keys(u.groups)) {
		g := u.groups[name]
		for _, fr := range g.Frontends {
			at := fr
			at.Scope = 0
			if byAddr[at] == nil {
				byAddr[at] = &front{Frontend: at}
			}
			if fr.Scope&proxy.Inside != 0 {
				byAddr[at].in = g
			}
			if fr.Scope&proxy.Outside != 0 {
				byAddr[at].out = g
			}
		}
	}
	var out []front
	for _, f := range byAddr {
		out = append(out, *f)
	}
	slices.SortFunc(out, func(a, b front) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port)) })
	return out
}

// chainOf is the chain that chooses among a group's backends: endpoints here have another than all.
func (u *unit) chainOf(g *proxy.Group) string {
	for name, other := range u.groups {
		if other == g && (g.KeepSource || strings.HasSuffix(name, "/local")) {
			return "KUBE-SVL-" + u.key.hash("")
		}
	}
	return "KUBE-SVC-" + u.key.hash("")
}

// lay writes a unit's rules.
func (f family) lay(u *unit, node proxy.Node) {
	u.own, u.shared = layout{}, layout{}
	for _, g := range u.groups {
		if len(g.Backends) > 0 {
			u.choose(chain{nat, u.chainOf(g)}, g)
		}
	}
	for _, fr := range u.fronts() {
		addrs, from := []netip.Addr{fr.Addr}, services
		if fr.Addr.IsUnspecified() {
			addrs, from = node.NodePorts, nodePorts
		}
		for _, a := range addrs {
			if f.has(a) && f.has(fr.Addr) {
				u.lead(f, fr, from, f.match(a, u.key, fr.Port), node)
			}
		}
	}
}

// match is the packets that ask for an address.
func (f family) match(a netip.Addr, k portKey, port uint16) string {
	return fmt.Sprintf(`-d %s -p %s --dport %d -m comment --comment "%s"`, netip.PrefixFrom(a, f.bits), k.protocol(), port, k.port)
}

func full(g *proxy.Group) bool { return g != nil && len(g.Backends) > 0 }

func (u *unit) share(table, name, rule string) {
	c := chain{table, name}
	u.shared[c] = append(u.shared[c], rule)
}

// lead writes where an address leads to.
func (u *unit) lead(f family, fr front, from, match string, node proxy.Node) {
	if fr.out == nil { // of the cluster
		if full(fr.in) {
			to := chain{nat, u.chainOf(fr.in)}
			if len(f.inside(node, "")) > 1 {
				u.own[to] = slices.Insert(u.own[to], 0, match+" -j "+outsideMasq)
			}
			u.share(nat, from, match+" -j "+to.name)
		} else {
			u.share(filter, services, match+" -j "+u.refuse())
		}
		return
	}
	ext := "KUBE-EXT-" + u.key.hash("")
	if full(fr.in) || full(fr.out) {
		u.own[chain{nat, ext}] = u.external(f, fr, node)
		to := ext
		if len(fr.out.Sources) > 0 {
			to = "KUBE-FW-" + u.key.hash("")
			u.own[chain{nat, to}] = append(f.inside(node, "-j "+ext), f.admit(fr.out.Sources, "-j "+ext)...)
		}
		u.share(nat, from, match+" -j "+to)
	}
	if !full(fr.in) && fr.in != nil {
		for _, rule := range f.inside(node, "-j "+u.refuse()) {
			u.share(filter, external, match+" "+rule)
		}
	}
	switch {
	case len(fr.out.Sources) > 0 && full(fr.out):
		u.share(filter, firewall, match+" -j "+u.drop()) // what the chain of nat did not admit
	case !full(fr.out) && fr.out.KeepSource:
		u.share(filter, external, match+" -j "+u.drop())
	case !full(fr.out):
		u.share(filter, external, match+" -j "+u.refuse())
	}
}

// refuse writes the chain that refuses a unit's clients and counts them, and returns its name. It is the unit's own, because those that services share
// are written anew, and count from nothing, as soon as any service changes.
func (u *unit) refuse() string {
	rule := "-j REJECT"
	if u.key.proto == proxy.TCP {
		rule = "-p tcp -j REJECT --reject-with tcp-reset"
	}
	return u.end(refusing, rule)
}

func (u *unit) drop() string { return u.end(dropping, "-j DROP") }

func (u *unit) end(prefix, rule string) string {
	name := prefix + u.key.hash("")
	u.own[chain{filter, name}] = []string{rule}
	return name
}

// external is the rules of what is asked for from outside, too.
func (u *unit) external(f family, fr front, node proxy.Node) (rules []string) {
	if fr.in != nil && full(fr.in) && !fr.out.KeepSource {
		return []string{"-j " + outsideMasq, "-j " + u.chainOf(fr.in)}
	}
	verdict := "-j RETURN"
	if full(fr.in) {
		verdict = "-j " + u.chainOf(fr.in)
	}
	rules = f.inside(node, verdict)
	if full(fr.out) {
		if !fr.out.KeepSource {
			rules = append(rules, "-j "+markMasq)
		}
		rules = append(rules, "-j "+u.chainOf(fr.out))
	}
	return rules
}

// admit is a rule for each range of a family.
func (f family) admit(ranges []netip.Prefix, verdict string) (out []string) {
	for _, p := range ranges {
		if f.has(p.Addr()) {
			out = append(out, fmt.Sprintf("-s %s %s", p.Masked(), verdict))
		}
	}
	return out
}

// choose writes the chain that chooses among a group's backends, and a chain for each of them, or two with affinity. A client that has been to a backend within the
// group's timeout goes there again.
func (u *unit) choose(at chain, g *proxy.Group) {
	if len(u.own[at]) > 0 {
		return // the group for clients outside has the backends of that for clients inside
	}
	n := len(g.Backends)
	var rules []string
	for _, b := range g.Backends {
		sep := u.key.endpoint(b)
		own := []string{fmt.Sprintf("-s %s -j %s", b.Addr(), markMasq)}
		dnat := fmt.Sprintf("-p %s -j DNAT --to-destination %s", u.key.protocol(), b)
		if g.Affinity > 0 {
			rules = append(rules, fmt.Sprintf("-m recent --name %s --rcheck --seconds %d --reap -j %s", sep, seconds(g.Affinity), sep))
			// The kernel knows the clients as long as there is the rule that notes them, so that is not in the chain that counts, which may outlive the backend.
			to := stayed + strings.TrimPrefix(sep, endpoints)
			u.own[chain{nat, to}] = []string{dnat}
			dnat = fmt.Sprintf("-m recent --name %s --set -j %s", sep, to)
		}
		u.own[chain{nat, sep}] = append(own, dnat)
	}
	for i, b := range g.Backends {
		one := ""
		if i < n-1 {
			one = fmt.Sprintf("-m statistic --mode random --probability %.10f ", 1/float64(n-i))
		}
		rules = append(rules, fmt.Sprintf(`-m comment --comment "%s -> %s" %s-j %s`, u.key.port, b, one, u.key.endpoint(b)))
	}
	u.own[at] = rules
}

func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
