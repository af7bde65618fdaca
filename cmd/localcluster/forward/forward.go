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

// Run serves a cluster until ctx ends.
func Run(ctx context.Context, c *layout.Cluster, log *slog.Logger) error {
	g, ctx := errgroup.WithContext(ctx)
	listen := func(port uint16, in string, hosts []layout.Host) error {
		l, err := net.Listen("tcp", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port).String())
		if err != nil {
			return fmt.Errorf("forward port %d: %w", port, err)
		}
		g.Go(func() error {
			return accept(ctx, l, func(conn net.Conn) {
				if err := pass(ctx, c.Name, hosts, in, conn); err != nil {
					log.Debug("connection not forwarded", "port", port, "err", err)
				}
			})
		})
		return nil
	}
	err := listen(c.APIPort, "6443", c.Hosts[:1])
	for _, p := range c.Publish {
		err = errors.Join(err, listen(p.HostPort, strconv.Itoa(int(p.NodePort)), c.Hosts))
	}
	if err == nil && !c.Offline {
		err = servePulls(ctx, g, c, log)
	}
	if err != nil {
		g.Go(func() error { return err })
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

// servePulls listens on the fabric's gateway for what containerd sends to its proxy.
func servePulls(ctx context.Context, g *errgroup.Group, c *layout.Cluster, log *slog.Logger) error {
	handle, err := os.Open(layout.FabricHandle(c.Name))
	if err != nil {
		return fmt.Errorf("open the fabric: %w", err)
	}
	defer handle.Close()
	var l net.Listener
	err = hostns.InNamespace(handle, func() error {
		l, err = net.Listen("tcp", netip.AddrPortFrom(layout.Gateway(), layout.ProxyPort).String())
		return err
	})
	if err != nil {
		return fmt.Errorf("listen on the fabric: %w", err)
	}
	server := &http.Server{Handler: NewProxy(c.Registries, log), ReadHeaderTimeout: 10 * time.Second}
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
	return nil
}
