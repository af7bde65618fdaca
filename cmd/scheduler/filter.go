package scheduler

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
)

// event is what may make a pod fit that did not. They are bits of a set.
type event uint8

const (
	nodeChanged event = 1 << iota
	podGone
	podBound
	volumeChanged
	anything event = 0xff
)

// String names the event in metrics.
func (e event) String() string {
	switch e {
	case nodeChanged:
		return "NodeChange"
	case podGone:
		return "AssignedPodDelete"
	case podBound:
		return "AssignedPodAdd"
	case volumeChanged:
		return "VolumeChange"
	}
	return "ForceActivate"
}

// misfit is why a pod cannot go to a node.
type misfit struct {
	// reason is upstream's text.
	reason string
	// cure are the events that may end it.
	cure event
	// preemptable tells that removing pods from the node may end it.
	preemptable bool
}

// filter returns why req cannot go to node, and nil when it can.
func (d *decision) filter(node *Node) []misfit {
	on := d.profile.filters
	if m := d.checkNode(node); m != nil {
		return m
	}
	if on[nodePorts] {
		if m := checkPorts(d.req.Pod, node); m != nil {
			return m
		}
	}
	if on[resourcesFit] {
		if m := d.fits(node); m != nil {
			return m
		}
	}
	if on[volumeBinding] {
		if m := d.checkVolumes(node); m != nil {
			return m
		}
	}
	if on[topologySpread] {
		if m := d.checkSpread(node); m != nil {
			return m
		}
	}
	if on[interPodAffinity] {
		return d.checkAffinity(node)
	}
	return nil
}

// checkNode compares with what the node says of itself.
func (d *decision) checkNode(node *Node) []misfit {
	pod, on := d.req.Pod, d.profile.filters
	if on[nodeUnschedulable] && node.Spec.Unschedulable && !tolerates(pod.Pod, &corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}) {
		return []misfit{{"node(s) were unschedulable", nodeChanged, false}}
	}
	if on[nodeName] && pod.Spec.NodeName != "" && pod.Spec.NodeName != node.Name {
		return []misfit{{"node(s) didn't match the requested node name", nodeChanged, false}}
	}
	if on[taintToleration] && len(node.Spec.Taints) > 0 {
		taint, found := corehelpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, func(t *corev1.Taint) bool {
			return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
		}, true)
		if found {
			return []misfit{{fmt.Sprintf("node(s) had untolerated taint {%s: %s}", taint.Key, taint.Value), nodeChanged, false}}
		}
	}
	if !on[nodeAffinity] {
		return nil
	}
	if added := d.profile.added; added != nil && !added.Match(node.Node) {
		return []misfit{{"node(s) didn't match scheduler-enforced node affinity", nodeChanged, false}}
	}
	if ok, err := pod.required.Match(node.Node); err != nil || !ok {
		return []misfit{{"node(s) didn't match Pod's node affinity/selector", nodeChanged, false}}
	}
	return nil
}

func tolerates(pod *corev1.Pod, taint *corev1.Taint) bool {
	return corehelpers.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, taint, true)
}

func checkPorts(pod *Pod, node *Node) []misfit {
	for _, want := range pod.ports {
		for have := range node.ports {
			if want.clashes(have) {
				return []misfit{{"node(s) didn't have free ports for the requested pod ports", nodeChanged | podGone, true}}
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
			m = append(m, misfit{reason, nodeChanged | podGone, want <= total})
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
