package validation

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podNames are the names that a pod's containers share or refer to.
type podNames struct {
	containers sets.Set[string]
	volumes    map[string]corev1.VolumeSource
	hostPorts  sets.Set[string]
	// hostNetwork, hostUsers and the like change what a container may ask for.
	hostNetwork bool
	claims      sets.Set[string]
}

// containers validates the main containers.
func containers(list []corev1.Container, names podNames, p *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(p, "")}
	}
	var errs field.ErrorList
	for i := range list {
		at := p.Index(i)
		errs = append(errs, container(&list[i], names, at)...)
		errs = append(errs, lifecycle(list[i].Lifecycle, at.Child("lifecycle"))...)
		errs = append(errs, probes(&list[i], at)...)
		errs = append(errs, hostPortConflicts(list[i].Ports, names.hostPorts, at.Child("ports"))...)
	}
	return errs
}

// initContainers validates the containers that run before the main ones, or, restarted always, beside them.
func initContainers(list []corev1.Container, names podNames, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		c, at := &list[i], p.Index(i)
		errs = append(errs, container(c, names, at)...)
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			errs = append(errs, lifecycle(c.Lifecycle, at.Child("lifecycle"))...)
			errs = append(errs, probes(c, at)...)
			errs = append(errs, hostPortConflicts(c.Ports, names.hostPorts, at.Child("ports"))...)
			continue
		}
		// Such containers run to their end one by one: ports may repeat among them, but not within one.
		errs = append(errs, hostPortConflicts(c.Ports, sets.New[string](), at.Child("ports"))...)
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"lifecycle", c.Lifecycle != nil && (c.Lifecycle.PostStart != nil || c.Lifecycle.PreStop != nil)},
			{"livenessProbe", c.LivenessProbe != nil}, {"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil},
		} {
			if f.set {
				errs = append(errs, field.Forbidden(at.Child(f.name), "may not be set for init containers without restartPolicy=Always"))
			}
		}
	}
	return errs
}

// ephemeralContainers validates containers added to a running pod for debugging.
func ephemeralContainers(s *corev1.PodSpec, names podNames, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	targets := sets.New[string]()
	for _, c := range append(slices.Clone(s.Containers), s.InitContainers...) {
		targets.Insert(c.Name)
	}
	for i := range s.EphemeralContainers {
		e, at := &s.EphemeralContainers[i], p.Index(i)
		c := corev1.Container(e.EphemeralContainerCommon)
		errs = append(errs, container(&c, names, at)...)
		if e.TargetContainerName != "" && !targets.Has(e.TargetContainerName) {
			errs = append(errs, field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"ports", len(c.Ports) > 0}, {"livenessProbe", c.LivenessProbe != nil}, {"readinessProbe", c.ReadinessProbe != nil},
			{"startupProbe", c.StartupProbe != nil}, {"lifecycle", c.Lifecycle != nil}, {"resizePolicy", len(c.ResizePolicy) > 0},
			{"resources", len(c.Resources.Limits)+len(c.Resources.Requests)+len(c.Resources.Claims) > 0}, {"restartPolicy", c.RestartPolicy != nil},
		} {
			if f.set {
				errs = append(errs, field.Forbidden(at.Child(f.name), "cannot be set for an Ephemeral Container"))
			}
		}
		for j, m := range c.VolumeMounts {
			if m.SubPath != "" {
				errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), "cannot be set for an Ephemeral Container"))
			}
		}
	}
	return errs
}

