package scheduler

import (
	"math/bits"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
)

// event is what may make a pod fit that did not. They are bits of a set.
type event uint16

const (
	nodeAdded event = 1 << iota
	nodeGone
	nodeAllocatable
	nodeLabelled
	nodeTainted
	podBound
	podGone
	podLabelled
	podShrunk
	claimChanged
	volumeChanged
	classChanged
	csiNodeChanged
	detached
	nodeDeclared
	anything event = 1<<iota - 1
)

// String names the event as upstream's metrics do: its resource, and what happened to it.
func (e event) String() string {
	switch e {
	case nodeAdded:
		return "NodeAdd"
	case nodeGone:
		return "NodeDelete"
	case nodeAllocatable:
		return "NodeUpdateNodeAllocatable"
	case nodeLabelled:
		return "NodeUpdateNodeLabel"
	case nodeTainted:
		return "NodeUpdateNodeTaint"
	case podBound:
		return "AssignedPodAdd"
	case podGone:
		return "AssignedPodDelete"
	case podLabelled:
		return "AssignedPodUpdatePodLabel"
	case podShrunk:
		return "AssignedPodUpdatePodScaleDown"
	case claimChanged:
		return "PersistentVolumeClaimUpdate"
	case volumeChanged:
		return "PersistentVolumeUpdate"
	case classChanged:
		return "storage.k8s.io/StorageClassAdd"
	case csiNodeChanged:
		return "storage.k8s.io/CSINodeUpdate"
	case detached:
		return "storage.k8s.io/VolumeAttachmentDelete"
	case nodeDeclared:
		return "NodeUpdateNodeDeclaredFeature"
	}
	return "ForceActivate"
}

// plugins are bits of a set of those that ruled nodes out, in the order in which they are asked.
type plugins uint16

const (
	byUnschedulable plugins = 1 << iota
	byNodeName
	byTaint
	byNodeAffinity
	byPorts
	byFit
	byRestrictions
	byLimits
	byBinding
	byZone
	bySpread
	byPodAffinity
	byDeclared
	allPlugins plugins = 1<<iota - 1
	// byVictims is no plugin: the pod waits for others to leave for it.
	byVictims plugins = 1 << iota
)

// names are the set's plugins by upstream's names.
func (s plugins) names() []string {
	var out []string
	for s &= allPlugins; s != 0; s &= s - 1 {
		out = append(out, filterPlugins()[bits.TrailingZeros16(uint16(s))])
	}
	return out
}

// cures are the events after which a pod that a plugin of the set ruled out may fit.
func (s plugins) cures() (all event) {
	for left := s; left != 0; left &= left - 1 {
		all |= cureOf(left & -left)
	}
	return all
}

// cureOf says what may end the objection of one plugin.
func cureOf(plugin plugins) event {
	switch plugin {
	case byUnschedulable, byTaint:
		return nodeAdded | nodeTainted
	case byNodeName:
		return nodeAdded
	case byNodeAffinity:
		return nodeAdded | nodeLabelled
	case byPorts:
		return nodeAdded | podGone
	case byFit:
		return nodeAdded | nodeAllocatable | podGone | podShrunk
	case byRestrictions:
		return podGone | claimChanged
	case byLimits:
		return csiNodeChanged | podGone | claimChanged | detached
	case byBinding:
		return nodeAdded | nodeLabelled | nodeTainted | claimChanged | volumeChanged | classChanged | csiNodeChanged
	case byZone:
		return nodeAdded | nodeLabelled | claimChanged | volumeChanged | classChanged
	case bySpread:
		return nodeAdded | nodeGone | nodeLabelled | nodeTainted | podBound | podGone | podLabelled
	case byVictims:
		return podGone
	case byPodAffinity:
		return nodeAdded | nodeLabelled | podBound | podGone | podLabelled
	case byDeclared:
		return nodeAdded | nodeDeclared
	}
	return 0
}

// change is one event, with the node, the pod or the claim (namespace/name) that it is about as it is now, and as the pod was
// before; nil and empty where it is about none.
type change struct {
	event     event
	node      *corev1.Node
	pod, past *Pod
	claim     string
}

// helps tells whether c may be what pod, which plugins of the set ruled out everywhere, waits for. It says yes where only a
// decision can tell.
func (s plugins) helps(pod *Pod, c change) bool {
	if c.event == anything {
		return true
	}
	for left := s; left != 0; left &= left - 1 {
		if one := left & -left; cureOf(one)&c.event != 0 && one.hint(pod, c) {
			return true
		}
	}
	return false
}

