package scheduler

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// cluster is the state that decisions are made on: nodes, and the pods on them, bound or
// assumed. The lock is held through a decision, so nothing changes under it.
type cluster struct {
	mu         sync.Mutex
	nodes      []*Node // in order of name
	byName     map[string]*Node
	pods       map[types.UID]*Pod // with NodeName set
	namespaces map[string]labels.Set
	turn       int
	// nominated are the pods that wait for others to leave a node, and budgets what preemption
	// tries not to break, by key and in its order.
	nominated   map[types.UID]nomination
	budgetByKey map[string]Budget
	budgets     []Budget
	storage     *Storage
	// images counts the nodes that have an image, by its name.
	images map[string]int
}

// nomination is a pod and the node where room is made for it.
type nomination struct {
	pod  *Pod
	node string
}

func newCluster() *cluster {
	return &cluster{
		byName: map[string]*Node{}, pods: map[types.UID]*Pod{}, namespaces: map[string]labels.Set{},
		nominated: map[types.UID]nomination{}, budgetByKey: map[string]Budget{}, storage: newStorage(), images: map[string]int{},
	}
}

func compareName(n *Node, name string) int { return cmp.Compare(n.Name, name) }

// setNode takes node in.
func (c *cluster) setNode(n *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	node := c.nodeLocked(n.Name)
	c.countImagesLocked(node, -1)
	node.set(n)
	c.countImagesLocked(node, 1)
	c.listLocked(n.Name)
}

func (c *cluster) countImagesLocked(node *Node, sign int) {
	for name := range node.images {
		if c.images[name] += sign; c.images[name] == 0 {
			delete(c.images, name)
		}
	}
}

// nodeLocked returns the node of that name. Pods may arrive before their node does: then
// it exists, but is not in the list.
func (c *cluster) nodeLocked(name string) *Node {
	node := c.byName[name]
	if node == nil {
		node = newNode(&corev1.Node{})
		node.Node.Name = name
		c.byName[name] = node
	}
	return node
}

func (c *cluster) listLocked(name string) {
	if i, found := slices.BinarySearchFunc(c.nodes, name, compareName); !found {
		c.nodes = slices.Insert(c.nodes, i, c.byName[name])
	}
}

// dropNode forgets a node; its pods stay until they are gone themselves.
func (c *cluster) dropNode(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i, found := slices.BinarySearchFunc(c.nodes, name, compareName); found {
		c.nodes = slices.Delete(c.nodes, i, i+1)
	}
	node := c.byName[name]
	if node == nil {
		return
	}
	c.countImagesLocked(node, -1)
	node.images = nil
	if len(node.pods) == 0 {
		delete(c.byName, name)
	}
}

// setPod takes in a pod that is on a node, or is assumed to be, and returns it as it was known before, nil if it was not.
func (c *cluster) setPod(p *Pod) (past *Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	past = c.removeLocked(p.UID)
	delete(c.nominated, p.UID)
	c.pods[p.UID] = p
	c.nodeLocked(p.Spec.NodeName).add(p)
	return past
}

// dropPod forgets a pod and returns it, nil if it was not there.
func (c *cluster) dropPod(uid types.UID) *Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.nominated, uid)
	return c.removeLocked(uid)
}

func (c *cluster) removeLocked(uid types.UID) *Pod {
	p := c.pods[uid]
	if p == nil {
		return nil
	}
	delete(c.pods, uid)
	if node := c.byName[p.Spec.NodeName]; node != nil {
		node.remove(p)
	}
	return p
}

// pod returns the pod as it is known on its node, nil if it is on none.
func (c *cluster) pod(uid types.UID) *Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pods[uid]
}

// has tells whether the pod is on a node already.
func (c *cluster) has(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pods[uid] != nil
}

func (c *cluster) setNamespace(name string, l labels.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l == nil {
		delete(c.namespaces, name)
		return
	}
	c.namespaces[name] = l
}

// setBudget takes a disruption budget in; nil forgets it.
func (c *cluster) setBudget(key string, b *Budget) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b == nil {
		delete(c.budgetByKey, key)
	} else {
		c.budgetByKey[key] = *b
	}
	c.budgets = nil
	for _, key := range slices.Sorted(maps.Keys(c.budgetByKey)) {
		c.budgets = append(c.budgets, c.budgetByKey[key])
	}
}

// nominate takes in what the API says of a pod without a node, where nothing newer is known.
func (c *cluster) nominate(p *Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, known := c.nominated[p.UID]
	switch {
	case known:
		c.nominated[p.UID] = nomination{p, n.node}
	case p.Status.NominatedNodeName != "":
		c.nominated[p.UID] = nomination{p, p.Status.NominatedNodeName}
	}
}

// denominate forgets that room is made for the pod.
func (c *cluster) denominate(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.nominated, uid)
}

// sizes counts what is known. A pod is assumed until the API shows it on its node.
func (c *cluster) sizes() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := map[string]int{"nodes": len(c.nodes), "pods": len(c.pods)}
	for _, p := range c.pods {
		if p.assumed {
			n["assumed_pods"]++
		}
	}
	return n
}

// place decides about req, and assumes it on the node that was chosen. Where others must leave
// first, it keeps that node's room; moved are the lesser pods that the room was kept for before.
func (c *cluster) place(req *Request) (verdict Verdict, moved []*Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.nodes) > 0 {
		c.turn %= len(c.nodes)
	}
	snap := &Snapshot{Nodes: c.nodes, NamespaceLabels: c.namespaces, Turn: c.turn, Budgets: c.budgets, Storage: c.storage, Nominated: c.rivalsLocked(), Images: c.images}
	if n, ok := c.nominated[req.UID]; ok && n.node != req.Status.NominatedNodeName {
		req = req.nominatedTo(n.node)
	}
	verdict = Schedule(snap, req)
	c.turn = verdict.Turn
	if !verdict.KeepNomination {
		delete(c.nominated, req.UID)
	}
	switch {
	case verdict.Node != "":
		c.pods[req.UID] = assumed(req.Pod, verdict.Node)
		c.byName[verdict.Node].add(c.pods[req.UID])
	case verdict.Preemption != nil:
		for uid, n := range c.nominated {
			if n.node == verdict.Preemption.Node && priorityOf(n.pod) < priorityOf(req.Pod) {
				delete(c.nominated, uid)
				moved = append(moved, n.pod)
			}
		}
		slices.SortFunc(moved, byImportance)
		c.nominated[req.UID] = nomination{req.Pod, verdict.Preemption.Node}
	}
	return verdict, moved
}

// rivalsLocked are the nominated pods by node, in an order of their own.
func (c *cluster) rivalsLocked() map[string][]*Pod {
	if len(c.nominated) == 0 {
		return nil
	}
	byNode := map[string][]*Pod{}
	for _, n := range c.nominated {
		byNode[n.node] = append(byNode[n.node], n.pod)
	}
	for _, pods := range byNode {
		slices.SortFunc(pods, byImportance)
	}
	return byNode
}

// nominatedTo is the request with room made for it on node.
func (r *Request) nominatedTo(node string) *Request {
	changed, pod, shallow := *r, *r.Pod, *r.Pod.Pod
	shallow.Status.NominatedNodeName = node
	pod.Pod, changed.Pod = &shallow, &pod
	return &changed
}

// assumed is pod as it will be when it is bound.
func assumed(p *Pod, node string) *Pod {
	on := *p
	shallow := *p.Pod
	shallow.Spec.NodeName = node
	on.Pod, on.assumed = &shallow, true
	return &on
}
