// Package sockend ends sockets of other programs, in whatever network namespace they are: a blocked call, or the next one, returns ECONNABORTED, and the peer of
// a connection gets a reset.
//
// The kernel ends a socket for who asks from its own network namespace (netlink SOCK_DESTROY, Linux 4.9), so threads of this process go there for a moment. That
// takes CAP_SYS_ADMIN, and a file that leads to the namespace.
package sockend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/podnet"
	"github.com/orlop-io/orlop/bpf/socklb"
)

// ErrUnsupported is returned by Open when this kernel, or what this process may do, is not enough; the text names it.
var ErrUnsupported = errors.New("sockets of other programs cannot be ended")

// Ender ends sockets. Its methods may be called by one goroutine at a time.
type Ender struct {
	cfg podnet.Config
}

// Open tries it out on sockets of its own, in its own network namespace. It returns ErrUnsupported where that fails.
func Open(cfg podnet.Config) (*Ender, error) {
	fd, err := unix.Open(filepath.Join(cfg.Proc, "thread-self/ns/net"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the own network namespace: %w", err)
	}
	defer unix.Close(fd)
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
		if err := podnet.Do(fd, func() error { return try(kind) }); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
	}
	return &Ender{cfg}, nil
}

// try ends a socket that nobody else knows.
func try(kind int) error {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	defer unix.Close(fd)
	s := socklb.Lost{Protocol: unix.IPPROTO_UDP, Peer: netip.MustParseAddrPort("0.0.0.0:0")}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fmt.Errorf("bind socket: %w", err)
	}
	if kind == unix.SOCK_STREAM {
		s.Protocol = unix.IPPROTO_TCP
		if err := unix.Listen(fd, 1); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("look at socket: %w", err)
	}
	in4 := at.(*unix.SockaddrInet4) // what it was bound to
	s.Local = netip.AddrPortFrom(netip.AddrFrom4(in4.Addr), uint16(in4.Port))
	if s.Cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		return fmt.Errorf("ask for a socket's cookie: %w", err)
	}
	err = destroy(s)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return errors.New("the kernel is built without CONFIG_INET_DIAG_DESTROY")
	}
	if errors.Is(err, unix.ENOENT) {
		return errors.New("the kernel does not find sockets of UDP and TCP: are the modules udp_diag and tcp_diag there?")
	}
	return err
}

// End ends sockets, and says how many there were, and in which network namespaces (by inode number) some are that were not found. A socket that is gone
// already, or has another peer by now, is no error.
func (e *Ender) End(list []socklb.Lost) (ended int, missed []uint32, err error) {
	byNetns := map[uint32][]socklb.Lost{}
	for _, s := range list {
		byNetns[s.Netns] = append(byNetns[s.Netns], s)
	}
	if len(byNetns) == 0 {
		return 0, nil, nil
	}
	var errs []error
	e.cfg.Each(func(inode uint32, path string) (more bool) {
		here := byNetns[inode]
		if len(here) == 0 {
			return true
		}
		fd, err := podnet.Open(inode, path)
		if err != nil {
			return true // it goes, or another path leads there
		}
		defer unix.Close(fd)
		delete(byNetns, inode)
		err = podnet.Do(fd, func() error {
			var errs []error
			for _, s := range here {
				switch err := destroy(s); {
				case err == nil:
					ended++
				case !errors.Is(err, unix.ENOENT):
					errs = append(errs, fmt.Errorf("end the socket from %s to %s: %w", s.Local, s.Peer, err))
				}
			}
			return errors.Join(errs...)
		})
		if err != nil {
			errs = append(errs, err)
		}
		return len(byNetns) > 0
	})
	for inode := range byNetns {
		missed = append(missed, inode)
	}
	slices.Sort(missed)
	return ended, missed, errors.Join(errs...)
}

// request is struct inet_diag_req_v2.
type request struct {
	family, protocol uint8
	local, peer      netip.AddrPort
	device           uint32
	cookie           uint64
}

// Len implements nl.NetlinkRequestData.
func (r request) Len() int { return 56 }

// Serialize implements nl.NetlinkRequestData.
func (r request) Serialize() []byte {
	b := make([]byte, 4, r.Len())
	b[0], b[1] = r.family, r.protocol
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // in whatever state
	b = binary.BigEndian.AppendUint16(b, r.local.Port())
	b = binary.BigEndian.AppendUint16(b, r.peer.Port())
	for _, a := range []netip.Addr{r.local.Addr(), r.peer.Addr()} {
		b = append(b, append(a.AsSlice(), make([]byte, 16-a.BitLen()/8)...)...)
	}
	b = binary.NativeEndian.AppendUint32(b, r.device)
	b = binary.NativeEndian.AppendUint32(b, uint32(r.cookie))
	return binary.NativeEndian.AppendUint32(b, uint32(r.cookie>>32))
}

// destroy ends a socket of the network namespace that the thread is in: the one with that cookie and no other.
func destroy(s socklb.Lost) error {
	const sockDestroy = 21 // SOCK_DESTROY of linux/sock_diag.h
	r := request{unix.AF_INET, s.Protocol, s.Local, s.Peer, s.Device, s.Cookie}
	if s.IPv6 {
		r.family = unix.AF_INET6
	}
	req := nl.NewNetlinkRequest(sockDestroy, unix.NLM_F_ACK)
	req.AddData(r)
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}
