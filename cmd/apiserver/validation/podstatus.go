package validation

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// podStatus keeps what a status may not take back: the node, the QoS class, and that a container ended that must not restart.
func podStatus(p, old *corev1.Pod) field.ErrorList {
	errs := podAnnotationsUpdate(p, old)
	at := status()
	errs = append(errs, podConditions(p.Status.Conditions, at.Child("conditions"))...)
	if p.Spec.NodeName != old.Spec.NodeName {
		errs = append(errs, field.Forbidden(at.Child("nodeName"), "may not be changed directly"))
	}
	if n := p.Status.NominatedNodeName; n != "" && n != old.Status.NominatedNodeName {
		errs = append(errs, nodeName(n, at.Child("nominatedNodeName"))...)
	}
	errs = append(errs, immutable(at.Child("qosClass"), p.Status.QOSClass, old.Status.QOSClass)...)
	for _, l := range []struct {
		name     string
		now, was []corev1.ContainerStatus
		restarts func(name string, ended *corev1.ContainerStateTerminated) bool
	}{
		{"containerStatuses", p.Status.ContainerStatuses, old.Status.ContainerStatuses, func(name string, ended *corev1.ContainerStateTerminated) bool {
			return mayRestart(&old.Spec, old.Spec.Containers, name, ended)
		}},
		{"initContainerStatuses", p.Status.InitContainerStatuses, old.Status.InitContainerStatuses, func(name string, ended *corev1.ContainerStateTerminated) bool {
			return mayRestart(&old.Spec, old.Spec.InitContainers, name, ended)
		}},
		{"ephemeralContainerStatuses", p.Status.EphemeralContainerStatuses, old.Status.EphemeralContainerStatuses, func(string, *corev1.ContainerStateTerminated) bool { return false }},
	} {
		errs = append(errs, stateTransitions(l.now, l.was, l.restarts, at.Child(l.name))...)
		errs = append(errs, containerStatuses(l.now, at.Child(l.name))...)
	}
	errs = append(errs, claimStatuses(p, at.Child("resourceClaimStatuses"))...)
	return append(errs, podAddresses(p, at)...)
}

// podConditions demands a qualified name of conditions that are not Kubernetes' own.
func podConditions(list []corev1.PodCondition, p *field.Path) field.ErrorList {
	own := []corev1.PodConditionType{corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized}
	var errs field.ErrorList
	for i, c := range list {
		if !slices.Contains(own, c.Type) {
			errs = append(errs, invalid(p.Index(i).Child("Type"), string(c.Type), validation.IsQualifiedName(string(c.Type)))...)
		}
	}
	return errs
}

