package localcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/orlop-io/orlop/cmd/localcluster/control"
	"github.com/orlop-io/orlop/cmd/localcluster/layout"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// HostStatus is how one host of a cluster is.
type HostStatus struct {
	Name       string           `json:"name"`
	Address    string           `json:"address"`
	Running    bool             `json:"running"`
	Pid        int              `json:"pid,omitempty"`
	BootedAt   *time.Time       `json:"bootedAt,omitempty"`
	Containerd *control.Service `json:"containerd,omitempty"`
	Kubelet    *control.Service `json:"kubelet,omitempty"`
	NodeReady  bool             `json:"nodeReady"`
}

// ClusterStatus is how a cluster is.
type ClusterStatus struct {
	Name       string       `json:"name"`
	Phase      string       `json:"phase"`
	Version    string       `json:"version"`
	Server     string       `json:"server"`
	Kubeconfig string       `json:"kubeconfig"`
	Context    string       `json:"context"`
	Forwarder  bool         `json:"forwarder"`
	Healthy    bool         `json:"healthy"`
	Problem    string       `json:"problem,omitempty"`
	Hosts      []HostStatus `json:"hosts"`
}

// askLimit bounds what one status may wait for.
const askLimit = 5 * time.Second

// Inspect looks at a cluster from outside.
func Inspect(ctx context.Context, name string) (*ClusterStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	c, err := layout.Load(name)
	if err != nil {
		return nil, err
	}
	s := &ClusterStatus{
		Name: c.Name, Phase: c.Phase, Version: c.Version,
		Server:     fmt.Sprintf("https://127.0.0.1:%d", c.APIPort),
		Kubeconfig: layout.AdminKubeconfig(c.Name), Context: contextName(c.Name),
		Forwarder: forwarding(c),
	}
	running := 0
	for _, h := range c.Hosts {
		hs := HostStatus{Name: h.Name, Address: h.Addr.String()}
		if st, err := control.Ask(ctx, layout.Socket(c.Name, h.Name)); err == nil {
			running++
			hs.Running, hs.Pid, hs.BootedAt = true, st.Pid, &st.BootedAt
			hs.Containerd, hs.Kubelet = &st.Containerd, &st.Kubelet
		}
		s.Hosts = append(s.Hosts, hs)
	}
	switch {
	case c.Phase != layout.PhaseUp:
		s.Problem = "it was never finished: remove it with `orlop down --name " + c.Name + "`"
	case running < len(c.Hosts):
		s.Problem = fmt.Sprintf("%d of %s run", running, plural(len(c.Hosts), "host"))
	case !s.Forwarder:
		s.Problem = "the forwarder does not run: `orlop start` starts it again"
	default:
		err = s.askAPI(ctx, c)
		if err != nil {
			s.Problem = err.Error()
		}
	}
	s.Healthy = s.Problem == ""
	return s, nil
}

func (s *ClusterStatus) askAPI(ctx context.Context, c *layout.Cluster) error {
	client, err := clientFor(c.Name)
	if err != nil {
		return err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	ready := map[string]bool{}
	for _, n := range nodes.Items {
		_, ready[n.Name] = nodeReady(n)
	}
	for i := range s.Hosts {
		s.Hosts[i].NodeReady = ready[s.Hosts[i].Name]
	}
	if !c.Networked() {
		return complete(ctx, client, c)
	}
	return errors.Join(nodesReady(ctx, client, len(c.Hosts)), addonsReady(ctx, client, len(c.Hosts)))
}

// Resume makes a cluster that is there healthy again, as after a reboot of the machine: it starts
// what does not run and waits for the rest.
func Resume(ctx context.Context, name string, wait time.Duration, p *Progress) (*layout.Cluster, error) {
	c, err := layout.Load(name)
	if err != nil {
		return nil, err
	}
	if c.Phase != layout.PhaseUp {
		return nil, fmt.Errorf("cluster %s was never finished: remove it with `orlop down --name %s`", name, name)
	}
	s, err := Inspect(ctx, name)
	if err != nil {
		return nil, err
	}
	if s.Healthy {
		p.Say("up", fmt.Sprintf("Cluster %s is up and healthy: %s at %s", name, plural(len(c.Hosts), "node"), s.Server))
		return c, nil
	}
	late := &ExitError{ExitTimeout, fmt.Errorf("cluster %s was not healthy within %s", name, wait)}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, late)
	defer cancel()
	p.Say("up", fmt.Sprintf("Cluster %s is there, but %s", name, s.Problem))
	err = p.Step("hosts", "Starting what does not run", func() error {
		return eachHost(ctx, c.Hosts, func(ctx context.Context, h layout.Host) error { return Start(ctx, name, h.Name) })
	})
	if err != nil {
		return nil, err
	}
	return c, waitReady(ctx, c, p)
}

// Run runs a program in a host on the given files, and returns its exit code.
func Run(ctx context.Context, name, host string, cmd control.Command, signals <-chan os.Signal) (int, error) {
	socket, err := socketOf(name, host)
	if err != nil {
		return 0, err
	}
	return control.Exec(ctx, socket, cmd, signals)
}

// RunOnTerminal is Run on a terminal that is joined to the caller's.
func RunOnTerminal(ctx context.Context, name, host string, cmd control.Command) (int, error) {
	socket, err := socketOf(name, host)
	if err != nil {
		return 0, err
	}
	return control.Terminal(ctx, socket, cmd)
}

func socketOf(name, host string) (string, error) {
	c, h, err := loadHost(name, host)
	if err != nil {
		return "", err
	}
	socket := layout.Socket(c.Name, h.Name)
	if _, err := os.Stat(socket); err != nil {
		return "", fmt.Errorf("host %s does not run: start it with `orlop start %s`", h.Name, h.Name)
	}
	return socket, nil
}
