package namespace

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// Conditions returns current with what f says about why the namespace is still there.
func Conditions(current []corev1.NamespaceCondition, f found, now metav1.Time) []corev1.NamespaceCondition {
	result := slices.Clone(current)
	set := func(kind corev1.NamespaceConditionType, trouble bool, badReason, badMessage, goodReason, goodMessage string) {
		next := corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionFalse, Reason: goodReason, Message: goodMessage, LastTransitionTime: now}
		if trouble {
			next.Status, next.Reason, next.Message = corev1.ConditionTrue, badReason, badMessage
		}
		for i := range result {
			if result[i].Type != kind {
				continue
			}
			if result[i].Status == next.Status {
				next.LastTransitionTime = result[i].LastTransitionTime
			}
			result[i] = next
			return
		}
		result = append(result, next)
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, len(f.discovery) > 0, "DiscoveryFailed",
		fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(f.discovery), utilerrors.NewAggregate(f.discovery)), "ResourcesDiscovered", "All resources successfully discovered")
	set(corev1.NamespaceDeletionGVParsingFailure, false, "GroupVersionParsingFailed", "", "ParsedGroupVersions", "All legacy kube types successfully parsed")
	set(corev1.NamespaceDeletionContentFailure, len(f.deletion) > 0, "ContentDeletionFailed",
		fmt.Sprintf("Failed to delete all resource types, %d remaining: %v", len(f.deletion), utilerrors.NewAggregate(f.deletion)), "ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	set(corev1.NamespaceContentRemaining, len(f.remaining) > 0, "SomeResourcesRemain",
		"Some resources are remaining: "+count(f.remaining, "%s has %d resource instances"), "ContentRemoved", "All content successfully removed")
	set(corev1.NamespaceFinalizersRemaining, len(f.finalizers) > 0, "SomeFinalizersRemain",
		"Some content in the namespace has finalizers remaining: "+count(f.finalizers, "%s in %d resource instances"), "ContentHasNoFinalizers", "All content-preserving finalizers finished")
	return result
}

func count(m map[string]int, format string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf(format, k, m[k]))
	}
	return strings.Join(parts, ", ")
}
