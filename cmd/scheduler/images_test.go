package scheduler

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func nodeWithImages(name string, images ...string) *corev1.Node {
	n := &corev1.Node{}
	n.Name = name
	for _, image := range images {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{image, image}, SizeBytes: 500 << 20})
	}
	return n
}

// Nodes are ranked by images as if each had been asked for each, however nodes and their images come and go.
func TestImagesAreCounted(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	r, c := rand.New(rand.NewPCG(seed, 0)), newCluster()
	image := func() string { return fmt.Sprintf("image-%d:v1", r.IntN(4)) }
	for range 500 {
		if name := fmt.Sprint("node-", r.IntN(5)); r.IntN(3) == 0 {
			c.dropNode(name)
		} else {
			var images []string
			for range r.IntN(3) {
				images = append(images, image())
			}
			c.setNode(nodeWithImages(name, images...))
		}
		if r.IntN(4) == 0 { // a node of which only a pod is known
			p := NewPod(&corev1.Pod{Spec: corev1.PodSpec{NodeName: fmt.Sprint("node-", r.IntN(5))}})
			c.setPod(p)
		}
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: image()}, {Image: image()}}}}
		req := &Request{Pod: NewPod(pod)}
		counted, asked := &Snapshot{Nodes: c.nodes, Images: c.images}, &Snapshot{Nodes: c.nodes}
		got, want := newDecision(counted, req).imageScorer(), newDecision(asked, req).imageScorer()
		for _, n := range c.nodes {
			if got(n) != want(n) {
				t.Fatalf("%s, images %v, of %v: %d, want %d", n.Name, slices.Sorted(maps.Keys(n.images)), c.images, got(n), want(n))
			}
		}
	}
	for _, n := range slices.Clone(c.nodes) {
		c.dropNode(n.Name)
	}
	if len(c.images) > 0 {
		t.Errorf("%v are counted of no nodes", c.images)
	}
}
