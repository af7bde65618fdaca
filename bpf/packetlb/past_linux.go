package packetlb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/orlop-io/orlop/bpf/podnet"
	"github.com/orlop-io/orlop/bpf/whole"
)

// Peer is how a pod of this node is reached past the node's stack.
type Peer struct {
	Link     int              // index of the node's end of its link
	Via      int              // index of the device by which the stack would have its packets
	MAC, Own net.HardwareAddr // the pod's, and that of who sends to it
}

// SetPast makes peers, by address, the pods that packets from outside may be sent straight into, past the node's routes, filters and conntrack, and with new has
// flows that begin do so. A flow that goes past the stack does until it ends, both ways: the stack has not seen how it began.
func (l *LB) SetPast(peers map[netip.Addr]Peer, new bool) error {
	on := uint32(0)
	if new {
		on = 1
	}
	var stale []objectEndpoint
	have := map[objectEndpoint]objectPeer{}
	var k objectEndpoint
	var v objectPeer
	it := l.objs.Peers.Iterate()
	for it.Next(&k, &v) {
		have[k] = v
		if _, stays := peers[addr(k.Addr)]; !stays {
			stale = append(stale, k)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list pods that are reached past the stack: %w", err)
	}
	for a, p := range peers {
		k := objectEndpoint{Addr: words(a)}
		v := objectPeer{Link: uint32(p.Link), Via: uint32(p.Via)}
		copy(v.Mac[:], p.MAC)
		copy(v.Own[:], p.Own)
		if have[k] == v {
			continue
		}
		if err := l.objs.Peers.Put(&k, &v); err != nil {
			return fmt.Errorf("have the pod at %s reached past the stack: %w", a, err)
		}
	}
	if err := l.objs.Shortcut.Put(uint32(0), on); err != nil {
		return fmt.Errorf("say whether flows go past the stack: %w", err)
	}
	for _, k := range stale {
		if err := l.objs.Peers.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget a pod that was reached past the stack: %w", err)
		}
	}
	return nil
}

// SetPairs makes others the ranges of other nodes' pods, to and from which the stack leaves addresses as they are. With begin, connections of TCP between those and the
// pods of SetPast go past the stacks of this node, from their first packet to their last; those that do already go on to, whatever is said later.
func (l *LB) SetPairs(others []netip.Prefix, begin bool) error {
	how := objectPairingPAIRING_BEGIN
	if !begin || len(others) == 0 {
		how = objectPairingPAIRING_END
		var k objectPair
		if err := l.objs.Pairs.NextKey(nil, &k); errors.Is(err, ebpf.ErrKeyNotExist) {
			how = objectPairingPAIRING_NONE // packets of pods need not be looked up
		}
	}
	if how != objectPairingPAIRING_BEGIN {
		if err := l.objs.Pairings.Put(uint32(0), uint32(how)); err != nil {
			return fmt.Errorf("have no more connections of pods go past the stack: %w", err)
		}
	}
	want := map[objectNets]bool{}
	for _, p := range others {
		r := objectNets{Bits: uint32(p.Bits()), Addr: words(p.Masked().Addr())}
		if p.Addr().Is4() {
			r.Bits += 96
		}
		want[r] = true
	}
	var stale []objectNets
	var k objectNets
	var v uint32
	it := l.objs.Others.Iterate()
	for it.Next(&k, &v) {
		if !want[k] {
			stale = append(stale, k)
		}
		delete(want, k)
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list ranges of other nodes' pods: %w", err)
	}
	for k := range want {
		if err := l.objs.Others.Put(&k, uint32(1)); err != nil {
			return fmt.Errorf("add a range of other nodes' pods: %w", err)
		}
	}
	for _, k := range stale {
		if err := l.objs.Others.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget a range of other nodes' pods: %w", err)
		}
	}
	if how == objectPairingPAIRING_BEGIN {
		if err := l.objs.Pairings.Put(uint32(0), uint32(how)); err != nil {
			return fmt.Errorf("have connections of pods go past the stack: %w", err)
		}
	}
	return nil
}

