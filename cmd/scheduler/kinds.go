package scheduler

import (
	"maps"
	"slices"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
)

// kind is all that selectors and terms can tell of a pod, its namespace and labels, and what it
// asks of its neighbours itself. Pods of a kind, as a ReplicaSet's are, get the same answers, so
// that a decision asks once for all of them.
type kind = unique.Handle[string]

func kindOf(p *corev1.Pod) kind {
	var b strings.Builder
	b.WriteString(p.Namespace)
	for _, key := range slices.Sorted(maps.Keys(p.Labels)) {
		b.WriteByte(0)
		b.WriteString(key)
		b.WriteByte(0)
		b.WriteString(p.Labels[key])
	}
	if isPicky(p) {
		near := corev1.Affinity{PodAffinity: p.Spec.Affinity.PodAffinity, PodAntiAffinity: p.Spec.Affinity.PodAntiAffinity}
		b.WriteString("\x00\x00") // no key is empty: labels end here
		if encoded, err := near.Marshal(); err == nil {
			b.Write(encoded)
		} else {
			b.WriteString(string(p.UID)) // a kind of its own
		}
	}
	return unique.Make(b.String())
}

// isPicky tells that the pod asks something of its neighbours.
func isPicky(p *corev1.Pod) bool {
	return p.Spec.Affinity != nil && (p.Spec.Affinity.PodAffinity != nil || p.Spec.Affinity.PodAntiAffinity != nil)
}

// group are the pods of a kind on one node; there is at least one.
type group struct {
	kind kind
	pods []*Pod
	// leaving counts those that are being deleted.
	leaving int
}

// rememberedKinds bounds what a decision remembers: where each pod has labels of its own, as a
// StatefulSet's have, asking again is cheaper than remembering thousands of answers.
const rememberedKinds = 64

// join puts p into its group.
func (n *Node) join(p *Pod) {
	leaving := 0
	if p.DeletionTimestamp != nil {
		leaving = 1
	}
	for i := range n.groups {
		if g := &n.groups[i]; g.kind == p.kind {
			g.pods, g.leaving = append(g.pods, p), g.leaving+leaving
			return
		}
	}
	n.groups = append(n.groups, group{p.kind, []*Pod{p}, leaving})
}

// leave takes p, which has joined, out of its group.
func (n *Node) leave(p *Pod) {
	at := slices.IndexFunc(n.groups, func(g group) bool { return g.kind == p.kind })
	g := &n.groups[at]
	if len(g.pods) == 1 {
		n.groups = slices.Delete(n.groups, at, at+1)
		return
	}
	i := slices.Index(g.pods, p)
	g.pods = slices.Delete(g.pods, i, i+1)
	if p.DeletionTimestamp != nil {
		g.leaving--
	}
}

// cloneGroups copies groups so that pods may join and leave.
func cloneGroups(groups []group) []group {
	out := slices.Clone(groups)
	for i := range out {
		out[i].pods = slices.Clone(out[i].pods)
	}
	return out
}
