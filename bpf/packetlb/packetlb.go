// Package packetlb translates services' addresses in packets, by BPF programs at a node's devices: for clients outside, and for pods whose
// sockets no program of package socklb sees.
//
// It reads the maps of services that socklb keeps, and owns what packets chose: flows both ways, in a map that forgets the longest idle, and
// who stays with which backend. Programs are attached by TCX, or by the qdisc clsact where the kernel has no TCX. What is
// attached and chosen outlives the process; SetDevices puts newer programs in the place of older ones, in one step each.
//
// The node's own stack sees the connection of client and backend: a request is translated before it, an answer after it. So
// routes, filters and conntrack work as without translation, and the node must forward (ip_forward).
package packetlb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/socklb"
)

// ErrUnsupported is returned by Open when the kernel lacks what the programs need; the text names it.
var ErrUnsupported = errors.New("the kernel cannot translate services in packets by BPF")

// layout names the folder of this package's own maps. It changes whenever the key, value or meaning of a map does.
const layout = "packets-v1"

// The ways to attach programs to a device.
const (
	TCX    = "tcx"    // Linux 6.6
	Clsact = "clsact" // before it
)

// Config says where the programs live.
type Config struct {
	PinDir string // that of an open socklb.LB, whose maps of services are read
	Attach string // TCX or Clsact; empty: what the kernel has
	// FirstPort to LastPort are what masqueraded flows leave from; the node's own sockets must not choose from them (net.ipv4.ip_local_port_range).
	// Both 0: 1024 to 29999.
	FirstPort, LastPort uint16
	// Flows is how many parts of flows are kept, two for each and two more for one that is masqueraded, at about 160 bytes; the longest idle is forgotten
	// for one too many. 0: 131072. While a map from an earlier process is pinned, its size holds.
	Flows uint32
}

// LB is the loaded programs and the open maps, in the network namespace that Open was called in.
type LB struct {
	cfg  Config
	objs objectObjects
	nl   *netlink.Handle
	poke chan struct{}

	mu  sync.Mutex   // held while devices are attached to
	own []netip.Addr // of the node, as SetMasquerade had them
	on  []Device     // that the programs are on, as of the last Sync
}

// Open loads the programs, and opens or makes the pinned maps. Nothing is attached yet. It returns ErrUnsupported when this
// kernel cannot do it.
func Open(cfg Config) (_ *LB, err error) {
	if cfg.LastPort == 0 {
		cfg.FirstPort, cfg.LastPort = 1024, 29999
	}
	if cfg.FirstPort == 0 || cfg.LastPort < cfg.FirstPort {
		return nil, fmt.Errorf("ports from %d to %d are no range", cfg.FirstPort, cfg.LastPort)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	lb := &LB{cfg: cfg, poke: make(chan struct{}, 1)}
	if lb.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	defer func() {
		if err != nil {
			lb.nl.Close()
		}
	}()
	if lb.cfg.Attach == "" {
		if lb.cfg.Attach, err = lb.probe(); err != nil {
			return nil, err
		}
	}
	spec, err := loadObject()
	if err != nil {
		return nil, fmt.Errorf("read BPF object: %w", err)
	}
	if err := lb.load(spec, &lb.objs); err != nil {
		return nil, err
	}
	return lb, nil
}

// load puts the programs of spec into the kernel, on the pinned maps.
func (l *LB) load(spec *ebpf.CollectionSpec, into any) error {
	err := errors.Join(spec.Variables[objectVarPortFirst].Set(uint32(l.cfg.FirstPort)),
		spec.Variables[objectVarPortCount].Set(uint32(l.cfg.LastPort-l.cfg.FirstPort)+1))
	if err != nil {
		return fmt.Errorf("set BPF constants: %w", err)
	}
	own := filepath.Join(l.cfg.PinDir, layout)
	if err := os.MkdirAll(own, 0o700); err != nil {
		return fmt.Errorf("make pin folder: %w", err)
	}
	if l.cfg.Flows > 0 {
		spec.Maps[objectMapFlows].MaxEntries = l.cfg.Flows
		spec.Maps[objectMapPairs].MaxEntries = l.cfg.Flows / 2 // one for each connection, where flows have two
	}
	served, adopted := filepath.Join(own, objectMapServed), false
	_, known := os.Stat(served)
	_, each := os.Stat(filepath.Join(own, objectMapLinks))
	if m, err := ebpf.LoadPinnedMap(filepath.Join(own, objectMapFlows), nil); err == nil {
		adopted = true
		spec.Maps[objectMapFlows].MaxEntries = m.MaxEntries()
		m.Close()
	}
	if m, err := ebpf.LoadPinnedMap(filepath.Join(own, objectMapPairs), nil); err == nil {
		spec.Maps[objectMapPairs].MaxEntries = m.MaxEntries()
		m.Close()
	}
	shared := map[string]*ebpf.Map{}
	defer func() {
		for _, m := range shared {
			m.Close()
		}
	}()
	for _, name := range []string{objectMapFrontends, objectMapBackends, objectMapTables, objectMapMembers, objectMapSources, objectMapNodes, objectMapTraffics} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(socklb.Maps(l.cfg.PinDir), name), nil)
		if err != nil {
			return fmt.Errorf("open the map of %s: %w", name, err)
		}
		shared[name] = m
	}
	err = spec.LoadAndAssign(into, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: own}, MapReplacements: shared})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return fmt.Errorf("the maps in %s are another program's: %w", l.cfg.PinDir, err)
	}
	if err != nil {
		return fmt.Errorf("load BPF programs: %w", err)
	}
	if adopted && known != nil {
		err = l.busy(served)
	}
	if adopted && each != nil {
		err = errors.Join(err, l.busyLinks(own))
	}
	return err
}

