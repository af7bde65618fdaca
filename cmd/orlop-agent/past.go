package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/packetlb"
	"github.com/orlop-io/orlop/bpf/podnet"
	"github.com/orlop-io/orlop/cni/routes"
)

// How packets from outside, and those of TCP between pods of two nodes, reach pods of the node, by --pod-redirect.
const (
	redirectAuto  = "auto"  // past the stack where nothing there would miss them
	redirectPeer  = "peer"  // past the stack
	redirectStack = "stack" // by the stack
)

// shortcut sends packets straight into pods, and those of pods straight out, where that is as good as sending them by the node's stack.
type shortcut struct {
	o       options
	outside *outside
	netns   *podnet.Lister
	routes  *routes.Kernel
	remote  func() []netip.Prefix // where pods of other nodes are that the stack leaves addresses of alone
	log     *slog.Logger
	poke    chan struct{} // the tunnel may have changed; holds one

	mu   sync.Mutex
	said [len(wayNames)]string // what keeps each way's packets on the stack; "": nothing does
}

// The ways that packets go past the stack.
const (
	wayServices = iota // from outside to a service, and back
	wayPods            // of TCP between pods of two nodes
	wayTunnel          // of these, those that take a tunnel: past its device, too
)

var wayNames = [...]string{
	wayServices: "packets from outside", wayPods: "packets of TCP between pods of two nodes", wayTunnel: "packets of TCP between pods of two nodes that take a tunnel",
}

// newShortcut returns nil where packets are not translated by programs.
func newShortcut(o options, s *services, kernel *routes.Kernel, remote func() []netip.Prefix, log *slog.Logger) *shortcut {
	if s.outside == nil {
		return nil
	}
	const unknown = "not known yet"
	return &shortcut{
		o: o, outside: s.outside, netns: podnet.NewLister(podnet.Config{Folders: []string{o.netnsDir}, Proc: "/proc"}), routes: kernel, remote: remote, log: log,
		said: [...]string{wayServices: unknown, wayPods: unknown, wayTunnel: unknown}, poke: make(chan struct{}, 1),
	}
}

func (o options) checkRedirect() error {
	switch o.podRedirect {
	case redirectAuto, redirectPeer, redirectStack:
		return nil
	}
	return fmt.Errorf(`--pod-redirect=%s is not supported: give "peer", "stack", or "auto" for the first where nothing on the node would miss the packets`, o.podRedirect)
}

// run looks at pods' links, and at what else the node does to packets, until ctx ends.
func (s *shortcut) run(ctx context.Context, proxying <-chan struct{}) error {
	if s == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-proxying:
	}
	if s.o.podRedirect == redirectStack {
		past, err := s.outside.lb.AnyPast()
		pairs, perr := s.outside.lb.AnyPair()
		if err == nil && perr == nil && !past && !pairs { // flows of an earlier process that go past the stack still do
			for way := range wayNames {
				s.say(way, "--pod-redirect=stack")
			}
			return s.outside.lb.SetPast(nil, false)
		}
	}
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	failed := ""
	for round := 0; ; round++ {
		if err := s.once(round%30 == 0); err != nil && err.Error() != failed {
			s.log.Warn("look which pods can be reached past the node's stack", "err", err)
			failed = err.Error()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-s.poke:
		}
	}
}

