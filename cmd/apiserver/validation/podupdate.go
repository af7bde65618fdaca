package validation

import (
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podUpdate lets only a few fields of a pod's spec change: it gives a copy of the new spec the old values of those, which then
// must equal the old one.
func podUpdate(p, old *corev1.Pod) field.ErrorList {
	errs := podWhole(p)
	errs = append(errs, podAnnotationsUpdate(p, old)...)
	for _, l := range []struct {
		name     string
		now, was []corev1.Container
	}{{"containers", p.Spec.Containers, old.Spec.Containers}, {"initContainers", p.Spec.InitContainers, old.Spec.InitContainers}} {
		if len(l.now) != len(l.was) {
			return append(errs, field.Forbidden(spec().Child(l.name), "pod updates may not add or remove containers"))
		}
	}
	if bad := deadlineUpdate(p, old); len(bad) > 0 {
		return append(errs, bad...)
	}
	errs = append(errs, tolerationsUpdate(p, old)...)
	errs = append(errs, gatesUpdate(p, old)...)

	kept := p.Spec.DeepCopy()
	for i := range kept.Containers {
		kept.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range kept.InitContainers {
		kept.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	kept.ActiveDeadlineSeconds, kept.Tolerations, kept.SchedulingGates = old.Spec.ActiveDeadlineSeconds, old.Spec.Tolerations, old.Spec.SchedulingGates
	if was, now := old.Spec.TerminationGracePeriodSeconds, kept.TerminationGracePeriodSeconds; was != nil && *was < 0 && now != nil && *now == 1 {
		kept.TerminationGracePeriodSeconds = was
	}
	if len(old.Spec.SchedulingGates) > 0 {
		errs = append(errs, placementUpdate(kept, &old.Spec)...)
	}
	if equality.Semantic.DeepEqual(kept, &old.Spec) {
		return errs
	}
	return append(errs, field.Forbidden(spec(), "pod updates may not change fields other than "+strings.Join([]string{
		"`spec.containers[*].image`", "`spec.initContainers[*].image`", "`spec.activeDeadlineSeconds`", "`spec.tolerations` (only additions to existing tolerations)",
		"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
	}, ",")+"\n"+diff.Diff(kept, &old.Spec)))
}

// podAnnotationsUpdate keeps the annotations that decide how a pod runs, or whose copy it is.
func podAnnotationsUpdate(p, old *corev1.Pod) field.ErrorList {
	at := field.NewPath("metadata", "annotations")
	var errs field.ErrorList
	protected := func(key, remove, add string) {
		now, has := p.Annotations[key]
		was, had := old.Annotations[key]
		switch {
		case had && (!has || now != was):
			errs = append(errs, field.Forbidden(at.Key(key), remove))
		case has && !had:
			errs = append(errs, field.Forbidden(at.Key(key), add))
		}
	}
	keys := map[string]bool{}
	for _, m := range []map[string]string{p.Annotations, old.Annotations} {
		for k := range m {
			keys[k] = strings.HasPrefix(k, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
		}
	}
	for k, appArmor := range keys {
		if appArmor {
			protected(k, "may not remove or update AppArmor annotations", "may not add AppArmor annotations")
		}
	}
	protected(corev1.MirrorPodAnnotationKey, "may not remove or update mirror pod annotation", "may not add mirror pod annotation")
	return errs
}

func deadlineUpdate(p, old *corev1.Pod) field.ErrorList {
	at, deadline, before := spec().Child("activeDeadlineSeconds"), p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds
	switch {
	case deadline == nil && before != nil:
		return field.ErrorList{field.Invalid(at, deadline, "must not update from a positive integer to nil value")}
	case deadline == nil:
		return nil
	case *deadline < 0 || *deadline > math.MaxInt32:
		return field.ErrorList{field.Invalid(at, *deadline, validation.InclusiveRangeError(0, math.MaxInt32))}
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
	at := spec().Child("tolerations")
	for _, before := range old.Spec.Tolerations {
		kept := slices.ContainsFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool { return timeless(t) == timeless(before) })
		if !kept {
			return field.ErrorList{field.Forbidden(at, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}

// placementUpdate lets a pod that is still gated demand more of its node, and puts the old demands back into kept.
func placementUpdate(kept, old *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	for k, v := range old.NodeSelector {
		if now, ok := kept.NodeSelector[k]; !ok || now != v {
			errs = append(errs, field.Invalid(spec().Child("nodeSelector"), kept.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
			break
		}
	}
	kept.NodeSelector = old.NodeSelector
	var now, was *corev1.NodeAffinity
	if kept.Affinity != nil {
		now = kept.Affinity.NodeAffinity
	}
	if old.Affinity != nil {
		was = old.Affinity.NodeAffinity
	}
	if equality.Semantic.DeepEqual(now, was) {
		return errs
	}
	errs = append(errs, nodeAffinityUpdate(now, was, spec().Child("affinity", "nodeAffinity"))...)
	switch {
	case kept.Affinity == nil:
		kept.Affinity = &corev1.Affinity{NodeAffinity: was}
	case was == nil && old.Affinity == nil && kept.Affinity.PodAffinity == nil && kept.Affinity.PodAntiAffinity == nil:
		kept.Affinity = nil // it held nothing but what was added
	default:
		kept.Affinity.NodeAffinity = was
	}
	return errs
}

func nodeAffinityUpdate(now, was *corev1.NodeAffinity, p *field.Path) field.ErrorList {
	terms := func(a *corev1.NodeAffinity) []corev1.NodeSelectorTerm {
		if a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
			return nil
		}
		return a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	had, have := terms(was), terms(now)
	if len(had) == 0 {
		return nil
	}
	at := p.Child(requiredTerms, "nodeSelectorTerms")
	if len(had) != len(have) {
		return field.ErrorList{field.Invalid(at, have, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	var errs field.ErrorList
	for i := range had {
		if !narrows(&have[i], &had[i]) {
			errs = append(errs, field.Invalid(at.Index(i), have[i], "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

// narrows says whether t begins with all that old demands. An empty term matches no node: demands would widen it.
func narrows(t, old *corev1.NodeSelectorTerm) bool {
	if len(old.MatchExpressions) == 0 && len(old.MatchFields) == 0 {
		return len(t.MatchExpressions) == 0 && len(t.MatchFields) == 0
	}
	begins := func(list, with []corev1.NodeSelectorRequirement) bool {
		return len(list) >= len(with) && (len(with) == 0 || equality.Semantic.DeepEqual(list[:len(with)], with))
	}
	return begins(t.MatchExpressions, old.MatchExpressions) && begins(t.MatchFields, old.MatchFields)
}

// EphemeralContainers validates a change of a pod's ephemeral containers: they are only ever added.
func EphemeralContainers(p, old *corev1.Pod) field.ErrorList {
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	errs := podWhole(p)
	at := spec().Child("ephemeralContainers")
	for i := range old.Spec.EphemeralContainers {
		was := &old.Spec.EphemeralContainers[i]
		n := slices.IndexFunc(p.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == was.Name })
		if n < 0 {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
		} else if now := &p.Spec.EphemeralContainers[n]; !equality.Semantic.DeepEqual(now, was) {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, diff.Diff(was, now))))
		}
	}
	return errs
}
