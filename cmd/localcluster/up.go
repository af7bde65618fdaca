package localcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/orlop-io/orlop/cmd/localcluster/kubeconfig"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	"k8s.io/client-go/tools/clientcmd"
)

// UpConfig is what a new cluster should be like.
type UpConfig struct {
	Name          string
	Nodes         int // 1 to layout.MaxHosts, the control plane included
	ControlPlanes int // 1
	PodCIDR       netip.Prefix
	ServiceCIDR   netip.Prefix
	Publish       []layout.Publish
	Registries    []uint16      // loopback ports of the machine that hosts may pull from
	Kubeconfig    string        // empty: merge into User's own
	Wait          time.Duration // for the whole; 0 does not wait for readiness
	Offline       bool          // no pulls
	Routed        bool          // a router between any two hosts
	Containerd    string        // the program that hosts run, its shim and ctr beside it; empty: from PATH
	Exe           string        // the orlop binary
	Version       string        // tag of the images
	CNI, Proxy    string        // "orlop", or "none" for somebody else's
	ProxyMode     string        // how the agent translates services; empty: the best that the machine can do
	User          kubeconfig.User
}

// none leaves a part of the nodes' network to somebody else.
const none = "none"

// proxyModes are the node agent's.
func proxyModes() []string { return []string{"ebpf", "nftables", "iptables", "userspace"} }

// noWaitLimit bounds an Up that need not wait for readiness.
const noWaitLimit = 10 * time.Minute

// Validate says all that is wrong with the configuration.
func (cfg UpConfig) Validate() error {
	errs := []error{layout.CheckName(cfg.Name)}
	if cfg.Nodes < 1 || cfg.Nodes > layout.MaxHosts {
		errs = append(errs, fmt.Errorf("--nodes %d: want 1 to %d", cfg.Nodes, layout.MaxHosts))
	}
	if cfg.ControlPlanes != 1 {
		errs = append(errs, fmt.Errorf("--control-planes %d: high availability is not built yet, so a cluster has one control plane", cfg.ControlPlanes))
	}
	for flag, who := range map[string]string{"--cni": cfg.CNI, "--proxy": cfg.Proxy} {
		if who != "" && who != "orlop" && who != none {
			errs = append(errs, fmt.Errorf("%s %s: want orlop, or none for somebody else's", flag, who))
		}
	}
	if cfg.ProxyMode != "" && cfg.Proxy == none {
		errs = append(errs, fmt.Errorf("--proxy-mode %s: with --proxy none Services are translated by somebody else", cfg.ProxyMode))
	}
	if cfg.ProxyMode != "" && !slices.Contains(proxyModes(), cfg.ProxyMode) {
		errs = append(errs, fmt.Errorf("--proxy-mode %s: want one of %s", cfg.ProxyMode, strings.Join(proxyModes(), ", ")))
	}
	if cfg.Wait < 0 {
		errs = append(errs, fmt.Errorf("--wait %s: want a positive time, or 0", cfg.Wait))
	}
	ranges := []struct {
		flag string
		p    netip.Prefix
	}{{"--pod-cidr", cfg.PodCIDR}, {"--service-cidr", cfg.ServiceCIDR}, {"the hosts' own range", layout.Fabric()}}
	for i, a := range ranges {
		if !a.p.IsValid() || !a.p.Addr().Is4() {
			errs = append(errs, fmt.Errorf("%s %s: want an IPv4 range, such as 10.244.0.0/16", a.flag, a.p))
			continue
		}
		for _, b := range ranges[:i] {
			if b.p.IsValid() && a.p.Overlaps(b.p) {
				errs = append(errs, fmt.Errorf("%s %s overlaps %s %s", a.flag, a.p, b.flag, b.p))
			}
		}
	}
	if p := cfg.PodCIDR; p.IsValid() && (p.Bits() > 24 || 24-p.Bits() < 16 && 1<<(24-p.Bits()) < cfg.Nodes) {
		errs = append(errs, fmt.Errorf("--pod-cidr %s: too small for a /24 for each of %d nodes", p, cfg.Nodes))
	}
	seen := map[uint16]bool{}
	for _, p := range cfg.Publish {
		if seen[p.HostPort] {
			errs = append(errs, fmt.Errorf("--publish: port %d is named twice", p.HostPort))
		}
		seen[p.HostPort] = true
	}
	if err := errors.Join(errs...); err != nil {
		return &ExitError{ExitUsage, err}
	}
	return nil
}

