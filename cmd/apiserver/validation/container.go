package validation

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// containers validates the main containers.
func containers(list []corev1.Container, in scope, p *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(p, "")}
	}
	var errs field.ErrorList
	for i := range list {
		at := p.Index(i)
		errs = append(errs, container(&list[i], in, at)...)
		errs = append(errs, lifecycle(list[i].Lifecycle, in, at.Child("lifecycle"))...)
		errs = append(errs, probes(&list[i], in, at)...)
		errs = append(errs, hostPortConflicts(list[i].Ports, in.hostPorts, at.Child("ports"))...)
	}
	return errs
}

// initContainers validates the containers that run before the main ones, or, restarted always, beside them.
func initContainers(list []corev1.Container, in scope, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		c, at := &list[i], p.Index(i)
		errs = append(errs, container(c, in, at)...)
		if isSidecar(c) {
			errs = append(errs, lifecycle(c.Lifecycle, in, at.Child("lifecycle"))...)
			errs = append(errs, probes(c, in, at)...)
			errs = append(errs, hostPortConflicts(c.Ports, in.hostPorts, at.Child("ports"))...)
			continue
		}
		// Such containers run to their end one by one: ports may repeat among them, but not within one.
		errs = append(errs, hostPortConflicts(c.Ports, sets.New[string](), at.Child("ports"))...)
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"lifecycle", c.Lifecycle != nil}, {"livenessProbe", c.LivenessProbe != nil},
			{"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil},
		} {
			if f.set {
				errs = append(errs, field.Forbidden(at.Child(f.name), "may not be set for init containers without restartPolicy=Always"))
			}
		}
		if len(c.ResizePolicy) > 0 {
			errs = append(errs, field.Invalid(at.Child("resizePolicy"), c.ResizePolicy, "must not be set for init containers"))
		}
	}
	return errs
}

// ephemeralFields are what a container may have that is added to a running pod for debugging. What is not in the list is
// refused, so that new fields are until somebody thought about them.
func ephemeralFields() []string {
	return []string{"Name", "Image", "Command", "Args", "WorkingDir", "EnvFrom", "Env", "VolumeMounts", "VolumeDevices",
		"TerminationMessagePath", "TerminationMessagePolicy", "ImagePullPolicy", "SecurityContext", "Stdin", "StdinOnce", "TTY"}
}

func ephemeralContainers(in scope, p *field.Path) field.ErrorList {
	const refused = "cannot be set for an Ephemeral Container"
	var errs field.ErrorList
	targets := sets.New[string]()
	for _, c := range allContainers(in.spec) {
		targets.Insert(c.Name)
	}
	for i := range in.spec.EphemeralContainers {
		e, at := &in.spec.EphemeralContainers[i], p.Index(i)
		c := corev1.Container(e.EphemeralContainerCommon)
		errs = append(errs, container(&c, in, at)...)
		if e.TargetContainerName != "" && !targets.Has(e.TargetContainerName) {
			errs = append(errs, field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
		fields := reflect.ValueOf(&e.EphemeralContainerCommon).Elem()
		for j := range fields.NumField() {
			name := fields.Type().Field(j).Name
			if !fields.Field(j).IsZero() && !slices.Contains(ephemeralFields(), name) {
				errs = append(errs, field.Forbidden(at.Child(lowerFirst(name)), refused))
			}
		}
		for j, m := range c.VolumeMounts {
			if m.SubPath != "" {
				errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), refused))
			}
			if m.SubPathExpr != "" {
				errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPathExpr"), refused))
			}
		}
	}
	return errs
}

func lowerFirst(s string) string { return string(unicode.ToLower(rune(s[0]))) + s[1:] }

