package localcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/orlop-io/orlop/cmd/localcluster/control"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	"golang.org/x/sync/errgroup"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
)

// build does the steps of Up. What no step waits for yet goes on behind them: a start is short of
// processor time at its ends and idle in between, while etcd and the API server come up.
func build(ctx context.Context, c *layout.Cluster, cfg UpConfig, p *Progress) error {
	log, err := upLog(c)
	if err != nil {
		return err
	}
	defer log.Close()
	work, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	b := &builder{c: c, cfg: cfg, log: log, stop: stop}
	if err := b.steps(work, p); err != nil {
		stop(err)
		_, _ = b.joins.Wait(), b.loads.Wait()
		if ctx.Err() == nil {
			err = context.Cause(work) // the first failure; later ones follow from it
		}
		return err
	}
	c.Phase = layout.PhaseUp
	return c.Save()
}

type builder struct {
	c            *layout.Cluster
	cfg          UpConfig
	log          *os.File
	stop         context.CancelCauseFunc
	joins, loads errgroup.Group
}

// behind runs f while the steps go on; its failure ends them.
func (b *builder) behind(g *errgroup.Group, f func() error) {
	g.Go(func() error {
		err := f()
		if err != nil {
			b.stop(err)
		}
		return err
	})
}

func (b *builder) steps(ctx context.Context, p *Progress) error {
	c, first, rest := b.c, b.c.Hosts[0], b.c.Hosts[1:]
	token, err := bootstraputil.GenerateBootstrapToken()
	if err != nil {
		return fmt.Errorf("make a token: %w", err)
	}
	archives, err := shippedArchives(b.cfg.Exe)
	if err != nil {
		return err
	}
	err = p.Step("hosts", fmt.Sprintf("Starting %s", plural(len(c.Hosts), "host")), func() error { return b.startHosts(ctx) })
	if err != nil {
		return err
	}
	err = p.Step("images", "Loading the control plane's images", func() error {
		return importAll(ctx, c, first, archives.controlPlane)
	})
	if err != nil {
		return err
	}
	b.behind(&b.loads, func() error { return importAll(ctx, c, first, archives.rest) }) // init loads what nodes run
	for _, h := range rest {
		b.behind(&b.joins, func() error { return b.join(ctx, h, archives, token) })
	}
	err = p.Step("control-plane", "Starting the control plane", func() error {
		if err := runInit(ctx, c, b.cfg.Exe, token, b.log); err != nil {
			return err
		}
		return writeKubeconfig(c, b.cfg)
	})
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		if err := p.Step("join", fmt.Sprintf("Joining %s", plural(len(rest), "node")), b.joins.Wait); err != nil {
			return err
		}
	}
	if b.cfg.Wait > 0 {
		if err := waitReady(ctx, c, p); err != nil {
			return err
		}
	}
	return b.loads.Wait()
}

func (b *builder) startHosts(ctx context.Context) error {
	if err := keepPrograms(b.c, filepath.Dir(b.cfg.Exe)); err != nil {
		return err
	}
	if err := locked(func() error { return ensureGround(b.c) }); err != nil {
		return err
	}
	if err := startForwarder(ctx, b.c); err != nil {
		return err
	}
	return eachHost(ctx, b.c.Hosts, func(ctx context.Context, h layout.Host) error { return bootHost(ctx, b.c, h) })
}

// join makes a host a node. It begins before there is a cluster to join, and waits for it where
// it needs it: first for the authority to pin, then for the API server.
func (b *builder) join(ctx context.Context, h layout.Host, a shipped, token string) error {
	if err := importAll(ctx, b.c, h, slices.Concat(a.controlPlane, a.node)); err != nil {
		return err
	}
	b.behind(&b.loads, func() error { return importAll(ctx, b.c, h, a.rest) })
	ca := layout.RootDir(b.c.Name, b.c.Hosts[0].Name, "/etc/kubernetes/pki/ca.crt")
	var pin string
	err := poll(ctx, 20*time.Millisecond, func() (done bool, err error) {
		pin, err = caPin(ca)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return err
	}
	return joinHost(ctx, b.c, h, b.cfg.Exe, token, pin, b.log)
}

// keepPrograms gives the cluster programs of its own, from those in dir: whatever hosts start
// later is then what they started first. A link costs nothing; builders and installers put new
// files in the place of old ones, and leave it as it is.
func keepPrograms(c *layout.Cluster, dir string) error {
	own := filepath.Dir(c.Exe)
	if err := os.MkdirAll(own, 0o755); err != nil {
		return fmt.Errorf("make the programs' folder: %w", err)
	}
	for _, p := range []string{filepath.Base(c.Exe), "orlop-kubelet"} {
		from, to := filepath.Join(dir, p), filepath.Join(own, p)
		if real, err := filepath.EvalSymlinks(from); err == nil {
			from = real
		}
		if os.Link(from, to) == nil {
			continue
		}
		if err := copyProgram(from, to); err != nil { // another file system, most likely
			return fmt.Errorf("keep the program %s: %w", p, err)
		}
	}
	return nil
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func upLog(c *layout.Cluster) (*os.File, error) {
	path := filepath.Join(layout.LogDir(c.Name, ""), "up.log")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make log folder: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// importAll loads archives into one host, one after the other: unpacking is bound by the disk.
func importAll(ctx context.Context, c *layout.Cluster, h layout.Host, archives []string) error {
	for _, a := range archives {
		f, err := os.Open(a)
		if err != nil {
			return fmt.Errorf("open image archive: %w", err)
		}
		err = control.RunInput(ctx, layout.Socket(c.Name, h.Name), f, io.Discard, "ctr", "-n", "k8s.io", "images", "import", "-")
		f.Close()
		if err != nil {
			return fmt.Errorf("load %s into %s: %w", filepath.Base(a), h.Name, err)
		}
	}
	return nil
}

// shipped are the image archives beside the orlop binary, by when hosts need them.
type shipped struct {
	controlPlane []string // without these, static pods do not start
	node         []string // what else a node of its own runs from the beginning
	rest         []string
}

func shippedArchives(exe string) (shipped, error) {
	found, err := filepath.Glob(filepath.Join(filepath.Dir(exe), "images", "*.tar"))
	if err == nil && len(found) == 0 {
		err = errors.New("there are none")
	}
	if err != nil {
		return shipped{}, fmt.Errorf("list the images beside %s: %w", exe, err)
	}
	return sortArchives(found), nil
}

func sortArchives(paths []string) shipped {
	var s shipped
	for _, p := range paths {
		switch filepath.Base(p) {
		case "pause.tar", "orlop-server.tar":
			s.controlPlane = append(s.controlPlane, p)
		case "orlop-agent.tar":
			s.node = append(s.node, p)
		default:
			s.rest = append(s.rest, p)
		}
	}
	return s
}
