// Package sysctls decides which kernel parameters a pod may set.
//
// Safe ones are those that neither reach out of the pod's namespaces nor take more than the pod's share of the node; the
// list is upstream's. Others must be allowed on the node by name.
package sysctls

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// safe needs no permission.
var safe = [...]string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// namespace of a parameter: "ipc", "net", or "" if it is of no namespace that pods have.
func namespace(name string) string {
	switch {
	case strings.HasPrefix(name, "net."):
		return "net"
	case strings.HasPrefix(name, "kernel.shm"), strings.HasPrefix(name, "kernel.msg"), name == "kernel.sem", strings.HasPrefix(name, "fs.mqueue."):
		return "ipc"
	}
	return ""
}

// normal writes a parameter with dots between its parts; with slashes, dots are part of a name.
func normal(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' {
		return strings.NewReplacer("/", ".", ".", "/").Replace(name)
	}
	return name
}

// Check says what is wrong with a list of allowed parameters, which are names, or beginnings of names followed by *.
func Check(allowed []string) error {
	var errs []error
	for _, a := range allowed {
		name, wild := strings.CutSuffix(normal(a), "*")
		if namespace(name) == "" && !(wild && (name == "kernel.shm" || name == "kernel.msg" || name == "kernel.sem")) {
			errs = append(errs, fmt.Errorf("the sysctls %q are not known to be namespaced", a))
		}
	}
	return errors.Join(errs...)
}

// Forbidden says why the pod must not set what it sets; empty if it may.
func Forbidden(pod *v1.Pod, allowed []string) string {
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return ""
	}
	for _, s := range sc.Sysctls {
		name := normal(s.Name)
		switch {
		case !slices.Contains(safe[:], name) && !slices.ContainsFunc(allowed, func(a string) bool { return matches(normal(a), name) }):
			return fmt.Sprintf("forbidden sysctl: %q not allowlisted", s.Name)
		case pod.Spec.HostNetwork && namespace(name) == "net":
			return fmt.Sprintf("forbidden sysctl: %q not allowed with host net enabled", s.Name)
		case pod.Spec.HostIPC && namespace(name) == "ipc":
			return fmt.Sprintf("forbidden sysctl: %q not allowed with host ipc enabled", s.Name)
		}
	}
	return ""
}

func matches(pattern, name string) bool {
	if prefix, wild := strings.CutSuffix(pattern, "*"); wild {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// Set gives the parameters of a pod's sandbox: the node's defaults where the pod has a namespace of its own for them, and
// what the pod says.
func Set(pod *v1.Pod, defaults map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range defaults {
		name = normal(name)
		if ns := namespace(name); ns == "net" && !pod.Spec.HostNetwork || ns == "ipc" && !pod.Spec.HostIPC {
			out[name] = value
		}
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			out[normal(s.Name)] = s.Value
		}
	}
	return out
}

// CheckDefaults says which of the node's defaults pods have no namespace for.
func CheckDefaults(defaults map[string]string) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(defaults)) {
		if namespace(normal(name)) == "" {
			errs = append(errs, fmt.Errorf("sysctl %q is of no namespace that pods have here", name))
		}
	}
	return errors.Join(errs...)
}