// stateTransitions refuses that what has ended and must not restart is said to run again.
func stateTransitions(now, was []corev1.ContainerStatus, restarts func(string, *corev1.ContainerStateTerminated) bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, before := range was {
		if before.State.Terminated == nil || restarts(before.Name, before.State.Terminated) {
			continue
		}
		for i, c := range now {
			if c.Name == before.Name && c.State.Terminated == nil {
				errs = append(errs, field.Forbidden(p.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}

// mayRestart says whether a container that ended may run again, by its own policy if it has one.
func mayRestart(s *corev1.PodSpec, list []corev1.Container, name string, ended *corev1.ContainerStateTerminated) bool {
	policy := s.RestartPolicy
	for _, c := range list {
		if c.Name != name {
			continue
		}
		if slices.ContainsFunc(c.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool { return ruleMatches(r, ended.ExitCode) }) {
			return true
		}
		if c.RestartPolicy != nil {
			policy = corev1.RestartPolicy(*c.RestartPolicy)
		}
	}
	if restartsAll(s) {
		return true
	}
	return policy == corev1.RestartPolicyAlways || policy == corev1.RestartPolicyOnFailure && ended.ExitCode != 0
}

// restartsAll says whether the end of one container may restart all.
func restartsAll(s *corev1.PodSpec) bool {
	return slices.ContainsFunc(allContainers(s), func(c corev1.Container) bool {
		return slices.ContainsFunc(c.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool {
			return r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		})
	})
}

func ruleMatches(r corev1.ContainerRestartRule, code int32) bool {
	if r.ExitCodes == nil {
		return false
	}
	return slices.Contains(r.ExitCodes.Values, code) == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn)
}

// containerStatuses validates who runs in a container, and how its devices are.
func containerStatuses(list []corev1.ContainerStatus, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, c := range list {
		if c.User != nil && c.User.Linux != nil {
			at := p.Index(i).Child("user", "linux")
			errs = append(errs, userID(&c.User.Linux.UID, at.Child("uid"))...)
			errs = append(errs, groupID(&c.User.Linux.GID, at.Child("gid"))...)
			for j := range c.User.Linux.SupplementalGroups {
				errs = append(errs, groupID(&c.User.Linux.SupplementalGroups[j], at.Child("supplementalGroups").Index(j))...)
			}
		}
		errs = append(errs, resourceHealth(c.AllocatedResourcesStatus, p.Index(i).Child("allocatedResourcesStatus"))...)
	}
	return errs
}

func resourceHealth(list []corev1.ResourceStatus, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, r := range list {
		seen := sets.New[corev1.ResourceID]()
		for j, d := range r.Resources {
			at := p.Index(i).Child("resources").Index(j)
			if seen.Has(d.ResourceID) {
				errs = append(errs, field.Duplicate(at.Child("resourceID"), d.ResourceID))
			}
			seen.Insert(d.ResourceID)
			if d.Message != nil && len(*d.Message) > corev1.ResourceHealthMessageMaxLength {
				errs = append(errs, field.TooLong(at.Child("message"), *d.Message, corev1.ResourceHealthMessageMaxLength))
			}
		}
	}
	return errs
}

func claimStatuses(pod *corev1.Pod, p *field.Path) field.ErrorList {
	known, seen := sets.New[string](), sets.New[string]()
	for _, c := range pod.Spec.ResourceClaims {
		known.Insert(c.Name)
	}
	var errs field.ErrorList
	for i, c := range pod.Status.ResourceClaimStatuses {
		at := p.Index(i)
		if !known.Has(c.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), c.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
		if seen.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		seen.Insert(c.Name)
		if n := c.ResourceClaimName; n != nil {
			errs = append(errs, invalid(at.Child("name"), *n, validation.IsDNS1123Subdomain(*n))...)
		}
	}
	return errs
}

func podAddresses(p *corev1.Pod, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	pods, hosts := make([]string, len(p.Status.PodIPs)), make([]string, len(p.Status.HostIPs))
	for i, ip := range p.Status.PodIPs {
		pods[i] = ip.IP
	}
	for i, ip := range p.Status.HostIPs {
		hosts[i] = ip.IP
	}
	errs = append(errs, addressPair(pods, p.Status.PodIPs, at.Child("podIPs"))...)
	if len(hosts) > 0 && p.Status.HostIP != hosts[0] {
		errs = append(errs, field.Invalid(at.Child("hostIPs").Index(0).Child("ip"), hosts[0], "must be equal to `hostIP`"))
	}
	return append(errs, addressPair(hosts, p.Status.HostIPs, at.Child("hostIPs"))...)
}

// addressPair demands at most one address of each family.
func addressPair(ips []string, value any, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, ip := range ips {
		errs = append(errs, validation.IsValidIPForLegacyField(p.Index(i), ip, false, nil)...)
	}
	if len(errs) > 0 {
		return errs
	}
	six := 0
	for i, ip := range ips {
		if seen.Has(ip) {
			errs = append(errs, field.Duplicate(p.Index(i), ip))
		}
		seen.Insert(ip)
		if netutils.IsIPv6String(ip) {
			six++
		}
	}
	if len(ips) > 2 || six > 1 || len(ips)-six > 1 {
		errs = append(errs, field.Invalid(p, value, "may specify no more than one IP for each IP family"))
	}
	return errs
}
