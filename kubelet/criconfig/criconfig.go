// Package criconfig writes down a pod's sandbox and containers in the runtime's words.
//
// It is pure: everything that must be looked up (variables, mounts, addresses, the image's user)
// comes in as a value. Names of labels, annotations and files are upstream's, because tools read
// them, and because the kubelet finds its pods again by them after a restart.
package criconfig

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels of sandboxes and containers.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"
)

// Annotations of containers.
const (
	annRestartCount  = "io.kubernetes.container.restartCount"
	annMessagePath   = "io.kubernetes.container.terminationMessagePath"
	annMessagePolicy = "io.kubernetes.container.terminationMessagePolicy"
	annGrace         = "io.kubernetes.pod.terminationGracePeriod"
	annImage         = "io.orlop.container.image"
	annResources     = "io.orlop.container.resources"
	annMounts        = "io.orlop.container.mounts"
)

// Sandbox is what a sandbox is made of besides the pod.
type Sandbox struct {
	Pod          *v1.Pod
	Attempt      int
	CgroupParent string
	LogDir       string
	Hostname     string
	DNS          *runtimeapi.DNSConfig
	// SeccompDefault: pods that name no seccomp profile get the runtime's default.
	SeccompDefault bool
	// SeccompDir holds the profiles that pods name.
	SeccompDir string
	// Sysctls are all that are to be set.
	Sysctls map[string]string
}

// Config gives the runtime's form of the sandbox.
func (s Sandbox) Config() *runtimeapi.PodSandboxConfig {
	p := s.Pod
	cfg := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: string(p.UID), Attempt: uint32(s.Attempt)},
		LogDirectory: s.LogDir,
		DnsConfig:    s.DNS,
		Labels:       map[string]string{},
		Annotations:  p.Annotations,
		PortMappings: portMappings(p),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    s.CgroupParent,
			Sysctls:         map[string]string{},
			SecurityContext: s.security(),
			Resources:       &runtimeapi.LinuxContainerResources{},
			Overhead:        &runtimeapi.LinuxContainerResources{},
		},
	}
	if !p.Spec.HostNetwork {
		cfg.Hostname = s.Hostname
	}
	for k, v := range p.Labels {
		cfg.Labels[k] = v
	}
	cfg.Labels[LabelPodName], cfg.Labels[LabelPodNamespace], cfg.Labels[LabelPodUID] = p.Name, p.Namespace, string(p.UID)
	maps.Copy(cfg.Linux.Sysctls, s.Sysctls)
	return cfg
}

func (s Sandbox) security() *runtimeapi.LinuxSandboxSecurityContext {
	p := s.Pod
	out := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: namespaces(p),
		Privileged:       anyPrivileged(p),
		Seccomp:          seccomp(p, nil, s.SeccompDefault, s.SeccompDir),
	}
	if sc := p.Spec.SecurityContext; sc != nil {
		out.RunAsUser, out.RunAsGroup = int64Value(sc.RunAsUser), int64Value(sc.RunAsGroup)
		if out.RunAsUser == nil {
			out.RunAsGroup = nil // the runtime refuses a group without a user
		}
		out.SupplementalGroups = groups(p)
		out.SupplementalGroupsPolicy = groupsPolicy(sc)
		out.SelinuxOptions = selinux(sc.SELinuxOptions)
	}
	return out
}

func portMappings(p *v1.Pod) []*runtimeapi.PortMapping {
	if p.Spec.HostNetwork {
		return nil
	}
	var out []*runtimeapi.PortMapping
	add := func(c *v1.Container) {
		for _, port := range c.Ports {
			proto := runtimeapi.Protocol_TCP
			switch port.Protocol {
			case v1.ProtocolUDP:
				proto = runtimeapi.Protocol_UDP
			case v1.ProtocolSCTP:
				proto = runtimeapi.Protocol_SCTP
			}
			if port.HostPort == 0 { // the runtime would ask the network for it all the same
				continue
			}
			out = append(out, &runtimeapi.PortMapping{Protocol: proto, ContainerPort: port.ContainerPort, HostPort: port.HostPort, HostIp: port.HostIP})
		}
	}
	for i := range p.Spec.InitContainers {
		if rp := p.Spec.InitContainers[i].RestartPolicy; rp != nil && *rp == v1.ContainerRestartPolicyAlways {
			add(&p.Spec.InitContainers[i])
		}
	}
	for i := range p.Spec.Containers {
		add(&p.Spec.Containers[i])
	}
	return out
}

