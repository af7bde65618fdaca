package routes

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// answerLimit is how long an answer over a tunnel may take.
const answerLimit = 500 * time.Millisecond

// tryPort is one that nobody listens at: the answer is that it is closed.
const tryPort = 1

// Try sends two datagrams to an address and says which of them was answered: one with a checksum that the device may finish, and one without.
func (k *Kernel) Try(ctx context.Context, to netip.Addr) Verdict {
	return Verdict{Offloaded: k.refused(ctx, to, false), Plain: k.refused(ctx, to, true)}
}

// refused says whether a datagram is answered by the other side's kernel.
func (k *Kernel) refused(ctx context.Context, to netip.Addr, plain bool) bool {
	var f *os.File
	payload := []byte("orlop: checksum test\n")
	err := k.do(func() error {
		typ, proto := unix.SOCK_DGRAM, 0
		if plain && to.Is6() { // UDP over IPv6 must have a checksum: that of a raw socket is worked out at once
			typ, proto = unix.SOCK_RAW, unix.IPPROTO_UDP
			head := binary.BigEndian.AppendUint16(nil, 79)
			head = binary.BigEndian.AppendUint16(head, tryPort)
			head = binary.BigEndian.AppendUint16(head, uint16(8+len(payload)))
			payload = append(append(head, 0, 0), payload...)
		}
		family := unix.AF_INET6
		var sa unix.Sockaddr = &unix.SockaddrInet6{Port: tryPort, Addr: to.As16()}
		if to.Is4() {
			family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: tryPort, Addr: to.As4()}
		}
		fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), "try")
		switch {
		case plain && to.Is4():
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1)
		case plain:
			sa = &unix.SockaddrInet6{Addr: to.As16()}
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, 6)
		}
		if err != nil {
			return err
		}
		return unix.Connect(fd, sa)
	})
	if f != nil {
		defer f.Close()
	}
	if err != nil {
		return false
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	if _, err := f.Write(payload); err != nil {
		return errors.Is(err, unix.ECONNREFUSED)
	}
	_ = f.SetReadDeadline(time.Now().Add(answerLimit))
	_, err = f.Read(make([]byte, 64))
	return err == nil || errors.Is(err, unix.ECONNREFUSED)
}
