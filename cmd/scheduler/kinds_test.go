package scheduler

import (
	"math/rand/v2"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a decision finds kind by kind is what it would find pod by pod, whatever came and went before.
func TestByKindIsAsByPod(t *testing.T) {
	preferred := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		m, c := randomCluster(r)
		for i, p := range m.pods {
			switch r.IntN(4) {
			case 0:
				c.dropPod(p.UID)
			case 1:
				changed := p.DeepCopy()
				changed.DeletionTimestamp = &metav1.Time{}
				c.setPod(NewPod(changed))
			case 2:
				changed := p.DeepCopy()
				changed.Labels = m.pods[r.IntN(i+1)].Labels
				wish(changed)
				c.setPod(NewPod(changed))
			}
		}
		pod := randomPod(r, "new")
		if r.IntN(2) == 0 {
			wish(pod)
		}
		req := &Request{Pod: NewPod(pod)}
		d := newDecision(&Snapshot{Nodes: c.nodes, NamespaceLabels: c.namespaces}, req)
		preferred += len(d.near.score)
		if slow := podByPod(d); !reflect.DeepEqual(d.near, slow) {
			t.Fatalf("seed %d: by kind %+v, by pod %+v", seed, d.near, slow)
		}
		for _, constraint := range d.hard {
			for _, node := range c.nodes {
				n := 0
				for _, other := range node.pods {
					if constraint.speaksOf(req, other) {
						n++
					}
				}
				if got := constraint.on(req, node); got != n {
					t.Fatalf("seed %d: %d pods counted on %s, there are %d", seed, got, node.Name, n)
				}
			}
		}
	}
	if preferred == 0 {
		t.Error("no random pod preferred anything")
	}
}

// wish adds preferences to what the pod requires.
func wish(p *corev1.Pod) {
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{}
	}
	near, far := &corev1.PodAffinity{}, &corev1.PodAntiAffinity{}
	if p.Spec.Affinity.PodAffinity != nil {
		near = p.Spec.Affinity.PodAffinity
	}
	if p.Spec.Affinity.PodAntiAffinity != nil {
		far = p.Spec.Affinity.PodAntiAffinity
	}
	like := corev1.WeightedPodAffinityTerm{Weight: 7, PodAffinityTerm: corev1.PodAffinityTerm{
		TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels},
	}}
	near.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.WeightedPodAffinityTerm{like}
	like.Weight, like.PodAffinityTerm.LabelSelector = 3, &metav1.LabelSelector{}
	far.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.WeightedPodAffinityTerm{like}
	p.Spec.Affinity.PodAffinity, p.Spec.Affinity.PodAntiAffinity = near, far
}

// podByPod is what meet finds, asked of each pod by itself.
func podByPod(fast *decision) *neighbours {
	d := *fast
	req := d.req
	d.near = &neighbours{avoided: map[place]int{}, refusing: map[place]int{}, score: map[place]int64{}, wanted: make([]map[place]int, len(req.affinity))}
	for i := range d.near.wanted {
		d.near.wanted[i] = map[place]int{}
	}
	for _, node := range d.snap.Nodes {
		add := func(terms []term, about *Pod, factor int64) {
			for _, t := range terms {
				if p, ok := placeOf(node, t.topologyKey); ok && t.matches(about.Pod, d.snap.NamespaceLabels[about.Namespace]) {
					d.near.score[p] += factor * max(t.weight, 1)
				}
			}
		}
		for _, other := range node.pods {
			d.require(node, other, 1)
			add(other.affinity, req.Pod, d.profile.hardAffinity)
			add(other.preferredAffinity, req.Pod, 1)
			add(other.preferredAvoiding, req.Pod, -1)
			add(req.preferredAffinity, other, 1)
			add(req.preferredAvoiding, other, -1)
		}
	}
	return d.near
}
