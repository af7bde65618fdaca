package proxytest

import (
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/bpf/netnstest"
)

// Transactions are what a client of ServeBytes does again and again until a time, by kind, over a socket that is there or by new ones. They return how long
// each took, and panic at an error. "connect" is a connection of TCP with a request, "request" and "datagram" are over one socket, "new datagram" is by one each.
func Transactions() map[string]func(to unix.Sockaddr, until time.Time) []time.Duration {
	return map[string]func(to unix.Sockaddr, until time.Time) []time.Duration{
		"connect":      connect,
		"request":      func(to unix.Sockaddr, until time.Time) []time.Duration { return over(unix.SOCK_STREAM, to, until) },
		"datagram":     func(to unix.Sockaddr, until time.Time) []time.Duration { return over(unix.SOCK_DGRAM, to, until) },
		"new datagram": datagrams,
	}
}

func connect(to unix.Sockaddr, until time.Time) (out []time.Duration) {
	for start := time.Now(); len(out) == 0 || start.Before(until); start = time.Now() {
		fd := must1(unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0))
		must(unix.Connect(fd, to))
		exchange(fd, last)
		must1(unix.Read(fd, make([]byte, 1))) // the server has closed
		must(unix.Close(fd))
		out = append(out, time.Since(start))
	}
	return out
}

func datagrams(to unix.Sockaddr, until time.Time) (out []time.Duration) {
	for start := time.Now(); len(out) == 0 || start.Before(until); start = time.Now() {
		fd := must1(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0))
		b := []byte{more}
		must(unix.Sendto(fd, b, 0, to))
		must1(unix.Read(fd, b))
		must(unix.Close(fd))
		out = append(out, time.Since(start))
	}
	return out
}

func over(kind int, to unix.Sockaddr, until time.Time) (out []time.Duration) {
	fd := must1(unix.Socket(unix.AF_INET, kind, 0))
	defer unix.Close(fd)
	must(unix.Connect(fd, to))
	for start := time.Now(); len(out) == 0 || start.Before(until); start = time.Now() {
		exchange(fd, more)
		out = append(out, time.Since(start))
	}
	return out
}

// What a client asks: that the server closes after its answer, and so has what TCP keeps of a connection for a minute, or not.
const (
	more = iota
	last
)

func exchange(fd int, what byte) {
	b := []byte{what}
	must1(unix.Write(fd, b))
	must1(unix.Read(fd, b))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func must1(n int, err error) int {
	must(err)
	return n
}

// Pinned runs fn on a thread of its own in ns, on the last processor.
func Pinned(ns *netnstest.NS, fn func()) error { return ns.Do(func() error { return onLast(fn) }) }

// OnLast is Pinned in the namespace of the process.
func OnLast(fn func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return onLast(fn)
}

func onLast(fn func()) error {
	var set unix.CPUSet
	set.Set(runtime.NumCPU() - 1)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return err
	}
	fn()
	return nil
}

// ServeBytes answers a byte with a byte, on threads that end with the process.
func ServeBytes(ns *netnstest.NS, addr string) {
	at := netip.MustParseAddrPort(addr)
	sa := &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
	listen := func(kind int) (fd int) {
		ns.Must(ns.Do(func() error {
			fd = must1(unix.Socket(unix.AF_INET, kind, 0))
			must(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
			return unix.Bind(fd, sa)
		}))
		return fd
	}
	stream, datagram := listen(unix.SOCK_STREAM), listen(unix.SOCK_DGRAM)
	ns.Must(unix.Listen(stream, 128))
	go Pinned(ns, func() {
		for {
			fd, _, err := unix.Accept(stream)
			if err != nil {
				return
			}
			b := make([]byte, 1)
			for {
				n, err := unix.Read(fd, b)
				if err != nil || n == 0 {
					break
				}
				if _, err := unix.Write(fd, b); err != nil || b[0] == last {
					break
				}
			}
			unix.Close(fd)
		}
	})
	go Pinned(ns, func() {
		b := make([]byte, 1)
		for {
			_, from, err := unix.Recvfrom(datagram, b, 0)
			if err != nil {
				return
			}
			if err := unix.Sendto(datagram, b, 0, from); err != nil {
				return
			}
		}
	})
}
