package localcluster

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/orlop-io/orlop/cmd/localcluster/cgroups"
	"github.com/orlop-io/orlop/cmd/localcluster/control"
	"github.com/orlop-io/orlop/cmd/localcluster/forward"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	"github.com/orlop-io/orlop/cmd/localcluster/supervisor"
)

// ForwardCommand is the hidden subcommand that is a cluster's forwarder.
const ForwardCommand = "host-forward"

// serveMark tells the forwarder itself from the process that keeps it running.
const serveMark = "serve"

// Forward is ForwardCommand: args are the cluster's name. The process listens and has a child of
// its own serve what comes; when that dies, connections wait in the sockets for the next one.
func Forward(ctx context.Context, args []string) error {
	if len(args) < 1 {
		return fmt.Errorf("%s wants a cluster", ForwardCommand)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	err := error(nil)
	if len(args) == 1 {
		err = keepForwarding(ctx, args[0], log)
	} else {
		var c *layout.Cluster
		if c, err = layout.Load(args[0]); err == nil {
			err = forward.Run(ctx, c, inherited(c), log)
		}
	}
	if err != nil {
		log.Error("forwarder ended", "err", err)
	}
	return err
}

func keepForwarding(ctx context.Context, name string, log *slog.Logger) error {
	var c *layout.Cluster
	err := entering(name, func(loaded *layout.Cluster) error {
		c = loaded
		trees, err := cgroups.Mounted()
		if err != nil {
			return err
		}
		group := layout.ForwarderCgroup(name)
		return errors.Join(trees.Create(group), trees.Enter(group))
	})
	if err != nil {
		return err
	}
	files, err := forward.Listen(c)
	if err != nil {
		return err
	}
	return supervisor.Keep(ctx, supervisor.Program{
		Name: "forwarder", LogDir: layout.LogDir(name, "forwarder"),
		Argv: []string{c.Exe, ForwardCommand, name, serveMark}, Files: files,
	}, log)
}

// inherited are the sockets that keepForwarding handed down, behind the three standard files.
func inherited(c *layout.Cluster) []*os.File {
	files := make([]*os.File, forward.Sockets(c))
	for i := range files {
		files[i] = os.NewFile(uintptr(3+i), "listener")
	}
	return files
}

// ensureForwarder starts the cluster's forwarder unless it listens. Hosts that start at the same
// time take turns.
func ensureForwarder(ctx context.Context, c *layout.Cluster) error {
	return locked(func() error {
		if forwarding(c) {
			return nil
		}
		return startForwarder(ctx, c)
	})
}

// startForwarder starts the cluster's forwarder, and ends an older one.
func startForwarder(ctx context.Context, c *layout.Cluster) error {
	trees, err := cgroups.Mounted()
	if err != nil {
		return err
	}
	if err := emptyCgroup(ctx, trees, layout.ForwarderCgroup(c.Name)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	running, err := spawn(c, "forwarder", "forwarder.log", ForwardCommand, c.Name)
	if err != nil {
		return fmt.Errorf("start the forwarder: %w", err)
	}
	err = poll(ctx, 5*time.Millisecond, func() (bool, error) {
		if forwarding(c) {
			return true, nil
		}
		if running.gone() {
			return false, errors.New("it ended: " + lastLine(filepath.Join(layout.LogDir(c.Name, "forwarder"), "forwarder.log")))
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("start the forwarder: %w", err)
	}
	return nil
}

// forwarding says whether the forwarder of the cluster listens.
func forwarding(c *layout.Cluster) bool {
	trees, err := cgroups.Mounted()
	if err != nil {
		return false
	}
	if pids, err := trees.Procs(layout.ForwarderCgroup(c.Name)); err != nil || len(pids) == 0 {
		return false
	}
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", c.APIPort), time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// runInit makes the first host the control plane.
func runInit(ctx context.Context, c *layout.Cluster, exe, token string, log io.Writer) error {
	h := c.Hosts[0]
	return control.RunWith(ctx, layout.Socket(c.Name, h.Name), []string{"ORLOP_TOKEN=" + token}, log, exe, "init",
		"--skip-token-print",
		"--apiserver-advertise-address="+h.Addr.String(),
		"--pod-network-cidr="+c.PodCIDR.String(),
		"--service-cidr="+c.ServiceCIDR.String(),
		"--node-name="+h.Name,
		"--apiserver-cert-extra-sans=127.0.0.1,localhost",
		"--cni="+cmp.Or(c.CNI, "orlop"), "--proxy="+cmp.Or(c.Proxy, "orlop"), "--proxy-mode="+c.ProxyMode,
		"--untainted", longer(ctx))
}

// longer is the flag that leaves it to ctx to end a command in a host: the command's own default is for whoever types it.
func longer(ctx context.Context) string {
	const slack, unbounded = time.Minute, 24 * time.Hour
	if end, ok := ctx.Deadline(); ok {
		return "--timeout=" + (time.Until(end) + slack).Round(time.Second).String()
	}
	return "--timeout=" + unbounded.String()
}

// joinHost makes a host a node of the cluster.
func joinHost(ctx context.Context, c *layout.Cluster, h layout.Host, exe, token, pin string, log io.Writer) error {
	server := net.JoinHostPort(c.Hosts[0].Addr.String(), "6443")
	err := control.RunWith(ctx, layout.Socket(c.Name, h.Name), []string{"ORLOP_TOKEN=" + token}, log, exe, "join", server,
		"--discovery-token-ca-cert-hash="+pin, "--node-name="+h.Name, "--node-ip="+h.Addr.String(), longer(ctx))
	if err != nil {
		return fmt.Errorf("join %s: %w", h.Name, err)
	}
	return nil
}

// caPin is the pin of an authority as join takes it: the hash of its public key.
func caPin(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the cluster's authority: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return "", fmt.Errorf("%s holds no certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("parse %s: %w", path, err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// keepLogs moves what a failed cluster had to say out of its state, and returns the place.
func keepLogs(ctx context.Context, c *layout.Cluster) (string, error) {
	where := layout.FailedLogDir(c.Name)
	if err := os.RemoveAll(where); err != nil {
		return "", fmt.Errorf("remove older logs: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(where), 0o755); err != nil {
		return "", fmt.Errorf("keep the logs: %w", err)
	}
	// Copied, not renamed: the folders may be on different file systems, and are still written to.
	if out, err := exec.CommandContext(ctx, "cp", "-a", layout.LogDir(c.Name, ""), where).CombinedOutput(); err != nil {
		return "", fmt.Errorf("keep the logs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	for _, h := range c.Hosts {
		pods := layout.RootDir(c.Name, h.Name, "/var/log/pods")
		if _, err := os.Stat(pods); err != nil {
			continue
		}
		if out, err := exec.CommandContext(ctx, "cp", "-a", pods, filepath.Join(where, h.Name, "pods")).CombinedOutput(); err != nil {
			return "", fmt.Errorf("keep the logs of pods: %w: %s", err, strings.TrimSpace(string(out)))
		}
	}
	return where, nil
}
