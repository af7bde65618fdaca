package scheduler

import "slices"

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
	relations := map[kind]relation{}
	for _, t := range req.antiAffinity {
		if !slices.Contains(d.avoids, t.topologyKey) {
			d.avoids = append(d.avoids, t.topologyKey)
		}
	}
	for _, node := range d.snap.Nodes {
		if node.picky == 0 && !d.choosy {
			continue
		}
		for i := range node.groups {
			d.relate(node, &node.groups[i], relations)
		}
	}
}

// relation is what each pod of a kind and the one to place mean for each other.
type relation struct {
	// refusing and avoiding are the topology keys of their anti-affinity and of ours that matches.
	refusing, avoiding []string
	// wanted are the indices of our affinity terms that match.
	wanted []int
	// prefers are the preferences, both ways.
	prefers []preference
}

type preference struct {
	key   string
	score int64
}

// relate takes in a group on node.
func (d *decision) relate(node *Node, g *group, known map[kind]relation) {
	r, remembered := known[g.kind]
	if !remembered {
		if r = d.relationTo(g.pods[0]); len(known) < rememberedKinds {
			known[g.kind] = r
		}
	}
	all, staying := len(g.pods), len(g.pods)-g.leaving
	for _, key := range r.refusing {
		if p, ok := placeOf(node, key); ok {
			count(d.near.refusing, p, all)
		}
	}
	for _, i := range r.wanted {
		if p, ok := placeOf(node, d.req.affinity[i].topologyKey); ok && staying > 0 {
			count(d.near.wanted[i], p, staying)
		}
	}
	for _, key := range r.avoiding {
		if p, ok := placeOf(node, key); ok {
			count(d.near.avoided, p, all)
		}
	}
	for _, f := range r.prefers {
		if p, ok := placeOf(node, f.key); ok {
			d.near.score[p] += f.score * int64(all)
		}
	}
}

// relationTo works out the relation to other's kind.
func (d *decision) relationTo(other *Pod) (r relation) {
	req := d.req
	ours, theirs := d.snap.NamespaceLabels[req.Namespace], d.snap.NamespaceLabels[other.Namespace]
	for _, t := range other.antiAffinity {
		if t.matches(req.Pod.Pod, ours) {
			r.refusing = append(r.refusing, t.topologyKey)
			d.refuseBy(t.topologyKey)
		}
	}
	for i, t := range req.affinity {
		if t.matches(other.Pod, theirs) {
			r.wanted = append(r.wanted, i)
		}
	}
	for _, t := range req.antiAffinity {
		if t.matches(other.Pod, theirs) {
			r.avoiding = append(r.avoiding, t.topologyKey)
		}
	}
	prefer := func(terms []term, about *Pod, factor int64) {
		for _, t := range terms {
			if t.matches(about.Pod, d.snap.NamespaceLabels[about.Namespace]) {
				r.prefers = append(r.prefers, preference{t.topologyKey, factor * max(t.weight, 1)})
			}
		}
	}
	if d.profile.hardAffinity > 0 { // who needs our like has some use for us
		prefer(other.affinity, req.Pod, d.profile.hardAffinity)
	}
	if d.choosy || !d.profile.deafToOthers {
		prefer(other.preferredAffinity, req.Pod, 1)
		prefer(other.preferredAvoiding, req.Pod, -1)
	}
	prefer(req.preferredAffinity, other, 1)
	prefer(req.preferredAvoiding, other, -1)
	return r
}

// refuseBy notes a topology key by which others may refuse the pod.
func (d *decision) refuseBy(key string) {
	if !slices.Contains(d.refusedBy, key) {
		d.refusedBy = append(d.refusedBy, key)
	}
}

// require counts other, on node, by times in what req requires, or others of it: a trial's change of what meet found.
func (d *decision) require(node *Node, other *Pod, by int) {
	n, req := d.near, d.req
	for _, t := range other.antiAffinity {
		if p, ok := placeOf(node, t.topologyKey); ok && t.matches(req.Pod.Pod, d.snap.NamespaceLabels[req.Namespace]) {
			d.refuseBy(t.topologyKey)
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

// checkAffinity applies required affinity and anti-affinity, both ways.
func (d *decision) checkAffinity(node *Node) []misfit {
	if !d.affinityMet(node) {
		return []misfit{{"node(s) didn't match pod affinity rules", byPodAffinity, false}}
	}
	if len(d.near.avoided)+len(d.near.refusing) == 0 {
		return nil
	}
	if hit(d.near.avoided, d.avoids, node) {
		return []misfit{{"node(s) didn't match pod anti-affinity rules", byPodAffinity, true}}
	}
	if hit(d.near.refusing, d.refusedBy, node) {
		return []misfit{{"node(s) didn't satisfy existing pods anti-affinity rules", byPodAffinity, true}}
	}
	return nil
}

// hit tells whether node is in one of the places counted, all of which are by one of keys.
func hit(counts map[place]int, keys []string, node *Node) bool {
	for _, key := range keys {
		if p, ok := placeOf(node, key); ok && counts[p] > 0 {
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
