package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/cri"
	"github.com/orlop-io/orlop/kubelet/criconfig"
	"github.com/orlop-io/orlop/kubelet/environ"
	"github.com/orlop-io/orlop/kubelet/lifecycle"
	"github.com/orlop-io/orlop/kubelet/sysctls"
	"github.com/orlop-io/orlop/kubelet/volumes"
)

// effect gives the function that carries out an action for the pod as it is in s. What begins
// something runs under starting, which ends when the pod does.
func (w *worker) effect(ctx, starting context.Context, a lifecycle.Action, s lifecycle.State) func() {
	switch a := a.(type) {
	case lifecycle.SetupVolumes:
		return func() { w.setupVolumes(starting, s.Pod) }
	case lifecycle.MakeSandbox:
		return func() { w.makeSandbox(starting, s.Pod, a) }
	case lifecycle.StopSandbox:
		return func() { w.stopSandbox(ctx, a) }
	case lifecycle.RemoveSandbox:
		return func() { w.removeSandbox(ctx, a.ID) }
	case lifecycle.RemoveContainer:
		return func() { w.removeContainer(ctx, a.ID) }
	case lifecycle.StartContainer:
		return func() { w.startContainer(starting, s, a) }
	case lifecycle.KillContainer:
		return func() { w.killContainer(ctx, s, a) }
	case lifecycle.Allocate:
		return func() { w.allocate(s, a) }
	case lifecycle.ResizeContainers:
		return func() { w.resizeContainers(ctx, s.Pod, a) }
	case lifecycle.GiveBack:
		return func() { w.giveBack(ctx) }
	}
	panic(fmt.Sprintf("no effect for action %T", a))
}

// warn logs the failure of what the sweep will try again.
func (w *worker) warn(act string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		w.log.Warn(act, "err", err)
	}
}

func (w *worker) setupVolumes(ctx context.Context, pod *v1.Pod) {
	mounts, err := w.k.vols.Setup(ctx, pod, w.k.volumeInputs())
	if err == nil {
		w.mounts.Store(&mounts)
	}
	w.post(lifecycle.VolumesDone{Err: err})
}

func (k *Kubelet) volumeInputs() volumes.Inputs {
	return volumes.Inputs{Allocatable: k.allocatable}
}

func (w *worker) makeSandbox(ctx context.Context, pod *v1.Pod, a lifecycle.MakeSandbox) {
	w.k.metrics.pods.Inc()
	id, ips, err := w.runSandbox(ctx, pod, a.Attempt)
	if err != nil && ctx.Err() == nil {
		w.k.metrics.podErrors.Inc()
	}
	w.post(lifecycle.SandboxDone{ID: id, IPs: ips, Err: err})
}

func (w *worker) runSandbox(ctx context.Context, pod *v1.Pod, attempt int) (string, []string, error) {
	k := w.k
	if !pod.Spec.HostNetwork {
		if err := w.awaitNetwork(ctx, pod); err != nil {
			return "", nil, err
		}
	}
	if err := w.unable(ctx, pod); err != nil {
		return "", nil, err
	}
	if err := k.groups.EnsurePod(pod); err != nil {
		return "", nil, fmt.Errorf("make cgroup: %w", err)
	}
	w.countKills(pod)
	cfg, err := w.sandboxConfig(pod, attempt)
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(cfg.LogDirectory, 0o755); err != nil {
		return "", nil, fmt.Errorf("make log directory: %w", err)
	}
	handler, err := k.sync.handler(ctx, pod)
	if err != nil {
		return "", nil, err
	}
	release, err := k.starts.take(ctx, sandbox)
	if err != nil {
		return "", nil, err
	}
	defer release()
	begun := time.Now()
	id, err := k.rt.RunSandbox(ctx, cfg, handler)
	k.metrics.sandboxTook.WithLabelValues(handler).Observe(time.Since(begun).Seconds())
	if err != nil {
		k.metrics.sandboxErrors.WithLabelValues(handler).Inc()
		w.dropHalfMade(ctx, attempt)
		return "", nil, err
	}
	k.own(id, w.uid)
	st, err := k.rt.Sandbox(ctx, id)
	if err != nil {
		return "", nil, errors.Join(err, k.rt.RemoveSandbox(context.WithoutCancel(ctx), id))
	}
	return id, sandboxIPs(st), nil
}

// dropHalfMade removes what a failed try may have left, for its name is taken otherwise.
func (w *worker) dropHalfMade(ctx context.Context, attempt int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	list, err := w.k.rt.SandboxesWith(ctx, map[string]string{criconfig.LabelPodUID: string(w.uid)})
	w.warn("look for half-made sandbox", err)
	for _, sb := range list {
		if int(sb.Metadata.Attempt) == attempt {
			w.warn("remove half-made sandbox", errors.Join(w.k.rt.StopSandbox(ctx, sb.Id), w.k.rt.RemoveSandbox(ctx, sb.Id)))
		}
	}
}