// Tunnel is this node's end of a tunnel of VXLAN over IPv4, and where other nodes' ends are, by hardware address.
type Tunnel struct {
	Link  int // index of its device
	Local netip.Addr
	VNI   uint32
	Port  uint16
	MAC   [6]byte
	Ends  map[[6]byte]netip.Addr
}

// SetTunnel has connections that go past the stack go past the device of t, too, where they are IPv4; with nil all that is for a tunnel passes its device.
func (l *LB) SetTunnel(t *Tunnel) error {
	var now objectTunnel
	want := map[objectEnd]uint32{}
	if t != nil {
		now = objectTunnel{Link: uint32(t.Link), Local: ipv4(t.Local), Vni: swapped(t.VNI << 8), Port: uint16(swapped(uint32(t.Port)) >> 16), Mac: t.MAC}
		for mac, a := range t.Ends {
			if a.Is4() {
				want[objectEnd{Mac: mac}] = ipv4(a)
			}
		}
	}
	if t == nil {
		if err := l.objs.Tunnels.Put(uint32(0), &now); err != nil {
			return fmt.Errorf("have all packets pass the tunnel's device: %w", err)
		}
	}
	var stale []objectEnd
	var k objectEnd
	var v uint32
	it := l.objs.Ends.Iterate()
	for it.Next(&k, &v) {
		a, is := want[k]
		if !is {
			stale = append(stale, k)
		} else if a == v {
			delete(want, k)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list ends of the tunnel: %w", err)
	}
	for _, k := range stale {
		if err := l.objs.Ends.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget an end of the tunnel: %w", err)
		}
	}
	for k, a := range want {
		if err := l.objs.Ends.Put(&k, a); err != nil {
			return fmt.Errorf("add an end of the tunnel: %w", err)
		}
	}
	if t != nil {
		if err := l.objs.Tunnels.Put(uint32(0), &now); err != nil {
			return fmt.Errorf("have packets go past the tunnel's device: %w", err)
		}
	}
	return nil
}

// ipv4 is an address as it is in a packet.
func ipv4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

// swapped is a number as it is in a packet.
func swapped(n uint32) uint32 {
	return binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, n))
}

// AnyPair says whether there may be connections of pods that go past the stack, of whatever process.
func (l *LB) AnyPair() (bool, error) {
	var how uint32
	if err := l.objs.Pairings.Lookup(uint32(0), &how); err != nil {
		return false, fmt.Errorf("look whether connections of pods go past the stack: %w", err)
	}
	return how != uint32(objectPairingPAIRING_NONE), nil
}

// AnyPast says whether there are pods that packets may be sent straight into, of whatever process.
func (l *LB) AnyPast() (bool, error) {
	var k objectEndpoint
	err := l.objs.Peers.NextKey(nil, &k)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list pods that are reached past the stack: %w", err)
	}
	return true, nil
}

// Shape is what of a link matters to packets that would not pass it.
type Shape struct {
	Index, Master int
	Name, Type    string
	MAC           net.HardwareAddr
	VLANs         bool     // of a bridge: it filters by VLAN
	Queue         string   // that packets wait in, if it is not noqueue
	Others        []string // who else looks at packets that come in
}

