package userspace

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// dialing is how long a backend has to answer before the next one is asked.
const dialing = 2 * time.Second

// connections are the open ones of TCP.
type connections struct {
	mu    sync.Mutex
	open  map[*net.TCPConn]bool
	ended bool
	wait  sync.WaitGroup
}

// begin counts one in; it is false when all are to end.
func (c *connections) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.wait.Add(1)
	}
	return !c.ended
}

func (c *connections) hold(conn *net.TCPConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[*net.TCPConn]bool{}
	}
	if c.open[conn] = true; c.ended {
		conn.Close()
	}
}

func (c *connections) release(conn *net.TCPConn) {
	conn.Close()
	c.mu.Lock()
	delete(c.open, conn)
	c.mu.Unlock()
}

// end closes all and waits for what works on them.
func (c *connections) end() {
	c.mu.Lock()
	c.ended = true
	for conn := range c.open {
		conn.Close()
	}
	c.mu.Unlock()
	c.wait.Wait()
}

// accept takes the connections that wait at a listener.
func (b *Backend) accept(l *listener) {
	for range 64 { // others wait, too
		fd, sa, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			if err == unix.EMFILE || err == unix.ENFILE {
				time.Sleep(10 * time.Millisecond) // the kernel keeps them; there is nothing else to do
			}
			return
		}
		from := addrPort(sa)
		t := b.targetOf(l, from.Addr())
		if !t.serves() || !b.tcp.begin() {
			b.unserve(t)
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			unix.Close(fd) // a reset, as the kernel sends where nobody listens
			continue
		}
		go func() {
			defer b.tcp.wait.Done()
			if conn := connOf(fd); conn != nil {
				b.tcp.hold(conn)
				defer b.tcp.release(conn)
				b.carry(conn, from.Addr(), t)
			}
		}()
	}
}

func connOf(fd int) *net.TCPConn {
	f := os.NewFile(uintptr(fd), "")
	defer f.Close() // FileConn has made another
	c, err := net.FileConn(f)
	if err != nil {
		return nil
	}
	conn, _ := c.(*net.TCPConn)
	return conn
}

// carry leads a client's connection to a backend, and to another when that does not answer.
func (b *Backend) carry(client *net.TCPConn, from netip.Addr, t *target) {
	var not netip.AddrPort
	var server *net.TCPConn
	for range min(4, len(t.group.Backends)) {
		to, ok := t.pick(from, not, b.now())
		if !ok {
			break
		}
		err := b.cfg.In(func() error {
			d := net.Dialer{Timeout: dialing}
			d.SetMultipathTCP(false)
			c, err := d.Dial("tcp", to.String())
			if err == nil {
				server, _ = c.(*net.TCPConn)
			}
			return err
		})
		if err == nil {
			break
		}
		not = to
		b.cfg.Log.Debug("a backend does not answer", "port", t.group.Port, "backend", to, "err", err)
	}
	if server == nil {
		b.unserve(t)
		_ = client.SetLinger(0)
		return
	}
	b.traffic.of(t.group).connections.Add(1)
	b.tcp.hold(server)
	defer b.tcp.release(server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		pipe(client, server)
	}()
	pipe(server, client)
	<-done
}

// pipe moves what comes from one to the other, where the kernel can without copying it. The end of one direction leaves the other open; a connection that
// breaks breaks the other.
func pipe(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		for _, c := range []*net.TCPConn{to, from} {
			_ = c.SetLinger(0)
			c.Close()
		}
		return
	}
	_ = to.CloseWrite()
}
