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

// rank returns the score of each of nodes; weights are upstream's.
func (d *decision) rank(nodes []*Node) []int64 {
	total := make([]int64, len(nodes))
	add := func(weight int64, score func(*Node) int64, normalize func([]int64)) {
		scores := make([]int64, len(nodes))
		for i, node := range nodes {
			scores[i] = score(node)
		}
		if normalize != nil {
			normalize(scores)
		}
		for i := range scores {
			total[i] += weight * scores[i]
		}
	}
	add(1, d.scoreFree, nil)
	add(1, d.scoreBalance, nil)
	add(1, d.imageScorer(), nil)
	add(3, d.countPreferNoSchedule, normalizeReversed)
	if d.req.preferred != nil {
		add(2, func(n *Node) int64 { return d.req.preferred.Score(n.Node) }, normalize)
	}
	if len(d.soft) > 0 {
		add(2, d.scoreSpread, normalizeReversed)
	}
	if len(d.near.score) > 0 {
		add(2, d.scoreNeighbours, normalizeSpan)
	}
	return total
}

// scoreFree prefers nodes with more left.
func (d *decision) scoreFree(node *Node) int64 {
	left := func(used, want, total int64) int64 {
		if total <= 0 || used+want > total {
			return 0
		}
		return (total - used - want) * best / total
	}
	return (left(node.scored.CPU, d.req.scored.CPU, node.allocatable.CPU) +
		left(node.scored.Memory, d.req.scored.Memory, node.allocatable.Memory)) / 2
}

// scoreBalance prefers nodes whose CPU and memory would be used to the same degree.
func (d *decision) scoreBalance(node *Node) int64 {
	part := func(used, want, total int64) float64 {
		if total <= 0 {
			return 1
		}
		return min(float64(used+want)/float64(total), 1)
	}
	cpu := part(node.requested.CPU, d.req.requests.CPU, node.allocatable.CPU)
	memory := part(node.requested.Memory, d.req.requests.Memory, node.allocatable.Memory)
	return int64((1 - math.Abs(cpu-memory)/2) * best)
}

// imageScorer prefers nodes that have the pod's images, large ones above all.
func (d *decision) imageScorer() func(*Node) int64 {
	const least, most = 23 << 20, 1000 << 20
	containers := int64(len(d.req.Spec.Containers))
	return func(node *Node) int64 {
		var sum int64
		for _, c := range d.req.Spec.Containers {
			sum += node.images[withTag(c.Image)]
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
