package criconfig

import (
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kernel's bounds of the CPU controller.
const (
	minShares = 2
	maxShares = 262144
	minQuota  = 1000
)

// Node is what of the node bears on a container's limits.
type Node struct {
	// Memory is the node's memory in bytes: a container's part of it decides whom the kernel
	// kills first.
	Memory int64
	// CPUPeriod is the period of CPU quotas in microseconds; 0 means 100 ms.
	CPUPeriod int64
	// CPUQuota: CPU limits are enforced.
	CPUQuota bool
	// KillTogether: out of memory, the kernel kills all of a container. Only cgroup v2 can.
	KillTogether bool
}

// Resources gives the runtime's form of a container's requests and limits.
func Resources(p *v1.Pod, c *v1.Container, qos v1.PodQOSClass, node Node) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{
		CpuShares:          shares(c),
		MemoryLimitInBytes: c.Resources.Limits.Memory().Value(),
		OomScoreAdj:        OOMScoreAdj(p, c, qos, node.Memory),
	}
	if limit := c.Resources.Limits.Cpu().MilliValue(); limit > 0 && node.CPUQuota {
		period := node.CPUPeriod
		if period == 0 {
			period = 100000
		}
		out.CpuPeriod, out.CpuQuota = period, max(limit*period/1000, minQuota)
	}
	if node.KillTogether {
		out.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return out
}

func shares(c *v1.Container) int64 {
	milli := c.Resources.Requests.Cpu().MilliValue()
	if _, ok := c.Resources.Requests[v1.ResourceCPU]; !ok {
		milli = c.Resources.Limits.Cpu().MilliValue()
	}
	return min(max(milli*1024/1000, minShares), maxShares)
}

// OOMScoreAdj ranks a container among those the kernel may kill when memory runs out: the
// guaranteed last, the best-effort first, others by how much of the node they asked for.
func OOMScoreAdj(p *v1.Pod, c *v1.Container, qos v1.PodQOSClass, nodeMemory int64) int64 {
	const guaranteed, bestEffort = -997, 1000
	if critical(p) {
		return guaranteed
	}
	switch qos {
	case v1.PodQOSGuaranteed:
		return guaranteed
	case v1.PodQOSBestEffort:
		return bestEffort
	}
	if nodeMemory <= 0 {
		return bestEffort - 1
	}
	adj := 1000 - 1000*c.Resources.Requests.Memory().Value()/nodeMemory
	return min(max(adj, 1000+guaranteed), bestEffort-1)
}

// critical says whether the pod is one that the node cannot be without.
func critical(p *v1.Pod) bool {
	const systemNodeCritical = 2000001000
	return p.Spec.Priority != nil && *p.Spec.Priority >= systemNodeCritical
}
