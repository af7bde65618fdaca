package pods

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNarrowSelectors(t *testing.T) {
	selector := func() *metav1.LabelSelector { return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}} }
	term := func() corev1.PodAffinityTerm {
		return corev1.PodAffinityTerm{LabelSelector: selector(), MatchLabelKeys: []string{"hash", "missing"}, MismatchLabelKeys: []string{"tenant"}}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"hash": "1", "tenant": "x"}}, Spec: corev1.PodSpec{
		Affinity: &corev1.Affinity{
			PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term(), {MatchLabelKeys: []string{"hash"}}}},
			PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
				{PodAffinityTerm: term()}}},
		},
		TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{LabelSelector: selector(), MatchLabelKeys: []string{"hash"}}},
	}}
	narrowSelectors(pod)
	same := metav1.LabelSelectorRequirement{Key: "hash", Operator: metav1.LabelSelectorOpIn, Values: []string{"1"}}
	other := metav1.LabelSelectorRequirement{Key: "tenant", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"x"}}
	required := pod.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	for name, got := range map[string]*metav1.LabelSelector{
		"affinity":      required[0].LabelSelector,
		"anti-affinity": pod.Spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution[0].PodAffinityTerm.LabelSelector,
	} {
		if diff := cmp.Diff([]metav1.LabelSelectorRequirement{same, other}, got.MatchExpressions); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if required[1].LabelSelector != nil {
		t.Error("a term without a selector got one")
	}
	if diff := cmp.Diff([]metav1.LabelSelectorRequirement{same}, pod.Spec.TopologySpreadConstraints[0].LabelSelector.MatchExpressions); diff != "" {
		t.Error(diff)
	}
}
