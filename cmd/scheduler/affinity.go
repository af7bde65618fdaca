package scheduler

import "k8s.io/apimachinery/pkg/labels"

// place is one value of a topology key: a node, a zone ...
type place struct{ key, value string }

// placeOf returns where node is by key; false where it has no such label.
func placeOf(node *Node, key string) (place, bool) {
	value, ok := node.Labels[key]
	return place{key, value}, ok
}

// neighbours is what pods that are placed already mean for the one to place.
type neighbours struct {
	// wanted counts, for each of the pod's affinity terms, matching pods by place.
	wanted []map[place]int
	// avoided are the places that the pod's own anti-affinity rules out, refusing those
	// that somebody else's does.
	avoided, refusing map[place]bool
	// score adds up preferences, both ways, by place.
	score map[place]int64
}

// meet works out the neighbours of d's pod.
func (d *decision) meet() {
	req := d.req
	n := &neighbours{avoided: map[place]bool{}, refusing: map[place]bool{}, score: map[place]int64{}, wanted: make([]map[place]int, len(req.affinity))}
	for i := range n.wanted {
		n.wanted[i] = map[place]int{}
	}
	d.near = n
	own := d.snap.NamespaceLabels[req.Namespace]
	choosy := len(req.affinity)+len(req.antiAffinity)+len(req.preferredAffinity)+len(req.preferredAvoiding) > 0
	for _, node := range d.snap.Nodes {
		if node.picky == 0 && !choosy {
			continue
		}
		for _, other := range node.pods {
			n.theirs(node, other, req, own)
			if choosy {
				n.ours(node, other, req, d.snap.NamespaceLabels[other.Namespace])
			}
		}
	}
}

// theirs takes in what other, on node, thinks of req.
func (n *neighbours) theirs(node *Node, other *Pod, req *Request, own labels.Set) {
	for _, t := range other.antiAffinity {
		if p, ok := placeOf(node, t.topologyKey); ok && t.matches(req.Pod.Pod, own) {
			n.refusing[p] = true
		}
	}
	prefer := func(terms []term, sign int64) {
		for _, t := range terms {
			if p, ok := placeOf(node, t.topologyKey); ok && t.matches(req.Pod.Pod, own) {
				n.score[p] += sign * max(t.weight, 1)
			}
		}
	}
	prefer(other.affinity, 1) // who needs our like has some use for us
	prefer(other.preferredAffinity, 1)
	prefer(other.preferredAvoiding, -1)
}

// ours takes in what req thinks of other, on node.
func (n *neighbours) ours(node *Node, other *Pod, req *Request, theirs labels.Set) {
	for i, t := range req.affinity {
		if p, ok := placeOf(node, t.topologyKey); ok && other.DeletionTimestamp == nil && t.matches(other.Pod, theirs) {
			n.wanted[i][p]++
		}
	}
	for _, t := range req.antiAffinity {
		if p, ok := placeOf(node, t.topologyKey); ok && t.matches(other.Pod, theirs) {
			n.avoided[p] = true
		}
	}
	prefer := func(terms []term, sign int64) {
		for _, t := range terms {
			if p, ok := placeOf(node, t.topologyKey); ok && t.matches(other.Pod, theirs) {
				n.score[p] += sign * t.weight
			}
		}
	}
	prefer(req.preferredAffinity, 1)
	prefer(req.preferredAvoiding, -1)
}

// checkAffinity applies required affinity and anti-affinity, both ways.
func (d *decision) checkAffinity(node *Node) []misfit {
	const cure = nodeChanged | podGone | podBound
	if !d.affinityMet(node) {
		return []misfit{{"node(s) didn't match pod affinity rules", cure, false}}
	}
	if len(d.near.avoided)+len(d.near.refusing) == 0 {
		return nil
	}
	for key, value := range node.Labels {
		p := place{key, value}
		if d.near.avoided[p] {
			return []misfit{{"node(s) didn't match pod anti-affinity rules", cure, true}}
		}
		if d.near.refusing[p] {
			return []misfit{{"node(s) didn't satisfy existing pods anti-affinity rules", cure, true}}
		}
	}
	return nil
}

// affinityMet tells whether all the pod's terms find a match where node is. The first pod
// of a group that wants its own kind is let in anywhere that has the labels.
func (d *decision) affinityMet(node *Node) bool {
	met, any := true, false
	for i, t := range d.req.affinity {
		p, ok := placeOf(node, t.topologyKey)
		if !ok {
			return false
		}
		met = met && d.near.wanted[i][p] > 0
		any = any || len(d.near.wanted[i]) > 0
	}
	if met || any {
		return met
	}
	own := d.snap.NamespaceLabels[d.req.Namespace]
	for _, t := range d.req.affinity {
		if !t.matches(d.req.Pod.Pod, own) {
			return false
		}
	}
	return true
}
