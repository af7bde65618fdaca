// Package localcluster makes real clusters on one machine: each host is a network, mount, cgroup
// and UTS namespace with a containerd, and with a kubelet once it has joined.
//
// It owns everything that is named after a cluster below /var/lib/orlop, /run/orlop and the root
// of each cgroup hierarchy, and nothing else. Nothing changes in the machine's own network
// namespace but listening sockets on 127.0.0.1.
package localcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/orlop-io/orlop/cmd/localcluster/cgroups"
	"github.com/orlop-io/orlop/cmd/localcluster/control"
	"github.com/orlop-io/orlop/cmd/localcluster/hostns"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	"github.com/orlop-io/orlop/cmd/localcluster/supervisor"
	"golang.org/x/sync/errgroup"
)

// SuperviseCommand is the hidden subcommand that becomes a host's first process.
const SuperviseCommand = "host-supervise"

// insideMark tells the second half of SuperviseCommand from the first.
const insideMark = "inside"

// Supervise is SuperviseCommand: args are the cluster's and the host's name.
func Supervise(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("%s wants a cluster and a host", SuperviseCommand)
	}
	if len(args) == 2 {
		return entering(args[0], func(c *layout.Cluster) error {
			h, err := c.Host(args[1])
			if err != nil {
				return err
			}
			argv := []string{c.Exe, SuperviseCommand, c.Name, h.Name, insideMark}
			return hostns.Enter(c, h, argv, os.Environ())
		})
	}
	c, err := layout.Load(args[0])
	if err != nil {
		return err
	}
	h, err := c.Host(args[1])
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("host", h.Name)
	if err := supervisor.New(c, h, log).Run(ctx); err != nil {
		log.Error("host stopped", "err", err)
		return err
	}
	return nil
}

// startLimit bounds the start of a host or of the forwarder; both take well under a second.
const startLimit = time.Minute

// bootHost starts a host and returns when its containerd answers.
func bootHost(ctx context.Context, c *layout.Cluster, h layout.Host) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	pid, err := spawn(c, h.Name, "supervisor.log", SuperviseCommand, c.Name, h.Name)
	if err != nil {
		return fmt.Errorf("start host %s: %w", h.Name, err)
	}
	err = poll(ctx, 5*time.Millisecond, func() (bool, error) {
		st, err := control.Ask(ctx, layout.Socket(c.Name, h.Name))
		if err == nil {
			return st.Containerd.Ready, nil
		}
		if pid.gone() {
			return false, errors.New("its supervisor ended: " + lastLine(filepath.Join(layout.LogDir(c.Name, h.Name), "supervisor.log")))
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("start host %s: %w", h.Name, err)
	}
	return nil
}

// child is a process that we started and that outlives us.
type child chan struct{}

func (c child) gone() bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// spawn starts the orlop binary in a session of its own, its output going to a log of the cluster.
func spawn(c *layout.Cluster, who, logName string, args ...string) (child, error) {
	dir := layout.LogDir(c.Name, who)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make log folder: %w", err)
	}
	out, err := os.OpenFile(filepath.Join(dir, logName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(c.Exe, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(child)
	go func() { // ends with the child, or with this short-lived program
		_ = cmd.Wait()
		close(ended)
	}()
	return ended, nil
}

// cutPower ends all processes of a host, removes its cgroups and its socket. Its disk stays.
func cutPower(ctx context.Context, c string, host string) error {
	trees, err := cgroups.Mounted()
	if err != nil {
		return err
	}
	if err := emptyCgroup(ctx, trees, layout.HostCgroup(c, host)); err != nil {
		return err
	}
	if err := os.Remove(layout.Socket(c, host)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the host's socket: %w", err)
	}
	return nil
}

// emptyCgroup kills all that is in a subtree and removes it.
func emptyCgroup(ctx context.Context, trees cgroups.Trees, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := trees.Kill(ctx, path); err != nil {
		return err
	}
	return trees.Remove(ctx, path)
}

// eachHost does f for all hosts at once.
func eachHost(ctx context.Context, hosts []layout.Host, f func(context.Context, layout.Host) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, h := range hosts {
		g.Go(func() error { return f(ctx, h) })
	}
	return g.Wait()
}

// Stop cuts a host's power.
func Stop(ctx context.Context, name, host string) error {
	c, h, err := loadHost(name, host)
	if err != nil {
		return err
	}
	return cutPower(ctx, c.Name, h.Name)
}

// Start boots a host that was stopped, or whose supervisor died; a running host is left alone.
func Start(ctx context.Context, name, host string) error {
	c, h, err := loadHost(name, host)
	if err != nil {
		return err
	}
	if err := locked(func() error { return ensureGround(c) }); err != nil {
		return err
	}
	if err := ensureForwarder(ctx, c); err != nil {
		return err
	}
	if st, err := control.Ask(ctx, layout.Socket(c.Name, h.Name)); err == nil && st.Containerd.Ready {
		return nil
	}
	if err := cutPower(ctx, c.Name, h.Name); err != nil {
		return err
	}
	return bootHost(ctx, c, h)
}

func loadHost(name, host string) (*layout.Cluster, layout.Host, error) {
	c, err := layout.Load(name)
	if err != nil {
		return nil, layout.Host{}, err
	}
	h, err := c.Host(host)
	return c, h, err
}

// ensureGround makes what the hosts of a cluster stand on, as far as it is missing. The lock is held.
func ensureGround(c *layout.Cluster) error {
	if err := os.MkdirAll(layout.RunDir(c.Name), 0o755); err != nil {
		return fmt.Errorf("make the run folder: %w", err)
	}
	if err := makePointsLocked(); err != nil {
		return err
	}
	if handle := layout.FabricHandle(c.Name); !hostns.HasFabric(handle) {
		return hostns.MakeFabric(handle)
	}
	return nil
}

// poll calls f until it is done or fails, or ctx ends.
func poll(ctx context.Context, every time.Duration, f func() (bool, error)) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		if done, err := f(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}

func lastLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}