// Up makes a cluster. When it fails, or ctx ends, nothing is left of it but its logs.
func Up(ctx context.Context, cfg UpConfig, p *Progress) (*layout.Cluster, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := preflight(cfg); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	c := &layout.Cluster{
		Name: cfg.Name, Version: cfg.Version, Phase: layout.PhaseStarting, Exe: filepath.Join(layout.BinDir(cfg.Name), filepath.Base(cfg.Exe)),
		Hosts: layout.HostList(cfg.Name, cfg.Nodes), PodCIDR: cfg.PodCIDR, ServiceCIDR: cfg.ServiceCIDR,
		APIPort: port, Publish: cfg.Publish, Registries: cfg.Registries, Offline: cfg.Offline, Routed: cfg.Routed, Containerd: cfg.Containerd, CNI: cfg.CNI, Proxy: cfg.Proxy, ProxyMode: cfg.ProxyMode,
	}
	if err := claim(c); err != nil {
		return nil, err
	}
	limit := cfg.Wait
	if limit == 0 {
		limit = noWaitLimit
	}
	late := &ExitError{ExitTimeout, fmt.Errorf("cluster %s was not ready within %s", c.Name, limit)}
	making, cancel := context.WithTimeoutCause(ctx, limit, late)
	defer cancel()
	if err := build(making, c, cfg, p); err != nil {
		return nil, undo(ctx, making, c, err)
	}
	return c, nil
}

// undo removes a cluster that did not come up and says where its logs are.
func undo(ctx, making context.Context, c *layout.Cluster, err error) error {
	if making.Err() != nil && ctx.Err() == nil {
		var late *ExitError
		if errors.As(context.Cause(making), &late) && !errors.Is(err, late) {
			err = &ExitError{late.Code, fmt.Errorf("%w: %v", late.Err, err)}
		}
	}
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	where, logErr := keepLogs(undoing, c)
	downErr := remove(undoing, c.Name)
	code := 1
	if e := new(ExitError); errors.As(err, &e) {
		code = e.Code
	}
	if logErr == nil {
		err = fmt.Errorf("%w\nlogs: %s", err, where)
	}
	return &ExitError{code, errors.Join(err, logErr, downErr)}
}

func freePort() (uint16, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port), nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Load loads an image archive into every host.
func Load(ctx context.Context, name, archive string) error {
	c, err := layout.Load(name)
	if err != nil {
		return err
	}
	return eachHost(ctx, c.Hosts, func(ctx context.Context, h layout.Host) error {
		return importAll(ctx, c, h, []string{archive})
	})
}

// writeKubeconfig makes the cluster's own kubeconfig and adds its entries to the user's.
func writeKubeconfig(c *layout.Cluster, cfg UpConfig) error {
	conf, err := os.ReadFile(layout.RootDir(c.Name, c.Hosts[0].Name, "/etc/kubernetes/admin.conf"))
	if err != nil {
		return fmt.Errorf("read admin.conf: %w", err)
	}
	ours, err := kubeconfig.ForCluster(conf, contextName(c.Name), fmt.Sprintf("https://127.0.0.1:%d", c.APIPort))
	if err != nil {
		return err
	}
	if err := clientcmd.WriteToFile(*ours, layout.AdminKubeconfig(c.Name)); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	path := cfg.Kubeconfig
	if path == "" {
		path = cfg.User.DefaultPath()
	}
	if path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("find kubeconfig: %w", err)
	}
	return kubeconfig.Merge(path, ours, cfg.User, func(entry layout.KubeconfigEntry) error {
		c.Kubeconfig = &entry // whatever happens next: what was made must go again
		return c.Save()
	})
}