// hint looks at what the event is about, on behalf of one plugin.
func (s plugins) hint(pod *Pod, c change) bool {
	switch {
	case c.claim != "":
		return slices.Contains(pod.claims, c.claim)
	case c.node != nil && s == byUnschedulable:
		return !refusesAll(pod.Pod, c.node)
	case c.node != nil && s == byTaint:
		_, found := untolerated(pod.Pod, c.node)
		return !found
	case c.node != nil && s == byNodeName:
		return pod.Spec.NodeName == c.node.Name
	case c.node != nil && s == byNodeAffinity:
		ok, err := pod.required.Match(c.node)
		return err != nil || ok
	case c.node != nil && s == byDeclared:
		return len(undeclared(needs(&pod.Spec), c.node)) == 0
	case c.node != nil && s == byFit:
		return covers(resourcesOf(c.node.Status.Allocatable), pod.requests)
	case c.node != nil && s == bySpread:
		return slices.ContainsFunc(pod.Spec.TopologySpreadConstraints, func(t corev1.TopologySpreadConstraint) bool {
			_, there := c.node.Labels[t.TopologyKey]
			return there || c.event != nodeAdded
		}) || len(pod.Spec.TopologySpreadConstraints) == 0
	case c.pod != nil && s == byPorts:
		return slices.ContainsFunc(pod.ports, func(want hostPort) bool { return slices.ContainsFunc(c.pod.ports, want.clashes) })
	case c.pod != nil && s == bySpread:
		return pod.Namespace == c.pod.Namespace && (spreadsWith(pod, c.pod) || c.past != nil && spreadsWith(pod, c.past))
	case c.pod != nil && s == byPodAffinity:
		return c.event != podGone && concerns(pod.affinity, c.pod) || c.event != podBound && keptApart(pod, c)
	case c.pod != nil && s == byRestrictions:
		return slices.ContainsFunc(pod.claims, func(claim string) bool { return slices.Contains(c.pod.claims, claim) }) || len(pod.disks) > 0
	case c.pod != nil && s == byLimits:
		return len(c.pod.claims) > 0
	}
	return true
}

// keptApart tells whether c's pod, which went or changed, may have kept pod away.
func keptApart(pod *Pod, c change) bool {
	return concerns(pod.antiAffinity, c.pod) || c.past != nil && concerns(pod.antiAffinity, c.past) || concerns(c.pod.antiAffinity, pod)
}

// concerns tells whether one of terms may speak of other. The labels of namespaces are not known here.
func concerns(terms []term, other *Pod) bool {
	return slices.ContainsFunc(terms, func(t term) bool {
		return (t.namespaces.Has(other.Namespace) || !matchesNothing(t.namespaceSelector)) && t.selector.Matches(labels.Set(other.Labels))
	})
}

func matchesNothing(s labels.Selector) bool {
	_, selectable := s.Requirements()
	return !selectable
}

// spreadsWith tells whether other is counted by one of pod's constraints; those of its profile count what its Services do.
func spreadsWith(pod, other *Pod) bool {
	if len(pod.Spec.TopologySpreadConstraints) == 0 {
		return true
	}
	return slices.ContainsFunc(pod.Spec.TopologySpreadConstraints, func(c corev1.TopologySpreadConstraint) bool {
		return selectorOf(withKeys(c.LabelSelector, pod.Labels, c.MatchLabelKeys, nil)).Matches(labels.Set(other.Labels))
	})
}

// covers tells whether an empty node with total would have room for want.
func covers(total, want Resources) bool {
	for name, n := range want.Other {
		if n > total.Other[name] {
			return false
		}
	}
	return want.CPU <= total.CPU && want.Memory <= total.Memory && want.Ephemeral <= total.Ephemeral && want.Pods <= total.Pods
}

// nodeEvents says what of a node, nil before it came, differs that decisions read.
func nodeEvents(old, node *corev1.Node) []event {
	if old == nil {
		return []event{nodeAdded}
	}
	var all []event
	if !equality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable) {
		all = append(all, nodeAllocatable)
	}
	if !equality.Semantic.DeepEqual(old.Labels, node.Labels) {
		all = append(all, nodeLabelled)
	}
	if old.Spec.Unschedulable != node.Spec.Unschedulable || !equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) {
		all = append(all, nodeTainted)
	}
	if !slices.Equal(old.Status.DeclaredFeatures, node.Status.DeclaredFeatures) {
		all = append(all, nodeDeclared)
	}
	return all
}

// shrunk tells whether pod asks for less than it did.
func shrunk(old, pod *Pod) bool {
	return !covers(pod.requests, old.requests)
}
