package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/orlop-io/orlop/bpf/packetlb"
	"github.com/orlop-io/orlop/bpf/socklb"
	"github.com/orlop-io/orlop/cni/sysctl"
	"github.com/orlop-io/orlop/proxy"
	"github.com/orlop-io/orlop/proxy/ebpf"
	"github.com/orlop-io/orlop/proxy/iptables"
	"github.com/orlop-io/orlop/proxy/modes"
	"github.com/orlop-io/orlop/proxy/nft"
	"github.com/orlop-io/orlop/proxy/userspace"
)

// The modes of --proxy-mode; an agent that leaves services to somebody else has none of them.
const (
	modeEBPF      = proxy.ModeEBPF
	modeNftables  = proxy.ModeNftables
	modeIptables  = proxy.ModeIptables
	modeUserspace = proxy.ModeUserspace
	modeNone      = "none"
)

// packetwise is a backend that knows what is inside and what outside of the node by addresses.
type packetwise interface {
	Set(proxy.Model) error
	Sweep(now time.Time) (more bool, err error)
	SetNode(proxy.Node) (changed bool)
}

// services is what translates on this node: in sockets with packets from outside beside them, or all by packets.
type services struct {
	mode    string
	passed  []modes.Passed // better modes, and why not
	lb      *socklb.LB     // nil where no sockets are translated
	sockets *ebpf.Backend
	endings *endings           // nil where sockets cannot be ended
	stays   error              // why they cannot, in ebpf mode
	outside *outside           // nil where packets translates what comes from outside
	packets packetwise         // nil where outside does
	tables  *iptables.Backend  // packets, in that mode
	relay   *userspace.Backend // packets, in that mode
	model   proxy.Model        // for packets, which takes all at once
	refused *refusals
	log     *slog.Logger
	o       options
	swept   bool // what another mode left is gone
}

// openServices decides the mode, by --proxy-mode or by what the kernel can do. It changes nothing that is in force.
func openServices(o options, log *slog.Logger) (*services, error) {
	if !o.proxy {
		return &services{mode: modeNone, log: log, o: o, refused: newRefusals(log)}, nil
	}
	s, mode, passed, err := modes.Choose(o.proxyMode, func(mode string) (*services, error) {
		s := &services{mode: mode, log: log, o: o, refused: newRefusals(log)}
		return s, s.open()
	})
	if err != nil {
		return nil, err
	}
	for _, p := range passed {
		log.Warn("services are not translated in a better mode", "mode", p.Mode, "why", p.Why, "used", mode)
	}
	s.passed = passed
	if o.config.loopbackToo && proxy.Lacks(mode)[proxy.LoopbackNodePorts] {
		log.Warn("nodePortAddresses names localhost, where this mode has no node ports: ask at the node's address", "mode", mode)
	}
	return s, nil
}

// open opens what the mode needs, or says what is missing.
func (s *services) open() error {
	switch s.mode {
	case modeEBPF:
		lb, err := openLB(s.o)
		if err != nil && !errors.Is(err, socklb.ErrUnsupported) {
			return modes.Broken{Err: err}
		}
		if err != nil {
			return err
		}
		s.lb = lb
		if err := s.openPackets(s.o); err != nil {
			return err
		}
		if s.endings, s.stays = openEndings(lb, s.log); s.stays != nil {
			s.log.Warn("sockets stay connected to endpoints that are gone", "why", s.stays)
			return nil
		}
		s.sockets.EndSockets(s.endings.run)
		return nil
	case modeNftables:
		s.packets = s.table(proxy.Everywhere)
		return nft.Probe()
	case modeIptables:
		tables, err := iptables.Open(iptables.Config{Root: s.o.hostRoot, Log: s.log})
		s.tables, s.packets = tables, tables
		return err
	default:
		capture, err := serviceRanges(s.o)
		if err != nil {
			return err
		}
		s.relay, err = userspace.Open(userspace.Config{Capture: capture, Unserved: s.refused.unserved, Log: s.log})
		s.packets = s.relay
		return err
	}
}

// table translates packets of a scope by nftables.
func (s *services) table(of proxy.Scope) *nft.Backend {
	b := nft.New(of)
	if s.o.countPackets {
		b.CountPackets()
	}
	return b
}

// openPackets decides how packets are translated that no hook in sockets sees.
func (s *services) openPackets(o options) (err error) {
	if s.outside, err = openOutside(o, s.log); err != nil {
		s.Close()
		return err
	}
	if s.outside != nil {
		s.sockets = ebpf.New(s.lb, proxy.Everywhere)
		s.sockets.Unfit = s.refused.unfit
		return nil
	}
	if err := nft.Probe(); err != nil {
		s.Close()
		return fmt.Errorf("packets from outside: %w", err)
	}
	s.sockets, s.packets = ebpf.New(s.lb, proxy.Inside), s.table(proxy.Outside)
	s.sockets.Unfit = s.refused.unfit
	return nil
}

