package scheduler

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Resources are amounts, in milli-CPUs, bytes, pods and whatever else nodes offer.
type Resources struct {
	CPU, Memory, Ephemeral, Pods int64
	Other                        map[corev1.ResourceName]int64
}

func resourcesOf(list corev1.ResourceList) Resources {
	var r Resources
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.CPU = q.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.Ephemeral = q.Value()
		case corev1.ResourcePods:
			r.Pods = q.Value()
		default:
			if r.Other == nil {
				r.Other = map[corev1.ResourceName]int64{}
			}
			r.Other[name] = q.Value()
		}
	}
	return r
}

// add adds sign times o.
func (r *Resources) add(o Resources, sign int64) {
	r.CPU += sign * o.CPU
	r.Memory += sign * o.Memory
	r.Ephemeral += sign * o.Ephemeral
	r.Pods += sign * o.Pods
	for name, n := range o.Other {
		if r.Other == nil {
			r.Other = map[corev1.ResourceName]int64{}
		}
		r.Other[name] += sign * n
	}
}

// hostPort is a port that a pod takes on its node's address.
type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

func (p hostPort) clashes(o hostPort) bool {
	wild := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	return p.port == o.port && p.protocol == o.protocol && (p.ip == o.ip || wild(p.ip) || wild(o.ip))
}

// term is a pod (anti-)affinity term, ready to be matched.
type term struct {
	namespaces        sets.Set[string]
	namespaceSelector labels.Selector
	selector          labels.Selector
	topologyKey       string
	weight            int64
}

// matches tells whether pod, in a namespace with those labels, is one that the term speaks of.
func (t term) matches(pod *corev1.Pod, namespaceLabels labels.Set) bool {
	in := t.namespaces.Has(pod.Namespace) || t.namespaceSelector.Matches(namespaceLabels)
	return in && t.selector.Matches(labels.Set(pod.Labels))
}

// Pod is a pod with what decisions need worked out. It is never changed.
type Pod struct {
	*corev1.Pod
	kind kind
	// assumed tells that it is on its node by decision only, not yet by the API's word.
	assumed  bool
	requests Resources
	// scored are the requests with a floor for pods that ask for nothing, so that these
	// spread too.
	scored                               Resources
	ports                                []hostPort
	claims                               []string // by namespace/name
	disks                                []disk
	required                             nodeaffinity.RequiredNodeAffinity
	preferred                            *nodeaffinity.PreferredSchedulingTerms
	affinity, antiAffinity               []term
	preferredAffinity, preferredAvoiding []term
}

// floors for scoring pods without requests, upstream's.
const (
	floorCPU    = 100
	floorMemory = 200 << 20
)

// NewPod works out p.
func NewPod(p *corev1.Pod) *Pod {
	pod := &Pod{Pod: p, kind: kindOf(p), required: nodeaffinity.GetRequiredNodeAffinity(p)}
	// Where a status says nothing of resources, the library would add up the same three times.
	told := reportsResources(p) || resourcehelper.IsPodResizeInfeasible(p)
	pod.requests = resourcesOf(resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{UseStatusResources: told}))
	pod.scored = pod.requests
	if told || !requestsAll(p) {
		pod.scored = resourcesOf(resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{
			UseStatusResources: told, NonMissingContainerRequests: floorRequests(),
		}))
	}
	pod.requests.Pods = 1
	pod.claims, pod.disks = volumesOf(p)
	for _, containers := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for _, c := range containers {
			for _, port := range c.Ports {
				if port.HostPort > 0 {
					pod.ports = append(pod.ports, hostPort{port.HostIP, cmp.Or(port.Protocol, corev1.ProtocolTCP), port.HostPort})
				}
			}
		}
	}
	a := p.Spec.Affinity
	if a == nil {
		return pod
	}
	if a.NodeAffinity != nil && len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		if terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution); err == nil {
			pod.preferred = terms
		}
	}
	if pa := a.PodAffinity; pa != nil {
		pod.affinity = termsOf(p, pa.RequiredDuringSchedulingIgnoredDuringExecution)
		pod.preferredAffinity = weightedTerms(p, pa.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if pa := a.PodAntiAffinity; pa != nil {
		pod.antiAffinity = termsOf(p, pa.RequiredDuringSchedulingIgnoredDuringExecution)
		pod.preferredAvoiding = weightedTerms(p, pa.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return pod
}

// next is the pod as p is now. What was worked out of it before, and cannot have changed, stays.
func (pod *Pod) next(p *corev1.Pod) *Pod {
	if pod == nil || p.Generation == 0 || pod.Generation != p.Generation || !maps.Equal(pod.Labels, p.Labels) || reportsResources(pod.Pod) || reportsResources(p) {
		return NewPod(p)
	}
	same := *pod
	same.Pod, same.assumed = p, false
	return &same
}

// reportsResources tells that the requests depend on the status too: a kubelet says what the containers really have.
func reportsResources(p *corev1.Pod) bool {
	for _, statuses := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		if slices.ContainsFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Resources != nil || s.AllocatedResources != nil }) {
			return true
		}
	}
	return p.Status.Resources != nil || p.Status.AllocatedResources != nil
}

