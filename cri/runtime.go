package cri

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Time limits by kind of call. Looking takes under a millisecond when all is well; making a
// sandbox includes the network plugin, which may wait for a cloud.
const (
	lookLimit    = 10 * time.Second
	makeLimit    = 2 * time.Minute
	sandboxLimit = 4 * time.Minute
	stopSlack    = 30 * time.Second
	execSlack    = 5 * time.Second
)

// Version says which runtime this is.
func (c *Client) Version(ctx context.Context) (*runtimeapi.VersionResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.runtime.Version(ctx, &runtimeapi.VersionRequest{Version: "v1"})
	return r, wrap("ask runtime version", "", err)
}

// Status gives the runtime's conditions (RuntimeReady, NetworkReady) and handlers.
func (c *Client) Status(ctx context.Context) (*runtimeapi.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.runtime.Status(ctx, &runtimeapi.StatusRequest{})
	return r, wrap("ask runtime status", "", err)
}

// CgroupDriver says which cgroup driver the runtime uses. Where it has no call for that, as containerd 1.x, its
// configuration tells; ErrUnimplemented if neither does.
func (c *Client) CgroupDriver(ctx context.Context) (runtimeapi.CgroupDriver, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.runtime.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{})
	if err == nil && r.GetLinux() != nil {
		return r.Linux.CgroupDriver, nil
	}
	if err == nil {
		err = status.Error(codes.Unimplemented, "no cgroup driver in the runtime's answer")
	}
	unknown := wrap("ask runtime configuration", "", err)
	if !errors.Is(unknown, ErrUnimplemented) {
		return 0, unknown
	}
	told, err := c.runtime.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return 0, wrap("ask runtime configuration", "", err)
	}
	if driver, ok := configuredDriver(told.GetInfo()["config"]); ok {
		return driver, nil
	}
	return 0, unknown
}

// configuredDriver reads the driver out of containerd 1.x's configuration: that of the runtime that pods run in by default.
func configuredDriver(config string) (runtimeapi.CgroupDriver, bool) {
	var cfg struct {
		Containerd struct {
			Default  string `json:"defaultRuntimeName"`
			Runtimes map[string]struct {
				Type    string         `json:"runtimeType"`
				Options map[string]any `json:"options"`
			} `json:"runtimes"`
		} `json:"containerd"`
	}
	if json.Unmarshal([]byte(config), &cfg) != nil {
		return 0, false
	}
	r, ok := cfg.Containerd.Runtimes[cfg.Containerd.Default]
	if !ok || r.Type != "io.containerd.runc.v2" {
		return 0, false
	}
	if systemd, _ := r.Options["SystemdCgroup"].(bool); systemd {
		return runtimeapi.CgroupDriver_SYSTEMD, true
	}
	return runtimeapi.CgroupDriver_CGROUPFS, true
}

// NetworkFolders says where the runtime looks for CNI plugins, in its order, and for CNI configurations. ErrUnimplemented where its status does
// not tell; containerd's does.
func (c *Client) NetworkFolders(ctx context.Context) (plugins []string, configurations string, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	told, err := c.runtime.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return nil, "", wrap("ask runtime status", "", err)
	}
	plugins, configurations = networkFolders(told.GetInfo()["config"])
	if len(plugins) == 0 && configurations == "" {
		return nil, "", wrap("ask runtime for its CNI folders", "", status.Error(codes.Unimplemented, "its status does not tell"))
	}
	return plugins, configurations, nil
}

// networkFolders reads them out of containerd's configuration: 1.x has one folder of plugins, 2.x several.
func networkFolders(config string) (plugins []string, configurations string) {
	var cfg struct {
		CNI struct {
			BinDir  string   `json:"binDir"`
			BinDirs []string `json:"binDirs"`
			ConfDir string   `json:"confDir"`
		} `json:"cni"`
	}
	if json.Unmarshal([]byte(config), &cfg) != nil {
		return nil, ""
	}
	for _, dir := range append(cfg.CNI.BinDirs, cfg.CNI.BinDir) {
		if dir != "" && !slices.Contains(plugins, dir) {
			plugins = append(plugins, dir)
		}
	}
	return plugins, cfg.CNI.ConfDir
}

// SetPodCIDR tells the runtime the node's pod range, for runtimes that template CNI configuration.
func (c *Client) SetPodCIDR(ctx context.Context, cidr string) error {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	_, err := c.runtime.UpdateRuntimeConfig(ctx, &runtimeapi.UpdateRuntimeConfigRequest{
		RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: cidr}},
	})
	return wrap("give runtime pod CIDR", cidr, err)
}

// RunSandbox makes a pod's sandbox, its network included, and returns its id.
func (c *Client) RunSandbox(ctx context.Context, cfg *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, sandboxLimit)
	defer cancel()
	r, err := c.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg, RuntimeHandler: handler})
	if err != nil {
		return "", wrap("run sandbox", cfg.GetMetadata().GetName(), err)
	}
	return r.PodSandboxId, nil
}

// StopSandbox stops a sandbox and all containers in it. A sandbox that is gone is success.
func (c *Client) StopSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, makeLimit)
	defer cancel()
	_, err := c.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	return gone(wrap("stop sandbox", id, err))
}

