package validation

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// pod validates a pod that is to be created.
func pod(p *corev1.Pod) field.ErrorList {
	errs := podWhole(p)
	if p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(spec().Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	if len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec().Child("ephemeralContainers"), "cannot be set on create"))
	}
	return errs
}

// podWhole validates what holds for a pod at any time, and, unlike podSpec, not for a template.
func podWhole(p *corev1.Pod) field.ErrorList {
	errs := podSpec(&p.Spec, spec())
	errs = append(errs, nonNegativePtr(spec().Child("terminationGracePeriodSeconds"), p.Spec.TerminationGracePeriodSeconds)...)
	return errs
}

// podUpdate lets only a few fields of a pod's spec change: it puts the new values of those into a copy of the old spec, which
// must then equal the new one.
func podUpdate(p, old *corev1.Pod) field.ErrorList {
	if len(p.Spec.Containers) != len(old.Spec.Containers) {
		return field.ErrorList{field.Forbidden(spec().Child("containers"), "pod updates may not add or remove containers")}
	}
	if len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return field.ErrorList{field.Forbidden(spec().Child("initContainers"), "pod updates may not add or remove containers")}
	}
	errs := images(p.Spec.Containers, spec().Child("containers"))
	errs = append(errs, images(p.Spec.InitContainers, spec().Child("initContainers"))...)
	errs = append(errs, deadlineUpdate(p, old)...)
	errs = append(errs, gatesUpdate(p, old)...)
	errs = append(errs, tolerationsUpdate(p, old)...)
	if len(errs) > 0 {
		return errs
	}
	allowed := old.Spec.DeepCopy()
	for i := range allowed.Containers {
		allowed.Containers[i].Image = p.Spec.Containers[i].Image
	}
	for i := range allowed.InitContainers {
		allowed.InitContainers[i].Image = p.Spec.InitContainers[i].Image
	}
	allowed.ActiveDeadlineSeconds, allowed.Tolerations, allowed.SchedulingGates = p.Spec.ActiveDeadlineSeconds, p.Spec.Tolerations, p.Spec.SchedulingGates
	if g := old.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 && p.Spec.TerminationGracePeriodSeconds != nil && *p.Spec.TerminationGracePeriodSeconds == 1 {
		allowed.TerminationGracePeriodSeconds = p.Spec.TerminationGracePeriodSeconds
	}
	if len(old.Spec.SchedulingGates) > 0 && narrows(p.Spec.NodeSelector, old.Spec.NodeSelector) {
		allowed.NodeSelector = p.Spec.NodeSelector
	}
	if equality.Semantic.DeepEqual(allowed, &p.Spec) {
		return nil
	}
	return field.ErrorList{field.Forbidden(spec(), "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"+
		"`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` "+
		"(allow it to be set to 1 if it was previously negative)\n"+diff.Diff(allowed, &p.Spec))}
}

// narrows says whether selector keeps all that old demands.
func narrows(selector, old map[string]string) bool {
	for k, v := range old {
		if selector[k] != v {
			return false
		}
	}
	return true
}

func images(list []corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, c := range list {
		errs = append(errs, required(p.Index(i).Child("image"), c.Image)...)
	}
	return errs
}

func deadlineUpdate(p, old *corev1.Pod) field.ErrorList {
	at, deadline, before := spec().Child("activeDeadlineSeconds"), p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds
	switch {
	case deadline == nil && before != nil:
		return field.ErrorList{field.Invalid(at, deadline, "must not update from a positive integer to nil value")}
	case deadline == nil:
		return nil
	case *deadline <= 0:
		return field.ErrorList{field.Invalid(at, *deadline, "must be greater than 0")}
	case before != nil && *before < *deadline:
		return field.ErrorList{field.Invalid(at, *deadline, "must be less than or equal to previous value")}
	}
	return nil
}

// gatesUpdate lets scheduling gates be removed, never added.
func gatesUpdate(p, old *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	for i, g := range p.Spec.SchedulingGates {
		if !slices.Contains(old.Spec.SchedulingGates, g) {
			errs = append(errs, field.Forbidden(spec().Child("schedulingGates").Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name)))
		}
	}
	return errs
}

// tolerationsUpdate lets tolerations be added, and existing ones last another time.
func tolerationsUpdate(p, old *corev1.Pod) field.ErrorList {
	if equality.Semantic.DeepEqual(p.Spec.Tolerations, old.Spec.Tolerations) {
		return nil
	}
	timeless := func(t corev1.Toleration) corev1.Toleration {
		t.TolerationSeconds = nil
		return t
	}
	for _, before := range old.Spec.Tolerations {
		kept := slices.ContainsFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool { return timeless(t) == timeless(before) })
		if !kept {
			return field.ErrorList{field.Forbidden(spec().Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return tolerations(p.Spec.Tolerations, spec().Child("tolerations"))
}

// podStatus keeps what a status may not take back: the node, and how often and how a container ended that must not restart.
func podStatus(p, old *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	at := status()
	if n := p.Status.NominatedNodeName; n != "" && n != old.Status.NominatedNodeName {
		errs = append(errs, nodeName(n, at.Child("nominatedNodeName"))...)
	}
	if p.Spec.NodeName != old.Spec.NodeName {
		errs = append(errs, field.Forbidden(at.Child("nodeName"), "may not be changed directly"))
	}
	for i, c := range p.Status.Conditions {
		errs = append(errs, required(at.Child("conditions").Index(i).Child("type"), string(c.Type))...)
	}
	if old.Status.QOSClass != "" && p.Status.QOSClass != "" {
		errs = append(errs, immutable(at.Child("qosClass"), p.Status.QOSClass, old.Status.QOSClass)...)
	}
	if old.Spec.RestartPolicy == corev1.RestartPolicyAlways {
		return errs
	}
	for _, before := range old.Status.ContainerStatuses {
		if before.State.Terminated == nil || old.Spec.RestartPolicy == corev1.RestartPolicyOnFailure && before.State.Terminated.ExitCode != 0 {
			continue
		}
		for i, c := range p.Status.ContainerStatuses {
			if c.Name == before.Name && c.State.Terminated == nil && !ownRestartPolicy(&p.Spec, c.Name) {
				errs = append(errs, field.Forbidden(at.Child("containerStatuses").Index(i).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}

// ownRestartPolicy says whether a container decides for itself whether it restarts.
func ownRestartPolicy(s *corev1.PodSpec, name string) bool {
	return slices.ContainsFunc(s.Containers, func(c corev1.Container) bool {
		return c.Name == name && (c.RestartPolicy != nil || len(c.RestartPolicyRules) > 0)
	})
}
