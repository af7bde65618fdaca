package scheduler

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

var seeds = flag.Int("seeds", 1500, "random clusters to compare with the model")

// model is the obvious, slow way to tell whether a pod may be on a node: it looks at every pod
// of the cluster each time.
type model struct {
	nodes   []*corev1.Node
	pods    []*corev1.Pod // all have a node
	storage *Storage
}

func (m model) fits(p *corev1.Pod, n *corev1.Node) bool {
	return m.nodeTakes(p, n) && m.hasRoom(p, n) && m.apart(p, n) && m.together(p, n) && m.even(p, n) && m.volumesFit(p, n)
}

func (m model) nodeTakes(p *corev1.Pod, n *corev1.Node) bool {
	for k, v := range p.Spec.NodeSelector {
		if n.Labels[k] != v {
			return false
		}
	}
	for _, t := range n.Spec.Taints {
		if len(p.Spec.Tolerations) == 0 || p.Spec.Tolerations[0].Key != t.Key {
			return false
		}
	}
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		for _, e := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions {
			value, there := n.Labels[e.Key]
			in := there && value == e.Values[0]
			if in != (e.Operator == corev1.NodeSelectorOpIn) {
				return false
			}
		}
	}
	if rules := p.Spec.Containers[0].RestartPolicyRules; len(rules) > 0 && len(n.Status.DeclaredFeatures) == 0 {
		return false
	}
	return !n.Spec.Unschedulable
}

func (m model) hasRoom(p *corev1.Pod, n *corev1.Node) bool {
	left, places := n.Status.Allocatable.Cpu().MilliValue(), n.Status.Allocatable.Pods().Value()
	for _, o := range m.pods {
		if o.Spec.NodeName != n.Name {
			continue
		}
		left -= o.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
		places--
		for _, a := range o.Spec.Containers[0].Ports {
			for _, b := range p.Spec.Containers[0].Ports {
				if a.HostPort == b.HostPort {
					return false
				}
			}
		}
	}
	return places > 0 && left >= p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
}

func (m model) node(name string) *corev1.Node {
	for _, n := range m.nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// near tells whether other is in n's place by key.
func (m model) near(other *corev1.Pod, n *corev1.Node, key string) bool {
	on := m.node(other.Spec.NodeName)
	a, ok1 := on.Labels[key]
	b, ok2 := n.Labels[key]
	return ok1 && ok2 && a == b
}

func selects(s *metav1.LabelSelector, p *corev1.Pod) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(p.Labels))
}

func (m model) apart(p *corev1.Pod, n *corev1.Node) bool {
	terms := func(q *corev1.Pod) []corev1.PodAffinityTerm {
		if q.Spec.Affinity == nil || q.Spec.Affinity.PodAntiAffinity == nil {
			return nil
		}
		return q.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	for _, o := range m.pods {
		for _, t := range terms(p) {
			if selects(t.LabelSelector, o) && m.near(o, n, t.TopologyKey) {
				return false
			}
		}
		for _, t := range terms(o) {
			if selects(t.LabelSelector, p) && m.near(o, n, t.TopologyKey) {
				return false
			}
		}
	}
	return true
}

func (m model) together(p *corev1.Pod, n *corev1.Node) bool {
	if p.Spec.Affinity == nil || p.Spec.Affinity.PodAffinity == nil {
		return true
	}
	here, anywhere, self := true, false, true
	for _, t := range p.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
		if n.Labels[t.TopologyKey] == "" {
			return false
		}
		found := false
		for _, o := range m.pods {
			if selects(t.LabelSelector, o) {
				found = found || m.near(o, n, t.TopologyKey)
				anywhere = anywhere || m.node(o.Spec.NodeName).Labels[t.TopologyKey] != ""
			}
		}
		here, self = here && found, self && selects(t.LabelSelector, p)
	}
	return here || !anywhere && self
}

func (m model) even(p *corev1.Pod, n *corev1.Node) bool {
	for _, c := range p.Spec.TopologySpreadConstraints {
		if n.Labels[c.TopologyKey] == "" {
			return false
		}
		lowest, here := 1<<30, 0
		for _, place := range m.nodes {
			if place.Labels[c.TopologyKey] == "" || len(p.Spec.NodeSelector) > 0 && !m.nodeSelected(p, place) {
				continue
			}
			there := 0
			for _, o := range m.pods {
				if selects(c.LabelSelector, o) && m.near(o, place, c.TopologyKey) && (len(p.Spec.NodeSelector) == 0 || m.nodeSelected(p, m.node(o.Spec.NodeName))) {
					there++
				}
			}
			lowest = min(lowest, there)
			if place.Labels[c.TopologyKey] == n.Labels[c.TopologyKey] {
				here = there
			}
		}
		if selects(c.LabelSelector, p) {
			here++
		}
		if here-lowest > int(c.MaxSkew) {
			return false
		}
	}
	return true
}