// requestsAll tells that each container requests what there are floors for.
func requestsAll(p *corev1.Pod) bool {
	for _, containers := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			_, cpu := containers[i].Resources.Requests[corev1.ResourceCPU]
			_, memory := containers[i].Resources.Requests[corev1.ResourceMemory]
			if !cpu || !memory {
				return false
			}
		}
	}
	return true
}

func floorRequests() corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: *milli(floorCPU), corev1.ResourceMemory: *bytes(floorMemory)}
}

func termsOf(p *corev1.Pod, in []corev1.PodAffinityTerm) []term {
	out := make([]term, 0, len(in))
	for i := range in {
		out = append(out, newTerm(p, &in[i], 0))
	}
	return out
}

func weightedTerms(p *corev1.Pod, in []corev1.WeightedPodAffinityTerm) []term {
	out := make([]term, 0, len(in))
	for i := range in {
		out = append(out, newTerm(p, &in[i].PodAffinityTerm, int64(in[i].Weight)))
	}
	return out
}

func newTerm(p *corev1.Pod, in *corev1.PodAffinityTerm, weight int64) term {
	t := term{
		namespaces: sets.New(in.Namespaces...), namespaceSelector: labels.Nothing(),
		selector: selectorOf(withKeys(in.LabelSelector, p.Labels, in.MatchLabelKeys, in.MismatchLabelKeys)), topologyKey: in.TopologyKey, weight: weight,
	}
	if in.NamespaceSelector != nil {
		t.namespaceSelector = selectorOf(in.NamespaceSelector)
	} else if len(in.Namespaces) == 0 {
		t.namespaces.Insert(p.Namespace)
	}
	return t
}

// withKeys adds the pod's own values of some labels to a selector.
func withKeys(s *metav1.LabelSelector, own map[string]string, same, different []string) *metav1.LabelSelector {
	if s == nil || len(same)+len(different) == 0 {
		return s
	}
	s = s.DeepCopy()
	add := func(keys []string, op metav1.LabelSelectorOperator) {
		for _, k := range keys {
			if v, ok := own[k]; ok {
				s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
			}
		}
	}
	add(same, metav1.LabelSelectorOpIn)
	add(different, metav1.LabelSelectorOpNotIn)
	return s
}

// selectorOf matches nothing where s cannot be read; the API server has validated it.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

// Node is a node and the pods on it, bound or about to be.
type Node struct {
	*corev1.Node
	// cordoned and tainted tell, beside what else each decision reads, that Node.Spec is to be looked at.
	cordoned, tainted bool
	allocatable       Resources
	requested, scored Resources
	ports             map[hostPort]int
	pods              map[types.UID]*Pod
	// groups are the same pods by kind.
	groups []group
	// picky counts pods with any affinity, for skipping nodes that have none.
	picky  int
	images map[string]int64
}

