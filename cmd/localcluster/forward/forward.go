// Package forward joins a local cluster to the machine: the API and published NodePorts from
// 127.0.0.1 into a host, and image pulls from the hosts out.
//
// It listens on the machine's loopback and, for pulls, on the fabric's gateway address. It makes
// no socket in a host itself: the host's supervisor does, because a socket belongs to the network
// namespace and the cgroup it was made in.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/orlop-io/orlop/cmd/localcluster/control"
	"github.com/orlop-io/orlop/cmd/localcluster/hostns"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	"golang.org/x/sync/errgroup"
)

// dialTimeout bounds one attempt to reach a port in a host.
const dialTimeout = 5 * time.Second

// Sockets is how many sockets Listen makes for a cluster.
func Sockets(c *layout.Cluster) int {
	n := 1 + len(c.Publish)
	if !c.Offline {
		n++
	}
	return n
}

// Listen makes the sockets that Run serves: the API's, then the published ports', then the one
// for pulls, which lies in the fabric.
func Listen(c *layout.Cluster) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
		}
	}()
	listen := func(at netip.AddrPort) error {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		defer l.Close() // the file is a copy
		f, err := l.File()
		if err == nil {
			files = append(files, f)
		}
		return err
	}
	ports := []uint16{c.APIPort}
	for _, p := range c.Publish {
		ports = append(ports, p.HostPort)
	}
	for _, port := range ports {
		if err := listen(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)); err != nil {
			return files, fmt.Errorf("forward port %d: %w", port, err)
		}
	}
	if c.Offline {
		return files, nil
	}
	fabric, err := os.Open(layout.FabricHandle(c.Name))
	if err != nil {
		return files, fmt.Errorf("open the fabric: %w", err)
	}
	defer fabric.Close()
	err = hostns.InNamespace(fabric, func() error { return listen(netip.AddrPortFrom(layout.Gateway(), layout.ProxyPort)) })
	if err != nil {
		return files, fmt.Errorf("listen on the fabric: %w", err)
	}
	return files, nil
}

// Run serves a cluster on the sockets that Listen made, until ctx ends.
func Run(ctx context.Context, c *layout.Cluster, sockets []*os.File, log *slog.Logger) error {
	if len(sockets) != Sockets(c) {
		return fmt.Errorf("forward cluster %s: got %d sockets, want %d", c.Name, len(sockets), Sockets(c))
	}
	listeners := make([]net.Listener, len(sockets))
	for i, f := range sockets {
		l, err := net.FileListener(f)
		if err != nil {
			return fmt.Errorf("take over socket %d: %w", i, err)
		}
		defer l.Close()
		listeners[i] = l
	}
	g, ctx := errgroup.WithContext(ctx)
	serve := func(l net.Listener, in string, hosts []layout.Host) {
		g.Go(func() error {
			return accept(ctx, l, func(conn net.Conn) {
				if err := pass(ctx, c.Name, hosts, in, conn); err != nil {
					log.Debug("connection not forwarded", "at", l.Addr(), "err", err)
				}
			})
		})
	}
	serve(listeners[0], "6443", c.Hosts[:1])
	for i, p := range c.Publish {
		serve(listeners[1+i], strconv.Itoa(int(p.NodePort)), c.Hosts)
	}
	if !c.Offline {
		servePulls(ctx, g, listeners[len(listeners)-1], NewProxy(c.Registries, log))
	}
	return g.Wait()
}

// accept hands each connection to serve on a goroutine of its own, and waits for all.
func accept(ctx context.Context, l net.Listener, serve func(net.Conn)) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept a connection: %w", err)
		}
		serving.Go(func() { serve(conn) })
	}
}

// pass joins conn to a port of the first host that answers.
func pass(ctx context.Context, cluster string, hosts []layout.Host, port string, conn net.Conn) error {
	defer conn.Close()
	var errs []error
	for _, h := range hosts {
		dialling, cancel := context.WithTimeout(ctx, dialTimeout)
		far, err := control.DialIn(dialling, layout.Socket(cluster, h.Name), "tcp", net.JoinHostPort(h.Addr.String(), port))
		cancel()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		join(ctx, conn, far)
		return nil
	}
	return errors.Join(errs...)
}

// join copies both ways until both ends are through, or ctx ends, and closes both.
func join(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() { a.Close(); b.Close() })
	defer stop()
	var wg sync.WaitGroup
	for _, d := range []struct{ to, from net.Conn }{{a, b}, {b, a}} {
		wg.Go(func() {
			_, err := io.Copy(d.to, d.from)
			if c, ok := d.to.(interface{ CloseWrite() error }); ok && err == nil {
				_ = c.CloseWrite()
			} else {
				d.to.Close()
				d.from.Close()
			}
		})
	}
	wg.Wait()
	a.Close()
	b.Close()
}

// servePulls answers what containerd sends to its proxy.
func servePulls(ctx context.Context, g *errgroup.Group, l net.Listener, p *Proxy) {
	server := &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	g.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve pulls: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return server.Close()
	})
}
