package scheduler

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
)

// misfit is why a pod cannot go to a node.
type misfit struct {
	// reason is upstream's text.
	reason string
	// by is the plugin that rules the node out.
	by plugins
	// preemptable tells that removing pods from the node may end it.
	preemptable bool
}

// check is one plugin's question about a node.
type check struct {
	plugin plugins
	ask    func(*Node) []misfit
}

// checks are the questions that the profile asks, in order. Plugins that have nothing to say about the pod are left out.
func (d *decision) checks() []check {
	pod, on := d.req.Pod, d.profile.filters
	needed := needs(&pod.Spec)
	var all []check
	add := func(plugin plugins, concerned bool, ask func(*Node) []misfit) {
		if concerned && on[plugin.names()[0]] {
			all = append(all, check{plugin, ask})
		}
	}
	add(byUnschedulable, true, d.checkUnschedulable)
	add(byNodeName, pod.Spec.NodeName != "", d.checkName)
	add(byTaint, true, d.checkTaints)
	add(byNodeAffinity, d.profile.added != nil || len(pod.Spec.NodeSelector) > 0 || pod.Spec.Affinity != nil && pod.Spec.Affinity.NodeAffinity != nil, d.checkNodeAffinity)
	add(byPorts, len(pod.ports) > 0, d.checkPorts)
	add(byFit, true, d.fits)
	add(byRestrictions, len(pod.disks) > 0 || len(d.alone) > 0, d.checkRestrictions)
	add(byLimits, len(d.attaches) > 0, d.checkLimits)
	add(byBinding, len(d.req.Volumes)+len(d.req.Delayed) > 0, d.checkVolumes)
	add(byZone, len(d.zones) > 0, d.checkZone)
	add(bySpread, len(d.hard) > 0, d.checkSpread)
	add(byPodAffinity, true, d.checkAffinity)
	add(byDeclared, !needed.IsEmpty(), func(node *Node) []misfit {
		if missing := undeclared(needed, node.Node); len(missing) > 0 {
			return []misfit{{"node declared features check failed - unsatisfied requirements: " + strings.Join(missing, ", "), byDeclared, false}}
		}
		return nil
	})
	return all
}

// filter returns why req cannot go to node, and nil when it can.
func (d *decision) filter(node *Node) []misfit {
	for _, c := range d.asks {
		if m := d.timed(c, node); m != nil {
			return m
		}
	}
	return nil
}

// timed asks one question, by the request's watch if it has one.
func (d *decision) timed(c check, node *Node) []misfit {
	if d.req.Timing == nil {
		return c.ask(node)
	}
	done := d.req.Timing(c.plugin.names()[0], pointFilter)
	m := c.ask(node)
	done(m == nil)
	return m
}

func (d *decision) checkUnschedulable(node *Node) []misfit {
	if node.cordoned && refusesAll(d.req.Pod.Pod, node.Node) {
		return []misfit{{"node(s) were unschedulable", byUnschedulable, false}}
	}
	return nil
}

// refusesAll tells that node is cordoned, and pod minds.
func refusesAll(pod *corev1.Pod, node *corev1.Node) bool {
	return node.Spec.Unschedulable && !tolerates(pod, &corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
}

func (d *decision) checkName(node *Node) []misfit {
	if d.req.Spec.NodeName != node.Name {
		return []misfit{{"node(s) didn't match the requested node name", byNodeName, false}}
	}
	return nil
}

func (d *decision) checkTaints(node *Node) []misfit {
	if !node.tainted {
		return nil
	}
	if _, found := untolerated(d.req.Pod.Pod, node.Node); found {
		return []misfit{{"node(s) had untolerated taint(s)", byTaint, false}} // without their names, so that nodes are counted together
	}
	return nil
}

// untolerated finds a taint that keeps pod from node.
func untolerated(pod *corev1.Pod, node *corev1.Node) (corev1.Taint, bool) {
	return corehelpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}, true)
}

func (d *decision) checkNodeAffinity(node *Node) []misfit {
	if added := d.profile.added; added != nil && !added.Match(node.Node) {
		return []misfit{{"node(s) didn't match scheduler-enforced node affinity", byNodeAffinity, false}}
	}
	if ok, err := d.req.required.Match(node.Node); err != nil || !ok {
		return []misfit{{"node(s) didn't match Pod's node affinity/selector", byNodeAffinity, false}}
	}
	return nil
}

func tolerates(pod *corev1.Pod, taint *corev1.Taint) bool {
	return corehelpers.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, taint, true)
}

func (d *decision) checkPorts(node *Node) []misfit {
	for _, want := range d.req.ports {
		for have := range node.ports {
			if want.clashes(have) {
				return []misfit{{"node(s) didn't have free ports for the requested pod ports", byPorts, true}}
			}
		}
	}
	return nil
}

// fits names every resource that node has too little of.
func (d *decision) fits(node *Node) []misfit {
	var m []misfit
	r := d.req.requests
	short := func(reason string, want, have, total int64) {
		if want > have {
			m = append(m, misfit{reason, byFit, want <= total})
		}
	}
	a, u := node.allocatable, node.requested
	short("Too many pods", r.Pods, a.Pods-u.Pods, a.Pods)
	if r.CPU > 0 {
		short("Insufficient cpu", r.CPU, a.CPU-u.CPU, a.CPU)
	}
	if r.Memory > 0 {
		short("Insufficient memory", r.Memory, a.Memory-u.Memory, a.Memory)
	}
	if r.Ephemeral > 0 {
		short("Insufficient ephemeral-storage", r.Ephemeral, a.Ephemeral-u.Ephemeral, a.Ephemeral)
	}
	for name, want := range r.Other {
		if want > 0 && !d.profile.ignored(name) {
			short("Insufficient "+string(name), want, a.Other[name]-u.Other[name], a.Other[name])
		}
	}
	return m
}
