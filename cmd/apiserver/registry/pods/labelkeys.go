package pods

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// narrowSelectors writes into a new pod's selectors what its matchLabelKeys and mismatchLabelKeys mean, so that whoever reads the
// pod need not know them: the pod's own value of each key, which from then on stays even if the label changes.
func narrowSelectors(pod *corev1.Pod) {
	if a := pod.Spec.Affinity; a != nil {
		if p := a.PodAffinity; p != nil {
			narrowTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, pod.Labels)
		}
		if p := a.PodAntiAffinity; p != nil {
			narrowTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, pod.Labels)
		}
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		narrow(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn, pod.Labels)
	}
}

func narrowTerms(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, labels map[string]string) {
	one := func(t *corev1.PodAffinityTerm) {
		narrow(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn, labels)
		narrow(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn, labels)
	}
	for i := range required {
		one(&required[i])
	}
	for i := range preferred {
		one(&preferred[i].PodAffinityTerm)
	}
}

// narrow adds the labels' values of keys to the selector; a key without a label is passed over, and no selector stays none.
func narrow(selector *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator, labels map[string]string) {
	if selector == nil {
		return
	}
	for _, k := range keys {
		if v, ok := labels[k]; ok {
			selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
		}
	}
}
