package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/orlop-io/orlop/cri"
	"github.com/orlop-io/orlop/kubelet/criconfig"
	"github.com/orlop-io/orlop/kubelet/environ"
	"github.com/orlop-io/orlop/kubelet/images"
	"github.com/orlop-io/orlop/kubelet/lifecycle"
	"github.com/orlop-io/orlop/kubelet/volumes"
)

// startError is why a container could not be started, as its status has it.
type startError struct {
	reason string
	err    error
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

func failed(reason string, err error) error {
	if err == nil {
		return nil
	}
	return &startError{reason, err}
}

// starting is one container on its way.
type starting struct {
	w    *worker
	s    lifecycle.State
	a    lifecycle.StartContainer
	pod  *v1.Pod
	spec *v1.Container
	// mounted is what the status is to say of the mounts, where that is more than the spec tells; else nil.
	mounted []v1.VolumeMountStatus
}

// startContainer brings a container up: image, configuration, creation, start, postStart hook.
func (w *worker) startContainer(ctx context.Context, s lifecycle.State, a lifecycle.StartContainer) {
	c := &starting{w: w, s: s, a: a, pod: s.Pod, spec: lifecycle.Spec(s.Pod, a.Name)}
	kind := containerType(&s, a.Name)
	w.k.metrics.containers.WithLabelValues(kind).Inc()
	facts, err := c.up(ctx)
	if err != nil {
		reason, image := "CreateContainerError", ""
		var se *startError
		var ie *images.Error
		switch {
		case errors.As(err, &ie):
			reason, image = ie.Reason, ie.Image
		case errors.As(err, &se):
			reason = se.reason
			if ctx.Err() == nil {
				w.k.events.Pod(c.pod, a.Name, true, "Failed", "Error: "+cri.Words(err))
			}
		}
		if ctx.Err() == nil {
			w.k.metrics.containerErrors.WithLabelValues(kind, reason).Inc()
		}
		w.post(lifecycle.StartFailed{Name: a.Name, Reason: reason, Message: cri.Words(err), Image: image})
		return
	}
	hooked := c.spec.Lifecycle != nil && c.spec.Lifecycle.PostStart != nil
	if !hooked {
		w.post(lifecycle.ContainerSeen{Facts: facts}, lifecycle.HookDone{Name: a.Name, ID: facts.ID})
	} else {
		w.post(lifecycle.ContainerSeen{Facts: facts})
	}
	w.k.linkLog(c.pod, a.Name, facts.ID, facts.LogPath)
	if hooked {
		w.post(lifecycle.HookDone{Name: a.Name, ID: facts.ID, Err: c.postStart(ctx, facts.ID)})
	}
}

// up makes and starts the container, and says what it is then.
func (c *starting) up(ctx context.Context) (facts lifecycle.Facts, err error) {
	k := c.w.k
	sandbox, err := c.w.sandboxConfig(c.pod, c.s.Sandbox.Attempt)
	if err != nil {
		return facts, err
	}
	vols, err := c.imageVolumes(ctx, sandbox)
	if err != nil {
		return facts, err
	}
	img, err := c.ensure(ctx, sandbox, c.a.Name, c.spec.Image, c.spec.ImagePullPolicy)
	if err != nil {
		return facts, err
	}
	cfg, err := c.config(ctx, img, vols)
	if err != nil {
		return facts, err
	}
	release, err := k.starts.take(ctx, container)
	if err != nil {
		return facts, err
	}
	defer release()
	if err := os.MkdirAll(filepath.Join(sandbox.LogDirectory, c.a.Name), 0o755); err != nil {
		return facts, failed("CreateContainerError", fmt.Errorf("make log directory: %w", err))
	}
	id, err := k.rt.CreateContainer(ctx, c.a.Sandbox, cfg, sandbox)
	if err != nil {
		c.dropHalfMade(ctx)
		return facts, failed("CreateContainerError", err)
	}
	k.own(id, c.w.uid)
	facts = lifecycle.Facts{Name: c.a.Name, ID: id, Sandbox: c.a.Sandbox, Attempt: c.a.Attempt, Image: c.spec.Image, SpecImage: c.spec.Image,
		Resources: c.spec.Resources.DeepCopy(), ImageID: img.ID, Mounts: c.mounted, LogPath: filepath.Join(sandbox.LogDirectory, cfg.LogPath)}
	c.w.post(lifecycle.ContainerCreated{Facts: facts})
	k.events.Pod(c.pod, c.a.Name, false, "Created", "Container created")
	if err := k.rt.StartContainer(ctx, id); err != nil {
		return facts, failed("RunContainerError", err)
	}
	k.events.Pod(c.pod, c.a.Name, false, "Started", "Container started")
	facts.Running, facts.StartedAt = true, time.Now()
	return facts, nil
}

// dropHalfMade removes what a try that was cut off, or a kubelet that died, has left of this very instance, for its name
// is taken otherwise.
func (c *starting) dropHalfMade(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	list, err := c.w.k.rt.Containers(ctx)
	c.w.warn("look for half-made container", err)
	for _, have := range list {
		if f, ok := criconfig.Find(have.Labels, have.Annotations); ok && f.UID == c.w.uid && f.Container == c.a.Name && f.Attempt == c.a.Attempt {
			c.w.warn("remove half-made container", c.w.k.rt.RemoveContainer(ctx, have.Id))
		}
	}
}

func (c *starting) postStart(ctx context.Context, id string) error {
	err := c.w.k.hooks.Run(ctx, c.spec, id, c.w.podIP(&c.s), c.spec.Lifecycle.PostStart)
	if err != nil && ctx.Err() == nil {
		c.w.log.Warn("postStart hook", "container", c.a.Name, "err", err)
	}
	return err
}

// ensure gets an image into the runtime. Its events name the container, or for an empty name the pod.
func (c *starting) ensure(ctx context.Context, sandbox *runtimeapi.PodSandboxConfig, container, image string, policy v1.PullPolicy) (images.Image, error) {
	auths, err := c.auths(ctx, image)
	if err != nil {
		c.w.log.Warn("image pull secrets", "err", err) // the image may be there, or be public
	}
	var pulling time.Time
	img, err := c.w.k.puller.Ensure(ctx, images.Request{
		Image: image, Policy: policy, Auths: auths, Sandbox: sandbox,
		Tell: func(warning bool, reason, message string) {
			if reason == "Pulling" {
				pulling = time.Now()
			}
			c.w.k.events.Pod(c.pod, container, warning, reason, message)
		},
	})
	if !pulling.IsZero() {
		c.w.start.pulled(pulling, time.Now())
	}
	return img, err
}

func (c *starting) auths(ctx context.Context, image string) ([]images.Auth, error) {
	var secrets []*v1.Secret
	var errs []error
	for _, ref := range c.pod.Spec.ImagePullSecrets {
		s, err := c.w.k.sync.Secret(ctx, c.pod.Namespace, ref.Name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		secrets = append(secrets, s)
	}
	auths, err := images.Auths(image, secrets)
	return auths, errors.Join(append(errs, err)...)
}

// config gathers what the container is made of.
func (c *starting) config(ctx context.Context, img images.Image, vols imageVolumes) (*runtimeapi.ContainerConfig, error) {
	k := c.w.k
	services, err := k.sync.services(ctx, c.pod)
	if err != nil {
		return nil, failed("CreateContainerConfigError", err)
	}
	ips := c.s.Sandbox.IPs
	if c.pod.Spec.HostNetwork {
		ips = k.cfg.NodeIPs
	}
	env, err := environ.Make(ctx, environ.Inputs{Pod: c.pod, Container: c.spec, PodIPs: ips, HostIPs: k.cfg.NodeIPs, Services: services,
		Allocatable: k.allocatable}, k.sync)
	if err != nil {
		return nil, failed("CreateContainerConfigError", err)
	}
	mounts, err := c.mounts(ctx, env, ips, vols)
	if err != nil {
		return nil, failed("CreateContainerConfigError", err)
	}
	cfg, err := criconfig.Container{
		Pod: c.pod, Spec: c.spec, Attempt: c.a.Attempt, ImageRef: img.Ref, ImageUser: img.User, ImageUID: img.UID,
		Command: environ.Expand(c.spec.Command, env), Args: environ.Expand(c.spec.Args, env),
		Env: env, Mounts: mounts, MountStatuses: c.mounted, Target: c.target(), SeccompDefault: k.cfg.SeccompDefault, SeccompDir: k.seccompDir(),
		Resources: criconfig.Resources(c.pod, c.spec, c.w.qos, k.cgroupFacts()),
	}.Config()
	return cfg, failed("CreateContainerConfigError", err)
}

// target is the container whose processes an ephemeral container is to see.
func (c *starting) target() string {
	for i := range c.pod.Spec.EphemeralContainers {
		e := &c.pod.Spec.EphemeralContainers[i]
		if t := c.s.Container(e.TargetContainerName); e.Name == c.a.Name && t != nil {
			return t.Facts.ID
		}
	}
	return ""
}

func (c *starting) mounts(ctx context.Context, env []v1.EnvVar, ips []string, images imageVolumes) ([]*runtimeapi.Mount, error) {
	var out []*runtimeapi.Mount
	ready := map[string]volumes.Mount{}
	if m := c.w.mounts.Load(); m != nil {
		ready = *m
	}
	recursive, err := c.recursive(ctx)
	if err != nil {
		return nil, err
	}
	c.mounted = mountStatuses(c.spec, recursive, images)
	hostsMounted := false
	for i := range c.spec.VolumeMounts {
		vm := &c.spec.VolumeMounts[i]
		m, err := c.mount(vm, ready, images, env)
		if err != nil {
			return nil, err
		}
		m.RecursiveReadOnly = recursive[vm.MountPath]
		if !filepath.IsAbs(m.ContainerPath) {
			m.ContainerPath = "/" + m.ContainerPath
		}
		hostsMounted = hostsMounted || m.ContainerPath == "/etc/hosts"
		out = append(out, m)
	}
	dir := filepath.Join(c.w.k.cfg.RootDir, "pods", string(c.pod.UID))
	if !hostsMounted {
		path, err := c.hostsFile(dir, ips)
		if err != nil {
			return nil, err
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: path, Readonly: c.readOnlyRoot()})
	}
	if c.spec.TerminationMessagePath != "" {
		path, err := messageFile(dir, c.a.Name, c.a.Attempt)
		if err != nil {
			return nil, err
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: c.spec.TerminationMessagePath, HostPath: path})
	}
	return out, nil
}

