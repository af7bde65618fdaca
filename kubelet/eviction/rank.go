package eviction

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// ContainerUse is what one container uses. Writable is its layer over the image.
type ContainerUse struct {
	Memory                   int64
	Writable, WritableInodes int64
	Logs, LogInodes          int64
}

// VolumeUse is what one volume on the node's own disk uses.
type VolumeUse struct{ Bytes, Inodes int64 }

// Pod is a pod and what it uses.
type Pod struct {
	Pod *v1.Pod
	// Static pods, and those with a system priority, are never evicted.
	Static bool
	// Unknown: it could not be measured. Those go first.
	Unknown bool
	Memory  int64
	Pids    int64
	// Containers and Volumes by name; volumes in memory are not among them.
	Containers map[string]ContainerUse
	Volumes    map[string]VolumeUse
}

// Critical says whether the node cannot be without the pod.
func (p Pod) Critical() bool {
	const systemCritical = 2000000000
	return p.Static || p.Pod.Spec.Priority != nil && *p.Pod.Spec.Priority >= systemCritical
}

func (p Pod) priority() int32 {
	if p.Pod.Spec.Priority == nil {
		return 0
	}
	return *p.Pod.Spec.Priority
}

// Disks says how the node's file systems relate.
type Disks struct {
	// Separate: images and containers' writable layers are on another file system than volumes and logs.
	Separate bool
}

// storage is what the pod has on the file system that the signal is of: bytes, or inodes.
func (p Pod) storage(s Signal, d Disks) int64 {
	onImages := s == ImageFsAvailable || s == ImageFsInodes
	inodes := s.Resource() == Inodes
	pick := func(bytes, count int64) int64 {
		if inodes {
			return count
		}
		return bytes
	}
	var sum int64
	for _, c := range p.Containers {
		if !d.Separate || onImages {
			sum += pick(c.Writable, c.WritableInodes)
		}
		if !d.Separate || !onImages {
			sum += pick(c.Logs, c.LogInodes)
		}
	}
	if !d.Separate || !onImages {
		for _, v := range p.Volumes {
			sum += pick(v.Bytes, v.Inodes)
		}
	}
	return sum
}

// Rank sorts the pods that may be ended for a signal, the first to go first: those over their request, then by priority,
// then by how much they are over it.
func Rank(s Signal, pods []Pod, d Disks) []Pod {
	type weighed struct {
		pod   Pod
		over  int64 // beyond the request
		known bool
	}
	var list []weighed
	for _, p := range pods {
		if p.Critical() {
			continue
		}
		w := weighed{pod: p, known: !p.Unknown}
		switch name := s.Resource(); name {
		case v1.ResourceMemory:
			w.over = p.Memory - request(p.Pod, name)
		case v1.ResourceEphemeralStorage:
			w.over = p.storage(s, d) - request(p.Pod, name)
		case Inodes:
			w.over = p.storage(s, d)
		case Pids:
			w.over = p.Pids
		}
		list = append(list, w)
	}
	exceeds := func(w weighed) int {
		switch {
		case s.Resource() == Pids: // nobody can ask for these
			return 0
		case !w.known:
			return -1
		case w.over > 0:
			return 0
		}
		return 1
	}
	slices.SortStableFunc(list, func(a, b weighed) int {
		return cmp.Or(cmp.Compare(exceeds(a), exceeds(b)), cmp.Compare(a.pod.priority(), b.pod.priority()),
			cmp.Compare(b2i(a.known), b2i(b.known)), cmp.Compare(b.over, a.over), cmp.Compare(a.pod.Pod.UID, b.pod.Pod.UID))
	})
	out := make([]Pod, 0, len(list))
	for _, w := range list {
		out = append(out, w.pod)
	}
	return out
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func request(p *v1.Pod, name v1.ResourceName) int64 {
	q := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})[name]
	return q.Value()
}

// format is how amounts of a resource are written.
func format(name v1.ResourceName) resource.Format {
	if name == v1.ResourceMemory || name == v1.ResourceEphemeralStorage {
		return resource.BinarySI
	}
	return resource.DecimalSI
}