// awaitNetwork waits for the runtime's network, and says once that it does.
func (w *worker) awaitNetwork(ctx context.Context, pod *v1.Pod) error {
	open, why := w.k.network.state()
	select {
	case <-open:
		return nil
	default:
	}
	w.k.events.Pod(pod, "", true, "NetworkNotReady", "network is not ready: "+why)
	select {
	case <-open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *worker) sandboxConfig(pod *v1.Pod, attempt int) (*runtimeapi.PodSandboxConfig, error) {
	k := w.k
	hostname, err := environ.KernelHostname(pod, k.cfg.ClusterDomain)
	if err != nil {
		return nil, err
	}
	dns := environ.ResolvConf(pod, k.dns, k.cfg.ClusterDNS, k.cfg.ClusterDomain)
	return criconfig.Sandbox{
		Pod: pod, Attempt: attempt, CgroupParent: k.groups.PodParent(pod), Hostname: hostname, SeccompDefault: k.cfg.SeccompDefault, SeccompDir: k.seccompDir(),
		Sysctls: sysctls.Set(pod, k.cfg.DefaultSysctls),
		LogDir:  criconfig.LogDir(k.cfg.PodLogsDir, pod.Namespace, pod.Name, pod.UID),
		DNS:     &runtimeapi.DNSConfig{Servers: dns.Servers, Searches: dns.Searches, Options: dns.Options},
	}.Config(), nil
}

// seccompDir holds the seccomp profiles that pods name.
func (k *Kubelet) seccompDir() string { return filepath.Join(k.cfg.RootDir, "seccomp") }

func sandboxIPs(st *runtimeapi.PodSandboxStatus) []string {
	if st.GetNetwork().GetIp() == "" {
		return nil
	}
	ips := []string{st.Network.Ip}
	for _, ip := range st.Network.AdditionalIps {
		ips = append(ips, ip.Ip)
	}
	return ips
}

func (w *worker) stopSandbox(ctx context.Context, a lifecycle.StopSandbox) {
	release, err := w.k.ends.take(ctx, sandbox)
	if err != nil {
		return // the kubelet ends
	}
	err = w.k.rt.StopSandbox(ctx, a.ID)
	release()
	if err == nil {
		for _, id := range a.Containers {
			w.look(ctx, id)
		}
	}
	w.post(lifecycle.SandboxStopped{ID: a.ID, Err: err})
}

func (w *worker) removeSandbox(ctx context.Context, id string) {
	release, err := w.k.ends.take(ctx, sandbox)
	if err != nil {
		return // the kubelet ends
	}
	defer release()
	err = w.k.rt.RemoveSandbox(ctx, id)
	w.warn("remove sandbox", err)
	if err == nil {
		w.k.disown(id)
	}
}

func (w *worker) removeContainer(ctx context.Context, id string) {
	err := w.k.rt.RemoveContainer(ctx, id)
	w.warn("remove container", err)
	if err == nil {
		w.k.disown(id)
	}
}

// look asks the runtime about a container and posts the answer.
func (w *worker) look(ctx context.Context, id string) {
	st, err := w.k.rt.Container(ctx, id)
	switch {
	case errors.Is(err, cri.ErrNotFound):
		w.post(lifecycle.ContainerMissing{ID: id})
	case err != nil:
		w.warn("look at container", err)
	default:
		w.post(lifecycle.ContainerSeen{Facts: w.factsOf(st)})
	}
}

// killContainer runs the preStop hook and stops, both within the grace.
func (w *worker) killContainer(ctx context.Context, s lifecycle.State, a lifecycle.KillContainer) {
	k := w.k
	deadline := time.Now().Add(a.Grace)
	if a.Why != "FailedPostStartHook" {
		k.events.Pod(s.Pod, a.Name, false, "Killing", a.Why)
	} else {
		k.events.Pod(s.Pod, a.Name, false, "Killing", "FailedPostStartHook")
	}
	spec := lifecycle.Spec(s.Pod, a.Name)
	hooked := !a.NoHook && spec != nil && spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil
	if hooked {
		hookCtx, cancel := context.WithDeadline(ctx, deadline)
		err := k.hooks.Run(hookCtx, spec, a.ID, w.podIP(&s), spec.Lifecycle.PreStop)
		cancel()
		if err != nil && ctx.Err() == nil {
			k.events.Pod(s.Pod, a.Name, true, "FailedPreStopHook", "PreStopHook failed")
			w.log.Warn("preStop hook", "container", a.Name, "err", err)
		}
	}
	// A hook that took all the grace still leaves the container two seconds to end.
	left := max(time.Until(deadline), 0)
	if left < 2*time.Second && hooked {
		left = 2 * time.Second
	}
	what := container
	if left == 0 {
		what = atOnce
	}
	release, err := k.ends.take(ctx, what)
	if err != nil {
		return // the kubelet ends
	}
	err = k.rt.StopContainer(ctx, a.ID, left)
	release()
	if err == nil {
		w.lookUntilExited(ctx, a.ID)
	}
	w.post(lifecycle.KillDone{Name: a.Name, ID: a.ID, Err: err})
}

// podIP is the address that hooks go to.
func (w *worker) podIP(s *lifecycle.State) string {
	if s.Pod.Spec.HostNetwork || len(s.Sandbox.IPs) == 0 {
		return w.k.cfg.NodeIPs[0]
	}
	return s.Sandbox.IPs[0]
}

// lookUntilExited looks at a container that has ended until the runtime says so too: containerd
// tells of an exit at the moment its CRI part learns of it.
func (w *worker) lookUntilExited(ctx context.Context, id string) {
	for wait := 2 * time.Millisecond; wait < 2*time.Second; wait *= 2 {
		st, err := w.k.rt.Container(ctx, id)
		if errors.Is(err, cri.ErrNotFound) {
			w.post(lifecycle.ContainerMissing{ID: id})
			return
		}
		if err == nil && st.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			w.post(lifecycle.ContainerSeen{Facts: w.factsOf(st)})
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// giveBack returns what the pod held of the node.
func (w *worker) giveBack(ctx context.Context) {
	err := w.k.vols.Teardown(ctx, w.uid)
	if groupErr := w.k.groups.RemovePod(ctx, w.uid); groupErr != nil {
		err = errors.Join(err, groupErr)
	}
	w.warn("give back volumes and cgroup", err)
	w.post(lifecycle.CleanupDone{Err: err})
}