// Shapes are those of all links.
func (l *LB) Shapes() ([]Shape, error) {
	links, err := whole.List(l.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	queues, err := whole.List(func() ([]netlink.Qdisc, error) { return l.nl.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("list queues of devices: %w", err)
	}
	ours, err := l.programs()
	if err != nil {
		return nil, err
	}
	var out []Shape
	for _, lk := range links {
		a := lk.Attrs()
		s := Shape{Index: a.Index, Master: a.MasterIndex, Name: a.Name, Type: lk.Type(), MAC: a.HardwareAddr}
		if br, is := lk.(*netlink.Bridge); is && br.VlanFiltering != nil {
			s.VLANs = *br.VlanFiltering
		}
		for _, q := range queues {
			switch {
			case q.Attrs().LinkIndex != a.Index:
			case q.Attrs().Parent == netlink.HANDLE_ROOT && q.Type() != "noqueue":
				s.Queue = q.Type()
			case q.Attrs().Parent == netlink.HANDLE_CLSACT:
				s.Others = append(s.Others, l.foreignFilters(lk)...)
			}
		}
		s.Others = append(s.Others, foreignPrograms(a.Index, ours)...)
		out = append(out, s)
	}
	return out, nil
}

// foreignFilters are those of others at what comes in.
func (l *LB) foreignFilters(lk netlink.Link) (out []string) {
	list, err := whole.List(func() ([]netlink.Filter, error) { return l.nl.FilterList(lk, netlink.HANDLE_MIN_INGRESS) })
	if err != nil {
		return nil // no such queue
	}
	for _, f := range list {
		if b, is := f.(*netlink.BpfFilter); is && f.Attrs().Priority == filterPriority && len(b.Name) >= len(filterName) && b.Name[:len(filterName)] == filterName {
			continue
		}
		out = append(out, "a filter of type "+f.Type())
	}
	return out
}

// programs are the kernel's numbers of our own that look at what comes in.
func (l *LB) programs() (ids []ebpf.ProgramID, err error) {
	for _, p := range []*ebpf.Program{l.objs.FromOutside, l.objs.FromPod} {
		info, err := p.Info()
		if err != nil {
			return nil, fmt.Errorf("look at our own program %s: %w", p, err)
		}
		if id, ok := info.ID(); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// foreignPrograms are those of others by TCX.
func foreignPrograms(index int, ours []ebpf.ProgramID) (out []string) {
	list, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return nil // no TCX
	}
	for _, p := range list.Programs {
		if !slices.Contains(ours, p.ID) {
			out = append(out, fmt.Sprintf("BPF program %d", p.ID))
		}
	}
	return out
}

// PeersOf finds, by address, the pods that can be reached past the stack as they would be by it: a pod's link has no queue that limits it, nobody else looks at what
// comes by it, its bridge knows no VLANs, and no other pod says that it has the address, which pods may do that set up their own network. trusted says which links may be at all; why says of the others, by name, what is in the way.
func PeersOf(found []podnet.Namespace, shapes []Shape, on []Device, trusted func(pod, master Shape) bool) (peers map[netip.Addr]Peer, why map[string]string) {
	peers, why = map[netip.Addr]Peer{}, map[string]string{}
	byIndex, claimed := map[int]Shape{}, map[netip.Addr]int{}
	for _, s := range shapes {
		byIndex[s.Index] = s
	}
	for _, ns := range found {
		for _, lk := range ns.Links {
			host, there := byIndex[lk.Peer]
			if !there || len(lk.MAC) != 6 || !slices.ContainsFunc(on, func(d Device) bool { return d.Pod && d.Index == host.Index }) {
				continue
			}
			master := byIndex[host.Master]
			switch {
			case !trusted(host, master):
				why[host.Name] = "it is not of Orlop's CNI plugin"
			case host.Queue != "":
				why[host.Name] = "packets to it wait in a queue of type " + host.Queue
			case len(host.Others) > 0:
				why[host.Name] = host.Others[0] + " looks at packets from it"
			case master.VLANs:
				why[host.Name] = "its bridge filters by VLAN"
			default:
				p := Peer{Link: host.Index, Via: host.Index, MAC: lk.MAC, Own: host.MAC}
				if host.Master != 0 {
					p.Via, p.Own = master.Index, master.MAC
				}
				for _, a := range lk.Addrs {
					peers[a] = p
				}
			}
			for _, a := range lk.Addrs {
				claimed[a]++
			}
		}
	}
	maps.DeleteFunc(peers, func(a netip.Addr, _ Peer) bool { return claimed[a] > 1 })
	return peers, why
}

func addr(w [4]uint32) netip.Addr {
	var b [16]byte
	for i := range w {
		binary.NativeEndian.PutUint32(b[4*i:], w[i])
	}
	return netip.AddrFrom16(b).Unmap()
}