// container validates what all sorts of containers have in common.
func container(c *corev1.Container, in scope, p *field.Path) field.ErrorList {
	errs := requiredName(p.Child("name"), c.Name, validation.IsDNS1123Label)
	if c.Name != "" && in.containers.Has(c.Name) {
		errs = append(errs, field.Duplicate(p.Child("name"), c.Name))
	}
	in.containers.Insert(c.Name)
	switch {
	case c.Image == "":
		errs = append(errs, field.Required(p.Child("image"), ""))
	case in.meta != nil && c.Image != strings.TrimSpace(c.Image):
		errs = append(errs, field.Invalid(p.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	errs = append(errs, restartRules(c, p)...)
	errs = append(errs, oneOf(p.Child("terminationMessagePolicy"), c.TerminationMessagePolicy, corev1.TerminationMessageFallbackToLogsOnError, corev1.TerminationMessageReadFile)...)
	errs = append(errs, containerPorts(c.Ports, p.Child("ports"))...)
	errs = append(errs, env(c.Env, in, p.Child("env"))...)
	errs = append(errs, envFrom(c.EnvFrom, p.Child("envFrom"))...)
	errs = append(errs, volumeMounts(c, in, p.Child("volumeMounts"))...)
	errs = append(errs, volumeDevices(c, in, p.Child("volumeDevices"))...)
	errs = append(errs, oneOf(p.Child("imagePullPolicy"), c.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, containerResources(p.Child("resources"), &c.Resources, in.claims)...)
	errs = append(errs, resizePolicy(c.ResizePolicy, in.spec.RestartPolicy, p.Child("resizePolicy"))...)
	return append(errs, containerSecurity(c.SecurityContext, in, p.Child("securityContext"))...)
}

// Limits of a container's restart rules.
const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

func restartRules(c *corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := p.Child("restartPolicy")
	if c.RestartPolicy != nil {
		errs = append(errs, supported(at, *c.RestartPolicy, corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)...)
	} else if len(c.RestartPolicyRules) > 0 {
		errs = append(errs, field.Required(at, "must specify restartPolicy when restart rules are used"))
	}
	rules := p.Child("restartPolicyRules")
	if n := len(c.RestartPolicyRules); n > maxRestartRules {
		errs = append(errs, field.TooMany(rules, n, maxRestartRules))
	}
	for i, r := range c.RestartPolicyRules {
		errs = append(errs, supported(rules.Index(i).Child("action"), r.Action, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)...)
		codes := rules.Index(i).Child("exitCodes")
		if r.ExitCodes == nil {
			errs = append(errs, field.Required(codes, "must be specified"))
			continue
		}
		errs = append(errs, supported(codes.Child("operator"), r.ExitCodes.Operator, corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if n := len(r.ExitCodes.Values); n > maxExitCodes {
			errs = append(errs, field.TooMany(codes.Child("values"), n, maxExitCodes))
		}
	}
	return errs
}

func resizePolicy(list []corev1.ContainerResizePolicy, restart corev1.RestartPolicy, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceName]()
	for i, r := range list {
		if seen.Has(r.ResourceName) {
			errs = append(errs, field.Duplicate(p.Index(i), r.ResourceName))
		}
		seen.Insert(r.ResourceName)
		errs = append(errs, oneOf(p, r.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, oneOf(p, r.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)...)
		if restart == corev1.RestartPolicyNever && r.RestartPolicy != corev1.NotRequired {
			errs = append(errs, field.Invalid(p, r.RestartPolicy, "must be 'NotRequired' when `restartPolicy` is 'Never'"))
		}
	}
	return errs
}

func containerPorts(ports []corev1.ContainerPort, p *field.Path) field.ErrorList {
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

// hostNetworkPorts holds that a port of the host's network has one number. In a template it may still be without its second.
func hostNetworkPorts(in scope, p *field.Path) field.ErrorList {
	if !in.spec.HostNetwork {
		return nil
	}
	var errs field.ErrorList
	for i, c := range in.spec.Containers {
		for j, port := range c.Ports {
			if port.HostPort == port.ContainerPort || port.HostPort == 0 && in.meta == nil {
				continue
			}
			errs = append(errs, field.Invalid(p.Child("containers").Index(i).Child("ports").Index(j).Child("containerPort"), port.ContainerPort,
				"must match `hostPort` when `hostNetwork` is true"))
		}
	}
	return errs
}

func portOrName(port intstr.IntOrString, p *field.Path) field.ErrorList {
	if port.Type == intstr.Int {
		return portNumber(p, port.IntVal)
	}
	return invalid(p, port.StrVal, validation.IsValidPortName(port.StrVal))
}
