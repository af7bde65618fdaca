package scheduler

import (
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// best is the score that a node gets from one consideration at most.
const best = 100

func milli(n int64) *resource.Quantity { return resource.NewMilliQuantity(n, resource.DecimalSI) }
func bytes(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.BinarySI) }

// rank returns the score of each of nodes, by the profile's weights.
func (d *decision) rank(nodes []*Node) []int64 {
	total, scores := make([]int64, len(nodes)), make([]int64, len(nodes))
	add := func(plugin string, score func(*Node) int64, normalize func([]int64)) {
		weight := d.profile.weights[plugin]
		if weight == 0 {
			return
		}
		for i, node := range nodes {
			if d.req.Timing == nil {
				scores[i] = score(node)
				continue
			}
			done := d.req.Timing(plugin, pointScore)
			scores[i] = score(node)
			done(true)
		}
		if normalize != nil {
			normalize(scores)
		}
		for i := range scores {
			total[i] += weight * scores[i]
		}
	}
	add(resourcesFit, d.useScorer(), nil)
	add(balanced, d.scoreBalance, nil)
	add(imageLocality, d.imageScorer(), nil)
	add(taintToleration, d.countPreferNoSchedule, normalizeReversed)
	if d.req.preferred != nil || d.profile.addedPreferred != nil {
		add(nodeAffinity, d.scorePreferred, normalize)
	}
	if len(d.soft) > 0 {
		add(topologySpread, d.scoreSpread, normalizeSpread)
	}
	if len(d.near.score) > 0 {
		add(interPodAffinity, d.scoreNeighbours, normalizeSpan)
	}
	return total
}

// scorePreferred adds up the pod's preferred node affinity and the profile's.
func (d *decision) scorePreferred(node *Node) (sum int64) {
	if d.req.preferred != nil {
		sum += d.req.preferred.Score(node.Node)
	}
	if d.profile.addedPreferred != nil {
		sum += d.profile.addedPreferred.Score(node.Node)
	}
	return sum
}

// imageScorer prefers nodes that have the images of the pod and of its init containers, large ones above all. An image counts
// as much as there are nodes that have it: else the first node to have it would draw all pods to itself.
func (d *decision) imageScorer() func(*Node) int64 {
	const least, most = 23 << 20, 1000 << 20
	type image struct {
		name string
		part float64 // of all nodes
	}
	var images []image
	for _, list := range [][]corev1.Container{d.req.Spec.InitContainers, d.req.Spec.Containers} {
		for i := range list {
			name := withTag(list[i].Image)
			if n := d.snap.having(name); n > 0 {
				images = append(images, image{name, float64(n) / float64(len(d.snap.Nodes))})
			}
		}
	}
	if len(images) == 0 {
		return func(*Node) int64 { return 0 }
	}
	containers := int64(len(d.req.Spec.InitContainers) + len(d.req.Spec.Containers))
	return func(node *Node) int64 {
		var sum int64
		for _, image := range images {
			sum += int64(float64(node.images[image.name]) * image.part)
		}
		low, high := int64(least), int64(most)*max(containers, 1)
		return best * (min(max(sum, low), high) - low) / (high - low)
	}
}

// withTag completes an image name, as nodes report it.
func withTag(image string) string {
	if strings.Contains(image, "@") || strings.LastIndex(image, ":") > strings.LastIndex(image, "/") {
		return image
	}
	return image + ":latest"
}

// countPreferNoSchedule counts the soft taints that the pod does not tolerate.
func (d *decision) countPreferNoSchedule(node *Node) (n int64) {
	if !node.tainted {
		return 0
	}
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(d.req.Pod.Pod, t) {
			n++
		}
	}
	return n
}

func (d *decision) scoreNeighbours(node *Node) (sum int64) {
	for p, score := range d.near.score {
		if node.Labels[p.key] == p.value {
			sum += score
		}
	}
	return sum
}

// normalize scales so that the highest becomes best.
func normalize(scores []int64) {
	high := int64(0)
	for _, s := range scores {
		high = max(high, s)
	}
	if high == 0 {
		return
	}
	for i := range scores {
		scores[i] = scores[i] * best / high
	}
}

// normalizeReversed makes the lowest best.
func normalizeReversed(scores []int64) {
	high := int64(0)
	for _, s := range scores {
		high = max(high, s)
	}
	for i := range scores {
		if high == 0 {
			scores[i] = best
			continue
		}
		scores[i] = best - scores[i]*best/high
	}
}

// normalizeSpan puts the lowest at 0 and the highest at best.
func normalizeSpan(scores []int64) {
	low, high := int64(math.MaxInt64), int64(math.MinInt64)
	for _, s := range scores {
		low, high = min(low, s), max(high, s)
	}
	for i := range scores {
		if high == low {
			scores[i] = 0
			continue
		}
		scores[i] = (scores[i] - low) * best / (high - low)
	}
}
