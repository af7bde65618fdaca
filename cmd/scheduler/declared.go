package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/nodedeclaredfeatures"
)

// needs are the features, of those that nodes declare while they are new, that a pod must find on its node.
func needs(spec *corev1.PodSpec) nodedeclaredfeatures.FeatureSet {
	// Its only error is a version that is nil.
	set, _ := nodedeclaredfeatures.DefaultFramework.InferForPodScheduling(&nodedeclaredfeatures.PodInfo{Spec: spec}, version.MajorMinor(1, 37))
	return set
}

// undeclared are those of a pod's needs that node does not declare.
func undeclared(needed nodedeclaredfeatures.FeatureSet, node *corev1.Node) []string {
	// Its errors are a node that is nil, and sets of two frameworks.
	result, err := nodedeclaredfeatures.DefaultFramework.MatchNode(needed, node)
	if err != nil {
		return []string{err.Error()}
	}
	return result.UnsatisfiedRequirements
}