// mount is how the runtime is asked for one of the container's mounts.
func (c *starting) mount(vm *v1.VolumeMount, ready map[string]volumes.Mount, images imageVolumes, env []v1.EnvVar) (*runtimeapi.Mount, error) {
	sub, err := subPath(vm, env)
	if err != nil {
		return nil, err
	}
	if image, ok := images[vm.Name]; ok {
		return &runtimeapi.Mount{ContainerPath: vm.MountPath, Image: image.spec(), ImageSubPath: sub, Readonly: true}, nil
	}
	vol, ok := ready[vm.Name]
	if !ok {
		return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, c.a.Name)
	}
	path := vol.HostPath
	if sub != "" {
		if path, err = c.w.k.vols.SubPath(c.pod, vol, sub); err != nil {
			return nil, err
		}
	}
	return &runtimeapi.Mount{ContainerPath: vm.MountPath, HostPath: path, Readonly: vm.ReadOnly || vol.ReadOnly, Propagation: propagation(vm.MountPropagation)}, nil
}

func (c *starting) readOnlyRoot() bool {
	sc := c.spec.SecurityContext
	return sc != nil && sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem
}

// subPath is the part of a volume that a mount is of, variables filled in; empty for the whole.
func subPath(vm *v1.VolumeMount, env []v1.EnvVar) (string, error) {
	if vm.SubPathExpr != "" {
		return environ.ExpandPath(vm.SubPathExpr, env)
	}
	return vm.SubPath, nil
}

