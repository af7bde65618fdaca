package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/orlop-io/orlop/cmd/localcluster/control"
)

const (
	firstDelay = 100 * time.Millisecond
	maxDelay   = 10 * time.Second
	// steady is how long a program must have run for its next failure to count as the first.
	steady = 10 * time.Second
	maxLog = 32 << 20
)

// nextDelay says how long to wait before the next start of a program that ran for ran, after
// a wait of last.
func nextDelay(last, ran time.Duration) time.Duration {
	if last == 0 || ran >= steady {
		return firstDelay
	}
	return min(2*last, maxDelay)
}

// service is one program that is kept running.
type service struct {
	name string
	log  *slog.Logger
	dir  string // of its log file
	// files are the program's from descriptor 3 on.
	files []*os.File
	// command returns what to run now, or nil while it is not wanted.
	command func() (argv, env []string, err error)
	// ready says whether the running program does its work.
	ready func() bool

	mu       sync.Mutex
	pid      int
	isReady  bool
	restarts int
}

func (s *service) status() control.Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	return control.Service{Pid: s.pid, Ready: s.isReady, Restarts: s.restarts}
}

func (s *service) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// run keeps the program running until ctx ends, then kills it.
func (s *service) run(ctx context.Context, r *reaper) {
	var delay time.Duration
	for started := false; ; started = true {
		argv, env, ok := s.awaitWanted(ctx)
		if !ok {
			return
		}
		if started {
			s.set(func() { s.restarts++ })
		}
		began := time.Now()
		ended, err := s.start(r, argv, env)
		if err == nil {
			wanted := s.watch(ctx, ended)
			if ctx.Err() != nil {
				return
			}
			if !wanted {
				delay, started = 0, false
				continue
			}
		} else {
			s.log.Error("service did not start", "service", s.name, "err", err)
		}
		delay = nextDelay(delay, time.Since(began))
		s.log.Warn("service ended", "service", s.name, "restartIn", delay)
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}

// awaitWanted returns the command as soon as there is one. The kubelet's configuration comes
// from a program that knows nothing of us, so we look.
func (s *service) awaitWanted(ctx context.Context) (argv, env []string, ok bool) {
	var told string
	for {
		argv, env, err := s.command()
		if err == nil && argv != nil {
			return argv, env, true
		}
		if err != nil && err.Error() != told {
			told = err.Error()
			s.log.Error("service cannot start", "service", s.name, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil, nil, false
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *service) start(r *reaper, argv, env []string) (<-chan syscall.WaitStatus, error) {
	logFile, err := openLog(filepath.Join(s.dir, s.name+".log"))
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("open no input: %w", err)
	}
	defer null.Close()
	files := []uintptr{null.Fd(), logFile.Fd(), logFile.Fd()}
	for _, f := range s.files {
		files = append(files, f.Fd())
	}
	pid, ended, err := r.start(argv, &syscall.ProcAttr{
		Dir: "/", Env: env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, err
	}
	s.set(func() { s.pid = pid })
	s.log.Info("service started", "service", s.name, "pid", pid)
	return ended, nil
}

// watch waits for the end of the program, which it kills when ctx ends or nobody wants it any
// more; in the latter case it returns false.
func (s *service) watch(ctx context.Context, ended <-chan syscall.WaitStatus) (wanted bool) {
	defer s.set(func() { s.pid, s.isReady = 0, false })
	probe := time.NewTicker(10 * time.Millisecond)
	defer probe.Stop()
	wanted = true
	for done := ctx.Done(); ; {
		select {
		case ws := <-ended:
			s.log.Info("service exited", "service", s.name, "code", exitCode(ws))
			return wanted
		case <-done:
			done = nil
			_ = syscall.Kill(s.pid, syscall.SIGKILL)
		case <-probe.C:
			if !s.isReady {
				if s.ready() {
					s.set(func() { s.isReady = true })
					probe.Reset(time.Second)
				}
				continue
			}
			if argv, _, err := s.command(); err == nil && argv == nil && wanted {
				wanted = false
				_ = syscall.Kill(s.pid, syscall.SIGTERM)
			}
		}
	}
}

// openLog opens a log for appending; one that has grown large is set aside first.
func openLog(path string) (*os.File, error) {
	st, err := os.Stat(path)
	if err == nil && st.Size() > maxLog {
		err = os.Rename(path, path+".old")
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("set %s aside: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}
