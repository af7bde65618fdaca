// Package plugin is a CNI plugin that hangs containers on a bridge of the node: a veth pair per container, addresses from its own
// store, host ports and masquerading in an nftables table of its own.
//
// It does everything in one process, by netlink and files, and starts no other program, unless the configuration names an IPAM plugin
// that is not its own. It owns the bridge, links named orl<hash> and orb<hash>, the leases in StateDir and the table of package nat, all
// found again by name, so that no verb needs what another one remembered in memory. ADD takes effect in the order lease, guard, link,
// limits, ports and undoes itself in the reverse; DEL goes ports, link, limits, guard, lease. The lease says from the beginning what is to
// come, so a process that dies between two effects leaves what DEL, GC or the next ADD of the attachment finds.
//
// It does not know pods, services, other nodes or the API server. Loopback is brought up by ADD too.
package plugin

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/orlop-io/orlop/cni/digest"
	"github.com/orlop-io/orlop/cni/ipam"
	"github.com/orlop-io/orlop/cni/jsonparts"
	"github.com/orlop-io/orlop/cni/nat"
	"github.com/orlop-io/orlop/cni/sysctl"
)

// Codes of our own errors; the specification leaves 100 and above to plugins.
const (
	errNetwork  = 100 // the kernel refused a change
	errState    = 101 // the lease store could not be read or written
	errMismatch = 102 // CHECK found something other than ADD made
)

// Funcs returns the verbs.
func Funcs() Verbs {
	return Verbs{Add: Add, Del: Del, Check: Check, GC: GC, Status: Status}
}

// Versions says which versions of the specification the plugin speaks.
func Versions() version.PluginInfo {
	return version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
}

// holding is what the plugin keeps beside a lease, to undo it with nothing but the attachment's name.
type holding struct {
	Netns   string
	Pod     string
	Aliases []string
	Ports   []nat.HostPort
	Guard   *nat.Guard
	Subnets []netip.Prefix // that rules are for, where those of containers differ
	Limited bool           // there is a device orb<hash>
}

// written is a holding as it is kept.
type written struct {
	Netns   string          `json:"netns,omitempty"`
	Pod     string          `json:"pod,omitempty"`
	Aliases []string        `json:"aliases,omitempty"`
	Ports   json.RawMessage `json:"ports,omitempty"`
	Guard   json.RawMessage `json:"guard,omitempty"`
	Subnets []netip.Prefix  `json:"subnets,omitempty"`
	Limited bool            `json:"limited,omitempty"`
}

// encode gives what json.Marshal would of a written. The parts that few containers have are left to that.
func (h holding) encode() (json.RawMessage, error) {
	b := []byte{'{'}
	key := func(name string) {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(jsonparts.AppendText(b, name), ':')
	}
	for _, f := range []struct{ name, text string }{{"netns", h.Netns}, {"pod", h.Pod}} {
		if f.text != "" {
			key(f.name)
			b = jsonparts.AppendText(b, f.text)
		}
	}
	if len(h.Aliases) > 0 {
		key("aliases")
		b = jsonparts.AppendTexts(b, h.Aliases)
	}
	if len(h.Ports) > 0 {
		ports, err := json.Marshal(h.Ports)
		if err != nil {
			return nil, err
		}
		key("ports")
		b = append(b, ports...)
	}
	if h.Guard != nil {
		guard, err := json.Marshal(h.Guard)
		if err != nil {
			return nil, err
		}
		key("guard")
		b = append(b, guard...)
	}
	if len(h.Subnets) > 0 {
		key("subnets")
		texts := make([]string, 0, len(h.Subnets))
		for _, p := range h.Subnets {
			texts = append(texts, p.String())
		}
		b = jsonparts.AppendTexts(b, texts)
	}
	if h.Limited {
		key("limited")
		b = append(b, "true"...)
	}
	return append(b, '}'), nil
}

// holdingOf reads what encode wrote. What cannot be read is a torn lease, which has no data.
func holdingOf(l ipam.Lease) holding {
	w, ok := plainlyWritten(l.Data)
	if !ok {
		w = written{}
		_ = json.Unmarshal(l.Data, &w)
	}
	h := holding{Netns: w.Netns, Pod: w.Pod, Aliases: w.Aliases, Subnets: w.Subnets, Limited: w.Limited}
	if len(w.Ports) > 0 {
		_ = json.Unmarshal(w.Ports, &h.Ports)
	}
	if len(w.Guard) > 0 {
		_ = json.Unmarshal(w.Guard, &h.Guard)
	}
	return h
}

