package scheduler

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func sized(cpu, memory string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Allocatable[corev1.ResourceCPU], n.Status.Allocatable[corev1.ResourceMemory] = resource.MustParse(cpu), resource.MustParse(memory)
	}
}

// A mean is cut off where resources are ranked by what is free or used, and rounded where the user draws a shape.
func TestScoresOfUse(t *testing.T) {
	pod := testPod("p", func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("49")}
	})
	for args, want := range map[string]int64{
		"{type: LeastAllocated}": 50, // of 50 and 51
		"{type: MostAllocated}":  49, // of 50 and 49
		"{type: MostAllocated, resources: [{name: cpu, weight: 3}, {name: memory, weight: 1}]}":                                            49,
		"{type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}}": 50,
		"{type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 49, score: 0}, {utilization: 50, score: 8}]}}":  80,
	} {
		_, cfg, err := parseConfig([]byte(head + "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: " + args + "}}]}]\n"))
		if err != nil {
			t.Fatal(err)
		}
		c := clusterOf([]*corev1.Node{testNode("a", sized("100m", "100"))}, nil)
		d := newDecision(&Snapshot{Nodes: c.nodes}, &Request{Pod: NewPod(pod), Profile: cfg.Profiles[corev1.DefaultSchedulerName]})
		if got := d.useScorer()(c.nodes[0]); got != want {
			t.Errorf("%s: %d, want %d", args, got, want)
		}
	}
}

// An image counts by its size and by how many nodes have it, those of init containers too.
func TestScoresOfImages(t *testing.T) {
	nodes := []*corev1.Node{nodeWithImages("a", "x:v1", "y:v1"), nodeWithImages("b", "x:v1"), testNode("c"), testNode("d")}
	pod := testPod("p", func(p *corev1.Pod) {
		p.Spec.Containers[0].Image = "x:v1"
		p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "y:v1"}}
	})
	c := clusterOf(nodes, nil)
	score := newDecision(&Snapshot{Nodes: c.nodes, Images: c.images}, &Request{Pod: NewPod(pod)}).imageScorer()
	var got []int64
	for _, n := range c.nodes {
		got = append(got, score(n))
	}
	// 500 MiB on two of four nodes are 250, on one of four 125; 23 to 2,000 MiB are 0 to 100.
	if want := []int64{17, 11, 0, 0}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Nodes that lack what the pod's own wish is about come last; by upstream's own wishes they are not put behind.
func TestScoresOfSpread(t *testing.T) {
	zone := func(name string) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = name }
	}
	c := clusterOf([]*corev1.Node{testNode("a", zone("y")), testNode("b", zone("z")), testNode("c")},
		[]*corev1.Pod{testPod("1", on("a")), testPod("2", on("b")), testPod("3", on("b"))})
	wish := testPod("p", func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone,
			WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}}}
	})
	snap := &Snapshot{Nodes: c.nodes}
	var scores []int64
	d := newDecision(snap, &Request{Pod: NewPod(wish), Profile: DefaultProfile("p")})
	for _, n := range c.nodes {
		scores = append(scores, d.scoreSpread(n))
	}
	normalizeSpread(scores)
	if want := []int64{100, 33, 0}; !slices.Equal(scores, want) { // one and two pods, times ln 4, are 1 and 3
		t.Errorf("%v, want %v", scores, want)
	}
	same := []int64{bypassed, 0, 0}
	if normalizeSpread(same); !slices.Equal(same, []int64{0, best, best}) {
		t.Errorf("where there are none yet: %v", same)
	}
}
