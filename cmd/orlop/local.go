package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/orlop-io/orlop/cmd/localcluster"
	"github.com/orlop-io/orlop/cmd/localcluster/kubeconfig"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	"github.com/orlop-io/orlop/proxy"
)

func upCommand(e *env) *cobra.Command {
	cfg := localcluster.UpConfig{Exe: e.exe, Version: e.version}
	var podCIDR, serviceCIDR, output string
	var publish []string
	var registries []uint
	var reuse bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make a cluster on this machine",
		Example: `  orlop up
  orlop up --name a --nodes 3 --publish 8080:30080`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if err := checkOutput(output); err != nil {
				return err
			}
			if cfg.PodCIDR, err = prefix("--pod-cidr", podCIDR); err != nil {
				return err
			}
			if cfg.ServiceCIDR, err = prefix("--service-cidr", serviceCIDR); err != nil {
				return err
			}
			if cfg.Publish, err = parsePublish(publish); err != nil {
				return err
			}
			if cfg.Registries, err = parsePorts(registries); err != nil {
				return err
			}
			if cfg.User, err = kubeconfig.Caller(e.getenv); err != nil {
				return err
			}
			if cfg.Containerd != "" {
				if cfg.Containerd, err = filepath.Abs(cfg.Containerd); err != nil {
					return fmt.Errorf("--containerd: %w", err)
				}
			}
			return e.up(cmd.Context(), cfg, reuse, output)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Name, "name", defaultName, "name of the cluster; its hosts are NAME-1, NAME-2 ...")
	f.IntVar(&cfg.Nodes, "nodes", 2, "how many hosts, the control plane included")
	f.IntVar(&cfg.ControlPlanes, "control-planes", 1, "how many control planes; more than one is not built yet")
	f.StringVar(&podCIDR, "pod-cidr", "10.244.0.0/16", "addresses of pods; each node gets a /24")
	f.StringVar(&serviceCIDR, "service-cidr", "10.96.0.0/12", "virtual addresses of Services")
	f.StringArrayVar(&publish, "publish", nil, "HOSTPORT:NODEPORT to reach at 127.0.0.1; may be given more than once")
	f.UintSliceVar(&registries, "registry", nil, "port of a plain-HTTP registry on this machine's loopback; images of it are called "+layout.MachineName+":PORT/...")
	f.StringVar(&cfg.Kubeconfig, "kubeconfig", "", "write the context here, not to ~/.kube/config")
	f.DurationVar(&cfg.Wait, "wait", 2*time.Minute, "give up if the cluster is not ready in this time; 0 does not wait for readiness")
	f.StringVarP(&output, "output", "o", "", "json prints what was made; steps go to standard error then")
	f.StringVar(&cfg.CNI, "cni", "orlop", "who brings pods' network: orlop, or none for a plugin that you install; nodes are not ready before")
	f.StringVar(&cfg.Proxy, "proxy", "orlop", "who translates Services: orlop, or none for a proxy that you install; cluster DNS waits for it")
	f.StringVar(&cfg.ProxyMode, "proxy-mode", "", "how Services are translated: "+strings.Join(proxy.Modes(), ", ")+"; the first of them that this machine can do when empty")
	f.BoolVar(&cfg.Routed, "routed", false, "put a router between any two hosts, so that pods' packets need an overlay")
	f.BoolVar(&cfg.Offline, "offline", false, "let nothing be pulled")
	f.StringVar(&cfg.Containerd, "containerd", "", "containerd program that hosts run, containerd-shim-runc-v2 and ctr of the same version beside it (default: that of $PATH)")
	f.BoolVar(&reuse, "reuse", false, "if the cluster is there already, make sure that it is healthy, and change nothing else")
	return cmd
}

func (e *env) up(ctx context.Context, cfg localcluster.UpConfig, reuse bool, output string) error {
	out := e.stdout
	if output == "json" {
		out = e.stderr
	}
	p := e.progress(out)
	began := time.Now()
	var c *layout.Cluster
	var err error
	if _, loadErr := layout.Load(cfg.Name); reuse && loadErr == nil {
		if c, err = localcluster.Resume(ctx, cfg.Name, cfg.Wait, p); err != nil {
			return err
		}
	} else {
		c, err = localcluster.Up(ctx, cfg, p)
		if errors.Is(err, localcluster.ErrExists) {
			return fmt.Errorf("%w: use it, or remove it with `orlop down --name %s`", err, cfg.Name)
		}
		if err != nil {
			return err
		}
		p.Say("up", fmt.Sprintf("Cluster %s is up after %.1fs", c.Name, time.Since(began).Seconds()))
	}
	if output == "json" {
		return json.NewEncoder(e.stdout).Encode(upResult(c, p))
	}
	printNext(out, c)
	return nil
}

// result is what up prints with -o json.
type result struct {
	Name       string               `json:"name"`
	Server     string               `json:"server"`
	Context    string               `json:"context"`
	Kubeconfig string               `json:"kubeconfig"`
	Nodes      []layout.Host        `json:"nodes"`
	Phases     []localcluster.Phase `json:"phases"`
}

func upResult(c *layout.Cluster, p *localcluster.Progress) result {
	r := result{Name: c.Name, Server: fmt.Sprintf("https://127.0.0.1:%d", c.APIPort), Context: "orlop-" + c.Name, Nodes: c.Hosts, Phases: p.Phases}
	if c.Kubeconfig != nil {
		r.Kubeconfig = c.Kubeconfig.Path
	}
	return r
}

