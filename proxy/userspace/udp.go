package userspace

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// What conntrack waits by default: for an answer, and once there has been talk for a while.
const (
	brief  = 30 * time.Second
	stream = 120 * time.Second
	talk   = 2 * time.Second
	// most is how many clients of UDP there may be: each has a socket.
	most = 1 << 15
)

// client is who talks to a listener of UDP.
type client struct {
	listener *listener
	from     netip.AddrPort
}

// session is a client's talk with a backend.
type session struct {
	client
	fd          int
	to          netip.AddrPort
	began, last time.Time
	answered    bool
}

// sessions belong to the loop.
type sessions struct {
	byClient map[client]*session
	swept    time.Time
	buf      [1 << 16]byte
}

// receive passes on what clients have sent to a listener.
func (b *Backend) receive(l *listener) {
	now := b.now()
	b.sessions.sweep(b.loop, now)
	for range 64 {
		n, sa, err := unix.Recvfrom(l.fd, b.sessions.buf[:], 0)
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EINTR) {
			continue // a client that has gone: an earlier answer came back
		}
		if err != nil {
			return
		}
		s := b.session(client{l, addrPort(sa)}, now)
		if s == nil {
			continue
		}
		s.last = now
		_, err = unix.Write(s.fd, b.sessions.buf[:n])
		if errors.Is(err, unix.ECONNREFUSED) { // that was the one before
			_, _ = unix.Write(s.fd, b.sessions.buf[:n])
		}
	}
}

// session is that of a client, made where there is none.
func (b *Backend) session(c client, now time.Time) *session {
	if s := b.sessions.byClient[c]; s != nil {
		return s
	}
	t := b.targetOf(c.listener, c.from.Addr())
	to, ok := t.pick(c.from.Addr(), netip.AddrPort{}, now)
	if !ok || len(b.sessions.byClient) >= most {
		b.unserve(t)
		return nil
	}
	s := &session{client: c, to: to, began: now, last: now}
	err := b.cfg.In(func() (err error) {
		s.fd, err = openUDP(to)
		return err
	})
	if err == nil {
		err = b.loop.add(s.fd, func() { b.answer(s) })
	}
	if err != nil {
		b.unserve(t)
		b.cfg.Log.Debug("a client of UDP is not served", "port", t.group.Port, "backend", to, "err", err)
		return nil
	}
	b.sessions.byClient[c] = s
	b.traffic.of(t.group).connections.Add(1)
	return s
}

// answer passes on what a backend has sent.
func (b *Backend) answer(s *session) {
	for range 64 {
		n, err := unix.Read(s.fd, b.sessions.buf[:])
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		s.last, s.answered = b.now(), true
		_ = unix.Sendto(s.listener.fd, b.sessions.buf[:n], 0, sockaddr(s.from))
	}
}

func (ss *sessions) end(l *loop, s *session) {
	delete(ss.byClient, s.client)
	l.close(s.fd)
}

// over tells whether a session has been silent for too long.
func (s *session) over(now time.Time) bool {
	wait := brief
	if s.answered && s.last.Sub(s.began) > talk {
		wait = stream
	}
	return now.Sub(s.last) > wait
}

// sweep ends the sessions that are over, now and then.
func (ss *sessions) sweep(l *loop, now time.Time) {
	if now.Sub(ss.swept) < time.Second {
		return
	}
	ss.swept = now
	for _, s := range ss.byClient {
		if s.over(now) {
			ss.end(l, s)
		}
	}
}

// endOf ends those of a listener that goes.
func (ss *sessions) endOf(l *loop, at *listener) {
	for _, s := range ss.byClient {
		if s.listener == at {
			ss.end(l, s)
		}
	}
}

// endLost ends those whose backend is not one of what they ask for any more.
func (ss *sessions) endLost(l *loop) {
	for _, s := range ss.byClient {
		now := s.listener.lead.Load()
		if !now.in.has(s.to) && !now.out.has(s.to) {
			ss.end(l, s)
		}
	}
}
