package validation

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func workloadRules(obj runtime.Object) (rules, bool) {
	switch obj.(type) {
	case *appsv1.Deployment:
		return kind(deployment, func(d, old *appsv1.Deployment) field.ErrorList {
			return append(deployment(d), immutable(spec().Child("selector"), d.Spec.Selector, old.Spec.Selector)...)
		}, deploymentStatus), true
	case *appsv1.ReplicaSet:
		return kind(replicaSet, func(s, old *appsv1.ReplicaSet) field.ErrorList {
			return append(replicaSet(s), immutable(spec().Child("selector"), s.Spec.Selector, old.Spec.Selector)...)
		}, replicaSetStatus), true
	case *appsv1.DaemonSet:
		return kind(daemonSet, func(d, old *appsv1.DaemonSet) field.ErrorList {
			return append(daemonSet(d), immutable(spec().Child("selector"), d.Spec.Selector, old.Spec.Selector)...)
		}, daemonSetStatus), true
	case *appsv1.StatefulSet:
		return kind(statefulSet, statefulSetUpdate, statefulSetStatus), true
	case *appsv1.ControllerRevision:
		return kind(controllerRevision, func(r, old *appsv1.ControllerRevision) field.ErrorList {
			return append(controllerRevision(r), immutable(field.NewPath("data"), r.Data, old.Data)...)
		}, nil), true
	case *batchv1.Job:
		return kind(job, jobUpdate, jobStatus), true
	case *batchv1.CronJob:
		return kind(cronJob, cronJobUpdate, nil), true
	case *policyv1.PodDisruptionBudget:
		return kind(disruptionBudget, nil, disruptionBudgetStatus), true
	case *autoscalingv2.HorizontalPodAutoscaler:
		return kind(autoscaler, nil, autoscalerStatus), true
	}
	return rules{}, false
}

// matching validates a selector and that it selects the pods of the template: a controller must see what it makes.
func matching(selector *metav1.LabelSelector, t *corev1.PodTemplateSpec, what string) field.ErrorList {
	at := spec().Child("selector")
	mismatch := field.Invalid(spec().Child("template", "metadata", "labels"), t.Labels, "`selector` does not match template `labels`")
	if selector == nil {
		return field.ErrorList{field.Required(at, ""), mismatch} // it selects nothing
	}
	errs := labelSelector(at, selector)
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		return append(errs, field.Invalid(at, selector, "empty selector is invalid for "+what))
	}
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return append(errs, field.Invalid(at, selector, "invalid label selector"))
	}
	if !parsed.Matches(labels.Set(t.Labels)) {
		errs = append(errs, mismatch)
	}
	return errs
}

