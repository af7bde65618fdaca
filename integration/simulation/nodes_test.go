package simulation

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/orlop-io/orlop/cmd/controllers/nodelifecycle"
)

// lifecycle is how long nodes may be silent.
var lifecycle = nodelifecycle.Defaults()

// tolerance is for how long pods stand a node that does not answer.
const tolerance = 30

// nodesPlot is of a Deployment on nodes whose kubelets fall silent and come back, and that leave for good.
type nodesPlot struct{ beats time.Time }

func (p *nodesPlot) parts() []string {
	return []string{"deployment", "replicaset", "nodelifecycle", "taint-eviction", "podgc"}
}

func (p *nodesPlot) begin(s *story) {
	s.silent = map[string]bool{}
	labels := map[string]string{"app": "web"}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: namespace}}
	d.Spec = appsv1.DeploymentSpec{Replicas: ptr.To(1 + s.rand.Int32N(3)), RevisionHistoryLimit: ptr.To[int32](1), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template("web", "v0"),
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		d.Spec.Template.Spec.Tolerations = append(d.Spec.Template.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists,
			Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](tolerance)})
	}
	s.put("deployments", d)
	s.note("user: Deployment of %d", *d.Spec.Replicas)
}

// beat is the kubelets' sign of life.
func (p *nodesPlot) beat(s *story) {
	if s.silent == nil || s.isAway() || time.Since(p.beats) < 5*time.Second {
		return
	}
	p.beats = time.Now()
	for _, n := range all[*corev1.Node](s.world, "nodes") {
		if s.silent[n.Name] {
			continue
		}
		if s.table("leases").objects[n.Name] == nil {
			s.put("leases", &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Namespace: corev1.NamespaceNodeLease}})
		}
		edit(s.world, "leases", n.Name, func(l *coordinationv1.Lease) { l.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()} })
		if ready := nodelifecycle.Condition(n, corev1.NodeReady); ready == nil || ready.Status != corev1.ConditionTrue {
			edit(s.world, "nodes", n.Name, func(n *corev1.Node) {
				n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now(), LastTransitionTime: now()}}
			})
			s.note("kubelet: node %s is ready", n.Name)
		}
	}
}

func (p *nodesPlot) user(s *story) {
	name := nodeName(s.rand.IntN(3))
	switch n := s.rand.IntN(8); {
	case s.table("nodes").objects[name] == nil:
		s.silent[name] = false
		s.addNode(name)
	case n < 3:
		if s.silent[name] = !s.silent[name]; s.silent[name] {
			s.note("kubelet of %s dies", name)
		} else {
			s.note("kubelet of %s is back", name)
		}
	case n == 3:
		s.note("node %s leaves for good", name)
		s.silent[name] = true
		s.drop("nodes", name)
	default: // time passes
		for range s.rand.IntN(15) {
			s.settle(5 * time.Second)
		}
	}
}

func (p *nodesPlot) accident(s *story) {}

func (p *nodesPlot) calm(s *story) {
	clear(s.silent)
	s.note("all kubelets are back")
}

func (p *nodesPlot) check(s *story, e effect) {
	switch before := e.before.(type) {
	case *corev1.Node:
		p.checkNode(s, e, before)
	case *corev1.Pod:
		if pod, ok := e.out.(*corev1.Pod); ok && e.verb != "delete" && mark(pod) != nil && mark(before) == nil && mark(pod).Reason == "DeletionByTaintManager" {
			if why := e.excused(func(saw sight) string { return whyNotEvict(pod, saw) }); why != "" {
				s.fail("%s", why)
			}
		}
		left := e.verb == "delete" && s.table("pods").objects[e.name] == nil
		if _, there := s.table("nodes").objects[before.Spec.NodeName]; left && there && !ended(before) {
			s.fail("pod %s was taken from under its kubelet, on %s", e.name, before.Spec.NodeName)
		}
	}
}

// mark is the condition of a pod that is made to leave.
func mark(pod *corev1.Pod) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// checkNode tells whether a node that is called dead had been silent for so long.
func (p *nodesPlot) checkNode(s *story, e effect, before *corev1.Node) {
	is := nodelifecycle.Condition(e.out.(*corev1.Node), corev1.NodeReady)
	was := nodelifecycle.Condition(before, corev1.NodeReady)
	if is == nil || is.Status != corev1.ConditionUnknown || was != nil && was.Status == corev1.ConditionUnknown {
		return
	}
	if why := e.excused(func(saw sight) string {
		lease, _ := saw["leases"][before.Name].(*coordinationv1.Lease)
		switch {
		case lease == nil || lease.Spec.RenewTime == nil:
			return ""
		case time.Since(lease.Spec.RenewTime.Time) < lifecycle.Grace:
			return fmt.Sprintf("node %s is called dead, and was seen alive %v ago", before.Name, time.Since(lease.Spec.RenewTime.Time))
		}
		return ""
	}); why != "" {
		s.fail("%s", why)
	}
}

// whyNotEvict says why a pod might have stayed.
func whyNotEvict(pod *corev1.Pod, saw sight) string {
	node, _ := saw["nodes"][pod.Spec.NodeName].(*corev1.Node)
	if node == nil {
		return fmt.Sprintf("evicted %s from a node that is not there", pod.Name)
	}
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute && (t.TimeAdded == nil || time.Since(t.TimeAdded.Time) >= tolerance*time.Second) {
			return ""
		}
	}
	return fmt.Sprintf("evicted %s from %s, whose taints are %v", pod.Name, node.Name, node.Spec.Taints)
}

func (p *nodesPlot) end(s *story) {
	for _, n := range all[*corev1.Node](s.world, "nodes") {
		if ready := nodelifecycle.Condition(n, corev1.NodeReady); ready == nil || ready.Status != corev1.ConditionTrue || len(n.Spec.Taints) > 0 {
			s.fail("calm, and node %s has %v and taints %v", n.Name, ready, n.Spec.Taints)
		}
	}
	d, have := find[*appsv1.Deployment](s.world, "deployments", "web"), s.census()
	if n := int(*d.Spec.Replicas); have.active != n || have.available != n || int(d.Status.AvailableReplicas) != n {
		s.fail("calm, and yet: %d wanted; %+v; %+v", n, have, d.Status)
	}
	for _, pod := range all[*corev1.Pod](s.world, "pods") { // one that ended may stay, until there are too many
		if pod.DeletionTimestamp != nil {
			s.fail("calm, and pod %s on %s never goes", pod.Name, pod.Spec.NodeName)
		}
	}
}
