package validation

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func statefulSet(s *appsv1.StatefulSet) field.ErrorList {
	var errs field.ErrorList
	switch p := s.Spec.PodManagementPolicy; p {
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	case "":
		errs = append(errs, field.Required(spec().Child("podManagementPolicy"), ""))
	default:
		errs = append(errs, field.Invalid(spec().Child("podManagementPolicy"), p, fmt.Sprintf("must be '%s' or '%s'", appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement)))
	}
	errs = append(errs, statefulSetStrategy(&s.Spec.UpdateStrategy, spec().Child("updateStrategy"))...)
	if r := s.Spec.PersistentVolumeClaimRetentionPolicy; r != nil {
		at := spec().Child("persistentVolumeClaimRetentionPolicy")
		allowed := []appsv1.PersistentVolumeClaimRetentionPolicyType{appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType}
		errs = append(errs, supported(at.Child("whenDeleted"), r.WhenDeleted, allowed...)...)
		errs = append(errs, supported(at.Child("whenScaled"), r.WhenScaled, allowed...)...)
	}
	errs = append(errs, nonNegativePtr(spec().Child("replicas"), s.Spec.Replicas)...)
	errs = append(errs, nonNegative(spec().Child("minReadySeconds"), int64(s.Spec.MinReadySeconds))...)
	if s.Spec.Ordinals != nil {
		errs = append(errs, nonNegative(spec().Child("ordinals", "start"), int64(s.Spec.Ordinals.Start))...)
	}
	errs = append(errs, nonNegativePtr(spec().Child("revisionHistoryLimit"), s.Spec.RevisionHistoryLimit)...)
	if s.Spec.ServiceName != "" {
		errs = append(errs, invalid(spec().Child("serviceName"), s.Spec.ServiceName, validation.IsDNS1123Subdomain(s.Spec.ServiceName))...)
	}
	errs = append(errs, matching(s.Spec.Selector, &s.Spec.Template, "statefulset")...)
	// The template may mount volumes that only the claims of its pods will bring.
	template := s.Spec.Template.DeepCopy()
	for _, c := range s.Spec.VolumeClaimTemplates {
		template.Spec.Volumes = withClaim(template.Spec.Volumes, c.Name)
	}
	return append(errs, longRunning(template, "StatefulSet")...)
}

func statefulSetStrategy(u *appsv1.StatefulSetUpdateStrategy, p *field.Path) field.ErrorList {
	r := u.RollingUpdate
	switch u.Type {
	case appsv1.RollingUpdateStatefulSetStrategyType:
	case appsv1.OnDeleteStatefulSetStrategyType:
		if r != nil {
			return field.ErrorList{field.Invalid(p.Child("rollingUpdate"), r, fmt.Sprintf("only allowed for updateStrategy '%s'", appsv1.RollingUpdateStatefulSetStrategyType))}
		}
	case "":
		return field.ErrorList{field.Required(p, "")}
	default:
		return field.ErrorList{field.Invalid(p, *u, fmt.Sprintf("must be '%s' or '%s'", appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType))}
	}
	if r == nil {
		return nil
	}
	errs := nonNegativePtr(p.Child("rollingUpdate", "partition"), r.Partition)
	at := p.Child("rollingUpdate", "maxUnavailable")
	if r.MaxUnavailable == nil {
		return errs
	}
	errs = append(errs, intOrPercent(r.MaxUnavailable, at)...)
	if amount(r.MaxUnavailable) == 0 {
		errs = append(errs, field.Invalid(at, *r.MaxUnavailable, "cannot be 0"))
	}
	return append(errs, atMostAll(r.MaxUnavailable, at)...)
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

func statefulSetStatus(s, old *appsv1.StatefulSet) field.ErrorList {
	st := &s.Status
	errs := replicaCounts(st.Replicas, "status.readyReplicas", count{"readyReplicas", st.ReadyReplicas}, count{"currentReplicas", st.CurrentReplicas},
		count{"updatedReplicas", st.UpdatedReplicas}, count{"availableReplicas", st.AvailableReplicas})
	errs = append(errs, nonNegative(status().Child("observedGeneration"), st.ObservedGeneration)...)
	return append(errs, collisions(st.CollisionCount, old.Status.CollisionCount)...)
}
