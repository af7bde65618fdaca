package plugin

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// socket is a routing netlink socket, for what every ADD and DEL asks of the kernel. Several requests go in one system call, and the kernel
// answers them before that returns, so nothing waits here and no other thread is woken. The library's sockets wait in the runtime's poller: in a process
// of two milliseconds, handing over from thread to thread at each request was a good part of them, the more so on a busy node.
type socket struct {
	fd  int
	seq uint32
	buf []byte
}

// answer is what the kernel said to one request.
type answer struct {
	messages [][]byte
	err      error
}

// link is what the plugin wants to know of a link.
type link struct {
	name                  string
	kind                  string // "bridge", "veth"; empty for hardware
	index, parent, master int    // parent is the other end's of a pair
	mtu                   int
	mac                   net.HardwareAddr
	flags                 uint32
	promiscuous           bool
}

func (l *link) up() bool { return l.flags&unix.IFF_UP != 0 }

// openSocket opens one in the namespace of the thread.
func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return newSocket(fd), nil
}

func newSocket(fd int) *socket {
	// Lets a dump be of one link; older kernels than 4.20 list all.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	return &socket{fd: fd, buf: make([]byte, 8<<10)}
}

func (s *socket) close() { unix.Close(s.fd) }

// ask sends requests in one system call and returns an answer to each. The kernel goes on after one that it refuses.
func (s *socket) ask(reqs ...*nl.NetlinkRequest) []answer {
	out := make([]answer, len(reqs))
	fail := func(err error) []answer {
		for i := range out {
			out[i].err = err
		}
		return out
	}
	first := s.seq + 1
	var b []byte
	for _, r := range reqs {
		s.seq++
		r.Seq = s.seq
		b = append(b, r.Serialize()...)
	}
	// Raw: while the kernel is at work nobody else has anything to do, and the runtime need not be told.
	if _, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0); errno != 0 {
		return fail(fmt.Errorf("send to the kernel: %w", errno))
	}
	for done := 0; done < len(reqs); {
		var from unix.RawSockaddrNetlink
		size := uint32(unsafe.Sizeof(from))
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&s.buf[0])), uintptr(len(s.buf)),
			unix.MSG_DONTWAIT|unix.MSG_TRUNC, uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)))
		if errno != 0 {
			return fail(fmt.Errorf("read the kernel's answer: %w", errno))
		}
		if int(n) > len(s.buf) {
			return fail(errors.New("read the kernel's answer: it is too long"))
		}
		messages, err := syscall.ParseNetlinkMessage(s.buf[:n])
		if err != nil {
			return fail(fmt.Errorf("read the kernel's answer: %w", err))
		}
		for _, m := range messages {
			i := int(m.Header.Seq - first)
			if from.Pid != 0 || i < 0 || i >= len(out) {
				continue // another process's, or to an earlier request
			}
			if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
				out[i].err = errInterrupted
			}
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				done++
			case unix.NLMSG_ERROR:
				done++
				if len(m.Data) >= 4 {
					if errno := -int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
						out[i].err = unix.Errno(errno)
					}
				}
			default:
				out[i].messages = append(out[i].messages, append([]byte(nil), m.Data...))
			}
		}
	}
	return out
}

var errInterrupted = errors.New("the list changed while it was read")

// tell sends requests of which each must succeed, except where the kernel says one of but.
func (s *socket) tell(but []unix.Errno, reqs ...*nl.NetlinkRequest) error {
	for _, a := range s.ask(reqs...) {
		if a.err == nil {
			continue
		}
		expected := false
		for _, e := range but {
			expected = expected || errors.Is(a.err, e)
		}
		if !expected {
			return a.err
		}
	}
	return nil
}

func linkRequest(kind, flags int, index int) (*nl.NetlinkRequest, *nl.IfInfomsg) {
	req := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(index)
	req.AddData(info)
	return req, info
}

// link looks up a link by name; nil when there is none.
func (s *socket) link(name string) (*link, error) { return linkIn(s.ask(byName(name))[0]) }

func byName(name string) *nl.NetlinkRequest {
	req, _ := linkRequest(unix.RTM_GETLINK, 0, 0)
	const withoutCounters = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(withoutCounters)))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return req
}

func (s *socket) linkAt(index int) (*link, error) {
	req, _ := linkRequest(unix.RTM_GETLINK, 0, index)
	return linkIn(s.ask(req)[0])
}

func linkIn(a answer) (*link, error) {
	if errors.Is(a.err, unix.ENODEV) {
		return nil, nil
	}
	if a.err != nil {
		return nil, a.err
	}
	if len(a.messages) != 1 || len(a.messages[0]) < unix.SizeofIfInfomsg {
		return nil, errors.New("the kernel's answer names no link")
	}
	m := a.messages[0]
	info := nl.DeserializeIfInfomsg(m)
	l := &link{index: int(info.Index), flags: info.Flags}
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
	if err != nil {
		return nil, fmt.Errorf("read the kernel's answer: %w", err)
	}
	for _, at := range attrs {
		switch v := at.Value; at.Attr.Type {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(v)
		case unix.IFLA_LINK:
			l.parent = int(binary.NativeEndian.Uint32(v))
		case unix.IFLA_MASTER:
			l.master = int(binary.NativeEndian.Uint32(v))
		case unix.IFLA_MTU:
			l.mtu = int(binary.NativeEndian.Uint32(v))
		case unix.IFLA_PROMISCUITY:
			l.promiscuous = binary.NativeEndian.Uint32(v) > 0
		case unix.IFLA_ADDRESS:
			l.mac = net.HardwareAddr(v)
		case unix.IFLA_LINKINFO:
			infos, err := nl.ParseRouteAttr(v)
			if err != nil {
				return nil, fmt.Errorf("read the kernel's answer: %w", err)
			}
			for _, i := range infos {
				if i.Attr.Type == nl.IFLA_INFO_KIND {
					l.kind = unix.ByteSliceToString(i.Value)
				}
			}
		}
	}
	return l, nil
}

