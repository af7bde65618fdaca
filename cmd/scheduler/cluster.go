package scheduler

import (
	"cmp"
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
}

func newCluster() *cluster {
	return &cluster{byName: map[string]*Node{}, pods: map[types.UID]*Pod{}, namespaces: map[string]labels.Set{}}
}

func compareName(n *Node, name string) int { return cmp.Compare(n.Name, name) }

// setNode takes node in.
func (c *cluster) setNode(n *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodeLocked(n.Name).set(n)
	c.listLocked(n.Name)
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
	if node := c.byName[name]; node != nil && len(node.pods) == 0 {
		delete(c.byName, name)
	}
}

// setPod takes in a pod that is on a node, or is assumed to be.
func (c *cluster) setPod(p *Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(p.UID)
	c.pods[p.UID] = p
	c.nodeLocked(p.Spec.NodeName).add(p)
}

// dropPod forgets a pod and tells whether it was there.
func (c *cluster) dropPod(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.removeLocked(uid)
}

func (c *cluster) removeLocked(uid types.UID) bool {
	p := c.pods[uid]
	if p == nil {
		return false
	}
	delete(c.pods, uid)
	if node := c.byName[p.Spec.NodeName]; node != nil {
		node.remove(p)
	}
	return true
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

// place decides about req, and assumes it on the node that was chosen.
func (c *cluster) place(req *Request) Verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.nodes) > 0 {
		c.turn %= len(c.nodes)
	}
	snap := &Snapshot{Nodes: c.nodes, NamespaceLabels: c.namespaces, Turn: c.turn}
	verdict := Decide(snap, req)
	c.turn = verdict.Turn
	if verdict.Node != "" {
		c.pods[req.UID] = assumed(req.Pod, verdict.Node)
		c.byName[verdict.Node].add(c.pods[req.UID])
	}
	return verdict
}

// assumed is pod as it will be when it is bound.
func assumed(p *Pod, node string) *Pod {
	on := *p
	shallow := *p.Pod
	shallow.Spec.NodeName = node
	on.Pod = &shallow
	return &on
}
