package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orlop-io/orlop/integration/proxyfield"
)

const firstStaying = 31100 // node ports of connections that stay

// stays asks over connections that stay, one a Service at an address, whatever becomes of the agent and of the endpoint's readiness. Only a boot of the node
// ends them.
func (w *world) stays(addr func(s int) string) func(s int) (netip.Addr, error) {
	conns, boots := map[int]net.Conn{}, w.boots.Load()
	w.t.Cleanup(func() {
		for _, c := range conns {
			c.Close()
		}
	})
	d := net.Dialer{Timeout: patience}
	d.SetMultipathTCP(false)
	return func(s int) (who netip.Addr, err error) {
		if now := w.boots.Load(); now != boots {
			for _, c := range conns {
				c.Close()
			}
			clear(conns)
			boots = now
		}
		c := conns[s]
		if c == nil {
			if c, err = d.Dial("tcp4", addr(s)); err != nil {
				return who, err
			}
			conns[s] = c
		}
		defer func() {
			if err != nil {
				c.Close()
				delete(conns, s)
			}
		}()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write([]byte("?")); err != nil {
			return who, err
		}
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		if err != nil {
			return who, err
		}
		if who, err = netip.ParseAddr(string(buf[:n])); err != nil {
			return who, err
		}
		if peer, err := peerOf(c.(*net.TCPConn)); err != nil || peer != addr(s) {
			return who, errors.Join(fmt.Errorf("the socket has the peer %s", peer), err)
		}
		return who, nil
	}
}

// peerOf is whom the kernel says that a socket is connected to: what was asked, and not what that was translated to.
func peerOf(c *net.TCPConn) (string, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return "", err
	}
	var peer unix.Sockaddr
	var failed error
	if err := raw.Control(func(fd uintptr) { peer, failed = unix.Getpeername(int(fd)) }); err != nil || failed != nil {
		return "", errors.Join(err, failed)
	}
	at, ok := peer.(*unix.SockaddrInet4)
	if !ok {
		return "", fmt.Errorf("it has %T", peer)
	}
	return netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port)).String(), nil
}

// fromAnother has the node get the agent of another version, without anything that ours left, and then ours in its place, again and again: what the other has begun
// goes on.
func (w *world) fromAnother(ctx context.Context, d time.Duration) {
	const times = 10
	began := time.Now()
	for range times {
		w.changing.Lock()
		w.asking.Lock()
		must(w.t, w.f.EndAgent(syscall.SIGTERM))
		must(w.t, w.f.Reboot())
		must(w.t, w.f.Forget())
		w.f.Use(*old)
		must(w.t, w.f.StartAgent())
		w.serving(ctx)
		w.boots.Add(1)
		w.asking.Unlock()
		w.changing.Unlock()
		time.Sleep(max(time.Second, d/times/2))
		must(w.t, w.f.EndAgent(syscall.SIGTERM))
		w.f.Use("", agentArgs()...)
		must(w.t, w.f.StartAgent())
		w.serving(ctx)
		time.Sleep(max(time.Second, d/times/2))
	}
	w.t.Logf("%d upgrades from %s in %s", times, *old, time.Since(began).Round(time.Second))
}

// errLate is met by a socket of UDP that does not connect: the answer comes from its endpoint's own address.
type errLate struct{ from netip.AddrPort }

func (e errLate) Error() string { return fmt.Sprintf("the answer comes from %s", e.from) }

// late asks, and counts by itself what is a limit of modes nftables and iptables (proxy.LateAnswers): the endpoint went while its answer was under way, and a
// socket that does not connect has that from the endpoint's own address. Asked again, it must have its answer as any other.
func (w *world) late(ask func(s int) (netip.Addr, error)) func(s int) (netip.Addr, error) {
	return func(s int) (netip.Addr, error) {
		who, err := w.patient(func() (netip.Addr, error) { return ask(s) })
		late, ok := errors.AsType[errLate](err)
		if !ok || *mode == "ebpf" || late.from != netip.AddrPortFrom(who, proxyfield.Port) {
			return who, err
		}
		if of, e := serviceOf(who); of != s || !w.went(s, e) {
			return who, err
		}
		w.count.late.Add(1)
		return ask(s)
	}
}

// patient asks again by UDP in mode userspace, where an answer that is under way when its endpoint goes does not come (proxy.LateAnswers): the next one must.
func (w *world) patient(ask func() (netip.Addr, error)) (netip.Addr, error) {
	who, err := ask()
	if *mode != "userspace" || !os.IsTimeout(err) {
		return who, err
	}
	w.count.late.Add(1)
	return ask()
}

// gap is when there was no agent last.
type gap struct {
	mu    sync.Mutex
	ended time.Time // zero: never
	now   bool      // there is none
}

func (g *gap) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now = true
}

func (g *gap) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now, g.ended = false, time.Now()
}

// since tells whether there was no agent for some time after t.
func (g *gap) since(t time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now || !t.After(g.ended)
}

// went says whether an endpoint has gone within the time that an agent may take to see it.
func (w *world) went(s, e int) bool {
	return e >= 0 && e < endpoints && time.Since(time.Unix(0, w.gone[s][e].Load())) < 5*time.Second
}