func newNode(n *corev1.Node) *Node {
	node := &Node{ports: map[hostPort]int{}, pods: map[types.UID]*Pod{}}
	node.set(n)
	return node
}

func (n *Node) set(to *corev1.Node) {
	n.Node, n.allocatable = to, resourcesOf(to.Status.Allocatable)
	n.cordoned, n.tainted = to.Spec.Unschedulable, len(to.Spec.Taints) > 0
	n.images = map[string]int64{}
	for _, image := range to.Status.Images {
		for _, name := range image.Names {
			n.images[name] = image.SizeBytes
		}
	}
}

func (n *Node) add(p *Pod) {
	n.remove(p)
	n.count(p, 1)
	n.join(p)
	n.pods[p.UID] = p
}

// remove takes away the pod with p's UID, where there is one.
func (n *Node) remove(p *Pod) {
	if own, ok := n.pods[p.UID]; ok {
		n.count(own, -1)
		n.leave(own)
		delete(n.pods, own.UID)
	}
}

func (n *Node) count(p *Pod, sign int) {
	n.requested.add(p.requests, int64(sign))
	n.scored.add(p.scored, int64(sign))
	for _, port := range p.ports {
		if n.ports[port] += sign; n.ports[port] == 0 {
			delete(n.ports, port)
		}
	}
	if isPicky(p.Pod) {
		n.picky += sign
	}
}

// clone returns a copy whose pods may be taken away.
func (n *Node) clone() *Node {
	c := *n
	c.ports, c.pods, c.groups = maps.Clone(n.ports), maps.Clone(n.pods), cloneGroups(n.groups)
	c.requested.Other, c.scored.Other = maps.Clone(n.requested.Other), maps.Clone(n.scored.Other)
	return &c
}

// Snapshot is the cluster as a decision sees it. Decide only reads it.
type Snapshot struct {
	// Nodes are in order of name.
	Nodes []*Node
	// NamespaceLabels are by name.
	NamespaceLabels map[string]labels.Set
	// Turn says with which node to begin, so that equals take turns.
	Turn int
	// Nominated are, by node, the pods that wait there for others to end.
	Nominated map[string][]*Pod
	// Budgets are those that preemption tries not to break.
	Budgets []Budget
	// Storage is what is known of volumes; nil knows nothing, and lets every node take them.
	Storage *Storage
	// Images says, by name, how many nodes have an image; nil leaves it to be counted.
	Images map[string]int
}

// having is how many nodes have that image.
func (s *Snapshot) having(image string) (n int) {
	if s.Images != nil {
		return s.Images[image]
	}
	for _, node := range s.Nodes {
		if _, there := node.images[image]; there {
			n++
		}
	}
	return n
}

func (s *Snapshot) node(name string) *Node {
	i, ok := slices.BinarySearchFunc(s.Nodes, name, func(n *Node, name string) int { return cmp.Compare(n.Name, name) })
	if !ok {
		return nil
	}
	return s.Nodes[i]
}

// Request is a pod to place, with what the API says about it beyond itself.
type Request struct {
	*Pod
	// Profile is how to place it; nil places by default.
	Profile *Profile
	// Volumes are the node affinities of the volumes that its claims are bound to.
	Volumes []*nodeaffinity.LazyErrorNodeSelector
	// Delayed are its claims that get their volumes with the node.
	Delayed []delayedClaim
	// Rejected says why no node can do, whatever it has: something is wrong with the pod's claims.
	Rejected string
	// Timing is called before a plugin is asked about a node, and what it returns after; nil times nothing.
	Timing func(plugin, point string) (done func(fits bool))
	// Point is called before an extension point and what it returns after; nil times nothing.
	Point func(point string) (done func(fits bool))
	// Siblings selects the pods of its Service or its controller, which spread; nil selects none.
	Siblings labels.Selector
}