// container validates what all sorts of containers have in common.
func container(c *corev1.Container, names podNames, p *field.Path) field.ErrorList {
	errs := requiredName(p.Child("name"), c.Name, validation.IsDNS1123Label)
	if c.Name != "" && names.containers.Has(c.Name) {
		errs = append(errs, field.Duplicate(p.Child("name"), c.Name))
	}
	names.containers.Insert(c.Name)
	switch {
	case c.Image == "":
		errs = append(errs, field.Required(p.Child("image"), ""))
	case c.Image != strings.TrimSpace(c.Image):
		errs = append(errs, field.Invalid(p.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	if c.RestartPolicy != nil {
		errs = append(errs, oneOf(p.Child("restartPolicy"), *c.RestartPolicy, corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)...)
	}
	errs = append(errs, oneOf(p.Child("terminationMessagePolicy"), c.TerminationMessagePolicy, corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, oneOf(p.Child("imagePullPolicy"), c.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, containerPorts(c.Ports, names.hostNetwork, p.Child("ports"))...)
	errs = append(errs, env(c.Env, p.Child("env"))...)
	errs = append(errs, envFrom(c.EnvFrom, p.Child("envFrom"))...)
	errs = append(errs, volumeMounts(c, names, p)...)
	errs = append(errs, containerResources(p.Child("resources"), &c.Resources)...)
	for i, claim := range c.Resources.Claims {
		if !names.claims.Has(claim.Name) {
			errs = append(errs, field.NotFound(p.Child("resources", "claims").Index(i), claim.Name))
		}
	}
	for i, r := range c.ResizePolicy {
		at := p.Child("resizePolicy").Index(i)
		errs = append(errs, oneOf(at.Child("resourceName"), r.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, oneOf(at.Child("restartPolicy"), r.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)...)
	}
	return append(errs, containerSecurity(c.SecurityContext, p.Child("securityContext"))...)
}

func containerPorts(ports []corev1.ContainerPort, hostNetwork bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, port := range ports {
		at := p.Index(i)
		if port.Name != "" {
			bad := invalid(at.Child("name"), port.Name, validation.IsValidPortName(port.Name))
			if len(bad) == 0 && names.Has(port.Name) {
				bad = append(bad, field.Duplicate(at.Child("name"), port.Name))
			}
			names.Insert(port.Name)
			errs = append(errs, bad...)
		}
		if port.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, portNumber(at.Child("containerPort"), port.ContainerPort)...)
		}
		if port.HostPort != 0 {
			errs = append(errs, portNumber(at.Child("hostPort"), port.HostPort)...)
		}
		if hostNetwork && port.HostPort != 0 && port.HostPort != port.ContainerPort {
			errs = append(errs, field.Invalid(at.Child("containerPort"), port.ContainerPort, "must match `hostPort` when `hostNetwork` is true"))
		}
		errs = append(errs, oneOf(at.Child("protocol"), port.Protocol, protocols()...)...)
		if port.HostIP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(at.Child("hostIP"), port.HostIP, false, nil)...)
		}
	}
	return errs
}

func protocols() []corev1.Protocol {
	return []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}
}

func hostPortConflicts(ports []corev1.ContainerPort, seen sets.Set[string], p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, port := range ports {
		if port.HostPort == 0 {
			continue
		}
		key := fmt.Sprintf("%s/%s/%d", port.Protocol, port.HostIP, port.HostPort)
		if seen.Has(key) {
			errs = append(errs, field.Duplicate(p.Index(i).Child("hostPort"), key))
		}
		seen.Insert(key)
	}
	return errs
}

func env(vars []corev1.EnvVar, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range vars {
		at := p.Index(i)
		errs = append(errs, requiredName(at.Child("name"), vars[i].Name, validation.IsRelaxedEnvVarName)...)
		if vars[i].ValueFrom != nil {
			errs = append(errs, envSource(&vars[i], at.Child("valueFrom"))...)
		}
	}
	return errs
}

func envSource(v *corev1.EnvVar, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	sources, s := 0, v.ValueFrom
	if s.FieldRef != nil {
		sources++
		errs = append(errs, fieldRef(s.FieldRef, envFields(), p.Child("fieldRef"))...)
	}
	if s.ResourceFieldRef != nil {
		sources++
		errs = append(errs, resourceFieldRef(s.ResourceFieldRef, false, p.Child("resourceFieldRef"))...)
	}
	if s.ConfigMapKeyRef != nil {
		sources++
		errs = append(errs, required(p.Child("configMapKeyRef", "name"), s.ConfigMapKeyRef.Name)...)
		errs = append(errs, requiredName(p.Child("configMapKeyRef", "key"), s.ConfigMapKeyRef.Key, validation.IsConfigMapKey)...)
	}
	if s.SecretKeyRef != nil {
		sources++
		errs = append(errs, required(p.Child("secretKeyRef", "name"), s.SecretKeyRef.Name)...)
		errs = append(errs, requiredName(p.Child("secretKeyRef", "key"), s.SecretKeyRef.Key, validation.IsConfigMapKey)...)
	}
	if s.FileKeyRef != nil {
		sources++
		errs = append(errs, requiredName(p.Child("fileKeyRef", "volumeName"), s.FileKeyRef.VolumeName, validation.IsDNS1123Label)...)
		errs = append(errs, requiredName(p.Child("fileKeyRef", "key"), s.FileKeyRef.Key, validation.IsRelaxedEnvVarName)...)
		errs = append(errs, descendingPath(s.FileKeyRef.Path, p.Child("fileKeyRef", "path"), true)...)
	}
	switch {
	case sources == 0:
		errs = append(errs, field.Invalid(p, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case v.Value != "":
		errs = append(errs, field.Invalid(p, "", "may not be specified when `value` is not empty"))
	case sources > 1:
		errs = append(errs, field.Invalid(p, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func envFields() []string {
	return []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
}

// fieldRef validates a reference to a field of the pod: one of fields, or one label or annotation.
func fieldRef(r *corev1.ObjectFieldSelector, fields []string, p *field.Path) field.ErrorList {
	if r.APIVersion == "" {
		return field.ErrorList{field.Required(p.Child("apiVersion"), "")}
	}
	if r.FieldPath == "" {
		return field.ErrorList{field.Required(p.Child("fieldPath"), "")}
	}
	if r.APIVersion != "v1" {
		return field.ErrorList{field.Invalid(p.Child("fieldPath"), r.FieldPath, fmt.Sprintf("error converting fieldPath: unsupported pod version: %s", r.APIVersion))}
	}
	if name, subscript, ok := splitSubscript(r.FieldPath); ok {
		switch name {
		case "metadata.annotations":
			return invalid(p, subscript, validation.IsQualifiedName(strings.ToLower(subscript)))
		case "metadata.labels":
			return invalid(p, subscript, validation.IsQualifiedName(subscript))
		}
		return field.ErrorList{field.Invalid(p, r.FieldPath, "does not support subscript")}
	}
	if !slices.Contains(fields, r.FieldPath) {
		return field.ErrorList{field.NotSupported(p.Child("fieldPath"), r.FieldPath, fields)}
	}
	return nil
}

// splitSubscript splits a['b'] into a and b.
func splitSubscript(s string) (name, subscript string, ok bool) {
	rest, ok := strings.CutSuffix(s, "']")
	if !ok {
		return "", "", false
	}
	name, subscript, ok = strings.Cut(rest, "['")
	return name, subscript, ok && name != ""
}

func resourceFieldRef(r *corev1.ResourceFieldSelector, volume bool, p *field.Path) field.ErrorList {
	if volume && r.ContainerName == "" {
		return field.ErrorList{field.Required(p.Child("containerName"), "")}
	}
	if r.Resource == "" {
		return field.ErrorList{field.Required(p.Child("resource"), "")}
	}
	allowed := []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"}
	if slices.Contains(allowed, r.Resource) || strings.HasPrefix(r.Resource, "limits.hugepages-") || strings.HasPrefix(r.Resource, "requests.hugepages-") {
		return nil
	}
	return field.ErrorList{field.NotSupported(p.Child("resource"), r.Resource, allowed)}
}

func envFrom(sources []corev1.EnvFromSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, s := range sources {
		at := p.Index(i)
		if s.Prefix != "" {
			errs = append(errs, invalid(at.Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix))...)
		}
		if s.ConfigMapRef != nil {
			errs = append(errs, required(at.Child("configMapRef", "name"), s.ConfigMapRef.Name)...)
		}
		if s.SecretRef != nil {
			errs = append(errs, required(at.Child("secretRef", "name"), s.SecretRef.Name)...)
		}
		switch {
		case s.ConfigMapRef == nil && s.SecretRef == nil:
			errs = append(errs, field.Invalid(p, "", "must specify one of: `configMapRef` or `secretRef`"))
		case s.ConfigMapRef != nil && s.SecretRef != nil:
			errs = append(errs, field.Invalid(p, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}

// descendingPath demands a relative path that does not climb.
func descendingPath(s string, p *field.Path, needed bool) field.ErrorList {
	if s == "" {
		if needed {
			return field.ErrorList{field.Required(p, "")}
		}
		return nil
	}
	var errs field.ErrorList
	if path.IsAbs(s) {
		errs = append(errs, field.Invalid(p, s, "must be a relative path"))
	}
	return append(errs, noBacksteps(s, p)...)
}

func noBacksteps(s string, p *field.Path) field.ErrorList {
	if slices.Contains(strings.Split(strings.ReplaceAll(s, "\\", "/"), "/"), "..") {
		return field.ErrorList{field.Invalid(p, s, "must not contain '..'")}
	}
	return nil
}

func portOrName(port intstr.IntOrString, p *field.Path) field.ErrorList {
	if port.Type == intstr.Int {
		return portNumber(p, port.IntVal)
	}
	return invalid(p, port.StrVal, validation.IsValidPortName(port.StrVal))
}
