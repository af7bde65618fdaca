package cgroups

import (
	"math"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	"k8s.io/kubectl/pkg/util/qos"
)

const (
	minShares = 2      // the kernel's smallest cpu.shares
	maxShares = 262144 // and its largest
	minQuota  = time.Millisecond
)

// limits is what one cgroup may use. A zero field leaves the kernel's value alone.
type limits struct {
	Shares uint64        // cpu.shares of cgroup v1; becomes cpu.weight in v2
	Quota  time.Duration // CPU time per Period, negative for no bound
	Period time.Duration
	Memory int64 // bytes, negative for no bound
	Pids   int64 // negative for no bound
}

// file is one value to write below a cgroup's directory.
type file struct {
	Controller string
	Name       string
	Value      string
}

// filesV1 lists the writes for cgroup v1. The period goes before the quota, because the kernel checks the pair.
func (l limits) filesV1() []file {
	var out []file
	if l.Shares != 0 {
		out = append(out, file{"cpu", "cpu.shares", strconv.FormatUint(l.Shares, 10)})
	}
	if l.Quota != 0 {
		if l.Period > 0 {
			out = append(out, file{"cpu", "cpu.cfs_period_us", strconv.FormatInt(l.Period.Microseconds(), 10)})
		}
		out = append(out, file{"cpu", "cpu.cfs_quota_us", number(l.Quota < 0, l.Quota.Microseconds(), "-1")})
	}
	if l.Memory != 0 {
		out = append(out, file{"memory", "memory.limit_in_bytes", number(l.Memory < 0, l.Memory, "-1")})
	}
	if l.Pids != 0 {
		out = append(out, file{"pids", "pids.max", number(l.Pids < 0, l.Pids, "max")})
	}
	return out
}

// filesV2 lists the writes for cgroup v2.
func (l limits) filesV2() []file {
	var out []file
	if l.Shares != 0 {
		out = append(out, file{"cpu", "cpu.weight", strconv.FormatUint(weight(l.Shares), 10)})
	}
	if l.Quota != 0 {
		period := max(l.Period, minQuota)
		out = append(out, file{"cpu", "cpu.max", number(l.Quota < 0, l.Quota.Microseconds(), "max") +
			" " + strconv.FormatInt(period.Microseconds(), 10)})
	}
	if l.Memory != 0 {
		out = append(out, file{"memory", "memory.max", number(l.Memory < 0, l.Memory, "max")})
	}
	if l.Pids != 0 {
		out = append(out, file{"pids", "pids.max", number(l.Pids < 0, l.Pids, "max")})
	}
	return out
}

func number(unbounded bool, n int64, word string) string {
	if unbounded {
		return word
	}
	return strconv.FormatInt(n, 10)
}

// weight maps cpu.shares to cpu.weight on the curve that container runtimes use, which keeps 1024 shares at
// the kernel's default weight of 100 where the older linear map gave 39.
func weight(shares uint64) uint64 {
	if shares <= minShares {
		return 1
	}
	if shares >= maxShares {
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// sharesOf is the way back from weight, as near as its rounding lets it be.
func sharesOf(weight uint64) uint64 {
	if weight <= 1 {
		return minShares
	}
	middle := float64(weight) - 0.5 // weight rounds up
	l := (math.Sqrt(125*125+4*612*(math.Log10(middle)+7.0/34)) - 125) / 2
	return min(max(uint64(math.Exp2(l)), minShares), maxShares)
}

// shares turns a CPU request into cpu.shares.
func shares(milli int64) uint64 {
	return min(max(uint64(max(milli, 0))*1024/1000, minShares), maxShares)
}

// quota turns a CPU limit into CPU time per period; no limit is no bound.
func quota(milli int64, period time.Duration) time.Duration {
	if milli <= 0 {
		return -1
	}
	return max(time.Duration(milli)*period/1000, minQuota)
}

// podLimits decides the bounds of a whole pod. CPU and memory are bounded only if every container is, for the
// pod's bound is the sum of its containers' and one without a bound makes the sum infinite.
func podLimits(pod *v1.Pod, cfg Config) limits {
	l := limits{Shares: minShares, Quota: -1, Period: cfg.CPUPeriod, Memory: -1, Pids: -1}
	if cfg.PodPids > 0 {
		l.Pids = cfg.PodPids
	}
	if qos.ComputePodQOS(pod) == v1.PodQOSBestEffort {
		return l
	}
	requests := resource.PodRequests(pod, resource.PodResourcesOptions{})
	bounds := resource.PodLimits(pod, resource.PodResourcesOptions{})
	l.Shares = shares(requests.Cpu().MilliValue())
	if cfg.CPUQuota && bounded(pod, v1.ResourceCPU) {
		l.Quota = quota(bounds.Cpu().MilliValue(), cfg.CPUPeriod)
	}
	if n := bounds.Memory().Value(); n > 0 && bounded(pod, v1.ResourceMemory) {
		l.Memory = n
	}
	return l
}

func bounded(pod *v1.Pod, name v1.ResourceName) bool {
	if r := pod.Spec.Resources; r != nil {
		if q, ok := r.Limits[name]; ok && !q.IsZero() {
			return true
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if q, ok := list[i].Resources.Limits[name]; !ok || q.IsZero() {
				return false
			}
		}
	}
	return true
}

// rootLimits decides the bounds of all pods together, so that they cannot starve the node's own programs.
func rootLimits(allocatable v1.ResourceList) limits {
	l := limits{}
	if q := allocatable.Cpu(); !q.IsZero() {
		l.Shares = shares(q.MilliValue())
	}
	if q := allocatable.Memory(); !q.IsZero() {
		l.Memory = q.Value()
	}
	if q, ok := allocatable["pid"]; ok {
		l.Pids = q.Value()
	}
	return l
}
