package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

// constraint is a topology spread constraint with the pods it speaks of counted by place.
type constraint struct {
	key        string
	maxSkew    int
	minDomains int
	selector   labels.Selector
	// self is 1 where the pod itself would be counted.
	self   int
	counts map[string]int
	lowest int
	// speaks remembers of which kinds of pods c speaks.
	speaks map[kind]bool
	// single tells that each node is a place of its own, and not counted beforehand.
	single  bool
	honours func(*Node) bool
}

// spreadOut works out the constraints of d's pod: hard ones, and soft ones for scoring.
// A pod that has none, but siblings, spreads softly over nodes and zones.
func (d *decision) spreadOut() {
	pod := d.req.Pod
	for i := range pod.Spec.TopologySpreadConstraints {
		in := &pod.Spec.TopologySpreadConstraints[i]
		c := d.newConstraint(in)
		if in.WhenUnsatisfiable == corev1.ScheduleAnyway {
			d.soft = append(d.soft, c)
		} else {
			d.hard = append(d.hard, c)
		}
	}
	if len(pod.Spec.TopologySpreadConstraints) > 0 || d.req.Siblings == nil {
		return
	}
	for i := range d.profile.spread {
		in := &d.profile.spread[i]
		c := d.newConstraint(in)
		if in.WhenUnsatisfiable != corev1.ScheduleAnyway {
			d.hard = append(d.hard, c)
		} else if c.single || len(c.counts) > 0 {
			d.soft = append(d.soft, c)
		}
	}
}

func (d *decision) newConstraint(in *corev1.TopologySpreadConstraint) *constraint {
	pod := d.req.Pod
	c := &constraint{
		speaks: map[kind]bool{}, key: in.TopologyKey, maxSkew: int(in.MaxSkew), minDomains: int(ptr.Deref(in.MinDomains, 1)),
		selector: selectorOf(withKeys(in.LabelSelector, pod.Labels, in.MatchLabelKeys, nil)),
	}
	shared := in.LabelSelector == nil && len(pod.Spec.TopologySpreadConstraints) == 0
	if shared { // the profile's constraint, for the pod and its siblings
		c.selector = d.req.Siblings
	}
	if c.selector.Matches(labels.Set(pod.Labels)) {
		c.self = 1
	}
	affinity := ptr.Deref(in.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor) == corev1.NodeInclusionPolicyHonor
	taints := ptr.Deref(in.NodeTaintsPolicy, corev1.NodeInclusionPolicyIgnore) == corev1.NodeInclusionPolicyHonor
	c.honours = func(node *Node) bool {
		if affinity {
			if ok, err := pod.required.Match(node.Node); err != nil || !ok {
				return false
			}
		}
		if taints {
			for i := range node.Spec.Taints {
				t := &node.Spec.Taints[i]
				if t.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(pod.Pod, t) {
					return false
				}
			}
		}
		return true
	}
	if shared && d.profile.softSpread {
		c.honours = func(*Node) bool { return true }
	}
	// A wish about nodes needs only those counted that are compared, each by itself.
	if c.single = in.WhenUnsatisfiable == corev1.ScheduleAnyway && c.key == corev1.LabelHostname; !c.single {
		c.count(d)
	}
	return c
}

// count counts the pods that c speaks of.
func (c *constraint) count(d *decision) {
	c.counts = map[string]int{}
	for _, node := range d.snap.Nodes {
		value, ok := c.place(d, node)
		if !ok {
			continue
		}
		c.counts[value] += c.on(d.req, node)
	}
	c.settle()
}

