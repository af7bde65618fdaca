package criconfig

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What containers must not see or write of /proc and /sys unless they ask for it.
var (
	maskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// effective joins the container's security context with what the pod's says for all.
func effective(p *v1.Pod, c *v1.Container) v1.SecurityContext {
	var out v1.SecurityContext
	if c != nil && c.SecurityContext != nil {
		out = *c.SecurityContext
	}
	ps := p.Spec.SecurityContext
	if ps == nil {
		return out
	}
	if out.RunAsUser == nil {
		out.RunAsUser = ps.RunAsUser
	}
	if out.RunAsGroup == nil {
		out.RunAsGroup = ps.RunAsGroup
	}
	if out.RunAsNonRoot == nil {
		out.RunAsNonRoot = ps.RunAsNonRoot
	}
	if out.SELinuxOptions == nil {
		out.SELinuxOptions = ps.SELinuxOptions
	}
	if out.SeccompProfile == nil {
		out.SeccompProfile = ps.SeccompProfile
	}
	if out.AppArmorProfile == nil {
		out.AppArmorProfile = ps.AppArmorProfile
	}
	return out
}

func (c Container) security() (*runtimeapi.LinuxContainerSecurityContext, error) {
	sc := effective(c.Pod, c.Spec)
	if err := c.checkNonRoot(&sc); err != nil {
		return nil, err
	}
	// The API server takes it only from pods with users of their own, whom the runtime's sandbox has refused before. A static
	// pod comes without having asked it.
	if sc.ProcMount != nil && *sc.ProcMount == v1.UnmaskedProcMount {
		return nil, errors.New("procMount: Unmasked: this kubelet does not support user namespaces, and without them it would show the node's own /proc")
	}
	out := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions: namespaces(c.Pod),
		Privileged:       sc.Privileged != nil && *sc.Privileged,
		ReadonlyRootfs:   sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem,
		NoNewPrivs:       sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
		RunAsUser:        int64Value(sc.RunAsUser),
		RunAsGroup:       int64Value(sc.RunAsGroup),
		SelinuxOptions:   selinux(sc.SELinuxOptions),
		Seccomp:          seccomp(c.Pod, c.Spec, c.SeccompDefault, c.SeccompDir),
		Apparmor:         appArmor(sc.AppArmorProfile),
		MaskedPaths:      maskedPaths,
		ReadonlyPaths:    readonlyPaths,
	}
	if c.Target != "" {
		out.NamespaceOptions.Pid, out.NamespaceOptions.TargetId = runtimeapi.NamespaceMode_TARGET, c.Target
	}
	if ps := c.Pod.Spec.SecurityContext; ps != nil {
		out.SupplementalGroups = groups(c.Pod)
		out.SupplementalGroupsPolicy = groupsPolicy(ps)
	}
	switch { // the runtime refuses a group without a user
	case out.RunAsUser == nil && c.ImageUID != nil:
		out.RunAsUser = int64Value(c.ImageUID)
	case out.RunAsUser == nil && c.ImageUser != "":
		out.RunAsUsername = c.ImageUser
	case out.RunAsUser == nil && out.RunAsGroup != nil:
		out.RunAsUser = &runtimeapi.Int64Value{}
	}
	if caps := sc.Capabilities; caps != nil {
		out.Capabilities = &runtimeapi.Capability{AddCapabilities: capNames(caps.Add), DropCapabilities: capNames(caps.Drop)}
	}
	return out, nil
}

// capNames writes capabilities as the runtime wants them.
func capNames(in []v1.Capability) []string {
	var out []string
	for _, c := range in {
		out = append(out, strings.TrimPrefix(strings.ToUpper(string(c)), "CAP_"))
	}
	return out
}

// checkNonRoot refuses a container that must not run as root, and would or might.
func (c Container) checkNonRoot(sc *v1.SecurityContext) error {
	switch {
	case sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot:
		return nil
	case sc.RunAsUser != nil && *sc.RunAsUser == 0:
		return errors.New("container's runAsUser breaks non-root policy")
	case sc.RunAsUser != nil:
		return nil
	case c.ImageUID != nil && *c.ImageUID == 0, c.ImageUID == nil && c.ImageUser == "":
		return errors.New("container has runAsNonRoot and image will run as root")
	case c.ImageUID == nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root", c.ImageUser)
	}
	return nil
}

func namespaces(p *v1.Pod) *runtimeapi.NamespaceOption {
	out := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	if p.Spec.HostNetwork {
		out.Network = runtimeapi.NamespaceMode_NODE
	}
	if p.Spec.HostIPC {
		out.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case p.Spec.HostPID:
		out.Pid = runtimeapi.NamespaceMode_NODE
	case p.Spec.ShareProcessNamespace != nil && *p.Spec.ShareProcessNamespace:
		out.Pid = runtimeapi.NamespaceMode_POD
	}
	return out
}

func anyPrivileged(p *v1.Pod) bool {
	privileged := func(c v1.Container) bool {
		return c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
	}
	return slices.ContainsFunc(p.Spec.Containers, privileged) || slices.ContainsFunc(p.Spec.InitContainers, privileged)
}

func seccomp(p *v1.Pod, c *v1.Container, byDefault bool, dir string) *runtimeapi.SecurityProfile {
	sc := effective(p, c)
	if sc.SeccompProfile == nil {
		if byDefault {
			return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}
	switch sc.SeccompProfile.Type {
	case v1.SeccompProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	case v1.SeccompProfileTypeLocalhost:
		ref := ""
		if sc.SeccompProfile.LocalhostProfile != nil {
			ref = filepath.Join(dir, *sc.SeccompProfile.LocalhostProfile)
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: ref}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
}

func appArmor(p *v1.AppArmorProfile) *runtimeapi.SecurityProfile {
	if p == nil {
		return nil
	}
	switch p.Type {
	case v1.AppArmorProfileTypeLocalhost:
		out := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}
		if p.LocalhostProfile != nil {
			out.LocalhostRef = *p.LocalhostProfile
		}
		return out
	case v1.AppArmorProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
}

func selinux(o *v1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func groups(p *v1.Pod) []int64 {
	sc := p.Spec.SecurityContext
	out := slices.Clone(sc.SupplementalGroups)
	if sc.FSGroup != nil {
		out = append(out, *sc.FSGroup)
	}
	return out
}

func groupsPolicy(sc *v1.PodSecurityContext) runtimeapi.SupplementalGroupsPolicy {
	if sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict {
		return runtimeapi.SupplementalGroupsPolicy_Strict
	}
	return runtimeapi.SupplementalGroupsPolicy_Merge
}

func int64Value(v *int64) *runtimeapi.Int64Value {
	if v == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *v}
}