func plainlyWritten(data []byte) (w written, ok bool) {
	fields := fields{{"netns", &w.Netns}, {"pod", &w.Pod}, {"aliases", &w.Aliases}, {"ports", &w.Ports}, {"guard", &w.Guard}, {"subnets", &w.Subnets}, {"limited", &w.Limited}}
	members, ok := jsonparts.Members(data)
	for _, m := range members {
		to, _ := fields.of("", m.Name)
		ok = ok && plain(to, m.Value)
	}
	return w, ok
}

// attachment is one run of a verb that has an attachment.
type attachment struct {
	ipam.Attachment
	conf  *Config
	args  *Args
	store *ipam.Store
	table *nat.Table
}

func attachmentOf(args *Args) (*attachment, error) {
	conf, err := Parse(args.StdinData)
	if err != nil {
		return nil, err
	}
	store, err := storeOf(conf)
	if err != nil {
		return nil, coded(errState, err)
	}
	return &attachment{
		Attachment: ipam.Attachment{ContainerID: args.ContainerID, IfName: args.IfName},
		conf:       conf, args: args, store: store, table: nat.New(conf.Name),
	}, nil
}

// Add gives a container its interface and prints the result.
func Add(args *Args) error {
	a, err := attachmentOf(args)
	if err != nil {
		return err
	}
	result, err := a.add()
	if err != nil {
		return err
	}
	return printResult(result, a.conf.CNIVersion)
}

func (a *attachment) add() (_ *current.Result, err error) {
	defer func() { err = coded(errNetwork, err) }()
	if a.conf.pending != nil {
		return nil, types.NewError(types.ErrTryAgainLater, a.conf.pending.Error(), "")
	}
	w, err := a.conf.wishOf(a.args.Args)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	node, pod, err := open(a.args.Netns)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetNS, err.Error(), "")
	}
	defer node.close()
	defer pod.close()
	var undo undoing
	defer func() { err = undo.after(err) }() // while the namespaces are open
	if err := a.clear(node, pod); err != nil {
		return nil, err
	}
	a.sweep(node)
	given, err := a.reserve(node, w, &undo)
	if err != nil {
		return nil, err
	}
	return a.wire(node, pod, given, &undo)
}

// clear takes away what an ADD of the same name left that died. If its interface is there it is no such ADD, or one that DEL is for.
func (a *attachment) clear(node, pod *namespace) error {
	lease, held, err := a.store.Lookup(a.Attachment)
	if err != nil && !errors.Is(err, ipam.ErrTorn) {
		return coded(errState, err)
	}
	if !held {
		return nil // the lease comes first and goes last
	}
	if l, err := pod.link(a.IfName); err != nil || l != nil {
		return errors.Join(err, exists(a.IfName))
	}
	lease.Attachment = a.Attachment // a torn one does not tell
	return a.undoLease(node, lease, func() error {
		name := linkOf(lease)
		return errors.Join(node.remove(name), a.store.Forget(name))
	})
}

func exists(ifname string) error {
	return fmt.Errorf("interface %s exists in the container already", ifname)
}

// wire makes all but the lease.
func (a *attachment) wire(node, pod *namespace, g *given, undo *undoing) (*current.Result, error) {
	if a.conf.MTU == 0 {
		a.conf.MTU = node.uplinkMTU()
	}
	if err := node.prepare(a.conf, g.addrs); err != nil {
		return nil, err
	}
	bridges, err := node.ensureBridge(a.conf, a.gateways(g.addrs))
	if err != nil {
		return nil, err
	}
	if g.held.Guard != nil {
		undo.add(func() error { return a.table.Unguard(*g.held.Guard) })
		made, err := a.table.Guard(*g.held.Guard)
		if err != nil {
			return nil, fmt.Errorf("macspoofchk: %w", err)
		}
		a.restore(made)
	}
	name := hostName(a.Attachment)
	undo.add(func() error { return node.remove(name) })
	result := a.begin(g)
	host, eth, err := node.connect(pod, bridges[0], a.conf, wire{name, a.IfName, g.mac, g.addrs, result.Routes})
	if err != nil {
		return nil, err
	}
	if in, out := a.conf.RuntimeConfig.Bandwidth.shapes(); in.rate > 0 || out.rate > 0 {
		undo.add(func() error { return node.remove(limiter(name)) })
		if err := node.limit(name, in, out); err != nil {
			return nil, fmt.Errorf("bandwidth: %w", err)
		}
	}
	if err := a.publish(node, g, undo); err != nil {
		return nil, err
	}
	a.finish(result, g, bridges, host, eth)
	return result, nil
}