func propagation(p *v1.MountPropagationMode) runtimeapi.MountPropagation {
	if p != nil {
		switch *p {
		case v1.MountPropagationBidirectional:
			return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		case v1.MountPropagationHostToContainer:
			return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		}
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

// hostsFile writes the pod's /etc/hosts. It is written in place, since running containers have the
// file itself mounted.
func (c *starting) hostsFile(dir string, ips []string) (string, error) {
	var host []byte
	if c.pod.Spec.HostNetwork {
		text, err := os.ReadFile("/etc/hosts")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read the node's hosts file: %w", err)
		}
		host = text
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("make pod directory: %w", err)
	}
	path := filepath.Join(dir, "etc-hosts")
	if err := os.WriteFile(path, environ.HostsFile(c.pod, ips, host, c.w.k.cfg.ClusterDomain), 0o644); err != nil {
		return "", fmt.Errorf("write hosts file: %w", err)
	}
	return path, nil
}

// messagePath is the file that a container's instance may leave its last words in.
func messagePath(podDir, container string, attempt int) string {
	return filepath.Join(podDir, "containers", container, strconv.Itoa(attempt))
}

func messageFile(podDir, container string, attempt int) (string, error) {
	path := messagePath(podDir, container, attempt)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("make directory of termination message: %w", err)
	}
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return "", fmt.Errorf("make termination message file: %w", err)
	}
	return path, os.Chmod(path, 0o666) // whoever the container runs as, whatever our umask
}

// lastWords is an exited container's termination message.
func lastWords(path, policy, logPath string, exitCode int32) string {
	const most = 4096
	if path != "" {
		if text, err := tail(path, most); err == nil && len(text) > 0 {
			return text
		}
	}
	if policy == string(v1.TerminationMessageFallbackToLogsOnError) && exitCode != 0 {
		return lastLines(logPath)
	}
	return ""
}

// lastLines is the end of a container's log, without the runtime's stamps.
func lastLines(logPath string) string {
	const lines, bytes = 80, 2048
	text, err := tail(logPath, 4*bytes)
	if err != nil {
		return ""
	}
	var out []string
	for line := range strings.Lines(text) { // "time stream tags text"
		if f := strings.SplitN(line, " ", 4); len(f) == 4 {
			out = append(out, f[3])
		}
	}
	joined := strings.Join(out[max(0, len(out)-lines):], "")
	return joined[max(0, len(joined)-bytes):]
}

// tail reads the last bytes of a file.
func tail(path string, most int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	buf := make([]byte, min(most, st.Size()))
	n, err := f.ReadAt(buf, max(0, st.Size()-most))
	if n < len(buf) {
		return "", err
	}
	return string(buf), nil
}
