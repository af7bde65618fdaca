package main

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/orlop-io/orlop/cni/routes"
)

// cluster is what the agent needs to know of all nodes.
type cluster struct {
	podCIDRs []netip.Prefix // of this node, a range of each family at most; none while not given out
	own      []netip.Addr   // this node's addresses
	inner    []netip.Addr   // those of them that other nodes reach it at, in the node's order
	zone     string         // this node's; "" not known
	view     routes.View    // of all nodes with InternalIPs
	addrs    []netip.Addr   // of all nodes
	allPods  []netip.Prefix // pods' ranges of all nodes
	// leaving says that this node is about to go, so that balancers should send it nobody new: it is being deleted, or an autoscaler has said so.
	leaving bool
	// unavailable says that a cloud's route controller, or whoever, has marked this node's network as not configured.
	unavailable bool
}

// leavingTaint is put by the cluster autoscaler on a node that it is going to remove (KEP-3836).
const leavingTaint = "ToBeDeletedByClusterAutoscaler"

func clusterOf(nodes []*corev1.Node, self string) cluster {
	var c cluster
	for _, n := range nodes {
		addrs, inner := addresses(n)
		cidrs := podCIDRs(n)
		asNode := routes.Node{Name: n.Name, UID: string(n.UID), Pods: cidrs, Addrs: inner}
		c.addrs = append(c.addrs, addrs...)
		c.allPods = append(c.allPods, cidrs...)
		if n.Name == self {
			c.podCIDRs, c.own, c.inner, c.zone = cidrs, addrs, inner, n.Labels[corev1.LabelTopologyZone]
			c.view.Self = asNode
			c.leaving = !n.DeletionTimestamp.IsZero() || slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == leavingTaint })
			c.unavailable = slices.ContainsFunc(n.Status.Conditions, func(d corev1.NodeCondition) bool {
				return d.Type == corev1.NodeNetworkUnavailable && d.Status != corev1.ConditionFalse
			})
			continue
		}
		c.view.Peers = append(c.view.Peers, asNode)
	}
	slices.SortFunc(c.addrs, netip.Addr.Compare)
	c.addrs = slices.Compact(c.addrs)
	slices.SortFunc(c.allPods, netip.Prefix.Compare)
	return c
}

// unmasked is where pods' packets go with their own addresses.
func (a *agent) unmasked(c *cluster) []netip.Prefix {
	if len(a.direct) > 0 {
		return a.direct
	}
	return c.allPods
}

// otherPods are the ranges of other nodes' pods among them.
func (a *agent) otherPods() (out []netip.Prefix) {
	c := a.cluster.Load()
	if c == nil {
		return nil
	}
	direct := a.unmasked(c)
	for _, peer := range c.view.Peers {
		for _, p := range peer.Pods {
			if slices.ContainsFunc(direct, func(d netip.Prefix) bool { return d.Bits() <= p.Bits() && d.Contains(p.Addr()) }) {
				out = append(out, p)
			}
		}
	}
	return out
}

// addresses returns all addresses of a node, and those that other nodes reach it at.
func addresses(n *corev1.Node) (all, inner []netip.Addr) {
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		ip, err := netip.ParseAddr(a.Address)
		if err != nil {
			continue
		}
		all = append(all, ip.Unmap())
		if a.Type == corev1.NodeInternalIP {
			inner = append(inner, ip.Unmap())
		}
	}
	return all, inner
}

func podCIDRs(n *corev1.Node) []netip.Prefix {
	list := n.Spec.PodCIDRs
	if len(list) == 0 && n.Spec.PodCIDR != "" {
		list = []string{n.Spec.PodCIDR}
	}
	var out []netip.Prefix
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}
