package scheduler

// place is one value of a topology key: a node, a zone ...
type place struct{ key, value string }

// placeOf returns where node is by key; false where it has no such label.
func placeOf(node *Node, key string) (place, bool) {
	value, ok := node.Labels[key]
	return place{key, value}, ok
}

// neighbours is what pods that are placed already mean for the one to place. Counts are
// never zero: what counts nothing is not in the map.
type neighbours struct {
	// wanted counts, for each of the pod's affinity terms, matching pods by place.
	wanted []map[place]int
	// avoided counts by place what the pod's own anti-affinity rules out, refusing what
	// somebody else's does.
	avoided, refusing map[place]int
	// score adds up preferences, both ways, by place.
	score map[place]int64
}

// count adds by to a place's count.
func count(in map[place]int, p place, by int) {
	if in[p] += by; in[p] == 0 {
		delete(in, p)
	}
}

// meet works out the neighbours of d's pod.
func (d *decision) meet() {
	req := d.req
	n := &neighbours{avoided: map[place]int{}, refusing: map[place]int{}, score: map[place]int64{}, wanted: make([]map[place]int, len(req.affinity))}
	for i := range n.wanted {
		n.wanted[i] = map[place]int{}
	}
	d.near = n
	d.choosy = len(req.affinity)+len(req.antiAffinity)+len(req.preferredAffinity)+len(req.preferredAvoiding) > 0
	for _, node := range d.snap.Nodes {
		if node.picky == 0 && !d.choosy {
			continue
		}
		for _, other := range node.pods {
			d.require(node, other, 1)
			d.prefer(node, other)
		}
	}
}

// require counts other, on node, by times in what req requires, or others of it.
func (d *decision) require(node *Node, other *Pod, by int) {
	n, req := d.near, d.req
	for _, t := range other.antiAffinity {
		if p, ok := placeOf(node, t.topologyKey); ok && t.matches(req.Pod.Pod, d.snap.NamespaceLabels[req.Namespace]) {
			count(n.refusing, p, by)
		}
	}
	if !d.choosy {
		return
	}
	theirs := d.snap.NamespaceLabels[other.Namespace]
	for i, t := range req.affinity {
		if p, ok := placeOf(node, t.topologyKey); ok && other.DeletionTimestamp == nil && t.matches(other.Pod, theirs) {
			count(n.wanted[i], p, by)
		}
	}
	for _, t := range req.antiAffinity {
		if p, ok := placeOf(node, t.topologyKey); ok && t.matches(other.Pod, theirs) {
			count(n.avoided, p, by)
		}
	}
}

// prefer takes in what other, on node, and req think of each other beyond what they require.
func (d *decision) prefer(node *Node, other *Pod) {
	add := func(terms []term, about *Pod, factor int64) {
		for _, t := range terms {
			if p, ok := placeOf(node, t.topologyKey); ok && t.matches(about.Pod, d.snap.NamespaceLabels[about.Namespace]) {
				d.near.score[p] += factor * max(t.weight, 1)
			}
		}
	}
	if d.profile.hardAffinity > 0 { // who needs our like has some use for us
		add(other.affinity, d.req.Pod, d.profile.hardAffinity)
	}
	if d.choosy || !d.profile.deafToOthers {
		add(other.preferredAffinity, d.req.Pod, 1)
		add(other.preferredAvoiding, d.req.Pod, -1)
	}
	add(d.req.preferredAffinity, other, 1)
	add(d.req.preferredAvoiding, other, -1)
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
	if hit(d.near.avoided, node) {
		return []misfit{{"node(s) didn't match pod anti-affinity rules", cure, true}}
	}
	if hit(d.near.refusing, node) {
		return []misfit{{"node(s) didn't satisfy existing pods anti-affinity rules", cure, true}}
	}
	return nil
}

// hit tells whether node is in one of the places counted.
func hit(counts map[place]int, node *Node) bool {
	for key, value := range node.Labels {
		if counts[place{key, value}] > 0 {
			return true
		}
	}
	return false
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