// longRunning validates the template of pods that are meant to run for ever; owner is the kind that users are told of.
func longRunning(t *corev1.PodTemplateSpec, owner string) field.ErrorList {
	at := spec().Child("template")
	errs := podTemplate(t, at)
	if p := t.Spec.RestartPolicy; p != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(at.Child("spec", "restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+owner+" is not Supported"))
	}
	return errs
}

// sharedDisks refuses disks that only one node can write to, in a template of several pods.
func sharedDisks(volumes []corev1.Volume) field.ErrorList {
	var errs field.ErrorList
	for i, v := range volumes {
		if v.GCEPersistentDisk != nil && !v.GCEPersistentDisk.ReadOnly {
			errs = append(errs, field.Invalid(spec().Child("template", "spec", "volumes").Index(i).Child("gcePersistentDisk", "readOnly"), false,
				"must be read-only for replicated pods > 1; GCE PD can only be mounted on multiple machines if it is read-only"))
		}
	}
	return errs
}

// replicated validates the template of a number of pods that may be any.
func replicated(t *corev1.PodTemplateSpec, replicas *int32) field.ErrorList {
	errs := longRunning(t, "ReplicaSet")
	if replicas != nil && *replicas > 1 {
		errs = append(errs, sharedDisks(t.Spec.Volumes)...)
	}
	return errs
}

func deployment(d *appsv1.Deployment) field.ErrorList {
	errs := nonNegativePtr(spec().Child("replicas"), d.Spec.Replicas)
	errs = append(errs, matching(d.Spec.Selector, &d.Spec.Template, "deployment")...)
	errs = append(errs, replicated(&d.Spec.Template, d.Spec.Replicas)...)
	errs = append(errs, deploymentStrategy(&d.Spec.Strategy, spec().Child("strategy"))...)
	errs = append(errs, nonNegative(spec().Child("minReadySeconds"), int64(d.Spec.MinReadySeconds))...)
	errs = append(errs, nonNegativePtr(spec().Child("revisionHistoryLimit"), d.Spec.RevisionHistoryLimit)...)
	if p := d.Spec.ProgressDeadlineSeconds; p != nil {
		errs = append(errs, nonNegative(spec().Child("progressDeadlineSeconds"), int64(*p))...)
		if *p <= d.Spec.MinReadySeconds {
			errs = append(errs, field.Invalid(spec().Child("progressDeadlineSeconds"), *p, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func deploymentStrategy(s *appsv1.DeploymentStrategy, p *field.Path) field.ErrorList {
	errs := supported(p.Child("type"), s.Type, appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType)
	if s.Type == appsv1.RecreateDeploymentStrategyType && s.RollingUpdate != nil {
		errs = append(errs, field.Forbidden(p.Child("rollingUpdate"), "may not be specified when strategy `type` is '"+string(s.Type)+"'"))
	}
	if s.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return errs
	}
	if s.RollingUpdate == nil {
		return append(errs, field.Required(p.Child("rollingUpdate"), "this should be defaulted and never be nil"))
	}
	return append(errs, rolling(s.RollingUpdate.MaxUnavailable, s.RollingUpdate.MaxSurge, p.Child("rollingUpdate"))...)
}

// rolling demands that a rolling update can move at all, and that no more than everything is unavailable.
func rolling(unavailable, surge *intstr.IntOrString, p *field.Path) field.ErrorList {
	errs := intOrPercent(unavailable, p.Child("maxUnavailable"))
	errs = append(errs, intOrPercent(surge, p.Child("maxSurge"))...)
	if amount(unavailable) == 0 && amount(surge) == 0 {
		errs = append(errs, field.Invalid(p.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0"))
	}
	return append(errs, atMostAll(unavailable, p.Child("maxUnavailable"))...)
}

func intOrPercent(v *intstr.IntOrString, p *field.Path) field.ErrorList {
	switch {
	case v == nil:
		return nil
	case v.Type == intstr.String:
		return invalid(p, *v, validation.IsValidPercent(v.StrVal))
	default:
		return nonNegative(p, int64(v.IntVal))
	}
}

func atMostAll(v *intstr.IntOrString, p *field.Path) field.ErrorList {
	if v != nil && v.Type == intstr.String && amount(v) > 100 {
		return field.ErrorList{field.Invalid(p, *v, "must not be greater than 100%")}
	}
	return nil
}

// amount is the number in 3 or in "3%".
func amount(v *intstr.IntOrString) int {
	if v == nil {
		return 0
	}
	if v.Type == intstr.Int {
		return int(v.IntVal)
	}
	if len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0
	}
	n, err := strconv.Atoi(v.StrVal[:len(v.StrVal)-1])
	if err != nil {
		return 0
	}
	return n
}

func deploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	s := &d.Status
	errs := nonNegative(status().Child("observedGeneration"), s.ObservedGeneration)
	errs = append(errs, replicaCounts(s.Replicas, "readyReplicas", count{"updatedReplicas", s.UpdatedReplicas}, count{"readyReplicas", s.ReadyReplicas}, count{"availableReplicas", s.AvailableReplicas})...)
	errs = append(errs, nonNegative(status().Child("unavailableReplicas"), int64(s.UnavailableReplicas))...)
	errs = append(errs, nonNegativePtr(status().Child("terminatingReplicas"), s.TerminatingReplicas)...)
	return append(errs, collisions(s.CollisionCount, old.Status.CollisionCount)...)
}

// count is a number of pods in a status, by the name of its field.
type count struct {
	name string
	n    int32
}

// replicaCounts holds that no count is over that of all, and no more are available than ready.
func replicaCounts(replicas int32, readyName string, parts ...count) field.ErrorList {
	errs := nonNegative(status().Child("replicas"), int64(replicas))
	ready := replicas
	for _, c := range parts {
		errs = append(errs, nonNegative(status().Child(c.name), int64(c.n))...)
		if c.n > replicas {
			errs = append(errs, field.Invalid(status().Child(c.name), c.n, "cannot be greater than status.replicas"))
		}
		if c.name == "readyReplicas" {
			ready = c.n
		}
		if c.name == "availableReplicas" && c.n > ready {
			errs = append(errs, field.Invalid(status().Child(c.name), c.n, "cannot be greater than "+readyName))
		}
	}
	return errs
}

// collisions holds that the count which keeps names unique never falls.
func collisions(now, was *int32) field.ErrorList {
	errs := nonNegativePtr(status().Child("collisionCount"), now)
	if was != nil && (now == nil || *now < *was) {
		value := int32(0)
		if now != nil {
			value = *now
		}
		errs = append(errs, field.Invalid(status().Child("collisionCount"), value, "cannot be decremented"))
	}
	return errs
}

func replicaSet(s *appsv1.ReplicaSet) field.ErrorList {
	errs := nonNegativePtr(spec().Child("replicas"), s.Spec.Replicas)
	errs = append(errs, nonNegative(spec().Child("minReadySeconds"), int64(s.Spec.MinReadySeconds))...)
	errs = append(errs, matching(s.Spec.Selector, &s.Spec.Template, "deployment")...)
	return append(errs, replicated(&s.Spec.Template, s.Spec.Replicas)...)
}

func replicaSetStatus(r, _ *appsv1.ReplicaSet) field.ErrorList {
	s := &r.Status
	errs := replicaCounts(s.Replicas, "readyReplicas", count{"fullyLabeledReplicas", s.FullyLabeledReplicas}, count{"readyReplicas", s.ReadyReplicas}, count{"availableReplicas", s.AvailableReplicas})
	errs = append(errs, nonNegativePtr(status().Child("terminatingReplicas"), s.TerminatingReplicas)...)
	return append(errs, nonNegative(status().Child("observedGeneration"), s.ObservedGeneration)...)
}

func replicationController(c *corev1.ReplicationController) field.ErrorList {
	errs := nonNegative(spec().Child("minReadySeconds"), int64(c.Spec.MinReadySeconds))
	if c.Spec.Replicas == nil {
		errs = append(errs, field.Required(spec().Child("replicas"), ""))
	}
	errs = append(errs, nonNegativePtr(spec().Child("replicas"), c.Spec.Replicas)...)
	if len(c.Spec.Selector) == 0 {
		errs = append(errs, field.Required(spec().Child("selector"), ""))
	}
	if c.Spec.Template == nil {
		return append(errs, field.Required(spec().Child("template"), ""))
	}
	if selector := labels.Set(c.Spec.Selector).AsSelectorPreValidated(); !selector.Empty() && !selector.Matches(labels.Set(c.Spec.Template.Labels)) {
		errs = append(errs, field.Invalid(spec().Child("template", "metadata", "labels"), c.Spec.Template.Labels, "`selector` does not match template `labels`"))
	}
	return append(errs, replicated(c.Spec.Template, c.Spec.Replicas)...)
}

// controllerCounts judges the status of a replication controller, which counts as a replica set does.
func controllerCounts(s *corev1.ReplicationControllerStatus) field.ErrorList {
	errs := replicaCounts(s.Replicas, "readyReplicas", count{"fullyLabeledReplicas", s.FullyLabeledReplicas}, count{"readyReplicas", s.ReadyReplicas}, count{"availableReplicas", s.AvailableReplicas})
	return append(errs, nonNegative(status().Child("observedGeneration"), s.ObservedGeneration)...)
}

func daemonSet(d *appsv1.DaemonSet) field.ErrorList {
	errs := matching(d.Spec.Selector, &d.Spec.Template, "daemonset")
	errs = append(errs, longRunning(&d.Spec.Template, "DaemonSet")...)
	errs = append(errs, sharedDisks(d.Spec.Template.Spec.Volumes)...)
	errs = append(errs, nonNegative(spec().Child("minReadySeconds"), int64(d.Spec.MinReadySeconds))...)
	errs = append(errs, daemonSetStrategy(&d.Spec.UpdateStrategy, spec().Child("updateStrategy"))...)
	return append(errs, nonNegativePtr(spec().Child("revisionHistoryLimit"), d.Spec.RevisionHistoryLimit)...)
}

func daemonSetStrategy(s *appsv1.DaemonSetUpdateStrategy, p *field.Path) field.ErrorList {
	errs := supported(p.Child("type"), s.Type, appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType)
	if s.Type != appsv1.RollingUpdateDaemonSetStrategyType {
		return errs
	}
	p = p.Child("rollingUpdate")
	if s.RollingUpdate == nil {
		return append(errs, field.Required(p, ""))
	}
	unavailable, surge := s.RollingUpdate.MaxUnavailable, s.RollingUpdate.MaxSurge
	for _, v := range []struct {
		name  string
		value *intstr.IntOrString
	}{{"maxUnavailable", unavailable}, {"maxSurge", surge}} {
		errs = append(errs, intOrPercent(v.value, p.Child(v.name))...)
		errs = append(errs, atMostAll(v.value, p.Child(v.name))...)
	}
	switch {
	case amount(unavailable) != 0 && amount(surge) != 0:
		errs = append(errs, field.Invalid(p.Child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero"))
	case amount(unavailable) == 0 && amount(surge) == 0:
		errs = append(errs, field.Required(p.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

func daemonSetStatus(d, old *appsv1.DaemonSet) field.ErrorList {
	var errs field.ErrorList
	s := &d.Status
	for _, c := range []count{
		{"currentNumberScheduled", s.CurrentNumberScheduled}, {"numberMisscheduled", s.NumberMisscheduled}, {"desiredNumberScheduled", s.DesiredNumberScheduled},
		{"numberReady", s.NumberReady}, {"updatedNumberScheduled", s.UpdatedNumberScheduled}, {"numberAvailable", s.NumberAvailable}, {"numberUnavailable", s.NumberUnavailable},
	} {
		errs = append(errs, nonNegative(status().Child(c.name), int64(c.n))...)
	}
	errs = append(errs, nonNegative(status().Child("observedGeneration"), s.ObservedGeneration)...)
	return append(errs, collisions(s.CollisionCount, old.Status.CollisionCount)...)
}

func controllerRevision(r *appsv1.ControllerRevision) field.ErrorList {
	errs := nonNegative(field.NewPath("revision"), r.Revision)
	if r.Data.Raw == nil && r.Data.Object == nil {
		errs = append(errs, field.Required(field.NewPath("data"), "data is mandatory"))
	}
	return errs
}
