package node

import (
	"k8s.io/component-helpers/nodedeclaredfeatures"
	"k8s.io/component-helpers/nodedeclaredfeatures/features/restartallcontainers"
	"k8s.io/component-helpers/nodedeclaredfeatures/types"
)

// declaredFeatures are those, of the features that nodes declare while they are new, that this kubelet has: pods that need
// another one are not placed here.
func declaredFeatures() []string {
	return nodedeclaredfeatures.DefaultFramework.DiscoverNodeFeatures(&nodedeclaredfeatures.NodeConfiguration{
		FeatureGates: types.FeatureGateMap{restartallcontainers.RestartAllContainersOnContainerExits: true},
	})
}