// bridgedPackets has the kernel show packets between pods of a bridge to netfilter: the answer to a translated one must be translated back.
func bridgedPackets(kernel sysctl.Ledger, log *slog.Logger) error {
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		err := kernel.Set("net/bridge/"+name, "1")
		if errors.Is(err, fs.ErrNotExist) {
			log.Warn("load the kernel module br_netfilter: without it a pod may not reach a Service whose endpoint is on its own node", "sysctl", name)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Apply implements the proxy's backend. What the mode of an earlier process left goes once this one's holds everything.
func (s *services) Apply(c proxy.Change) error {
	var errs []error
	if s.sockets != nil {
		errs = append(errs, s.sockets.Apply(c))
	}
	if s.packets != nil {
		if s.model == nil {
			s.model = proxy.Model{}
		}
		s.model.Apply(c)
		errs = append(errs, s.packets.Set(s.model))
	}
	if err := errors.Join(errs...); err != nil || s.swept {
		return err
	}
	if err := s.outside.attach(); err != nil {
		return err
	}
	if s.lb != nil && s.outside == nil { // before the programs go that translate packets of pods
		if err := s.lb.SetApart(socklb.Apart{}); err != nil {
			return err
		}
	}
	if err := removeModes(s.o, s.mode, s.packets == nil); err != nil {
		return err
	}
	s.swept = true
	return nil
}

// removeModes removes what modes other than the one that stays have left. With whole, that one translates what comes from outside by BPF, too.
func removeModes(o options, stays string, whole bool) error {
	var errs []error
	if stays != modeEBPF || !whole {
		errs = append(errs, packetlb.Remove(o.pinDir))
	}
	if stays != modeEBPF {
		errs = append(errs, socklb.Remove(o.pinDir))
	}
	if stays != modeNftables && (stays != modeEBPF || whole) {
		errs = append(errs, nft.Remove())
	}
	if stays != modeIptables {
		errs = append(errs, iptables.Remove(o.hostRoot))
	}
	if stays != modeUserspace {
		errs = append(errs, userspace.Remove())
	}
	return errors.Join(errs...)
}

// run does what the mode does besides Set, until ctx ends.
func (s *services) run(ctx context.Context, poke func()) error {
	if s.relay != nil {
		return s.relay.Run(ctx)
	}
	if s.tables == nil {
		return nil
	}
	tick := time.NewTicker(30 * time.Second) // somebody may have flushed the tables
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			poke()
		}
	}
}

// healthPorts says where balancers ask for health, for hosts whose iptables drop what they do not know.
func (s *services) healthPorts(list []proxy.HealthCheck) {
	if s.tables == nil {
		return
	}
	var ports []uint16
	for _, c := range list {
		ports = append(ports, c.Port)
	}
	s.tables.SetHealthPorts(ports)
}

// bridged tells whether packets between pods of a bridge must be shown to netfilter: kube-proxy, whose services they are in no mode of ours, wants it too.
func (s *services) bridged() bool {
	return s.mode == modeNftables || s.mode == modeIptables || s.mode == modeNone
}

// Sweep implements the proxy's backend.
func (s *services) Sweep(now time.Time) (more bool, err error) {
	if s.sockets != nil {
		if more, err = s.sockets.Sweep(now); err != nil {
			return more, err
		}
	}
	if s.packets == nil {
		return more, nil
	}
	again, err := s.packets.Sweep(now)
	return more || again, err
}

// setNode says what the nodes are now. Node ports are asked at the primary addresses of this node, its first InternalIP of each family; sockets of the
// cluster may ask at every node's.
func (s *services) setNode(c *cluster) (again bool, err error) {
	if s.mode == modeNone {
		return false, nil
	}
	if s.lb != nil {
		if err := s.lb.SetNodes(c.addrs, s.o.config.nodePortAddrs(c.inner, localAddrs())); err != nil {
			return false, err
		}
	}
	if err := s.outside.setNode(c.podCIDRs, s.o.config.nodePortAddrs(c.inner, localAddrs())); err != nil {
		return false, err
	}
	if s.packets == nil {
		return false, nil
	}
	return s.packets.SetNode(proxy.Node{Inside: c.podCIDRs, NodePorts: s.o.config.nodePortAddrs(c.inner, localAddrs())}), nil
}

func primary(addrs []netip.Addr) (out []netip.Addr) {
	for _, v4 := range []bool{true, false} {
		if i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is4() == v4 }); i >= 0 {
			out = append(out, addrs[i])
		}
	}
	return out
}

// traffic is where what became of clients is counted; nil where it is not.
func (s *services) traffic() func() (map[string]proxy.Traffic, error) {
	table, _ := s.packets.(*nft.Backend)
	switch {
	case s.sockets != nil && table != nil:
		return func() (map[string]proxy.Traffic, error) { return both(s.sockets.Traffic, table.Traffic) }
	case s.sockets != nil:
		return s.sockets.Traffic
	case table != nil:
		return table.Traffic
	case s.tables != nil:
		return s.tables.Traffic
	case s.relay != nil:
		return s.relay.Traffic
	default:
		return nil
	}
}

// both is what two count.
func both(one, other func() (map[string]proxy.Traffic, error)) (map[string]proxy.Traffic, error) {
	out, err := one()
	if err != nil {
		return nil, err
	}
	more, err := other()
	for port, t := range more {
		out[port] = out[port].Plus(t)
	}
	return out, err
}

// external is how packets from outside are translated.
func (s *services) external() string {
	switch s.mode {
	case modeEBPF:
		return s.outside.way()
	case modeNftables:
		return externalNft
	default:
		return s.mode
	}
}

// Close closes files; what is in force stays.
func (s *services) Close() {
	if s.relay != nil {
		s.relay.Close()
	}
	s.outside.close()
	s.endings.close()
	if s.lb != nil {
		s.lb.Close()
	}
}
