package kubelet

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/orlop-io/orlop/kubelet/lifecycle"
)

// shortage is a resource of which the node does not have what a pod needs beside the others.
type shortage struct {
	name             v1.ResourceName
	want, used, have int64 // as messages have them
}

func (s shortage) missing() int64 { return s.used + s.want - s.have }

func (s shortage) rejection() *lifecycle.Rejected {
	return &lifecycle.Rejected{Reason: "OutOf" + string(s.name), Message: fmt.Sprintf("Pod was rejected: Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
		s.name, s.want, s.used, s.have)}
}

// fits says why the node cannot have one pod more beside the others.
func fits(pod *v1.Pod, others []*v1.Pod, allocatable v1.ResourceList) *lifecycle.Rejected {
	if short := shortages(pod, others, allocatable); len(short) > 0 {
		return short[0].rejection()
	}
	return nil
}

// shortages lists the resources of the node that the pods do not leave enough of: places for pods, then the others by name.
func shortages(pod *v1.Pod, others []*v1.Pod, allocatable v1.ResourceList) (out []shortage) {
	if most, ok := allocatable[v1.ResourcePods]; ok && int64(len(others))+1 > most.Value() {
		out = append(out, shortage{v1.ResourcePods, 1, int64(len(others)), most.Value()})
	}
	wants := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	used := v1.ResourceList{}
	for _, p := range others {
		for name, q := range resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wants)) {
		want := wants[name]
		have, ok := allocatable[name]
		if !ok || want.IsZero() { // what the node does not count is not its to refuse
			continue
		}
		taken := used[name]
		total := taken.DeepCopy()
		total.Add(want)
		if total.Cmp(have) > 0 {
			out = append(out, shortage{name, amount(name, want), amount(name, taken), amount(name, have)})
		}
	}
	return out
}

// portsFree says whether the pod's host ports are taken.
func portsFree(pod *v1.Pod, others []*v1.Pod) *lifecycle.Rejected {
	for _, other := range others {
		for _, taken := range hostPorts(other) {
			for _, want := range hostPorts(pod) {
				anywhere := want.HostIP == "" || want.HostIP == "0.0.0.0" || taken.HostIP == "" || taken.HostIP == "0.0.0.0"
				if want.HostPort == taken.HostPort && protocol(want) == protocol(taken) && (anywhere || want.HostIP == taken.HostIP) {
					return &lifecycle.Rejected{Reason: "NodePorts", Message: "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
				}
			}
		}
	}
	return nil
}

func hostPorts(pod *v1.Pod) (ports []v1.ContainerPort) {
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				ports = append(ports, p)
			}
		}
	}
	return ports
}

func protocol(p v1.ContainerPort) v1.Protocol {
	if p.Protocol == "" {
		return v1.ProtocolTCP
	}
	return p.Protocol
}

// affordable says why the node cannot give a pod the resources of a resize: v1.PodReasonInfeasible if it never can, and
// v1.PodReasonDeferred if not beside the others. The reason is empty if it can.
func affordable(pod *v1.Pod, others []*v1.Pod, allocatable v1.ResourceList) (reason, message string) {
	wants := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		want, have := wants[name], allocatable[name]
		if want.Cmp(have) > 0 {
			return v1.PodReasonInfeasible, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, amount(name, want), amount(name, have))
		}
	}
	if r := fits(pod, others, allocatable); r != nil {
		return v1.PodReasonDeferred, strings.TrimPrefix(r.Message, "Pod was rejected: ")
	}
	return "", ""
}

// amount is a quantity in the unit that messages use: thousandths of a CPU, whole of all else.
func amount(name v1.ResourceName, q resource.Quantity) int64 {
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}