// on counts the pods on node that c speaks of.
func (c *constraint) on(req *Request, node *Node) (n int) {
	for i := range node.groups {
		g := &node.groups[i]
		speaks, known := c.speaks[g.kind]
		if !known {
			speaks = g.pods[0].Namespace == req.Namespace && c.selector.Matches(labels.Set(g.pods[0].Labels))
			if len(c.speaks) < rememberedKinds {
				c.speaks[g.kind] = speaks
			}
		}
		if speaks {
			n += len(g.pods) - g.leaving
		}
	}
	if n > 0 { // never of the pod itself
		if own := node.pods[req.UID]; own != nil && own.DeletionTimestamp == nil && own.Namespace == req.Namespace && c.selector.Matches(labels.Set(own.Labels)) {
			n--
		}
	}
	return n
}

// place is where node is by c's key; ok is false for nodes that do not count.
func (c *constraint) place(d *decision, node *Node) (value string, ok bool) {
	value, ok = node.Labels[c.key]
	return value, ok && c.honours(node) && d.hasAllHardKeys(node)
}

func (c *constraint) speaksOf(req *Request, other *Pod) bool {
	return other.Namespace == req.Namespace && other.DeletionTimestamp == nil && other.UID != req.UID && c.selector.Matches(labels.Set(other.Labels))
}

// settle finds the place with the fewest. With fewer places than wanted, one more is taken to be empty.
func (c *constraint) settle() {
	c.lowest = math.MaxInt
	for _, n := range c.counts {
		c.lowest = min(c.lowest, n)
	}
	if len(c.counts) < c.minDomains {
		c.lowest = 0
	}
}

// recount counts other, on node, by times in the hard constraints.
func (d *decision) recount(node *Node, other *Pod, by int) {
	for _, c := range d.hard {
		if !c.speaksOf(d.req, other) {
			continue
		}
		if value, ok := c.place(d, node); ok {
			c.counts[value] += by
			c.settle()
		}
	}
}

// hasAllHardKeys tells that node counts: it has the keys of all hard constraints.
func (d *decision) hasAllHardKeys(node *Node) bool {
	for i := range d.req.Spec.TopologySpreadConstraints {
		in := &d.req.Spec.TopologySpreadConstraints[i]
		if _, ok := node.Labels[in.TopologyKey]; !ok && in.WhenUnsatisfiable == corev1.DoNotSchedule {
			return false
		}
	}
	return true
}

func (d *decision) checkSpread(node *Node) []misfit {
	for _, c := range d.hard {
		value, ok := node.Labels[c.key]
		if !ok {
			return []misfit{{"node(s) didn't match pod topology spread constraints (missing required label)", bySpread, false}}
		}
		if c.counts[value]+c.self-c.lowest > c.maxSkew {
			return []misfit{{"node(s) didn't match pod topology spread constraints", bySpread, true}}
		}
	}
	return nil
}

// bypassed is the score of a node that has no place in what the pod spreads over; see normalizeSpread.
const bypassed = -1

// scoreSpread is lower where more of the pod's kind are. Upstream's own spread is kept to where nodes lack labels, too.
func (d *decision) scoreSpread(node *Node) int64 {
	total := 0.0
	for _, c := range d.soft {
		value, ok := node.Labels[c.key]
		if !ok && (len(d.req.Spec.TopologySpreadConstraints) > 0 || !d.profile.softSpread) {
			return bypassed
		} else if !ok {
			continue
		}
		here, places := c.counts[value], len(c.counts)
		if c.single {
			here, places = c.on(d.req, node), d.compared
		}
		// More places make each difference matter more.
		total += float64(here)*math.Log(float64(places+2)) + float64(c.maxSkew-1)
	}
	return int64(math.Round(total))
}

// normalizeSpread turns the scores round. Those that are bypassed come last: a pod there would be spread over nothing.
func normalizeSpread(scores []int64) {
	low, high := int64(math.MaxInt64), int64(0)
	for _, s := range scores {
		if s != bypassed {
			low, high = min(low, s), max(high, s)
		}
	}
	for i, s := range scores {
		switch {
		case s == bypassed:
			scores[i] = 0
		case high == 0:
			scores[i] = best
		default:
			scores[i] = best * (high + low - s) / high
		}
	}
}
