package userspace

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// loop waits for many files in one goroutine. Files are closed by it alone, so that no number is another file's while it is being read.
type loop struct {
	epoll, wake int

	turn    sync.Mutex // held while it changes whether the loop runs, and by who works in its place
	running bool

	mu      sync.Mutex
	ready   map[int]func()
	waiting []func()
	ended   bool
}

func newLoop() (*loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(ep)
		return nil, fmt.Errorf("make eventfd: %w", err)
	}
	l := &loop{epoll: ep, wake: wake, ready: map[int]func(){}}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)}); err != nil {
		unix.Close(ep)
		unix.Close(wake)
		return nil, fmt.Errorf("watch eventfd: %w", err)
	}
	return l, nil
}

// add calls ready, in the loop's goroutine, whenever there is something to read. It closes the file if it cannot.
func (l *loop) add(fd int, ready func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := error(nil)
	if l.ended {
		err = errors.New("the loop has ended")
	} else if e := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); e != nil {
		err = fmt.Errorf("watch socket: %w", e)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	l.ready[fd] = ready
	return nil
}

// close closes a file. Only the loop's goroutine calls it, or what is given to do.
func (l *loop) close(fd int) {
	l.mu.Lock()
	_, known := l.ready[fd]
	delete(l.ready, fd)
	l.mu.Unlock()
	if known {
		unix.Close(fd)
	}
}

// do runs f in the loop's goroutine and waits for it; where no loop runs, here.
func (l *loop) do(f func()) {
	done := make(chan struct{})
	l.turn.Lock()
	if !l.running {
		f()
		l.turn.Unlock()
		return
	}
	l.mu.Lock()
	l.waiting = append(l.waiting, func() { f(); close(done) })
	l.mu.Unlock()
	l.turn.Unlock()
	l.poke()
	<-done
}

// poke ends the wait. The number of a file that is closed may be another's.
func (l *loop) poke() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		_, _ = unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

func (l *loop) run(ctx context.Context) error {
	l.turn.Lock()
	l.running = true
	l.turn.Unlock()
	stop := context.AfterFunc(ctx, l.poke)
	defer stop()
	defer l.closeAll()
	events := make([]unix.EpollEvent, 256)
	for ctx.Err() == nil {
		n, err := unix.EpollWait(l.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for connections: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) == l.wake {
				var b [8]byte
				_, _ = unix.Read(l.wake, b[:])
				continue
			}
			l.mu.Lock()
			ready := l.ready[int(e.Fd)]
			l.mu.Unlock()
			if ready != nil {
				ready()
			}
		}
		l.work()
	}
	return ctx.Err()
}

func (l *loop) work() {
	l.mu.Lock()
	list := l.waiting
	l.waiting = nil
	l.mu.Unlock()
	for _, f := range list {
		f()
	}
}

func (l *loop) closeAll() {
	l.turn.Lock()
	defer l.turn.Unlock()
	l.running = false
	l.mu.Lock()
	was := l.ended
	l.ended = true
	fds := l.ready
	l.ready = map[int]func(){}
	l.mu.Unlock()
	if was {
		return
	}
	l.work()
	for fd := range fds {
		unix.Close(fd)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	unix.Close(l.epoll)
	unix.Close(l.wake)
}