// publish makes the rules the configuration asks for and the host ports of a lease.
func (a *attachment) publish(node *namespace, g *given, undo *undoing) error {
	ports := g.held.Ports
	if a.conf.IPMasq || len(ports) > 0 {
		made, err := a.ensureRules(g.subnets(a.conf))
		if err != nil {
			return err
		}
		a.restore(made)
	}
	if len(ports) == 0 {
		return nil
	}
	if err := node.routeLoopback(a.conf.gatewayLink()); err != nil {
		return err
	}
	undo.add(func() error { return a.table.Withdraw(ports) }) // some of many may be there although others are refused
	err := a.table.Publish(ports)
	if errors.Is(err, nat.ErrPortTaken) {
		if err = a.withdrawOrphans(); err == nil {
			err = a.table.Publish(ports)
		}
	}
	if err != nil {
		return err
	}
	return forgetFlows(ports)
}

// ensureRules makes the rules for subnets, and for those of all other containers where they may have others.
func (a *attachment) ensureRules(subnets []netip.Prefix) (made bool, err error) {
	rules := nat.Config{Bridge: a.conf.gatewayLink(), Subnets: subnets, Masquerade: a.conf.IPMasq, Direct: a.conf.DirectCIDRs}
	if !a.conf.varied() {
		return a.table.Ensure(rules)
	}
	err = a.store.Exclusive(func() error { // two ADDs at once must not each leave out the other's
		leases, err := a.store.List()
		if err != nil {
			return coded(errState, err)
		}
		rules.Subnets = slices.Clone(subnets)
		for _, l := range leases {
			rules.Subnets = append(rules.Subnets, holdingOf(l).Subnets...)
		}
		slices.SortFunc(rules.Subnets, netip.Prefix.Compare)
		rules.Subnets = slices.Compact(rules.Subnets)
		made, err = a.table.Ensure(rules)
		return err
	})
	return made, err
}

// restore brings back what other containers' leases name, where the table had to be made: it is the first, or somebody has flushed the node's rules, as a restart
// of a firewall does. What fails of it is not this container's fault, and its own DEL and GC find it as it is.
func (a *attachment) restore(made bool) {
	if !made {
		return
	}
	leases, err := a.store.List()
	if err != nil {
		return
	}
	for _, l := range leases {
		if l.Torn || l.Attachment == a.Attachment {
			continue
		}
		held := holdingOf(l)
		_ = a.table.Publish(held.Ports)
		if held.Guard != nil {
			_, _ = a.table.Guard(*held.Guard)
		}
	}
}

// RestoreRules publishes the host ports again that leases in dir name, and guards what they say is guarded, for who has made the rules of a network anew.
func RestoreRules(dir, network string) error {
	conf := &Config{StateDir: dir, Name: network}
	store, err := storeOf(conf)
	if err != nil {
		return err
	}
	(&attachment{conf: conf, store: store, table: nat.New(network)}).restore(true)
	return nil
}

// withdrawOrphans removes host ports whose container holds no lease: those of a folder of leases that somebody removed.
func (a *attachment) withdrawOrphans() error {
	ports, err := a.orphans()
	if err != nil {
		return err
	}
	return a.table.Withdraw(ports)
}

func (a *attachment) orphans() ([]nat.HostPort, error) {
	ports, err := a.table.Published() // before leases: an ADD writes its lease first
	if err != nil || len(ports) == 0 {
		return nil, err
	}
	leases, err := a.store.List()
	if err != nil {
		return nil, coded(errState, err)
	}
	for _, l := range leases {
		if l.Torn {
			return nil, nil // it does not say what is its
		}
		held := holdingOf(l)
		ports = slices.DeleteFunc(ports, func(p nat.HostPort) bool {
			return slices.Contains(held.Ports, p) || slices.Contains(l.Addrs, p.Pod.Addr())
		})
	}
	return ports, nil
}

// undoLease undoes a lease's effects in the order of DEL, the link by unlink.
func (a *attachment) undoLease(node *namespace, lease ipam.Lease, unlink func() error) error {
	held := holdingOf(lease)
	err := errors.Join(a.withdraw(lease, held), unlink())
	name := linkOf(lease)
	if held.Limited || lease.Torn {
		err = errors.Join(err, node.remove(limiter(name)))
	}
	if held.Guard != nil {
		err = errors.Join(err, a.table.Unguard(*held.Guard))
	} else if lease.Torn {
		err = errors.Join(err, a.unguard(name))
	}
	if err != nil {
		return err
	}
	return coded(errState, a.store.Drop(lease))
}

