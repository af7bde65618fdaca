package kubelet

import (
	"fmt"
	"os"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/orlop-io/orlop/kubelet/measure"
	"github.com/orlop-io/orlop/kubelet/node"
)

// pid is the name of processes in reservations.
const pid v1.ResourceName = "pid"

// enforce bounds pods, and what is reserved for others, to their parts of the node. Pods that cannot be bounded run all
// the same, for the node may be the one that mends the cluster; a reservation that cannot be kept is a mistake of the
// configuration.
func (k *Kubelet) enforce() error {
	var bound v1.ResourceList
	if k.cfg.BoundPods {
		bound = k.podBound()
	}
	if err := k.groups.EnsureRoot(bound); err != nil {
		k.log.Warn("make cgroups of pods", "err", err)
		k.events.Node(true, "FailedNodeAllocatableEnforcement", "Failed to update Node Allocatable Limits: "+err.Error())
	} else if k.cfg.BoundPods {
		k.events.Node(false, "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods")
	}
	for _, r := range k.cfg.Reserved {
		amount := r.Amount
		if r.CPUOnly {
			amount = v1.ResourceList{v1.ResourceCPU: r.Amount[v1.ResourceCPU]}
		}
		if err := k.groups.Bound(r.Cgroup, amount); err != nil {
			err = fmt.Errorf("enforce %s-reserved on cgroup %q: %w", r.Name, r.Cgroup, err)
			k.events.Node(true, "FailedNodeAllocatableEnforcement", err.Error())
			return err
		}
		k.events.Node(false, "NodeAllocatableEnforced", fmt.Sprintf("Updated limits on %s reserved cgroup %s", r.Name, r.Cgroup))
	}
	return nil
}

// podBound is what all pods together may use at most.
func (k *Kubelet) podBound() v1.ResourceList {
	bound := node.Bound(k.capacity, k.cfg.Registration)
	if reserved, ok := k.cfg.Registration.Reserved[pid]; ok {
		if most, err := measure.MaxPids(); err == nil && most > reserved.Value() {
			bound[pid] = *resource.NewQuantity(most-reserved.Value(), resource.DecimalSI)
		}
	}
	return bound
}

// scoreSelf tells the kernel how dear the kubelet is when memory runs out. Who lacks the right to say so goes without.
func (k *Kubelet) scoreSelf() {
	if k.cfg.OOMScore == 0 {
		return
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(k.cfg.OOMScore)), 0o644); err != nil {
		k.log.Info("the kubelet keeps its oom score", "err", err)
	}
}