// Message says why the pod went, as its status and an event have it.
func Message(p Pod, d Due) string {
	name := d.Signal.Resource()
	quantity := func(n int64) string { return resource.NewQuantity(n, format(name)).String() }
	var b strings.Builder
	fmt.Fprintf(&b, "The node was low on resource: %v. ", name)
	fmt.Fprintf(&b, "Threshold quantity: %v, available: %v. ", quantity(d.Below.Of(d.Capacity)), quantity(d.Available))
	if name != v1.ResourceMemory && name != v1.ResourceEphemeralStorage {
		return b.String()
	}
	for i := range p.Pod.Spec.Containers {
		c := &p.Pod.Spec.Containers[i]
		u, ok := p.Containers[c.Name]
		used := u.Memory
		if name == v1.ResourceEphemeralStorage {
			used = u.Writable + u.Logs
		}
		asked := c.Resources.Requests[name]
		if ok && used > asked.Value() {
			fmt.Fprintf(&b, "Container %s was using %s, request is %s, has larger consumption of %v. ", c.Name, quantity(used), asked.String(), name)
		}
	}
	return b.String()
}

// Excess is a pod that uses more storage than it may.
type Excess struct {
	// Of is upstream's name of the limit, as the metric of evictions counts it.
	Of      Signal
	Message string
}

// Limits that pods may exceed.
const (
	EmptyDirLimit  Signal = "emptydirfs.limit"
	PodLimit       Signal = "ephemeralpodfs.limit"
	ContainerLimit Signal = "ephemeralcontainerfs.limit"
)

// Bounded says whether the pod's storage has any limit, so that it must be measured.
func Bounded(p *v1.Pod) bool {
	for i := range p.Spec.Volumes {
		if e := p.Spec.Volumes[i].EmptyDir; e != nil && e.Medium == v1.StorageMediumDefault && e.SizeLimit != nil && e.SizeLimit.Sign() > 0 {
			return true
		}
	}
	_, ok := resourcehelper.PodLimits(p, resourcehelper.PodResourcesOptions{})[v1.ResourceEphemeralStorage]
	return ok
}

// Exceeded finds the first limit of its storage that the pod exceeds; nil if none.
func Exceeded(p Pod, d Disks) *Excess {
	for i := range p.Pod.Spec.Volumes {
		v := &p.Pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
			continue
		}
		if p.Volumes[v.Name].Bytes > v.EmptyDir.SizeLimit.Value() {
			return &Excess{EmptyDirLimit, fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())}
		}
	}
	if limit, ok := resourcehelper.PodLimits(p.Pod, resourcehelper.PodResourcesOptions{})[v1.ResourceEphemeralStorage]; ok {
		if p.storage(NodeFsAvailable, Disks{}) > limit.Value() {
			return &Excess{PodLimit, fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())}
		}
	}
	for i := range p.Pod.Spec.Containers {
		c := &p.Pod.Spec.Containers[i]
		limit, ok := c.Resources.Limits[v1.ResourceEphemeralStorage]
		u := p.Containers[c.Name]
		used := u.Logs
		if !d.Separate {
			used += u.Writable
		}
		if ok && limit.Sign() > 0 && used > limit.Value() {
			return &Excess{ContainerLimit, fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())}
		}
	}
	return nil
}

// Admits says why a node with such conditions does not take the pod on; empty if it does.
func Admits(p Pod, class v1.PodQOSClass, conditions []v1.NodeConditionType) string {
	if len(conditions) == 0 || p.Critical() {
		return ""
	}
	if slices.Equal(conditions, []v1.NodeConditionType{v1.NodeMemoryPressure}) {
		tolerates := slices.ContainsFunc(p.Pod.Spec.Tolerations, func(t v1.Toleration) bool {
			return (t.Effect == "" || t.Effect == v1.TaintEffectNoSchedule) &&
				(t.Key == v1.TaintNodeMemoryPressure || t.Key == "" && t.Operator == v1.TolerationOpExists)
		})
		if class != v1.PodQOSBestEffort || tolerates {
			return ""
		}
	}
	return fmt.Sprintf("The node had condition: %v. ", conditions)
}