// setFlags asks for flags of a link, of those in mask.
func setFlags(index int, flags, mask uint32) *nl.NetlinkRequest {
	req, info := linkRequest(unix.RTM_SETLINK, 0, index)
	info.Flags, info.Change = flags, mask
	return req
}

func rename(index int, name string) *nl.NetlinkRequest {
	req, _ := linkRequest(unix.RTM_SETLINK, 0, index)
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return req
}

// release asks that a link be down and on no bridge.
func release(index int) *nl.NetlinkRequest {
	req := setFlags(index, 0, unix.IFF_UP)
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(0)))
	return req
}

// sendBack asks that a port of a bridge send back frames where they came from.
func sendBack(index int) *nl.NetlinkRequest {
	req, info := linkRequest(unix.RTM_SETLINK, 0, index)
	info.Family = unix.AF_BRIDGE
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	port.AddRtAttr(nl.IFLA_BRPORT_MODE, []byte{1})
	req.AddData(port)
	return req
}

// vlanFiltering asks that a bridge heed VLANs. The library names the link in such a request, which is an attempt to rename it, and refused of one
// that is up.
func vlanFiltering(index int) *nl.NetlinkRequest {
	req, _ := linkRequest(unix.RTM_NEWLINK, 0, index)
	kind := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	kind.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	kind.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_BR_VLAN_FILTERING, []byte{1})
	req.AddData(kind)
	return req
}

// newAddress asks for an address of a link. For one of IPv6 duplicate address detection may be left out.
func newAddress(index int, p netip.Prefix, unchecked bool) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	msg := nl.NewIfAddrmsg(unix.AF_INET)
	msg.Index, msg.Prefixlen = uint32(index), uint8(p.Bits())
	req.AddData(msg)
	ip := p.Addr().AsSlice()
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, ip))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, ip))
	switch {
	case p.Addr().Is6():
		msg.Family = unix.AF_INET6
		if unchecked {
			msg.Flags = unix.IFA_F_NODAD
		}
	case p.Bits() < 31: // RFC 3021
		last := netOf(p.Addr(), p.Bits())
		broadcast := make(net.IP, 4)
		for i := range broadcast {
			broadcast[i] = ip[i] | ^last.Mask[i]
		}
		req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, broadcast))
	}
	return req
}

// addresses lists those of a link, of a family.
func (s *socket) addresses(index, family int) ([]netip.Prefix, error) {
	const tries = 10 // links that come and go interrupt it
	for i := 0; ; i++ {
		req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		msg := nl.NewIfAddrmsg(family)
		msg.Index = uint32(index)
		req.AddData(msg)
		a := s.ask(req)[0]
		if errors.Is(a.err, errInterrupted) && i < tries {
			continue
		}
		if a.err != nil {
			return nil, a.err
		}
		return addressesOn(index, a.messages)
	}
}

func addressesOn(index int, messages [][]byte) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, m := range messages {
		msg := nl.DeserializeIfAddrmsg(m)
		if int(msg.Index) != index {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[msg.Len():])
		if err != nil {
			return nil, fmt.Errorf("read the kernel's answer: %w", err)
		}
		var ip []byte // IPv6 has only IFA_ADDRESS; of IPv4 that can be a peer's
		for _, at := range attrs {
			if at.Attr.Type == unix.IFA_LOCAL || at.Attr.Type == unix.IFA_ADDRESS && ip == nil {
				ip = at.Value
			}
		}
		if a, ok := netip.AddrFromSlice(ip); ok {
			out = append(out, netip.PrefixFrom(a, int(msg.Prefixlen)))
		}
	}
	return out, nil
}

// linkTo is the index of the link that packets to an address leave by; 0 when there is no route.
func (s *socket) linkTo(a netip.Addr) int {
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_ACK)
	msg := &nl.RtMsg{}
	msg.Family, msg.Dst_len = unix.AF_INET, uint8(a.BitLen())
	if a.Is6() {
		msg.Family = unix.AF_INET6
	}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, a.AsSlice()))
	got := s.ask(req)[0]
	if got.err != nil || len(got.messages) != 1 || len(got.messages[0]) < unix.SizeofRtMsg {
		return 0
	}
	attrs, err := nl.ParseRouteAttr(got.messages[0][unix.SizeofRtMsg:])
	if err != nil {
		return 0
	}
	for _, at := range attrs {
		if at.Attr.Type == unix.RTA_OIF {
			return int(binary.NativeEndian.Uint32(at.Value))
		}
	}
	return 0
}
