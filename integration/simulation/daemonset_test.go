package simulation

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// daemonSetPlot is of one DaemonSet on nodes that come, go and are tainted.
type daemonSetPlot struct {
	sick   bool
	surges bool
	// byHand tells that only who deletes a pod gets a new one: the strategy is OnDelete.
	byHand bool
	// excess is how many pods may be too many: a maker that was not told what it made makes another.
	excess int
}

func (p *daemonSetPlot) parts() []string { return []string{"daemonset"} }

func (p *daemonSetPlot) begin(s *story) {
	limit, some, none := int32(2), intstr.FromInt32(1+s.rand.Int32N(2)), intstr.FromInt32(0)
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: namespace}}
	ds.Spec = appsv1.DaemonSetSpec{RevisionHistoryLimit: &limit, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "agent"}}, Template: template("agent", "v0"),
		UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &some, MaxSurge: &none}}}
	if p.surges = s.rand.IntN(3) == 0; p.surges {
		ds.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &none, MaxSurge: &some}
	}
	if p.byHand {
		p.surges = false
		ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
	}
	s.put("daemonsets", ds)
	s.note("user: DaemonSet, by hand %t, surges %t, by %s", p.byHand, p.surges, some.String())
}

func (p *daemonSetPlot) set(s *story) *appsv1.DaemonSet {
	return find[*appsv1.DaemonSet](s.world, "daemonsets", "agent")
}

func (p *daemonSetPlot) user(s *story) {
	if pods := all[*corev1.Pod](s.world, "pods"); p.byHand && len(pods) > 0 && s.rand.IntN(2) == 0 {
		pod := pick(s, pods)
		s.note("user: delete pod %s", pod.Name)
		s.remove("pods", pod.Name)
		return
	}
	edit(s.world, "daemonsets", "agent", func(ds *appsv1.DaemonSet) {
		ds.Spec.Template.Spec.Containers[0].Image = fmt.Sprint("v", s.rand.IntN(4))
		s.note("user: %s", ds.Spec.Template.Spec.Containers[0].Image)
	})
}

func (p *daemonSetPlot) accident(s *story) {
	switch n := s.rand.IntN(4); {
	case !p.sick:
	case n == 0:
		s.nodeLeaves()
	case n == 1:
		p.taint(s)
	default:
		s.mishap()
	}
}

// taint forbids a node to new pods, or to all, or to none any more.
func (p *daemonSetPlot) taint(s *story) {
	name := nodeName(s.rand.IntN(3))
	if s.table("nodes").objects[name] == nil {
		return
	}
	edit(s.world, "nodes", name, func(n *corev1.Node) {
		if len(n.Spec.Taints) > 0 {
			n.Spec.Taints = nil
		} else {
			n.Spec.Taints = []corev1.Taint{{Key: "mine", Effect: pick(s, []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute})}}
		}
		s.note("user: node %s has taints %v", name, n.Spec.Taints)
	})
}

func (p *daemonSetPlot) calm(s *story) {
	if s.rand.IntN(2) == 0 {
		for i := range 3 {
			edit(s.world, "nodes", nodeName(i), func(n *corev1.Node) { n.Spec.Taints = nil })
		}
		s.note("user: no taints")
	}
}

// pinned is the node that a pod is on, or made for.
func pinned(p *corev1.Pod) string {
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName
	}
	return p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
}

func (p *daemonSetPlot) check(s *story, e effect) {
	if e.resource != "pods" {
		return
	}
	if e.lost && e.verb == "create" {
		p.excess++
	}
	perNode := map[string]int{}
	for _, pod := range all[*corev1.Pod](s.world, "pods") {
		if live(pod) {
			perNode[pinned(pod)]++
		}
	}
	most := 1 + p.excess
	if p.surges {
		most++
	}
	for i := range 3 {
		if n := perNode[nodeName(i)]; n > most {
			s.fail("%d pods on %s, where %d may be", n, nodeName(i), most)
		}
	}
	if victim, ok := e.before.(*corev1.Pod); ok && e.verb == "delete" {
		if why := e.excused(func(saw sight) string { return p.whyNotDelete(victim, saw) }); why != "" {
			s.fail("%s", why)
		}
	}
}

// whyNotDelete says what protected a pod.
func (p *daemonSetPlot) whyNotDelete(victim *corev1.Pod, saw sight) string {
	ds, _ := saw["daemonsets"]["agent"].(*appsv1.DaemonSet)
	seen, _ := saw["pods"][victim.Name].(*corev1.Pod)
	node, _ := saw["nodes"][pinned(victim)].(*corev1.Node)
	if seen == nil || ds == nil {
		return fmt.Sprintf("deleted %s, which it had not seen", victim.Name)
	}
	if !available(seen) || node == nil || len(node.Spec.Taints) > 0 {
		return "" // it protected nobody, or may not stay
	}
	up := map[string]int{}
	for _, obj := range saw["pods"] {
		pod := obj.(*corev1.Pod)
		if pod.Name == victim.Name || !live(pod) {
			continue
		}
		if ready(pod) {
			up[pinned(pod)]++
		}
	}
	if up[node.Name] > 0 {
		return "" // one of them is too many
	}
	if p.byHand {
		return fmt.Sprintf("deleted %s, which only its user may", victim.Name)
	}
	if p.surges {
		return fmt.Sprintf("deleted %s, and nothing else was available on %s", victim.Name, node.Name)
	}
	down := 0
	for name, obj := range saw["nodes"] {
		if n := obj.(*corev1.Node); len(n.Spec.Taints) == 0 && up[name] == 0 {
			down++
		}
	}
	if most := ds.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.IntValue(); down > most {
		return fmt.Sprintf("deleted %s: then %d nodes had none available, of %d", victim.Name, down, most)
	}
	return ""
}

func (p *daemonSetPlot) end(s *story) {
	ds := p.set(s)
	perNode, updated := map[string]int{}, int32(0)
	for _, pod := range all[*corev1.Pod](s.world, "pods") {
		waits := pod.Spec.NodeName == "" && len(find[*corev1.Node](s.world, "nodes", pinned(pod)).Spec.Taints) > 0
		if perNode[pinned(pod)]++; !available(pod) && !waits {
			s.fail("calm, and pod %s is %s on %q", pod.Name, pod.Status.Phase, pod.Spec.NodeName)
		}
		if len(find[*corev1.Node](s.world, "nodes", pinned(pod)).Spec.Taints) > 0 {
			continue
		}
		switch now := ds.Spec.Template.Spec.Containers[0].Image; {
		case image(pod) == now:
			updated++
		case !p.byHand:
			s.fail("calm, and pod %s runs %s, not %s", pod.Name, image(pod), now)
		}
	}
	wanted := 0
	for _, node := range all[*corev1.Node](s.world, "nodes") {
		least, most := 1, 1
		for _, taint := range node.Spec.Taints {
			if least = 0; taint.Effect == corev1.TaintEffectNoExecute {
				most = 0
			}
		}
		wanted += least
		if n := perNode[node.Name]; n < least || n > most {
			s.fail("calm, and %d pods on %s, tainted %v", n, node.Name, node.Spec.Taints)
		}
	}
	st := ds.Status
	if n := int32(wanted); st.DesiredNumberScheduled != n || st.NumberAvailable != n || st.UpdatedNumberScheduled != updated || st.ObservedGeneration != ds.Generation {
		s.fail("calm, and yet: %d wanted, %d updated; status %+v", wanted, updated, st)
	}
	s.checkHistory(int(*ds.Spec.RevisionHistoryLimit))
	if !s.everybodyKnows() {
		s.fail("calm, and somebody does not know")
	}
}
