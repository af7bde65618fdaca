// Package supervisor is the first process of a local host. It starts containerd and the kubelet
// and restarts them, as systemd does elsewhere, and runs programs in the host for others.
//
// All it starts is born in the host's cgroups and namespaces. It ends with the host: nothing
// here survives it on purpose, and the host is stopped by killing all that is in its cgroups.
package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/orlop-io/orlop/cmd/localcluster/control"
	"github.com/orlop-io/orlop/cmd/localcluster/hostns"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	"golang.org/x/sys/unix"
)

// Supervisor is the first process of one host.
type Supervisor struct {
	cluster    *layout.Cluster
	host       layout.Host
	log        *slog.Logger
	env        []string
	reaper     *reaper
	containerd *service
	kubelet    *service
	booted     time.Time
}

// New prepares a supervisor. It must run in namespaces made by hostns.Enter.
func New(c *layout.Cluster, h layout.Host, log *slog.Logger) *Supervisor {
	return &Supervisor{
		cluster: c, host: h, log: log,
		env:    hostEnv(c.Containerd),
		reaper: &reaper{waiting: map[int]chan<- syscall.WaitStatus{}},
	}
}

// hostEnv is the environment of everything in a host: none of the caller's is inherited, since
// a supervisor outlives the shell it was started from. A containerd of the cluster's own finds its
// shim, and we find its ctr, before the machine's.
func hostEnv(containerd string) []string {
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if containerd != "" {
		path = filepath.Dir(containerd) + ":" + path
	}
	return []string{
		"PATH=" + path,
		"HOME=/root", "LANG=C.UTF-8",
	}
}

// Run boots the host and serves until ctx ends.
func (s *Supervisor) Run(ctx context.Context) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the reaper of orphans: %w", err)
	}
	// The socket must lie in the machine's /run, which Boot hides.
	listener, err := control.Listen(layout.Socket(s.cluster.Name, s.host.Name))
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := hostns.Boot(s.cluster, s.host); err != nil {
		return err
	}
	s.booted = time.Now()
	// Before the reaper runs: it would take the exit code of containerd --version.
	argv, env, err := writeContainerdConfig(ctx, s.cluster, s.host, s.env)
	if err != nil {
		return err
	}
	dir := layout.LogDir(s.cluster.Name, s.host.Name)
	s.containerd = &service{name: "containerd", log: s.log, dir: dir, ready: containerdAnswers,
		command: func() ([]string, []string, error) { return argv, env, nil }}
	s.kubelet = &service{name: "kubelet", log: s.log, dir: dir, ready: kubeletAnswers,
		command: func() ([]string, []string, error) {
			argv, err := kubeletCommand(s.cluster.Exe)
			return argv, s.env, err
		}}
	return s.serve(ctx, listener)
}

func (s *Supervisor) serve(ctx context.Context, listener *net.UnixListener) error {
	var services, others sync.WaitGroup
	reaping, stopReaping := context.WithCancel(context.WithoutCancel(ctx))
	others.Go(func() { s.reaper.run(reaping) })
	services.Go(func() { s.containerd.run(ctx, s.reaper) })
	services.Go(func() { s.kubelet.run(ctx, s.reaper) })
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	var err error
	for {
		c, acceptErr := listener.AcceptUnix()
		if acceptErr != nil {
			if ctx.Err() == nil {
				err = fmt.Errorf("accept a request: %w", acceptErr)
			}
			break
		}
		others.Go(func() { s.answer(ctx, control.Accepted(c)) })
	}
	services.Wait()
	stopReaping()
	others.Wait()
	return err
}

func (s *Supervisor) answer(ctx context.Context, c *control.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	var req control.Request
	files, err := c.Receive(&req)
	if err != nil {
		return // the caller changed its mind
	}
	defer control.CloseAll(files)
	switch req.Op {
	case control.OpStatus:
		err = c.Send(control.Reply{Status: &control.Status{
			Host: s.host.Name, Pid: os.Getpid(), BootedAt: s.booted,
			Containerd: s.containerd.status(), Kubelet: s.kubelet.status(),
		}})
	case control.OpExec:
		err = s.exec(c, req, files)
	case control.OpDial:
		err = dial(ctx, c, req)
	default:
		err = fmt.Errorf("unknown operation %q", req.Op)
	}
	if err != nil {
		_ = c.Send(control.Reply{Error: err.Error()}) // if even that fails, the caller is gone
	}
}

// dial connects on the caller's behalf: the socket belongs to this host for all its life.
func dial(ctx context.Context, c *control.Conn, req control.Request) error {
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, req.Network, req.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	f, err := conn.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return fmt.Errorf("hand over the connection to %s: %w", req.Address, err)
	}
	defer f.Close()
	return c.Send(control.Reply{}, f)
}