func (m model) nodeSelected(p *corev1.Pod, n *corev1.Node) bool {
	return labels.SelectorFromSet(p.Spec.NodeSelector).Matches(labels.Set(n.Labels))
}

// without is the model less the pods on node that drop chooses.
func (m model) without(drop func(*corev1.Pod) bool) model {
	kept := model{nodes: m.nodes, storage: m.storage}
	for _, p := range m.pods {
		if !drop(p) {
			kept.pods = append(kept.pods, p)
		}
	}
	return kept
}

func randomPod(r *rand.Rand, name string) *corev1.Pod {
	app := string(rune('a' + r.IntN(3)))
	p := testPod(name, priority(int32(r.IntN(4))), labelled(app), cpu(fmt.Sprintf("%dm", 250*r.IntN(5))))
	terms := func() []corev1.PodAffinityTerm {
		return []corev1.PodAffinityTerm{{
			TopologyKey:   []string{corev1.LabelHostname, "zone"}[r.IntN(2)],
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": string(rune('a' + r.IntN(3)))}},
		}}
	}
	switch r.IntN(8) {
	case 0:
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms()}}
	case 1:
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms()}}
	case 2:
		spread(p)
		p.Spec.TopologySpreadConstraints[0].TopologyKey = []string{corev1.LabelHostname, "zone"}[r.IntN(2)]
	case 3:
		port(int32(80 + r.IntN(2)))(p)
	case 4:
		p.Spec.NodeSelector = map[string]string{"zone": fmt.Sprint(r.IntN(2))}
	case 5:
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{
				Key: "zone", Values: []string{fmt.Sprint(r.IntN(2))}, Operator: []corev1.NodeSelectorOperator{corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn}[r.IntN(2)],
			}}}},
		}}}
	}
	if r.IntN(4) == 0 {
		p.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
	}
	if r.IntN(8) == 0 {
		wantsRestarts(p)
	}
	for range r.IntN(3) {
		p.Spec.Volumes = append(p.Spec.Volumes, randomVolume(r))
	}
	return p
}

func randomCluster(r *rand.Rand) (model, *cluster) {
	m := model{}
	for i := range 1 + r.IntN(5) {
		m.nodes = append(m.nodes, testNode(fmt.Sprint("n", i), func(n *corev1.Node) {
			if r.IntN(6) > 0 {
				n.Labels["zone"] = fmt.Sprint(r.IntN(2))
			}
			n.Status.Allocatable[corev1.ResourcePods] = *bytes(int64(3 + r.IntN(4)))
			n.Spec.Unschedulable = r.IntN(8) == 0
			if r.IntN(2) == 0 {
				restartsAll(n)
			}
			if r.IntN(8) == 0 {
				n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
			}
		}))
	}
	m.storage = randomStorage(r, m.nodes)
	for i := range r.IntN(10) {
		p := randomPod(r, fmt.Sprint("p", i))
		for _, at := range r.Perm(len(m.nodes)) {
			if m.fits(p, m.nodes[at]) {
				p.Spec.NodeName = m.nodes[at].Name
				m.pods = append(m.pods, p)
				break
			}
		}
	}
	c := clusterOf(m.nodes, m.pods)
	c.storage = m.storage
	return m, c
}