// busyLinks has the programs look at every packet of pods if one has asked: an earlier version did not note which.
func (l *LB) busyLinks(own string) error {
	asked, err := ebpf.LoadPinnedMap(filepath.Join(own, objectMapAsked), nil)
	if err != nil {
		return fmt.Errorf("open the map of the time of pods' flows: %w", err)
	}
	defer asked.Close()
	var last uint32
	if err := asked.Lookup(uint32(0), &last); err != nil || last == 0 {
		return err
	}
	links, err := ebpf.LoadPinnedMap(filepath.Join(own, objectMapLinks), nil)
	if err != nil {
		return fmt.Errorf("open the map of links: %w", err)
	}
	defer links.Close()
	list, err := l.list()
	if err != nil {
		return err
	}
	for _, d := range list {
		if err := links.Put(uint32(d.Index), &objectLink{Asked: last}); err != nil {
			return fmt.Errorf("note that there are flows of a pod: %w", err)
		}
	}
	return nil
}

// busy has the programs look at every packet from outside: an earlier version's flows are there, and it did not note when the last began.
func (l *LB) busy(served string) error {
	m, err := ebpf.LoadPinnedMap(served, nil)
	if err != nil {
		return fmt.Errorf("open the map of the time of flows: %w", err)
	}
	defer m.Close()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	if err := m.Put(uint32(0), uint32(now.Sec)); err != nil {
		return fmt.Errorf("note that there are flows: %w", err)
	}
	return nil
}

// Attachment says how programs are attached: TCX or Clsact.
func (l *LB) Attachment() string { return l.cfg.Attach }

// SetMasquerade makes the first of addrs in each family the node's address, by which backends elsewhere see clients. All are those that the node is asked at; Sync
// takes them from there.
func (l *LB) SetMasquerade(addrs []netip.Addr) error {
	l.mu.Lock()
	l.own = slices.Clone(addrs)
	l.mu.Unlock()
	for family, v4 := range []bool{true, false} {
		var e objectEndpoint
		for _, a := range addrs {
			if a.Is4() == v4 {
				e.Addr = words(a)
				break
			}
		}
		if err := l.objs.Masquerade.Put(uint32(family), &e); err != nil {
			return fmt.Errorf("set the address to masquerade with: %w", err)
		}
	}
	return nil
}

// Counters returns how often each reason decided a packet since the maps were made.
func (l *LB) Counters() (map[string]uint64, error) {
	out := map[string]uint64{}
	for r, name := range reasonNames() {
		var perCPU []uint64
		if err := l.objs.Packets.Lookup(uint32(r), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", name, err)
		}
		for _, n := range perCPU {
			out[name] += n
		}
	}
	return out, nil
}

func reasonNames() []string {
	return []string{
		"not_service", "malformed", "lone_fragment", "started", "request", "reply", "masqueraded", "unmasqueraded", "fragment", "icmp", "refused",
		"no_endpoint_here", "source", "lost_slot", "no_address", "no_port", "no_room", "redirect", "not_written",
	}
}

// Close lets go of programs and maps; what is attached stays in charge.
func (l *LB) Close() error {
	l.nl.Close()
	return l.objs.Close()
}

func words(a netip.Addr) (w [4]uint32) {
	b := a.As16()
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}
