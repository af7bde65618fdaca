package validation

import (
	"fmt"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
		}, func(s, _ *appsv1.ReplicaSet) field.ErrorList {
			return replicaCounts(s.Status.Replicas, s.Status.FullyLabeledReplicas, s.Status.ReadyReplicas, s.Status.AvailableReplicas, s.Status.ObservedGeneration)
		}), true
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
		return kind(autoscaler, nil, nil), true
	}
	return rules{}, false
}

// matching validates a selector and that it selects the pods of the template: a controller must see what it makes.
func matching(selector *metav1.LabelSelector, t *corev1.PodTemplateSpec) field.ErrorList {
	at := spec().Child("selector")
	if selector == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := labelSelector(at, selector)
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		return append(errs, field.Invalid(at, selector, "empty selector is invalid for this resource"))
	}
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return append(errs, field.Invalid(at, selector, "invalid label selector"))
	}
	if !parsed.Matches(labels.Set(t.Labels)) {
		errs = append(errs, field.Invalid(spec().Child("template", "metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
	return errs
}

// longRunning validates the template of pods that are meant to run for ever.
func longRunning(t *corev1.PodTemplateSpec) field.ErrorList {
	at := spec().Child("template")
	errs := podTemplate(t, at)
	if p := t.Spec.RestartPolicy; p != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(at.Child("spec", "restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicaSet is not Supported"))
	}
	return errs
}

func deployment(d *appsv1.Deployment) field.ErrorList {
	errs := nonNegativePtr(spec().Child("replicas"), d.Spec.Replicas)
	errs = append(errs, matching(d.Spec.Selector, &d.Spec.Template)...)
	errs = append(errs, longRunning(&d.Spec.Template)...)
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
	errs := oneOf(p.Child("type"), s.Type, appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType)
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

func deploymentStatus(d, _ *appsv1.Deployment) field.ErrorList {
	errs := replicaCounts(d.Status.Replicas, 0, d.Status.ReadyReplicas, d.Status.AvailableReplicas, d.Status.ObservedGeneration)
	errs = append(errs, nonNegative(status().Child("updatedReplicas"), int64(d.Status.UpdatedReplicas))...)
	if d.Status.UpdatedReplicas > d.Status.Replicas {
		errs = append(errs, field.Invalid(status().Child("updatedReplicas"), d.Status.UpdatedReplicas, "cannot be greater than status.replicas"))
	}
	return errs
}

// replicaCounts holds available <= ready <= all.
func replicaCounts(replicas, labeled, ready, available int32, observed int64) field.ErrorList {
	errs := nonNegative(status().Child("observedGeneration"), observed)
	for _, c := range []struct {
		name  string
		count int32
	}{{"replicas", replicas}, {"fullyLabeledReplicas", labeled}, {"readyReplicas", ready}, {"availableReplicas", available}} {
		errs = append(errs, nonNegative(status().Child(c.name), int64(c.count))...)
		if c.count > replicas {
			errs = append(errs, field.Invalid(status().Child(c.name), c.count, "cannot be greater than status.replicas"))
		}
	}
	if available > ready {
		errs = append(errs, field.Invalid(status().Child("availableReplicas"), available, "cannot be greater than readyReplicas"))
	}
	return errs
}

func replicaSet(s *appsv1.ReplicaSet) field.ErrorList {
	errs := nonNegativePtr(spec().Child("replicas"), s.Spec.Replicas)
	errs = append(errs, nonNegative(spec().Child("minReadySeconds"), int64(s.Spec.MinReadySeconds))...)
	errs = append(errs, matching(s.Spec.Selector, &s.Spec.Template)...)
	return append(errs, longRunning(&s.Spec.Template)...)
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
	return append(errs, longRunning(c.Spec.Template)...)
}

func daemonSet(d *appsv1.DaemonSet) field.ErrorList {
	errs := matching(d.Spec.Selector, &d.Spec.Template)
	errs = append(errs, longRunning(&d.Spec.Template)...)
	errs = append(errs, nonNegative(spec().Child("minReadySeconds"), int64(d.Spec.MinReadySeconds))...)
	errs = append(errs, nonNegativePtr(spec().Child("revisionHistoryLimit"), d.Spec.RevisionHistoryLimit)...)
	s, at := &d.Spec.UpdateStrategy, spec().Child("updateStrategy")
	errs = append(errs, oneOf(at.Child("type"), s.Type, appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType)...)
	if s.Type != appsv1.RollingUpdateDaemonSetStrategyType {
		return errs
	}
	if s.RollingUpdate == nil {
		return append(errs, field.Required(at.Child("rollingUpdate"), ""))
	}
	errs = append(errs, rolling(s.RollingUpdate.MaxUnavailable, s.RollingUpdate.MaxSurge, at.Child("rollingUpdate"))...)
	if amount(s.RollingUpdate.MaxUnavailable) > 0 && amount(s.RollingUpdate.MaxSurge) > 0 {
		errs = append(errs, field.Invalid(at.Child("rollingUpdate", "maxSurge"), s.RollingUpdate.MaxSurge, "may not be set when maxUnavailable is non-zero"))
	}
	return errs
}

func daemonSetStatus(d, _ *appsv1.DaemonSet) field.ErrorList {
	var errs field.ErrorList
	s := &d.Status
	for name, n := range map[string]int64{
		"currentNumberScheduled": int64(s.CurrentNumberScheduled), "numberMisscheduled": int64(s.NumberMisscheduled), "desiredNumberScheduled": int64(s.DesiredNumberScheduled),
		"numberReady": int64(s.NumberReady), "observedGeneration": s.ObservedGeneration, "updatedNumberScheduled": int64(s.UpdatedNumberScheduled),
		"numberAvailable": int64(s.NumberAvailable), "numberUnavailable": int64(s.NumberUnavailable),
	} {
		errs = append(errs, nonNegative(status().Child(name), n)...)
	}
	return errs
}

func statefulSet(s *appsv1.StatefulSet) field.ErrorList {
	errs := oneOf(spec().Child("podManagementPolicy"), s.Spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement)
	at := spec().Child("updateStrategy")
	errs = append(errs, oneOf(at.Child("type"), s.Spec.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType)...)
	if u := s.Spec.UpdateStrategy.RollingUpdate; u != nil {
		if s.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
			errs = append(errs, field.Invalid(at.Child("rollingUpdate"), u, fmt.Sprintf("only allowed for updateStrategy '%s'", appsv1.RollingUpdateStatefulSetStrategyType)))
		}
		errs = append(errs, nonNegativePtr(at.Child("rollingUpdate", "partition"), u.Partition)...)
		if u.MaxUnavailable != nil {
			errs = append(errs, intOrPercent(u.MaxUnavailable, at.Child("rollingUpdate", "maxUnavailable"))...)
			if amount(u.MaxUnavailable) == 0 {
				errs = append(errs, field.Invalid(at.Child("rollingUpdate", "maxUnavailable"), *u.MaxUnavailable, "cannot be 0"))
			}
			errs = append(errs, atMostAll(u.MaxUnavailable, at.Child("rollingUpdate", "maxUnavailable"))...)
		}
	}
	if r := s.Spec.PersistentVolumeClaimRetentionPolicy; r != nil {
		for name, v := range map[string]appsv1.PersistentVolumeClaimRetentionPolicyType{"whenDeleted": r.WhenDeleted, "whenScaled": r.WhenScaled} {
			errs = append(errs, oneOf(spec().Child("persistentVolumeClaimRetentionPolicy", name), v, appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)...)
		}
	}
	errs = append(errs, nonNegativePtr(spec().Child("replicas"), s.Spec.Replicas)...)
	errs = append(errs, nonNegative(spec().Child("minReadySeconds"), int64(s.Spec.MinReadySeconds))...)
	errs = append(errs, nonNegativePtr(spec().Child("revisionHistoryLimit"), s.Spec.RevisionHistoryLimit)...)
	if s.Spec.Ordinals != nil {
		errs = append(errs, nonNegative(spec().Child("ordinals", "start"), int64(s.Spec.Ordinals.Start))...)
	}
	if s.Spec.ServiceName != "" {
		errs = append(errs, invalid(spec().Child("serviceName"), s.Spec.ServiceName, validation.IsDNS1123Subdomain(s.Spec.ServiceName))...)
	}
	errs = append(errs, matching(s.Spec.Selector, &s.Spec.Template)...)
	// The template may mount volumes that only the claims of its pods will bring.
	template := s.Spec.Template.DeepCopy()
	for _, c := range s.Spec.VolumeClaimTemplates {
		template.Spec.Volumes = withClaim(template.Spec.Volumes, c.Name)
	}
	return append(errs, longRunning(template)...)
}

// withClaim adds or replaces the volume that a claim template brings.
func withClaim(list []corev1.Volume, name string) []corev1.Volume {
	source := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
	for i := range list {
		if list[i].Name == name {
			list[i].VolumeSource = source
			return list
		}
	}
	return append(list, corev1.Volume{Name: name, VolumeSource: source})
}

func statefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	errs := statefulSet(s)
	kept := s.Spec.DeepCopy()
	kept.Replicas, kept.Template, kept.UpdateStrategy = old.Spec.Replicas, old.Spec.Template, old.Spec.UpdateStrategy
	kept.MinReadySeconds, kept.Ordinals, kept.RevisionHistoryLimit = old.Spec.MinReadySeconds, old.Spec.Ordinals, old.Spec.RevisionHistoryLimit
	kept.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	if !equality.Semantic.DeepEqual(kept, &old.Spec) {
		errs = append(errs, field.Forbidden(spec(), "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"))
	}
	return errs
}

func statefulSetStatus(s, _ *appsv1.StatefulSet) field.ErrorList {
	errs := replicaCounts(s.Status.Replicas, 0, s.Status.ReadyReplicas, s.Status.AvailableReplicas, s.Status.ObservedGeneration)
	errs = append(errs, nonNegative(status().Child("currentReplicas"), int64(s.Status.CurrentReplicas))...)
	return append(errs, nonNegative(status().Child("updatedReplicas"), int64(s.Status.UpdatedReplicas))...)
}

func controllerRevision(r *appsv1.ControllerRevision) field.ErrorList {
	errs := nonNegative(field.NewPath("revision"), r.Revision)
	if r.Data.Raw == nil && r.Data.Object == nil {
		errs = append(errs, field.Required(field.NewPath("data"), "data is mandatory"))
	}
	return errs
}
