package socklb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// MemberState is what an endpoint is to those who chose it before.
type MemberState uint32

// What an endpoint of a service can be.
const (
	Chosen  MemberState = MemberState(objectMemberStateMEMBER_CHOSEN)  // new connections go there, too
	Leaving MemberState = MemberState(objectMemberStateMEMBER_LEAVING) // no new ones do, those that it has stay
	Gone    MemberState = MemberState(objectMemberStateMEMBER_GONE)    // connections to it are ended
)

// Lost is a socket that is connected to an endpoint which its service has lost.
type Lost struct {
	Cookie   uint64 // the kernel's name for it
	Netns    uint32 // inode number of its network namespace
	Protocol uint8
	IPv6     bool // of that family, whatever its addresses
	Local    netip.AddrPort
	Peer     netip.AddrPort
	Device   uint32 // that it is bound to; 0 none
}

// Finder finds sockets in all network namespaces.
type Finder struct {
	objs lostPrograms
	lb   *LB
}

// Finder returns ErrUnsupported where this kernel cannot go through sockets (Linux 5.10, with BTF). It must be closed, before LB is.
func (l *LB) Finder() (*Finder, error) {
	spec, err := loadLost()
	if err != nil {
		return nil, fmt.Errorf("read BPF object: %w", err)
	}
	f := &Finder{lb: l}
	// Each map of a program's own would be made anew: what is not read is left out.
	for name := range spec.Maps {
		if name != lostMapMembers {
			delete(spec.Maps, name)
		}
	}
	err = spec.LoadAndAssign(&f.objs, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{lostMapMembers: l.objs.Members}})
	if err != nil {
		return nil, fmt.Errorf("%w: load the program that goes through sockets: %w", ErrUnsupported, err)
	}
	return f, nil
}

// Close lets go of the program.
func (f *Finder) Close() error { return f.objs.Close() }

// Find lists sockets that are connected to an endpoint which is Gone, or of UDP to one that has no state.
func (f *Finder) Find() ([]Lost, error) {
	it, err := link.AttachIter(link.IterOptions{Program: f.objs.LostSockets, Map: f.lb.objs.Sockets})
	if err != nil {
		return nil, fmt.Errorf("go through sockets: %w", err)
	}
	defer it.Close()
	r, err := it.Open()
	if err != nil {
		return nil, fmt.Errorf("go through sockets: %w", err)
	}
	defer r.Close()
	var out []Lost
	for {
		var rec lostLost
		err := binary.Read(r, binary.NativeEndian, &rec)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the list of sockets: %w", err)
		}
		out = append(out, lostOf(rec))
	}
}

func lostOf(rec lostLost) Lost {
	const inet6 = 10
	l := Lost{Cookie: rec.Cookie, Netns: rec.Netns, Protocol: uint8(rec.Proto), IPv6: rec.Family == inet6, Device: rec.Device}
	at := func(w [4]uint32, port uint16) netip.AddrPort {
		if l.IPv6 {
			var b [16]byte
			for i := range w {
				binary.NativeEndian.PutUint32(b[4*i:], w[i])
			}
			return netip.AddrPortFrom(netip.AddrFrom16(b), swap(port))
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(binary.NativeEndian.AppendUint32(nil, w[0]))), swap(port))
	}
	l.Local, l.Peer = at(rec.Saddr, rec.Sport), at(rec.Daddr, rec.Dport)
	return l
}