// withdraw removes a lease's host ports. A torn lease does not tell them; withdrawOrphans finds them after it is gone.
func (a *attachment) withdraw(lease ipam.Lease, held holding) error {
	if len(held.Ports) == 0 {
		return nil
	}
	return a.table.Withdraw(held.Ports)
}

func (a *attachment) unguard(port string) error {
	guards, err := a.table.Guards()
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range guards {
		if g.Port == port {
			errs = append(errs, a.table.Unguard(g))
		}
	}
	return errors.Join(errs...)
}

// patience is how long a link that DEL left may wait for its namespace: a runtime that removes that does so at once.
const patience = 10 * time.Second

// sweep deletes a link that DEL left to a namespace which has lived on since. It is nobody's failure: what it cannot do now the next
// ADD or GC does. Usually there is nothing old, for other DELs have forgotten it, and then the kernel is not asked.
func (a *attachment) sweep(node *namespace) {
	notes, err := a.store.Notes()
	if err != nil {
		return
	}
	deleted := false
	for _, n := range notes {
		if time.Since(n.Written) < patience {
			continue
		}
		l, err := node.link(n.Name)
		if err != nil {
			return
		}
		if l != nil && (deleted || l.master != 0) {
			continue // in use by an ADD again, or for another time: deleting one costs as much as ten ADDs
		}
		if l != nil {
			deleted = true
			if node.remove(n.Name) != nil {
				return
			}
		}
		if a.store.Forget(n.Name) != nil {
			return
		}
	}
}

// forget forgets the links that earlier DELs left and that are gone with their namespaces. That is a DEL's work, because nobody waits for one
// as for an ADD. What cannot be done now is for the next DEL, ADD or GC.
func (a *attachment) forget(node *namespace) {
	const settled = time.Second // before that a namespace is likely to be there still
	notes, err := a.store.Notes()
	if err != nil {
		return
	}
	for _, n := range notes {
		if time.Since(n.Written) < settled {
			continue
		}
		if l, err := node.link(n.Name); l == nil && err == nil {
			_ = a.store.Forget(n.Name)
		}
	}
}

// undoing is what takes back effects, in the order they were made.
type undoing []func() error

func (u *undoing) add(f func() error) { *u = append(*u, f) }

// after undoes everything if err is not nil, and returns it.
func (u undoing) after(err error) error {
	for i := len(u) - 1; err != nil && i >= 0; i-- {
		if uerr := u[i](); uerr != nil {
			err = fmt.Errorf("%w (and undoing it: %w)", err, uerr)
		}
	}
	return err
}

func storeOf(conf *Config) (*ipam.Store, error) {
	boot, err := sysctl.Ledger{}.Value("kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	return ipam.New(ipam.Config{Dir: conf.StateDir, Network: conf.Name, BootID: boot})
}

// hostName is the name of the node's end of an attachment's link.
func hostName(att ipam.Attachment) string {
	sum := digest.Of(att.ContainerID + "\x00" + att.IfName)
	return hostPrefix + hex.EncodeToString(sum[:6])
}

// linkOf is the name that hostName gives to the attachment of a lease, torn or not: both are of the same hash.
func linkOf(l ipam.Lease) string { return hostPrefix + l.Key()[:min(12, len(l.Key()))] }

const hostPrefix = "orl"

// macOf is the hardware address that goes with an address: fixed, so that an address used again needs no new ARP entry.
func macOf(a netip.Addr) net.HardwareAddr {
	if a.Is4() {
		return append(net.HardwareAddr{0x0a, 0x58}, a.AsSlice()...)
	}
	return macOfName(a.String())
}

func macOfName(s string) net.HardwareAddr {
	sum := digest.Of(s)
	return append(net.HardwareAddr{0x0a, 0x59}, sum[:4]...)
}

// coded makes err one of the specification's, unless it is already.
func coded(code uint, err error) error {
	if err == nil {
		return nil
	}
	if e := (*types.Error)(nil); errors.As(err, &e) && e.Error() == err.Error() {
		return e
	} else if e != nil {
		return types.NewError(e.Code, err.Error(), "")
	}
	return types.NewError(code, err.Error(), "")
}