func printNext(w io.Writer, c *layout.Cluster) {
	named := ""
	if c.Name != defaultName {
		named = " --name " + c.Name
	}
	fmt.Fprintf(w, "\nThe context orlop-%s is current in %s. Try:\n", c.Name, c.Kubeconfig.Path)
	fmt.Fprintf(w, "  orlop kubectl%s get pods -A\n", named)
	fmt.Fprintf(w, "  orlop demo%s\n", named)
	fmt.Fprintf(w, "  orlop shell %s\n", c.Hosts[len(c.Hosts)-1].Name)
	fmt.Fprintf(w, "  orlop down%s\n", named)
}

func prefix(flag, s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, usageError("%s %q: want a range such as 10.244.0.0/16", flag, s)
	}
	if p != p.Masked() {
		return p, usageError("%s %s: did you mean %s?", flag, s, p.Masked())
	}
	return p, nil
}

func parsePublish(in []string) ([]layout.Publish, error) {
	var out []layout.Publish
	for _, s := range in {
		host, node, ok := strings.Cut(s, ":")
		h, err1 := strconv.ParseUint(host, 10, 16)
		n, err2 := strconv.ParseUint(node, 10, 16)
		if !ok || err1 != nil || err2 != nil || h == 0 || n == 0 {
			return nil, usageError("--publish %q: want HOSTPORT:NODEPORT, such as 8080:30080", s)
		}
		out = append(out, layout.Publish{HostPort: uint16(h), NodePort: uint16(n)})
	}
	return out, nil
}

func parsePorts(in []uint) ([]uint16, error) {
	var out []uint16
	for _, p := range in {
		if p == 0 || p > 65535 {
			return nil, usageError("--registry %d: want a port", p)
		}
		out = append(out, uint16(p))
	}
	return out, nil
}

func checkOutput(o string) error {
	if o != "" && o != "json" {
		return usageError("-o %q: want json", o)
	}
	return nil
}

func downCommand(e *env) *cobra.Command {
	var name string
	var all bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove a cluster without a trace",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return &localcluster.ExitError{Code: localcluster.ExitPreflight, Err: errors.New("removing a cluster needs root: run it with sudo")}
			}
			if all && name != "" {
				return usageError("--all and --name exclude each other")
			}
			names := []string{name}
			switch {
			case all:
				var err error
				if names, err = layout.Names(); err != nil {
					return err
				}
			case name == "":
				names[0] = defaultName
			}
			var errs []error
			for _, n := range names {
				if err := localcluster.Down(cmd.Context(), n); err != nil {
					errs = append(errs, fmt.Errorf("remove cluster %s: %w", n, err))
					continue
				}
				fmt.Fprintf(e.stdout, "[down] Cluster %s is gone\n", n)
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove every cluster of this machine")
	nameFlag(cmd, &name).Flags().Lookup("name").Usage = "the cluster (default orlop)"
	return cmd
}

func listCommand(e *env) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the clusters of this machine",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			names, err := layout.Names()
			if err != nil {
				return err
			}
			all := []*localcluster.ClusterStatus{}
			for _, n := range names {
				s, err := localcluster.Inspect(cmd.Context(), n)
				if err != nil {
					s = &localcluster.ClusterStatus{Name: n, Phase: "broken", Problem: err.Error()}
				}
				all = append(all, s)
			}
			if output == "json" {
				return json.NewEncoder(e.stdout).Encode(all)
			}
			w := tabwriter.NewWriter(e.stdout, 0, 8, 3, ' ', 0)
			fmt.Fprintln(w, "NAME\tNODES\tSTATUS\tSERVER")
			for _, s := range all {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", s.Name, len(s.Hosts), health(s), s.Server)
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json")
	return cmd
}

func health(s *localcluster.ClusterStatus) string {
	if s.Healthy {
		return "Healthy"
	}
	return "Unhealthy"
}

func statusCommand(e *env) *cobra.Command {
	var name, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how a cluster and its hosts are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			name, err := e.cluster(name)
			if err != nil {
				return err
			}
			s, err := localcluster.Inspect(cmd.Context(), name)
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(e.stdout).Encode(s)
			}
			return printStatus(e.stdout, s)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json")
	return nameFlag(cmd, &name)
}

func printStatus(out io.Writer, s *localcluster.ClusterStatus) error {
	fmt.Fprintf(out, "Cluster %s: %s", s.Name, health(s))
	if s.Problem != "" {
		fmt.Fprintf(out, " (%s)", s.Problem)
	}
	fmt.Fprintf(out, "\nServer:     %s\nContext:    %s\nVersion:    %s\n\n", s.Server, s.Context, s.Version)
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "HOST\tADDRESS\tRUNNING\tCONTAINERD\tKUBELET\tRESTARTS\tNODE")
	word := map[bool]string{true: "yes", false: "no"}
	node := map[bool]string{true: "Ready", false: "NotReady"}
	for _, h := range s.Hosts {
		containerd, kubelet, restarts := "-", "-", 0
		if h.Containerd != nil && h.Kubelet != nil {
			containerd, kubelet = word[h.Containerd.Ready], word[h.Kubelet.Ready]
			restarts = h.Containerd.Restarts + h.Kubelet.Restarts
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", h.Name, h.Address, word[h.Running], containerd, kubelet, restarts, node[h.NodeReady])
	}
	return w.Flush()
}