// Container is what a container is made of besides its spec.
type Container struct {
	Pod     *v1.Pod
	Spec    *v1.Container
	Attempt int
	// ImageRef is the image in the runtime; ImageUser and ImageUID whom it runs as by itself.
	ImageRef  string
	ImageUser string
	ImageUID  *int64
	// Command and Args have variables filled in.
	Command, Args []string
	Env           []v1.EnvVar
	Mounts        []*runtimeapi.Mount
	// MountStatuses is to be found again with the container; nil for nothing.
	MountStatuses []v1.VolumeMountStatus
	// Target is the container whose processes an ephemeral container shares, by id.
	Target         string
	SeccompDefault bool
	SeccompDir     string
	Resources      *runtimeapi.LinuxContainerResources
}

// LogPath is where a container's log is, relative to its pod's log directory.
func LogPath(container string, attempt int) string {
	return filepath.Join(container, strconv.Itoa(attempt)+".log")
}

// LogDir is a pod's log directory below root, normally /var/log/pods.
func LogDir(root, namespace, name string, uid types.UID) string {
	return filepath.Join(root, namespace+"_"+name+"_"+string(uid))
}

// Config gives the runtime's form of the container, or says what about the spec cannot be done.
func (c Container) Config() (*runtimeapi.ContainerConfig, error) {
	sc, err := c.security()
	if err != nil {
		return nil, err
	}
	spec := c.Spec
	resources, err := json.Marshal(spec.Resources)
	if err != nil {
		return nil, fmt.Errorf("note resources of container %s: %w", spec.Name, err)
	}
	cfg := &runtimeapi.ContainerConfig{
		Metadata:   &runtimeapi.ContainerMetadata{Name: spec.Name, Attempt: uint32(c.Attempt)},
		Image:      &runtimeapi.ImageSpec{Image: c.ImageRef, UserSpecifiedImage: spec.Image},
		Command:    c.Command,
		Args:       c.Args,
		WorkingDir: spec.WorkingDir,
		Mounts:     c.Mounts,
		Labels: map[string]string{
			LabelContainerName: spec.Name, LabelPodName: c.Pod.Name, LabelPodNamespace: c.Pod.Namespace, LabelPodUID: string(c.Pod.UID),
		},
		Annotations: map[string]string{
			annRestartCount:  strconv.Itoa(c.Attempt),
			annMessagePath:   spec.TerminationMessagePath,
			annMessagePolicy: string(spec.TerminationMessagePolicy),
			annImage:         spec.Image,
			annResources:     string(resources),
		},
		LogPath:   LogPath(spec.Name, c.Attempt),
		Stdin:     spec.Stdin,
		StdinOnce: spec.StdinOnce,
		Tty:       spec.TTY,
		Linux:     &runtimeapi.LinuxContainerConfig{Resources: c.Resources, SecurityContext: sc},
	}
	if g := c.Pod.Spec.TerminationGracePeriodSeconds; g != nil {
		cfg.Annotations[annGrace] = strconv.FormatInt(*g, 10)
	}
	if len(c.MountStatuses) > 0 {
		text, err := json.Marshal(c.MountStatuses)
		if err != nil {
			return nil, fmt.Errorf("note mounts of container %s: %w", spec.Name, err)
		}
		cfg.Annotations[annMounts] = string(text)
	}
	for _, e := range c.Env {
		cfg.Envs = append(cfg.Envs, &runtimeapi.KeyValue{Key: e.Name, Value: []byte(e.Value)})
	}
	return cfg, nil
}

// Found is what the labels and annotations of a container say it is.
type Found struct {
	UID             types.UID
	Namespace, Name string
	Container       string
	Attempt         int
	SpecImage       string
	MessagePath     string
	MessagePolicy   v1.TerminationMessagePolicy
	// Resources are what the container was made with, nil if that is not noted.
	Resources *v1.ResourceRequirements
	// MountStatuses are those that were noted, nil for none.
	MountStatuses []v1.VolumeMountStatus
}

// Find reads a container's (or, without container, a sandbox's) labels and annotations. Objects
// that no kubelet made are not ok.
func Find(labels, annotations map[string]string) (Found, bool) {
	f := Found{
		UID: types.UID(labels[LabelPodUID]), Namespace: labels[LabelPodNamespace], Name: labels[LabelPodName],
		Container:   labels[LabelContainerName],
		SpecImage:   annotations[annImage],
		MessagePath: annotations[annMessagePath], MessagePolicy: v1.TerminationMessagePolicy(annotations[annMessagePolicy]),
	}
	f.Attempt, _ = strconv.Atoi(annotations[annRestartCount]) // absent on sandboxes
	var res v1.ResourceRequirements
	if text := annotations[annResources]; text != "" && json.Unmarshal([]byte(text), &res) == nil {
		f.Resources = &res
	}
	if text := annotations[annMounts]; text != "" && json.Unmarshal([]byte(text), &f.MountStatuses) != nil {
		f.MountStatuses = nil
	}
	return f, f.UID != "" && f.Name != ""
}

// FullName names a pod in logs and events.
func FullName(p *v1.Pod) string { return fmt.Sprintf("%s_%s(%s)", p.Name, p.Namespace, p.UID) }
