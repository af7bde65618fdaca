package scheduler

import (
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// The plugins by which upstream's configuration names what a decision looks at.
const (
	nodeUnschedulable = "NodeUnschedulable"
	nodeName          = "NodeName"
	taintToleration   = "TaintToleration"
	nodeAffinity      = "NodeAffinity"
	nodePorts         = "NodePorts"
	resourcesFit      = "NodeResourcesFit"
	volumeRestriction = "VolumeRestrictions"
	volumeLimits      = "NodeVolumeLimits"
	volumeBinding     = "VolumeBinding"
	volumeZone        = "VolumeZone"
	topologySpread    = "PodTopologySpread"
	interPodAffinity  = "InterPodAffinity"
	declaredFeatures  = "NodeDeclaredFeatures"
	balanced          = "NodeResourcesBalancedAllocation"
	imageLocality     = "ImageLocality"
	defaultPreemption = "DefaultPreemption"
	defaultBinder     = "DefaultBinder"
)

// Profile is how the pods of one schedulerName are placed. Decisions only read it.
type Profile struct {
	Name string
	// filters are the plugins that rule nodes out.
	filters map[string]bool
	// weights are those that rank nodes; a weight of zero ranks nothing.
	weights map[string]int64
	// preempts tells whether pods may make others leave; at least so many nodes are compared
	// then, as a part of all in percent and as a number.
	preempts                         bool
	candidatesPercent, candidatesMin int
	// percentage of the nodes that are looked for and compared; 0 leaves it to the cluster's size.
	percentage int
	// hardAffinity is what it is worth to be wanted by pods that insist on company.
	hardAffinity int64
	// deafToOthers leaves out what others prefer, unless the pod itself has such wishes.
	deafToOthers bool
	// ignores are resources that nodes need not have, and groups of them, each with its '/'.
	ignores, ignoredGroups []string
	strategy               strategy
	// balance are the resources to be used to the same degree.
	balance []corev1.ResourceName
	// spread is for pods that have no constraints of their own, but siblings.
	spread []corev1.TopologySpreadConstraint
	// softSpread tells that spread is upstream's own, which is kept to where nodes lack labels too.
	softSpread bool
	// added is asked of every node beside the pod's own affinity; nil asks nothing.
	added          *nodeaffinity.NodeSelector
	addedPreferred *nodeaffinity.PreferredSchedulingTerms
}

// strategy ranks nodes by how much of their resources is used.
type strategy struct {
	weights map[corev1.ResourceName]int64
	// score is of a resource of which so much is used of so much.
	score func(used, total int64) int64
	// drawn tells that score is a shape: its mean is rounded, not cut off, and a score of zero has no part in it.
	drawn bool
}

// DefaultProfile is upstream's without a configuration.
func DefaultProfile(name string) *Profile {
	p := &Profile{
		Name: name, filters: map[string]bool{}, preempts: true, candidatesPercent: 10, candidatesMin: 100, hardAffinity: 1,
		weights: map[string]int64{
			taintToleration: 3, nodeAffinity: 2, topologySpread: 2, interPodAffinity: 2, resourcesFit: 1, balanced: 1, imageLocality: 1,
		},
		strategy: strategy{weights: evenly(), score: leastAllocated}, balance: []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory},
		softSpread: true,
		spread: []corev1.TopologySpreadConstraint{
			{TopologyKey: corev1.LabelHostname, MaxSkew: 3, WhenUnsatisfiable: corev1.ScheduleAnyway},
			{TopologyKey: corev1.LabelTopologyZone, MaxSkew: 5, WhenUnsatisfiable: corev1.ScheduleAnyway},
		},
	}
	for _, name := range filterPlugins() {
		p.filters[name] = true
	}
	return p
}

// filterPlugins are the plugins that rule nodes out, in the order of their bits in a set.
func filterPlugins() []string {
	return []string{nodeUnschedulable, nodeName, taintToleration, nodeAffinity, nodePorts, resourcesFit, volumeRestriction, volumeLimits,
		volumeBinding, volumeZone, topologySpread, interPodAffinity, declaredFeatures}
}