// Sandbox gives the status of one sandbox.
func (c *Client) Sandbox(ctx context.Context, id string) (*runtimeapi.PodSandboxStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return nil, wrap("look at sandbox", id, err)
	}
	return r.Status, nil
}

// Sandboxes lists all sandboxes, ready or not.
func (c *Client) Sandboxes(ctx context.Context) ([]*runtimeapi.PodSandbox, error) {
	return c.SandboxesWith(ctx, nil)
}

// SandboxesWith lists the sandboxes, ready or not, that have all of the labels.
func (c *Client) SandboxesWith(ctx context.Context, labels map[string]string) ([]*runtimeapi.PodSandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: labels}})
	if err != nil {
		return nil, wrap("list sandboxes", "", err)
	}
	return r.Items, nil
}

// CreateContainer makes a container in a sandbox, without starting it, and returns its id.
func (c *Client) CreateContainer(ctx context.Context, sandbox string, cfg *runtimeapi.ContainerConfig, sandboxCfg *runtimeapi.PodSandboxConfig) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, makeLimit)
	defer cancel()
	r, err := c.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: cfg, SandboxConfig: sandboxCfg})
	if err != nil {
		return "", wrap("create container", cfg.GetMetadata().GetName(), err)
	}
	return r.ContainerId, nil
}

// StartContainer starts a created container.
func (c *Client) StartContainer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, makeLimit)
	defer cancel()
	_, err := c.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
	return wrap("start container", id, err)
}

// StopContainer asks a container to end and kills it after grace. It returns when the container
// has ended; one that is gone is success.
func (c *Client) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace+stopSlack)
	defer cancel()
	seconds := int64((grace + time.Second - 1) / time.Second)
	_, err := c.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: seconds})
	return gone(wrap("stop container", id, err))
}

// Container gives the status of one container.
func (c *Client) Container(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return nil, wrap("look at container", id, err)
	}
	return r.Status, nil
}

// Containers lists all containers in any state.
func (c *Client) Containers(ctx context.Context) ([]*runtimeapi.Container, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, wrap("list containers", "", err)
	}
	return r.Containers, nil
}

// UpdateContainer changes a running container's limits.
func (c *Client) UpdateContainer(ctx context.Context, id string, res *runtimeapi.LinuxContainerResources) error {
	ctx, cancel := context.WithTimeout(ctx, makeLimit)
	defer cancel()
	_, err := c.runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: res})
	return wrap("update container", id, err)
}

// ReopenLog makes the runtime open a container's log file anew, after it was moved away.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	_, err := c.runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
	return wrap("reopen log of container", id, err)
}

// ExecSync runs a command in a container and waits for it, at most limit (0: for ever).
func (c *Client) ExecSync(ctx context.Context, id string, cmd []string, limit time.Duration) (*runtimeapi.ExecSyncResponse, error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit+execSlack)
		defer cancel()
	}
	seconds := int64((limit + time.Second - 1) / time.Second)
	r, err := c.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: seconds})
	return r, wrap("exec in container", id, err)
}

// ExecURL prepares a streaming exec and gives the runtime's URL for it.
func (c *Client) ExecURL(ctx context.Context, req *runtimeapi.ExecRequest) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.runtime.Exec(ctx, req)
	return r.GetUrl(), wrap("prepare exec in container", req.ContainerId, err)
}

// AttachURL prepares an attach and gives the runtime's URL for it.
func (c *Client) AttachURL(ctx context.Context, req *runtimeapi.AttachRequest) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.runtime.Attach(ctx, req)
	return r.GetUrl(), wrap("prepare attach to container", req.ContainerId, err)
}

// PortForwardURL prepares a port-forward and gives the runtime's URL for it.
func (c *Client) PortForwardURL(ctx context.Context, req *runtimeapi.PortForwardRequest) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.runtime.PortForward(ctx, req)
	return r.GetUrl(), wrap("prepare port-forward to sandbox", req.PodSandboxId, err)
}

// StatsOf gives the resource use of one container.
func (c *Client) StatsOf(ctx context.Context, id string) (*runtimeapi.ContainerStats, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
	return r.GetStats(), wrap("stats of container", id, err)
}

// ContainerStats gives the resource use of all running containers.
func (c *Client) ContainerStats(ctx context.Context) ([]*runtimeapi.ContainerStats, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
	return r.GetStats(), wrap("list container stats", "", err)
}

// SandboxStats gives the resource use of all running pods, containers included. Pods that end while
// it looks are left out.
func (c *Client) SandboxStats(ctx context.Context) ([]*runtimeapi.PodSandboxStats, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	r, err := c.runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
	if err == nil {
		return r.GetStats(), nil
	}
	// containerd 1.6 lists none if one of them is stopped and its cgroup gone.
	ready := &runtimeapi.PodSandboxFilter{State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}}
	list, listErr := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: ready})
	if listErr != nil {
		return nil, wrap("list sandbox stats", "", err)
	}
	var out []*runtimeapi.PodSandboxStats
	for _, sb := range list.Items {
		if one, err := c.runtime.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: sb.Id}); err == nil {
			out = append(out, one.Stats)
		}
	}
	return out, nil
}

// ended says that a stream came to its natural end, which for an endless stream means that the
// runtime went away.
func ended(err error) error {
	if err == io.EOF {
		return status.Error(codes.Unavailable, "stream ended")
	}
	return err
}
