package statefulset

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ownersOf returns the owners that claim must have so that it goes when persistentVolumeClaimRetentionPolicy says, and
// whether they differ from those it has. A claim that goes with its set belongs to the set; one that goes when the set
// shrinks belongs to its pod, as soon as the pod is to go.
func ownersOf(set *appsv1.StatefulSet, claim *corev1.PersistentVolumeClaim, pod *corev1.Pod) (owners []metav1.OwnerReference, changed bool) {
	policy := appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
	if p := set.Spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		policy = *p
	}
	first, end := span(set)
	n := ordinal(set, pod)
	condemned := n < first || n >= end
	withPod := policy.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && condemned
	withSet := policy.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && !withPod
	owners = slices.Clone(claim.OwnerReferences)
	for _, o := range []struct {
		ref    metav1.OwnerReference
		wanted bool
	}{
		{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("StatefulSet")), withSet},
		{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod")), withPod},
	} {
		there := slices.ContainsFunc(owners, func(have metav1.OwnerReference) bool { return have.UID == o.ref.UID })
		switch {
		case o.wanted && !there:
			if slices.ContainsFunc(owners, func(have metav1.OwnerReference) bool {
				return have.Controller != nil && *have.Controller && have.UID != set.UID && have.UID != pod.UID
			}) {
				continue // somebody else's claim: it is not ours to end
			}
			owners = append(owners, o.ref)
			changed = true
		case !o.wanted && there:
			owners = slices.DeleteFunc(owners, func(have metav1.OwnerReference) bool { return have.UID == o.ref.UID })
			changed = true
		}
	}
	return owners, changed
}

// stale tells that claim belongs to a former pod of its name and is about to go with it: the next pod must wait.
func stale(claim *corev1.PersistentVolumeClaim, pod string) bool {
	return claim.DeletionTimestamp != nil || slices.ContainsFunc(claim.OwnerReferences, func(o metav1.OwnerReference) bool {
		return o.Kind == "Pod" && o.APIVersion == "v1" && o.Name == pod
	})
}
