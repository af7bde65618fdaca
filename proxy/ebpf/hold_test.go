package ebpf

import (
	"io"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hold connects one socket and asks over it again and again, so many times, or until stdin ends, or something fails. "tcp", "udp" or "mptcp" of Network begins with what it is; an
// address in brackets is one for IPv6 sockets, mapped or not.
func (o order) hold() outcome {
	out := outcome{map[string]int{}, map[string]int{}, map[string]int{}, 0}
	done := make(chan struct{})
	if o.UntilEOF {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			close(done)
		}()
	}
	fail := func(err error) outcome {
		out.Errors[err.Error()]++
		return out
	}
	at := netip.MustParseAddrPort(o.Addr)
	kind, proto := unix.SOCK_STREAM, 0
	switch o.Network {
	case "udp-hold":
		kind = unix.SOCK_DGRAM
	case "mptcp-hold":
		proto = unix.IPPROTO_MPTCP
	}
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port())})
	if at.Addr().Is4() {
		to = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	fd, err := unix.Socket(family, kind, proto)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
	if o.Device != "" {
		err = unix.BindToDevice(fd, o.Device)
	}
	if o.From != "" {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(o.From).As4()})
	}
	if err != nil {
		return fail(err)
	}
	if err := unix.Connect(fd, to); err != nil {
		return fail(err)
	}
	buf := make([]byte, 100)
	for n := 0; o.Times == 0 || n < o.Times; n++ {
		select {
		case <-done:
			return out
		case <-time.After(20 * time.Millisecond):
		}
		if _, err := unix.Write(fd, []byte("?")); err != nil {
			return fail(err)
		}
		got, err := unix.Read(fd, buf)
		for err == unix.EINTR { // a receive with a timeout is not restarted after a signal of the runtime's (signal(7))
			got, err = unix.Read(fd, buf)
		}
		if err == nil && got == 0 {
			err = syscall.ECONNRESET
		}
		if err != nil {
			return fail(err)
		}
		out.Answers[string(buf[:got])]++
	}
	return out
}
