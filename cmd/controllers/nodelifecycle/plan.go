package nodelifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Judge returns node's status as it must be after so long a silence.
func Judge(node *corev1.Node, silent time.Duration, cfg Config, now metav1.Time) corev1.NodeStatus {
	status := *node.Status.DeepCopy()
	grace := cfg.Grace
	if Condition(node, corev1.NodeReady) == nil {
		grace = cfg.StartupGrace
	}
	if silent <= grace {
		return status
	}
	for _, kind := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		i := slices.IndexFunc(status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == kind })
		if i < 0 {
			status.Conditions = append(status.Conditions, corev1.NodeCondition{
				Type: kind, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: now,
			})
			continue
		}
		if c := &status.Conditions[i]; c.Status != corev1.ConditionUnknown {
			c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status.", now
		}
	}
	return status
}

// Condition returns node's condition of that type, or nil.
func Condition(node *corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == kind {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

func readyStatus(node *corev1.Node) corev1.ConditionStatus {
	if c := Condition(node, corev1.NodeReady); c != nil {
		return c.Status
	}
	return ""
}

// allDown tells that no node at all is ready. Then it is more likely that we cannot hear them
// than that all died, and nobody is sent away.
func allDown(nodes []*corev1.Node) bool {
	return !slices.ContainsFunc(nodes, func(n *corev1.Node) bool { return readyStatus(n) == corev1.ConditionTrue })
}

// ours are the taints that this controller gives and takes.
func ours(t corev1.Taint) bool {
	switch t.Key {
	case corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable:
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	case corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure, corev1.TaintNodePIDPressure,
		corev1.TaintNodeNetworkUnavailable, corev1.TaintNodeUnschedulable:
		return t.Effect == corev1.TaintEffectNoSchedule
	}
	return false
}

// Haste is what may be done about the pods of a node that is down.
type Haste int

// Evict gives the node a NoExecute taint, by which pods leave that do not tolerate it, or not for long. Wait leaves it at
// those that are there. Spare takes them away.
const (
	Evict Haste = iota
	Wait
	Spare
)

// sends tells that a taint of ours sends pods away.
func sends(taints []corev1.Taint) bool {
	return slices.ContainsFunc(taints, func(t corev1.Taint) bool { return ours(t) && t.Effect == corev1.TaintEffectNoExecute })
}

// Taints returns the taints that node must have: those that are not ours as they are, and
// ours as its conditions ask.
func Taints(node *corev1.Node, haste Haste, now metav1.Time) []corev1.Taint {
	evict := haste == Evict || haste == Wait && sends(node.Spec.Taints)
	var wanted []corev1.Taint
	want := func(key string, effect corev1.TaintEffect) {
		wanted = append(wanted, corev1.Taint{Key: key, Effect: effect})
	}
	switch readyStatus(node) {
	case corev1.ConditionFalse:
		want(corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule)
		want(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
	case corev1.ConditionUnknown:
		want(corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule)
		want(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
	case "":
		// A node that has not reported yet keeps the not-ready taint it was born with.
		for _, t := range node.Spec.Taints {
			if t.Key == corev1.TaintNodeNotReady {
				want(t.Key, t.Effect)
			}
		}
	}
	for _, pressure := range []struct {
		kind corev1.NodeConditionType
		key  string
	}{
		{corev1.NodeMemoryPressure, corev1.TaintNodeMemoryPressure}, {corev1.NodeDiskPressure, corev1.TaintNodeDiskPressure},
		{corev1.NodePIDPressure, corev1.TaintNodePIDPressure}, {corev1.NodeNetworkUnavailable, corev1.TaintNodeNetworkUnavailable},
	} {
		if c := Condition(node, pressure.kind); c != nil && c.Status == corev1.ConditionTrue {
			want(pressure.key, corev1.TaintEffectNoSchedule)
		}
	}
	if node.Spec.Unschedulable {
		want(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	}
	var result []corev1.Taint
	for _, t := range node.Spec.Taints {
		if spared := haste == Spare && t.Effect == corev1.TaintEffectNoExecute; !ours(t) || contains(wanted, t) && !spared {
			result = append(result, t)
		}
	}
	for _, t := range wanted {
		if contains(result, t) || !evict && t.Effect == corev1.TaintEffectNoExecute {
			continue
		}
		t.TimeAdded = &now
		result = append(result, t)
	}
	return result
}

func contains(taints []corev1.Taint, t corev1.Taint) bool {
	return slices.ContainsFunc(taints, func(o corev1.Taint) bool { return o.Key == t.Key && o.Effect == t.Effect })
}
