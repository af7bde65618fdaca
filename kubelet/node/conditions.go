package node

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// conditions says how the node is, in upstream's words.
func conditions(pressures []v1.NodeConditionType, ready error, before []v1.NodeCondition, now time.Time) []v1.NodeCondition {
	pick := func(kind v1.NodeConditionType, good, goodText, badReason, badText string) v1.NodeCondition {
		if slices.Contains(pressures, kind) {
			return v1.NodeCondition{Type: kind, Status: v1.ConditionTrue, Reason: badReason, Message: badText}
		}
		return v1.NodeCondition{Type: kind, Status: v1.ConditionFalse, Reason: good, Message: goodText}
	}
	out := []v1.NodeCondition{
		pick(v1.NodeMemoryPressure, "KubeletHasSufficientMemory", "kubelet has sufficient memory available", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
		pick(v1.NodeDiskPressure, "KubeletHasNoDiskPressure", "kubelet has no disk pressure", "KubeletHasDiskPressure", "kubelet has disk pressure"),
		pick(v1.NodePIDPressure, "KubeletHasSufficientPID", "kubelet has sufficient PID available", "KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
		{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"},
	}
	if ready != nil {
		r := &out[len(out)-1]
		r.Status, r.Reason, r.Message = v1.ConditionFalse, "KubeletNotReady", ready.Error()
	}
	for i := range out {
		out[i].LastHeartbeatTime = metav1.Time{Time: now}
		out[i].LastTransitionTime = out[i].LastHeartbeatTime
		for _, b := range before {
			if b.Type == out[i].Type && b.Status == out[i].Status {
				out[i].LastTransitionTime = b.LastTransitionTime
			}
		}
	}
	return out
}

// tellTransitions makes events of conditions that changed.
func (n *Node) tellTransitions(before, after []v1.NodeCondition) {
	was := map[v1.NodeConditionType]v1.ConditionStatus{}
	for _, c := range before {
		was[c.Type] = c.Status
	}
	reasons := map[v1.NodeConditionType][2]string{ // when true, when false
		v1.NodeReady:          {"NodeReady", "NodeNotReady"},
		v1.NodeMemoryPressure: {"NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
		v1.NodeDiskPressure:   {"NodeHasDiskPressure", "NodeHasNoDiskPressure"},
		v1.NodePIDPressure:    {"NodeHasInsufficientPID", "NodeHasSufficientPID"},
	}
	for _, c := range after {
		if was[c.Type] == c.Status || c.Type == v1.NodeReady && was[c.Type] == "" {
			continue // a new node was never ready; that it is not is no news
		}
		reason := reasons[c.Type][1]
		if c.Status == v1.ConditionTrue {
			reason = reasons[c.Type][0]
		}
		n.tell(false, reason, "Node "+n.cfg.Name+" status is now: "+reason)
	}
}

// tellCordon makes an event of it when the node was closed to new pods, or opened again.
func (n *Node) tellCordon(cordoned bool) {
	if cordoned == n.cordoned {
		return
	}
	reason := "NodeSchedulable"
	if cordoned {
		reason = "NodeNotSchedulable"
	}
	n.cordoned = cordoned
	n.tell(false, reason, "Node "+n.cfg.Name+" status is now: "+reason)
}