// evenly weighs CPU and memory alike.
func evenly() map[corev1.ResourceName]int64 {
	return map[corev1.ResourceName]int64{corev1.ResourceCPU: 1, corev1.ResourceMemory: 1}
}

func leastAllocated(used, total int64) int64 {
	if used > total {
		return 0
	}
	return (total - used) * best / total
}

func mostAllocated(used, total int64) int64 { return min(used, total) * best / total }

// point is one of a shape's: a score from 0 to best for a use in percent.
type point struct{ use, score int64 }

// shaped draws straight lines between points, which are in order of use.
func shaped(points []point) func(used, total int64) int64 {
	return func(used, total int64) int64 {
		use := int64(100)
		if used < total {
			use = used * 100 / total
		}
		for i, p := range points {
			if use > p.use {
				continue
			}
			if i == 0 {
				return p.score
			}
			before := points[i-1]
			return before.score + (p.score-before.score)*(use-before.use)/(p.use-before.use)
		}
		return points[len(points)-1].score
	}
}

// ignored tells that nodes need not have the resource.
func (p *Profile) ignored(name corev1.ResourceName) bool {
	if len(p.ignores)+len(p.ignoredGroups) == 0 {
		return false
	}
	return slices.Contains(p.ignores, string(name)) || slices.ContainsFunc(p.ignoredGroups, func(g string) bool { return strings.HasPrefix(string(name), g) })
}

// of returns one of the amounts.
func (r *Resources) of(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return r.CPU
	case corev1.ResourceMemory:
		return r.Memory
	case corev1.ResourceEphemeralStorage:
		return r.Ephemeral
	}
	return r.Other[name]
}

// useScorer applies the profile's strategy. Resources that the node has not, or that are neither
// CPU nor memory and not asked for, do not count.
func (d *decision) useScorer() func(*Node) int64 {
	type wish struct {
		name         corev1.ResourceName
		weight, want int64
		basic        bool
	}
	var wishes []wish
	for name, weight := range d.profile.strategy.weights {
		w := wish{name: name, weight: weight, basic: name == corev1.ResourceCPU || name == corev1.ResourceMemory}
		if w.want = d.req.requests.of(name); w.basic {
			w.want = d.req.scored.of(name)
		}
		if w.basic || w.want != 0 {
			wishes = append(wishes, w)
		}
	}
	return func(node *Node) int64 {
		var sum, weights int64
		for _, w := range wishes {
			total, used := node.allocatable.of(w.name), &node.requested
			if w.basic {
				used = &node.scored
			}
			if total <= 0 {
				continue
			}
			score := d.profile.strategy.score(used.of(w.name)+w.want, total)
			if score == 0 && d.profile.strategy.drawn {
				continue
			}
			sum += w.weight * score
			weights += w.weight
		}
		switch {
		case weights == 0:
			return 0
		case d.profile.strategy.drawn:
			return int64(math.Round(float64(sum) / float64(weights)))
		}
		return sum / weights
	}
}

// scoreBalance prefers nodes whose resources would be used to the same degree: the less, the
// more these degrees deviate from their mean.
func (d *decision) scoreBalance(node *Node) int64 {
	parts := make([]float64, 0, 4) // on the stack
	for _, name := range d.profile.balance {
		total, want := node.allocatable.of(name), d.req.requests.of(name)
		if total <= 0 || want == 0 && name != corev1.ResourceCPU && name != corev1.ResourceMemory {
			continue
		}
		parts = append(parts, min(float64(node.requested.of(name)+want)/float64(total), 1))
	}
	if len(parts) == 0 {
		return 0
	}
	mean, deviation := 0.0, 0.0
	for _, p := range parts {
		mean += p / float64(len(parts))
	}
	for _, p := range parts {
		deviation += (p - mean) * (p - mean) / float64(len(parts))
	}
	return int64((1 - math.Sqrt(deviation)) * best)
}