func TestScheduleAgreesWithTheModel(t *testing.T) {
	preempted, ruled := 0, plugins(0)
	for seed := range uint64(*seeds) {
		r := rand.New(rand.NewPCG(seed, 1))
		m, c := randomCluster(r)
		pod := randomPod(r, "new")
		snap := &Snapshot{Nodes: c.nodes, NamespaceLabels: c.namespaces, Turn: r.IntN(len(c.nodes)), Storage: c.storage}
		// In every other cluster, no pod of app a may be disrupted.
		guarded := r.IntN(2) == 0
		if guarded {
			snap.Budgets = []Budget{{Namespace: "default", Selector: labels.SelectorFromSet(labels.Set{"app": "a"})}}
		}
		req := &Request{Pod: NewPod(pod), Volumes: m.bound(pod)}
		v := Schedule(snap, req)
		if again := Schedule(snap, req); again.Node != v.Node || again.Message != v.Message || !reflect.DeepEqual(again.Preemption, v.Preemption) {
			t.Fatalf("seed %d: twice the same, and %+v, %+v", seed, v, again)
		}
		fits := false
		for _, n := range m.nodes {
			fits = fits || m.fits(pod, n)
		}
		switch {
		case v.Node != "" && !m.fits(pod, m.node(v.Node)):
			t.Fatalf("seed %d: %s does not take the pod", seed, v.Node)
		case v.Node == "" && fits:
			t.Fatalf("seed %d: it fits, but: %s", seed, v.Message)
		case v.Node == "":
			ruled |= v.By
			if v.Preemption != nil {
				preempted++
			}
			checkPreemption(t, seed, m, pod, v, guarded)
		}
	}
	if preempted == 0 {
		t.Error("no random cluster needed a preemption")
	}
	// A pod that names its node is never scheduled.
	if missing := allPlugins &^ ruled &^ byNodeName; missing != 0 {
		t.Errorf("%q ruled out no node of any random cluster", missing.names())
	}
}

// checkPreemption looks at each set of lesser pods of each node.
func checkPreemption(t *testing.T, seed uint64, m model, pod *corev1.Pod, v Verdict, guarded bool) {
	t.Helper()
	if p := v.Preemption; p != nil {
		gone := map[string]bool{}
		for _, victim := range p.Victims {
			gone[victim.Name] = true
			if priorityOf(victim) >= *pod.Spec.Priority || victim.Spec.NodeName != p.Node {
				t.Fatalf("seed %d: %s on %s must not be preempted", seed, victim.Name, victim.Spec.NodeName)
			}
		}
		if !m.without(func(o *corev1.Pod) bool { return gone[o.Name] }).fits(pod, m.node(p.Node)) {
			t.Fatalf("seed %d: it does not fit on %s after %v went", seed, p.Node, gone)
		}
	}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity == nil || len(pod.Spec.TopologySpreadConstraints) > 0 {
		return // fewer pods may then be worse, and no order of victims is the best
	}
	const none = int32(1 << 30)
	best, innocent := none, none // of all sets, and of those that break no budget
	for _, n := range m.nodes {
		var lesser []*corev1.Pod
		for _, o := range m.pods {
			if o.Spec.NodeName == n.Name && *o.Spec.Priority < *pod.Spec.Priority {
				lesser = append(lesser, o)
			}
		}
		for set := 1; set < 1<<len(lesser); set++ {
			gone, highest, breaks := map[string]bool{}, int32(-1), false
			for i, o := range lesser {
				if set&(1<<i) != 0 {
					gone[o.Name], highest = true, max(highest, *o.Spec.Priority)
					breaks = breaks || guarded && o.Labels["app"] == "a"
				}
			}
			if !m.without(func(o *corev1.Pod) bool { return gone[o.Name] }).fits(pod, n) {
				continue
			}
			if best = min(best, highest); !breaks {
				innocent = min(innocent, highest)
			}
		}
	}
	if v.Preemption == nil {
		if best < none {
			t.Fatalf("seed %d: pods up to priority %d could make room, but: %s", seed, best, v.Message)
		}
		return
	}
	if innocent < none {
		for _, victim := range v.Preemption.Victims {
			if guarded && victim.Labels["app"] == "a" {
				t.Fatalf("seed %d: %s has to go, though no budget needs to break", seed, victim.Name)
			}
		}
		best = innocent
	}
	if got := priorityOf(v.Preemption.Victims[0]); (innocent < none || !guarded) && got != best {
		t.Fatalf("seed %d: victims up to priority %d, where %d is enough", seed, got, best)
	}
}

// A trial leaves no trace: what a decision knows after it is what it knew before.
func TestTrialsLeaveNoTrace(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		_, c := randomCluster(r)
		req := &Request{Pod: NewPod(randomPod(r, "new"))}
		snap := &Snapshot{Nodes: c.nodes, NamespaceLabels: c.namespaces}
		d, fresh := newDecision(snap, req), newDecision(snap, req)
		d.preempt(c.nodes)
		if !reflect.DeepEqual(d.near, fresh.near) {
			t.Fatalf("seed %d: neighbours %+v became %+v", seed, fresh.near, d.near)
		}
		for i := range d.hard {
			if !reflect.DeepEqual(d.hard[i].counts, fresh.hard[i].counts) || d.hard[i].lowest != fresh.hard[i].lowest {
				t.Fatalf("seed %d: counts %v became %v", seed, fresh.hard[i].counts, d.hard[i].counts)
			}
		}
	}
}
