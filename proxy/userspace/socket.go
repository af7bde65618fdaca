package userspace

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/proxy"
)

const backlog = 4096

// openSocket listens at an address, which need not be a link's.
func openSocket(e endpoint) (fd int, err error) {
	kind := unix.SOCK_STREAM
	if e.proto == proxy.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err = unix.Socket(domain(e.at.Addr()), kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	free, level := unix.IP_FREEBIND, unix.SOL_IP
	if e.at.Addr().Is6() {
		free, level = unix.IPV6_FREEBIND, unix.SOL_IPV6
	}
	if err := unix.SetsockoptInt(fd, level, free, 1); err != nil {
		return -1, fmt.Errorf("allow any address: %w", err)
	}
	if kind == unix.SOCK_STREAM { // connections of before may still be in TIME_WAIT
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return -1, fmt.Errorf("allow reuse: %w", err)
		}
	}
	if err := unix.Bind(fd, sockaddr(e.at)); err != nil {
		return -1, fmt.Errorf("bind: %w", err)
	}
	if kind == unix.SOCK_STREAM {
		if err := unix.Listen(fd, backlog); err != nil {
			return -1, fmt.Errorf("listen: %w", err)
		}
	}
	return fd, nil
}

// openUDP is a socket that speaks with a backend only.
func openUDP(to netip.AddrPort) (fd int, err error) {
	fd, err = unix.Socket(domain(to.Addr()), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}

func domain(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