// look has the tunnel looked at at once. It never blocks.
func (s *shortcut) look() {
	if s == nil {
		return
	}
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

func (s *shortcut) once(anew bool) error {
	on := s.outside.lb.Devices()
	shapes, err := s.outside.lb.Shapes()
	if err != nil {
		return err
	}
	found, err := s.netns.List(anew)
	if err != nil {
		return err
	}
	peers, why := packetlb.PeersOf(found, shapes, on, func(pod, master packetlb.Shape) bool {
		return s.o.podRedirect != redirectAuto || s.o.cni && strings.HasPrefix(pod.Name, "orl") && master.Name == s.o.bridge
	})
	for link, w := range why {
		s.log.Debug("a pod is reached by the node's stack", "link", link, "why", w)
	}
	seen, err := listChains()
	if err != nil {
		return err
	}
	missed := ""
	switch s.o.podRedirect {
	case redirectStack:
		missed = "--pod-redirect=stack"
	case redirectAuto:
		if missed, err = s.missed(shapes, on, seen); err != nil {
			return err
		}
	}
	untouched := missed
	if untouched == "" {
		if untouched, err = s.translated(seen); err != nil {
			return err
		}
	}
	tunnel, unseen, err := s.tunnel(untouched, seen)
	if err != nil {
		return err
	}
	for way, why := range [...]string{wayServices: missed, wayPods: untouched, wayTunnel: unseen} {
		s.say(way, why)
	}
	lb := s.outside.lb
	return errors.Join(lb.SetPast(peers, missed == ""), lb.SetPairs(s.remote(), untouched == ""), lb.SetTunnel(tunnel))
}

// tunnel is that to other nodes, for packets that go past its device, or nil and what keeps them from it.
func (s *shortcut) tunnel(untouched string, seen nftChains) (*packetlb.Tunnel, string, error) {
	if untouched != "" {
		return nil, untouched, nil
	}
	t, link, ends, ok, err := s.routes.Ends()
	if err != nil {
		return nil, "", err
	}
	if link == 0 {
		return nil, "", nil // there is none
	}
	if !ok {
		return nil, "its device works out checksums", nil
	}
	what, err := seen.one(func(c *nftables.Chain) bool { return seesTunnel(c) && c.Table.Name != networkName })
	if err != nil || what != "" {
		return nil, what, err
	}
	out := &packetlb.Tunnel{Link: link, Local: t.Local, VNI: t.VNI, Port: t.Port, MAC: t.MAC, Ends: map[[6]byte]netip.Addr{}}
	for _, e := range ends {
		out.Ends[e.MAC] = e.Addr
	}
	return out, "", nil
}

// say tells what keeps packets on the stack, when that is new.
func (s *shortcut) say(way int, missed string) {
	s.mu.Lock()
	changed := s.said[way] != missed
	s.said[way] = missed
	s.mu.Unlock()
	switch {
	case changed && missed == "":
		s.log.Info(wayNames[way] + " go past the node's stack")
	case changed:
		s.log.Info(wayNames[way]+" go by the node's stack", "why", missed)
	}
}

// why is what keeps each way's packets on the stack.
func (s *shortcut) why() (out [len(wayNames)]string) {
	if s == nil {
		return out
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said
}

// translated says what on the node may give packets of pods other addresses, which the way past its stack would not; "": nothing.
func (s *shortcut) translated(seen nftChains) (string, error) {
	if !s.o.cni {
		return "pods' network is another's", nil
	}
	what, err := seen.one(func(c *nftables.Chain) bool { return translatesForwarded(c) && c.Table.Name != networkName })
	if err != nil || what != "" {
		return what, err
	}
	return legacyTables(func(table string) bool { return table == "nat" })
}

// missed says what on the node would miss packets that go past its stack; "": nothing.
func (s *shortcut) missed(shapes []packetlb.Shape, on []packetlb.Device, seen nftChains) (string, error) {
	if !s.o.cni {
		return "pods' network is another's", nil
	}
	for _, d := range on {
		for _, shape := range shapes {
			if shape.Index == d.Index && !d.Pod && len(shape.Others) > 0 {
				return fmt.Sprintf("%s looks at packets that come by %s", shape.Others[0], d.Name), nil
			}
		}
	}
	for _, look := range []func() (string, error){
		func() (string, error) { return seen.one(seesForwarded) },
		func() (string, error) { return legacyTables(func(table string) bool { return table != "nat" }) },
		transforms,
	} {
		if what, err := look(); err != nil || what != "" {
			return what, err
		}
	}
	return "", nil
}

// nftChains are those of nftables, of iptables by nftables, and of the bridge.
type nftChains struct {
	conn *nftables.Conn
	all  []*nftables.Chain
}

func listChains() (nftChains, error) {
	conn, err := nftables.New()
	if err != nil {
		return nftChains{}, fmt.Errorf("open netfilter socket: %w", err)
	}
	list, err := conn.ListChains()
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EPROTONOSUPPORT) { // no nftables
		return nftChains{}, fmt.Errorf("list nftables chains: %w", err)
	}
	return nftChains{conn, list}, nil
}

// one finds a chain that is wanted and does anything, and says so of it; "": there is none.
func (l nftChains) one(wanted func(*nftables.Chain) bool) (string, error) {
	for _, c := range l.all {
		if !wanted(c) {
			continue
		}
		rules, err := l.conn.GetRules(c.Table, c)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("list rules of chain %s: %w", c.Name, err)
		}
		if len(rules) > 0 || c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			return fmt.Sprintf("chain %s of the nftables table %s would see them", c.Name, c.Table.Name), nil
		}
	}
	return "", nil
}

// seesForwarded says whether a chain is on the way of packets from device to device. A connection's first packet alone meets a chain of type nat, and what these do is
// not for packets that are translated already.
func seesForwarded(c *nftables.Chain) bool {
	if c.Hooknum == nil || c.Type == nftables.ChainTypeNAT {
		return false
	}
	switch c.Table.Family {
	case nftables.TableFamilyNetdev:
		return true
	case nftables.TableFamilyARP:
		return false
	}
	return *c.Hooknum == *nftables.ChainHookPrerouting || *c.Hooknum == *nftables.ChainHookForward || *c.Hooknum == *nftables.ChainHookPostrouting
}

// translatesForwarded says whether a chain gives connections from device to device other addresses.
func translatesForwarded(c *nftables.Chain) bool {
	return c.Hooknum != nil && c.Type == nftables.ChainTypeNAT && (*c.Hooknum == *nftables.ChainHookPrerouting || *c.Hooknum == *nftables.ChainHookPostrouting)
}

// seesTunnel says whether a chain sees what goes into a tunnel or comes out of it, which the node itself sends and gets.
func seesTunnel(c *nftables.Chain) bool {
	return c.Hooknum != nil && c.Type != nftables.ChainTypeNAT && c.Table.Family != nftables.TableFamilyARP && c.Table.Family != nftables.TableFamilyNetdev &&
		(*c.Hooknum == *nftables.ChainHookInput || *c.Hooknum == *nftables.ChainHookOutput)
}

// legacyTables finds a table of iptables' older flavour, whose rules the kernel does not show by hook.
func legacyTables(wanted func(string) bool) (string, error) {
	for _, file := range []string{"/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"} {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("list tables of iptables: %w", err)
		}
		for _, table := range strings.Fields(string(text)) {
			if wanted(table) {
				return fmt.Sprintf("the iptables table %s may have rules for them", table), nil
			}
		}
	}
	return "", nil
}

// transforms finds a policy of IPsec.
func transforms() (string, error) {
	list, err := netlink.XfrmPolicyList(netlink.FAMILY_ALL)
	if err == nil && len(list) > 0 {
		return "there are policies of IPsec", nil
	}
	return "", nil // a kernel without it has none
}
